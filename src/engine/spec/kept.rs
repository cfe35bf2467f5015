//! A task request that was printed before: what names its task is taken out of its text.

use super::{kept_limits, parsed};
use crate::json::{self, Object};
use crate::plan::{self, Keys};

/// The members that name a task.
const NAMING: [&str; 4] = ["task_id", "id", "sandbox_session_id", "group_key"];

/// A task request and the texts of the values that name its task.
pub(super) struct Kept<'t> {
    pub(super) text: &'t str,
    naming: [Option<&'t str>; NAMING.len()],
}

impl<'t> Kept<'t> {
    /// Reads a request.
    ///
    /// # Errors
    /// It is not a JSON object.
    pub(super) fn read(request: &'t [u8]) -> Result<Self, plan::Error> {
        let name = |naming: &mut [_; NAMING.len()], member: json::scan::Member<'t>| {
            if let Some(place) = NAMING.iter().position(|name| *name == member.key) {
                naming[place] = Some(member.value);
            }
        };
        let scanned = json::scan::fold(request, kept_limits(), name)
            .map_err(|error| plan::Error::new("task_requests", error.to_string()))?;
        Ok(Self {
            text: scanned.text,
            naming: scanned.found,
        })
    }

    /// The keys, if each is a string that is usable as it stands: without escapes, and white space at its ends.
    pub(super) fn plain_keys(&self) -> Option<Keys<&'t str>> {
        let plain = |value: Option<&'t str>| {
            let Some(value) = value else {
                return Some("");
            };
            let text = value.strip_prefix('"')?.strip_suffix('"')?;
            let is_plain = !text.contains('\\') && json::trim(text).len() == text.len();
            is_plain.then_some(text)
        };
        let [task_id, id, session, group_key] = self.naming.map(plain);
        Some(Keys {
            task_id: task_id?,
            id: id?,
            sandbox_session_id: session?,
            group_key: group_key?,
        })
    }

    /// The members that name the task.
    ///
    /// # Errors
    /// A value is not JSON.
    pub(super) fn naming(&self) -> Result<Object, plan::Error> {
        let mut naming = Object::with_capacity(NAMING.len());
        for (key, value) in NAMING.iter().zip(self.naming) {
            if let Some(value) = value {
                naming.set(*key, parsed("task_requests", value.as_bytes())?);
            }
        }
        Ok(naming)
    }
}
