//! The form of an object: everything in it that is no scalar value, as it stands there.
//!
//! What an executor sends has mostly the same form, record for record. A text of a form that is known need not be taken
//! apart: it is sound, and has the members that are known, if what stands between its values is the same and each of its
//! values is sound.

use std::ops::Range;

use super::Limits;
use super::scan::{follows_key, object, open, scalar, string};

/// An object with as many scalar values as this has no form, nor has one with more bytes beside them.
const PIECES_MAX: usize = 64;
const BETWEEN_BYTES_MAX: usize = 2048;

/// What follows the prefix. Most are compared as two words, which may share bytes.
fn without_prefix<'t>(text: &'t [u8], prefix: &[u8]) -> Option<&'t [u8]> {
    let (begin, rest) = text.split_at_checked(prefix.len())?;
    let is_equal = match prefix.len() {
        8..=16 => is_equal_in_words::<8>(begin, prefix),
        17..=32 => is_equal_in_words::<16>(begin, prefix),
        _ => begin == prefix,
    };
    is_equal.then_some(rest)
}

/// Whether two texts of the same length, of one to two words, are equal.
fn is_equal_in_words<const BYTES: usize>(one: &[u8], other: &[u8]) -> bool {
    one.first_chunk::<BYTES>() == other.first_chunk()
        && one.last_chunk::<BYTES>() == other.last_chunk()
}

/// What a text of the form that is known pays in, and one of another.
const PAID: (u32, u32) = (8, 1);
/// What it costs to take another form, and the most that can have been paid.
const TAKING: (u32, u32) = (32, 64);

/// The form of the texts that came lately, for [`find_alike`](super::scan::find_alike). At most 16 KiB.
///
/// Texts of many forms cost a thirtieth more with it than without.
#[derive(Debug)]
pub struct Form<N> {
    /// What stands before each scalar value, one after the other, and after the last.
    between: Vec<u8>,
    pieces: Vec<Piece>,
    /// The members of the object itself that have a name.
    members: Vec<Named<N>>,
    brace: Place,
    /// What has been paid for another form.
    paid: u32,
}

impl<N> Default for Form<N> {
    fn default() -> Self {
        Self {
            between: Vec::new(),
            pieces: Vec::new(),
            members: Vec::new(),
            brace: Place::default(),
            // The first text may be the only one: the form of the second is taken.
            paid: TAKING.0 - 2 * PAID.1,
        }
    }
}

/// A part of what stands between values.
#[derive(Debug)]
struct Piece {
    /// Its end, of all.
    end: usize,
    /// Where it began in the last text.
    begin: usize,
}

/// The value of a member, where it begins and ends.
#[derive(Debug)]
struct Named<N> {
    name: N,
    begin: Place,
    end: Place,
}

/// So many bytes after the beginning of a piece.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    piece: usize,
    offset: usize,
}

impl Place {
    fn within(self, pieces: &[Piece]) -> usize {
        pieces[self.piece].begin + self.offset
    }
}

impl<N: Copy> Form<N> {
    /// Finds the named members in a text of this form, and answers where its brace stands; nothing if the text has another,
    /// or is not sound.
    #[inline]
    pub(super) fn find(
        &mut self,
        text: &[u8],
        mut found: impl FnMut(N, Range<usize>),
    ) -> Option<usize> {
        self.begin(text)?;
        self.pay(PAID.0);
        for Named { name, begin, end } in &self.members {
            let [begin, end] = [begin, end].map(|place| place.within(&self.pieces));
            found(*name, begin..end);
        }
        Some(self.brace.within(&self.pieces))
    }

    /// The places of the scalar values in the text that was [found](Self::find) to be of this form last.
    pub(super) fn values(&self) -> impl Iterator<Item = Range<usize>> {
        let mut before = 0;
        let after = self.pieces.iter().skip(1);
        self.pieces.iter().zip(after).map(move |(piece, next)| {
            let length = piece.end - std::mem::replace(&mut before, piece.end);
            piece.begin + length..next.begin
        })
    }

    /// Has the pieces begin where they do in a text of this form.
    fn begin(&mut self, text: &[u8]) -> Option<()> {
        let (last, pieces) = self.pieces.split_last_mut()?;
        let mut between = &self.between[..];
        let mut before = 0;
        let mut rest = text;
        for piece in pieces {
            piece.begin = text.len() - rest.len();
            let (here, after) = between.split_at_checked(piece.end - before)?;
            rest = scalar(without_prefix(rest, here)?)?;
            (between, before) = (after, piece.end);
        }
        last.begin = text.len() - rest.len();
        (rest == between).then_some(())
    }

    fn pay(&mut self, part: u32) {
        self.paid = (self.paid + part).min(TAKING.1);
    }

    /// A text of another form came, whose keys have no escapes: takes its form if that is paid for.
    pub(super) fn pass(&mut self, text: &str, limits: Limits, named: impl Fn(&str) -> Option<N>) {
        self.pay(PAID.1);
        if let Some(left) = self.paid.checked_sub(TAKING.0) {
            *self = Self::of(text, limits, named).unwrap_or_default();
            self.paid = left;
        }
    }

    fn of(text: &str, limits: Limits, named: impl Fn(&str) -> Option<N>) -> Option<Self> {
        let mut form = Self::default();
        let at = |rest: &[u8]| text.len() - rest.len();
        let (mut rest, mut begin) = (text.as_bytes(), 0);
        while let [first, after @ ..] = rest {
            let end = match first {
                b'"' => string(after).filter(|end| !follows_key(end)),
                b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => scalar(rest),
                _ => None,
            };
            rest = match (end, first) {
                (Some(end), _) => {
                    form.add(&text[begin..at(rest)], begin)?;
                    begin = at(end);
                    end
                }
                (None, b'"') => string(after)?,
                (None, _) => after,
            };
        }
        form.add(&text[begin..], begin)?;
        let mut members = Vec::new();
        let after = object(
            open(text.as_bytes())?,
            limits.depth,
            |key, after_key, value, rest| {
                let value = [at(value), at(rest)];
                members.extend(named(&text[at(key)..at(after_key) - 1]).map(|name| (name, value)));
                true
            },
        )?;
        form.brace = form.place(at(after) - 1);
        let members = members.into_iter().map(|(name, [begin, end])| {
            let [begin, end] = [begin, end].map(|offset| form.place(offset));
            Named { name, begin, end }
        });
        form.members = members.collect();
        Some(form)
    }

    /// Adds a piece that begins there, if there is room for it.
    fn add(&mut self, piece: &str, begin: usize) -> Option<()> {
        let end = self.between.len() + piece.len();
        if self.pieces.len() == PIECES_MAX || end > BETWEEN_BYTES_MAX {
            return None;
        }
        self.between.extend_from_slice(piece.as_bytes());
        self.pieces.push(Piece { end, begin });
        Some(())
    }

    /// The place of an offset in the text that the form was taken of.
    fn place(&self, offset: usize) -> Place {
        let piece = self.pieces.partition_point(|piece| piece.begin <= offset) - 1;
        let offset = offset - self.pieces[piece].begin;
        Place { piece, offset }
    }
}

#[cfg(test)]
mod tests {
    use super::{BETWEEN_BYTES_MAX, Form, PIECES_MAX};
    use crate::json::Limits;
    use crate::json::scan::{Whole, find_alike};

    type Members<'t> = Vec<(char, &'t str)>;

    /// The members with names of one letter.
    fn read<'t>(form: &mut Form<char>, text: &'t str) -> (Whole<'t>, Members<'t>) {
        let mut members = Members::new();
        let (bytes, limits) = (text.as_bytes(), Limits::default());
        let whole = find_alike(
            form,
            bytes,
            limits,
            &mut members,
            named,
            |all, name, place| {
                all.push((name, &text[place]));
            },
        );
        (whole.expect("an object"), members)
    }

    fn named(key: &str) -> Option<char> {
        let mut letters = key.chars();
        letters.next().filter(|_| letters.next().is_none())
    }

    fn is_of(form: &mut Form<char>, text: &str) -> bool {
        form.begin(text.as_bytes()).is_some()
    }

    #[test]
    fn a_text_has_the_form_of_another_if_only_scalar_values_differ() {
        let mut form = Form::default();
        let first = r#" {"a":1, "name":{"b":"x"} ,"c":[true,{}],"d":{"e":[2,[]]}} "#;
        (0..2).for_each(|_| _ = read(&mut form, first));
        for text in [
            first,
            r#" {"a":"", "name":{"b":null} ,"c":[-1.5e3,{}],"d":{"e":["\"\n",[]]}} "#,
        ] {
            assert!(is_of(&mut form, text), "{text}");
            let mut anew = Form::default();
            assert_eq!(read(&mut form, text), read(&mut anew, text));
        }
        for text in [
            // Another key, another space, no value, two values, another list, something after it, an end too early.
            r#" {"z":1, "name":{"b":"x"} ,"c":[true,{}],"d":{"e":[2,[]]}} "#,
            r#" {"a": 1, "name":{"b":"x"} ,"c":[true,{}],"d":{"e":[2,[]]}} "#,
            r#" {"a":, "name":{"b":"x"} ,"c":[true,{}],"d":{"e":[2,[]]}} "#,
            r#" {"a":1 2, "name":{"b":"x"} ,"c":[true,{}],"d":{"e":[2,[]]}} "#,
            r#" {"a":1, "name":{"b":"x"} ,"c":[true],"d":{"e":[2,[]]}} "#,
            r#" {"a":1, "name":{"b":"x"} ,"c":[true,{}],"d":{"e":[2,[]]}} ."#,
            r#" {"a":1, "name":{"b":"x"} ,"c":[true,{}],"d":{"e":[2,[]]}}"#,
            // Values that are none.
            r#" {"a":01, "name":{"b":"x"} ,"c":[true,{}],"d":{"e":[2,[]]}} "#,
            r#" {"a":tru, "name":{"b":"x"} ,"c":[true,{}],"d":{"e":[2,[]]}} "#,
            r#" {"a":1, "name":{"b":"x} ,"c":[true,{}],"d":{"e":[2,[]]}} "#,
        ] {
            assert!(!is_of(&mut form, text), "{text}");
        }
    }

    #[test]
    fn another_form_is_taken_when_it_comes_unless_forms_change_all_the_time() {
        let mut form = Form::default();
        let text = |form: usize| format!(r#"{{"{form}":1}}"#);
        (0..6).for_each(|_| _ = read(&mut form, &text(0)));
        read(&mut form, &text(1));
        assert!(is_of(&mut form, &text(1)));
        let mut taken = 0;
        for other in 2..1_000 {
            read(&mut form, &text(other));
            taken += usize::from(is_of(&mut form, &text(other)));
        }
        assert_eq!(taken, 31, "one of 32");
    }

    #[test]
    fn a_form_with_more_values_or_bytes_than_it_may_have_is_not_kept() {
        let values = |count: usize| format!(r#"{{"a":[{}]}}"#, vec!["1"; count].join(","));
        for text in [
            values(PIECES_MAX - 1),
            format!(r#"{{"{}":1}}"#, "k".repeat(BETWEEN_BYTES_MAX - 5)),
        ] {
            let mut form = Form::default();
            (0..2).for_each(|_| _ = read(&mut form, &text));
            assert!(is_of(&mut form, &text), "{text}");
        }
        for text in [
            values(PIECES_MAX),
            format!(r#"{{"{}":1}}"#, "k".repeat(BETWEEN_BYTES_MAX - 4)),
        ] {
            let mut form = Form::default();
            (0..2).for_each(|_| _ = read(&mut form, &text));
            assert!(!is_of(&mut form, &text), "{text}");
        }
    }
}
