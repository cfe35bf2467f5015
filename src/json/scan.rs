//! Reading the members of one object where they stand, without building a tree.
//!
//! Almost every text is sound and of a common form, which the steps below know: each goes over one thing at the beginning
//! of a text and answers what comes after it, or nothing if it does not know what it sees. That is read again by the parser,
//! which knows every form, and what is wrong with a text and where.

use std::borrow::Cow;
use std::ops::Range;

use super::parse::{Reader, plain_length};
use super::{Error, Form, Limits};

/// One member of the scanned object.
#[derive(Debug)]
pub struct Member<'t> {
    /// The key, unescaped.
    pub key: Cow<'t, str>,
    /// The value's text as it stands in the document.
    pub value: &'t str,
    /// Where that text begins.
    pub offset: usize,
}

/// What was made of an object's members.
#[derive(Debug)]
pub struct Scanned<'t, S> {
    /// What came of them.
    pub found: S,
    /// The text.
    pub text: &'t str,
    /// Where the closing brace stands.
    pub brace: usize,
}

/// Calls `member` for each member of the object in order (a repeated key comes again: the last one counts) and answers
/// where its closing brace stands. The whole text is checked as strictly as by [`parse`](super::parse).
///
/// # Errors
/// The text is not exactly one JSON object, or passes a limit; no member is handed out then.
pub fn members<'t>(
    text: &'t [u8],
    limits: Limits,
    member: impl FnMut(Member<'t>),
) -> Result<usize, Error> {
    let scanned = fold(text, limits, Vec::push)?;
    scanned.found.into_iter().for_each(member);
    Ok(scanned.brace)
}

/// Folds the members of the object, as [`members`] has them, without memory for them. A text may be read twice; what was
/// found is made anew then.
///
/// # Errors
/// As [`members`].
pub fn fold<'t, S: Default>(
    text: &'t [u8],
    limits: Limits,
    mut member: impl FnMut(&mut S, Member<'t>),
) -> Result<Scanned<'t, S>, Error> {
    let known = std::str::from_utf8(text).ok();
    let common = known.and_then(|text| common_members(text, limits, &mut member));
    common.map_or_else(|| any_members(text, limits, member), Ok)
}

/// A text that is one object, and where its closing brace stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole<'t> {
    /// The text.
    pub text: &'t str,
    /// Where the closing brace stands.
    pub brace: usize,
}

/// Finds those members of the object that `named` has a name for, each with the place of its value; faster if the text has
/// the form of those before it, which have been read with the same limits and names. `all`, where it is told what was found, is
/// as by default before.
///
/// # Errors
/// As [`members`].
#[inline]
pub fn find_alike<'t, N: Copy, S: Default>(
    form: &mut Form<N>,
    text: &'t [u8],
    limits: Limits,
    all: &mut S,
    named: impl Fn(&str) -> Option<N>,
    mut found: impl FnMut(&mut S, N, Range<usize>),
) -> Result<Whole<'t>, Error> {
    let known = std::str::from_utf8(text).ok();
    if let Some(text) = known
        && let Some(brace) = form.find(text.as_bytes(), |name, place| found(all, name, place))
    {
        return Ok(Whole { text, brace });
    }
    let member = |all: &mut S, member: Member<'t>| {
        if let Some(name) = named(&member.key) {
            found(all, name, member.offset..member.offset + member.value.len());
        }
    };
    let scanned = find_unlike(form, text, known, limits, &named, member)?;
    *all = scanned.found;
    Ok(Whole {
        text: scanned.text,
        brace: scanned.brace,
    })
}

/// The same of a text of another form.
#[inline(never)]
fn find_unlike<'t, N: Copy, S: Default>(
    form: &mut Form<N>,
    text: &'t [u8],
    known: Option<&'t str>,
    limits: Limits,
    named: impl Fn(&str) -> Option<N>,
    mut member: impl FnMut(&mut S, Member<'t>),
) -> Result<Scanned<'t, S>, Error> {
    let common = known.and_then(|text| common_members(text, limits, &mut member));
    match common {
        Some(common) => {
            form.pass(common.text, limits, named);
            Ok(common)
        }
        None => any_members(text, limits, member),
    }
}

fn any_members<'t, S: Default>(
    text: &'t [u8],
    limits: Limits,
    mut member: impl FnMut(&mut S, Member<'t>),
) -> Result<Scanned<'t, S>, Error> {
    let mut found = S::default();
    let mut reader = Reader::new(text, limits)?;
    reader.members(|reader, key| {
        let value = reader.skip()?;
        let offset = reader.position() - value.len();
        member(&mut found, Member { key, value, offset });
        Ok(())
    })?;
    let brace = reader.position() - 1;
    reader.end()?;
    // The reader is only made of text.
    let text = std::str::from_utf8(text).unwrap_or_default();
    Ok(Scanned { found, text, brace })
}

/// The same, of an object of common form.
fn common_members<'t, S: Default>(
    text: &'t str,
    limits: Limits,
    mut member: impl FnMut(&mut S, Member<'t>),
) -> Option<Scanned<'t, S>> {
    if limits.number_bytes < NUMBER_BYTES {
        return None;
    }
    let mut found = S::default();
    // Where the text goes on that is left.
    let at = |rest: &[u8]| text.len() - rest.len();
    let rest = object(
        open(text.as_bytes())?,
        limits.depth,
        |key, after_key, value, rest| {
            let key = &text[at(key)..at(after_key) - 1];
            let member_found = Member {
                key: Cow::Borrowed(key),
                value: &text[at(value)..at(rest)],
                offset: at(value),
            };
            member(&mut found, member_found);
            // It would have to be unescaped.
            !key.as_bytes().contains(&b'\\')
        },
    )?;
    let brace = at(rest) - 1;
    let is_all = white_space(rest).is_empty();
    is_all.then_some(Scanned { found, text, brace })
}

/// What comes after an object's opening brace.
pub(super) fn open(text: &[u8]) -> Option<&[u8]> {
    white_space(text).strip_prefix(b"{")
}

fn white_space(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\n' | b'\r' | b'\t', rest @ ..] = text {
        text = rest;
    }
    text
}

/// Goes over a value in which there may be so many levels.
fn value(text: &[u8], depth: usize) -> Option<&[u8]> {
    match text {
        [b'{', rest @ ..] => object(rest, depth, |_, _, _, _| true),
        [b'[', rest @ ..] => list(rest, depth),
        _ => scalar(text),
    }
}

/// Goes over a value that is no object and no list.
pub(super) fn scalar(text: &[u8]) -> Option<&[u8]> {
    match text {
        [b'"', rest @ ..] => string(rest),
        [b't', ..] => text.strip_prefix(b"true"),
        [b'f', ..] => text.strip_prefix(b"false"),
        [b'n', ..] => text.strip_prefix(b"null"),
        _ => number(text),
    }
}

/// Goes over an object after its brace. Of each member, `member` is told what begins with its key, what follows the key's
/// closing quote, what begins with its value, and what follows that; it says whether to go on.
pub(super) fn object<'t>(
    text: &'t [u8],
    depth: usize,
    mut member: impl FnMut(&'t [u8], &'t [u8], &'t [u8], &'t [u8]) -> bool,
) -> Option<&'t [u8]> {
    let depth = depth.checked_sub(1)?;
    let mut text = white_space(text);
    if let [b'}', rest @ ..] = text {
        return Some(rest);
    }
    loop {
        let key = text.strip_prefix(b"\"")?;
        let after_key = string(key)?;
        let begin = white_space(white_space(after_key).strip_prefix(b":")?);
        let rest = value(begin, depth)?;
        if !member(key, after_key, begin, rest) {
            return None;
        }
        match white_space(rest) {
            [b',', rest @ ..] => text = white_space(rest),
            [b'}', rest @ ..] => return Some(rest),
            _ => return None,
        }
    }
}

/// Goes over a list after its bracket.
fn list(text: &[u8], depth: usize) -> Option<&[u8]> {
    let depth = depth.checked_sub(1)?;
    let mut text = white_space(text);
    if let [b']', rest @ ..] = text {
        return Some(rest);
    }
    loop {
        match white_space(value(text, depth)?) {
            [b',', rest @ ..] => text = white_space(rest),
            [b']', rest @ ..] => return Some(rest),
            _ => return None,
        }
    }
}

/// Goes over a string after its first quote.
pub(super) fn string(mut text: &[u8]) -> Option<&[u8]> {
    loop {
        match &text[plain_length(text)..] {
            [b'"', rest @ ..] => return Some(rest),
            // Not every code unit is sound, so not `\u`.
            [
                b'\\',
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't',
                rest @ ..,
            ] => text = rest,
            _ => return None,
        }
    }
}

/// Whether this follows a key's closing quote.
pub(super) fn follows_key(text: &[u8]) -> bool {
    matches!(white_space(text), [b':', ..])
}

/// A number that is no longer, and whose exponent has at most two digits, is far from the end of a double's range, and
/// within every limit.
const NUMBER_BYTES: usize = 100;

/// Goes over a number.
fn number(text: &[u8]) -> Option<&[u8]> {
    let mut rest = text.strip_prefix(b"-").unwrap_or(text);
    rest = match rest {
        [b'0', rest @ ..] => rest,
        _ => digits(rest)?,
    };
    if let [b'.', fraction @ ..] = rest {
        rest = digits(fraction)?;
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        let exponent = match exponent {
            [b'+' | b'-', exponent @ ..] => exponent,
            _ => exponent,
        };
        rest = digits(exponent)?;
        if exponent.len() - rest.len() > 2 {
            return None;
        }
    }
    (text.len() - rest.len() <= NUMBER_BYTES).then_some(rest)
}

/// Goes over digits, at least one.
fn digits(text: &[u8]) -> Option<&[u8]> {
    let end = text.iter().position(|byte| !byte.is_ascii_digit());
    let end = end.unwrap_or(text.len());
    (end > 0).then(|| &text[end..])
}
