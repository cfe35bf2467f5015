//! JSON documents as this project carries them: key order kept, integers exact, sharing instead of copying.
//!
//! Callers' documents pass through opaque, so nothing in them may change on the way: an integer of any length keeps its
//! digits, an object keeps its order, and a key that some parser uses for its own purposes is plain data here. Numbers
//! that are not integers are doubles and print as ECMAScript prints them, which is what the existing documents hold.
//! [`Value`] is cheap to clone (long strings, lists and objects are shared), because planning embeds the same items in
//! task requests over and over; and it is small (objects share their keys, short strings stand in place), because that
//! is what planning and printing many of them costs. [`scan`] reads one object's members without building a tree; the
//! record path uses it.

mod build;
mod form;
mod halves;
mod number;
mod object;
mod parse;
mod recompact;
pub mod scan;
mod value;
mod write;

pub use form::Form;
pub use halves::Halves;
pub use number::Number;
pub use object::{Object, Setter, Shape, Shapes};
pub use parse::{Error, Limits, Parsed, parse, parse_lines};
pub use recompact::{recompact, recompact_alike};
pub use value::Value;
pub use write::{
    PrettyObject, compact, pretty, pretty_elements, pretty_in_pieces, write_compact_within,
    write_string,
};

/// A string as documents hold it: one of up to 23 bytes stands in place, a longer one is shared when it is cloned.
pub use smol_str::SmolStr as Text;

/// White space as the documents' rules define it: ECMAScript's set, which differs from Unicode's (and so from
/// [`str::trim`]) by including U+FEFF and leaving out U+0085.
#[must_use]
pub fn is_white_space(c: char) -> bool {
    matches!(c, '\u{9}'..='\u{d}' | ' ' | '\u{a0}' | '\u{1680}' | '\u{2000}'..='\u{200a}'
        | '\u{2028}' | '\u{2029}' | '\u{202f}' | '\u{205f}' | '\u{3000}' | '\u{feff}')
}

/// The text without [white space](is_white_space) at both ends.
#[inline]
#[must_use]
pub fn trim(text: &str) -> &str {
    let plain = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_graphic);
    let bytes = text.as_bytes();
    if bytes.is_empty() || plain(bytes.first()) && plain(bytes.last()) {
        return text;
    }
    text.trim_matches(is_white_space)
}
