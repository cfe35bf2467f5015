//! Reading the members of one object where they stand, without building a tree.

use std::borrow::Cow;

use super::parse::Reader;
use super::{Error, Limits};

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

/// Calls `member` for each member of the object in order (a repeated key comes again: the last one counts) and answers
/// where its closing brace stands. The whole text is checked as strictly as by [`parse`](super::parse).
///
/// # Errors
/// The text is not exactly one JSON object, or passes a limit.
pub fn members<'t>(
    text: &'t [u8],
    limits: Limits,
    mut member: impl FnMut(Member<'t>),
) -> Result<usize, Error> {
    let mut reader = Reader::new(text, limits)?;
    reader.members(|reader, key| {
        let value = reader.skip()?;
        member(Member {
            key,
            value,
            offset: reader.position() - value.len(),
        });
        Ok(())
    })?;
    let brace = reader.position() - 1;
    reader.end()?;
    Ok(brace)
}
