//! Callers that are listed in a file: by the hashes of their tokens, or by a name in the certificate that they show.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{BoundTask, Caller, Role};
use crate::engine::Timestamp;

/// Longest token, and longest text in a list.
pub const TOKEN_BYTES_MAX: usize = 8 << 10;
/// Most tokens in a file, and most certificates.
const ENTRIES_MAX: usize = 100_000;

/// What a file says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    token: Vec<Entry>,
    #[serde(default)]
    certificate: Vec<Entry>,
}

/// A caller, and one thing to know them by.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    sha256: Option<String>,
    uri: Option<String>,
    dns: Option<String>,
    #[serde(default)]
    tenant: String,
    roles: Vec<Role>,
    plan: Option<String>,
    task: Option<String>,
    session: Option<String>,
    expires: Option<toml::value::Datetime>,
}

/// The hash of a token, as files have it.
#[must_use]
pub fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Who is listed.
#[derive(Debug, Default)]
pub(super) struct Listed {
    /// By the hash of their token.
    pub(super) tokens: HashMap<[u8; 32], Arc<Caller>>,
    /// By a URI in their certificate.
    pub(super) uris: HashMap<String, Arc<Caller>>,
    /// By a DNS name in their certificate, in lower case.
    pub(super) dns: HashMap<String, Arc<Caller>>,
}

impl Listed {
    /// Reads a file.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| problem(text, &error))?;
        if file.token.len() > ENTRIES_MAX || file.certificate.len() > ENTRIES_MAX {
            return Err(format!(
                "there are more than {ENTRIES_MAX} tokens or certificates"
            ));
        }
        let mut listed = Self::default();
        for (kind, entries) in [("token", &file.token), ("certificate", &file.certificate)] {
            for (nth, entry) in entries.iter().enumerate() {
                let added = listed.add(entry, kind == "certificate");
                added.map_err(|problem| {
                    format!("{kind} {} ({:?}): {problem}", nth + 1, entry.name)
                })?;
            }
        }
        Ok(listed)
    }

    fn add(&mut self, entry: &Entry, is_certificate: bool) -> Result<(), String> {
        let caller = Arc::new(caller(entry)?);
        let (what, before) = match (&entry.sha256, &entry.uri, &entry.dns) {
            (Some(hex), None, None) if !is_certificate => {
                let hash = hash(hex).ok_or("sha256 is not 64 hex digits")?;
                ("sha256", self.tokens.insert(hash, caller))
            }
            (None, Some(uri), None) if is_certificate => {
                ("uri", self.uris.insert(uri.clone(), caller))
            }
            (None, None, Some(dns)) if is_certificate => {
                ("dns", self.dns.insert(dns.to_ascii_lowercase(), caller))
            }
            _ if is_certificate => return Err("expected either uri or dns".to_owned()),
            _ => return Err("expected sha256, and neither uri nor dns".to_owned()),
        };
        match before {
            None => Ok(()),
            Some(_) => Err(format!("another one has this {what}")),
        }
    }
}

/// What is wrong, and where, without what stands there: it may be a token.
fn problem(text: &str, error: &toml::de::Error) -> String {
    let said = error.message();
    // The one thing that is said of a value, and repeats it.
    let value_at = ["invalid type: string", "invalid value: string"]
        .into_iter()
        .find_map(|what| said.starts_with(what).then_some(what.len()));
    let said = match (value_at, said.rfind(", expected")) {
        (Some(begin), Some(end)) => format!("{}{}", &said[..begin], &said[end..]),
        _ => said.to_owned(),
    };
    let before = error.span().and_then(|span| text.get(..span.start));
    let Some(before) = before else {
        return said;
    };
    let line_begin = before.rfind('\n').map_or(0, |end| end + 1);
    let line = before.matches('\n').count() + 1;
    let column = before[line_begin..].chars().count() + 1;
    format!("line {line}, column {column}: {said}")
}

fn caller(entry: &Entry) -> Result<Caller, String> {
    let expires = match &entry.expires {
        None => None,
        Some(time) => Some(timestamp(time).ok_or("expires is not a time in UTC (…Z)")?),
    };
    let bounds = [&entry.plan, &entry.task, &entry.session];
    bound(
        &entry.name,
        &entry.tenant,
        &entry.roles,
        bounds.map(Option::as_deref),
        expires,
    )
}

/// A caller who is bound to a plan, a task of it, and the session that works on that.
pub(super) fn bound(
    name: &str,
    tenant: &str,
    roles: &[Role],
    [plan, task, session]: [Option<&str>; 3],
    expires: Option<Timestamp>,
) -> Result<Caller, String> {
    for (what, text) in [
        ("name", Some(name)),
        ("tenant", Some(tenant)),
        ("plan", plan),
        ("task", task),
        ("session", session),
    ] {
        if text.is_some_and(|text| text.contains('\0') || text.len() > TOKEN_BYTES_MAX) {
            return Err(format!(
                "{what} contains a NUL character, or is longer than {TOKEN_BYTES_MAX} bytes"
            ));
        }
    }
    if roles.is_empty() {
        return Err("there are no roles".to_owned());
    }
    if plan.is_none() && task.is_some() || task.is_none() && session.is_some() {
        return Err("a task needs a plan, and a session a task".to_owned());
    }
    if plan == Some("") || task == Some("") || session == Some("") {
        return Err("plan, task and session are not empty if they are there".to_owned());
    }
    if task.is_some() && roles.iter().any(|role| *role != Role::Submit) {
        return Err("a token for one task has no role but submit".to_owned());
    }
    Ok(Caller {
        tenant: tenant.into(),
        name: name.into(),
        roles: roles.to_vec(),
        plan_id: plan.map(Into::into),
        task: task.map(|task_id| BoundTask {
            task_id: task_id.into(),
            session: session.map(Into::into),
        }),
        expires,
    })
}

fn hash(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.chunks(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = u8::try_from(digit(0)? * 16 + digit(1)?).ok()?;
    }
    Some(hash)
}

/// A time in UTC.
fn timestamp(time: &toml::value::Datetime) -> Option<Timestamp> {
    if time.offset != Some(toml::value::Offset::Z) {
        return None;
    }
    let time: prost_types::Timestamp = time.to_string().parse().ok()?;
    let seconds = u64::try_from(time.seconds).ok()?;
    Some(Timestamp(seconds.checked_mul(1_000)?))
}

#[cfg(test)]
mod tests {
    use super::{Listed, digest};
    use crate::identity::Role;

    const HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    #[test]
    fn a_listed_token_is_known_by_its_hash() {
        let text = format!(
            "[[token]]\nname = \"ci\"\nsha256 = \"{HASH}\"\ntenant = \"a\"\nroles = [\"submit\"]\nplan = \"p\"\ntask = \"t\"\nexpires = 2027-01-01T00:00:00Z\n"
        );
        let listed = Listed::read(&text).expect("it is right");
        let caller = listed.tokens.get(&digest("test")).expect("it is listed");
        assert_eq!((&*caller.tenant, &*caller.name), ("a", "ci"));
        assert_eq!(caller.roles, [Role::Submit]);
        assert_eq!(caller.plan_id.as_deref(), Some("p"));
        assert_eq!(caller.expires.map(|at| at.0), Some(1_798_761_600_000));
    }

    #[test]
    fn what_is_said_of_a_wrong_file_has_no_token_in_it() {
        let error = |text: &str| Listed::read(text).err().unwrap_or_default();
        for (text, said) in [
            (
                "[[token]]\nname = \"n\"\nsha256 = \"s3cret\nroles = [\"plan\"]",
                "line 3, column 17: ",
            ),
            (
                "[[token]]\nname = \"n\"\nsecret = \"s3cret\"\nroles = [\"plan\"]",
                "line 3, column 1: unknown field `secret`, expected",
            ),
            (
                "token = \"s3cret, expected\"",
                "line 1, column 9: invalid type: string, expected a sequence",
            ),
            ("[[token]]\nname = \"n\"\nsha256 = s3cret", "line 3, "),
            (
                "[[token]]\nname = \"n\"\nsha256 = \"s3cret\"\nroles = [\"plan\"]",
                "token 1 (\"n\"): sha256 is not 64 hex digits",
            ),
        ] {
            let error = error(text);
            assert!(error.starts_with(said), "{error}");
            assert!(
                !error.contains("s3cret") && !error.contains('\n'),
                "{error}"
            );
        }
    }

    #[test]
    fn a_file_that_is_wrong_says_where() {
        let one = |rest: &str| {
            Listed::read(&format!(
                "[[token]]\nname = \"n\"\nsha256 = \"{HASH}\"\n{rest}"
            ))
            .err()
            .unwrap_or_default()
        };
        for (rest, said) in [
            ("", "missing field `roles`"),
            ("roles = []", "there are no roles"),
            ("roles = [\"root\"]", "unknown variant `root`"),
            ("roles = [\"plan\"]\nplna = \"p\"", "unknown field `plna`"),
            ("roles = [\"submit\"]\ntask = \"t\"", "a task needs a plan"),
            (
                "roles = [\"submit\"]\nuri = \"spiffe://a\"",
                "expected sha256",
            ),
            (
                "roles = [\"submit\"]\n[[certificate]]\nname = \"c\"\nroles = [\"submit\"]",
                "certificate 1 (\"c\"): expected either uri or dns",
            ),
            (
                "roles = [\"submit\"]\n[[certificate]]\nname = \"c\"\nroles = [\"submit\"]\ndns = \"A.example\"\n[[certificate]]\nname = \"d\"\nroles = [\"submit\"]\ndns = \"a.example\"",
                "certificate 2 (\"d\"): another one has this dns",
            ),
            (
                "roles = [\"submit\", \"watch\"]\nplan = \"p\"\ntask = \"t\"",
                "no role but submit",
            ),
            (
                "roles = [\"plan\"]\nexpires = 2027-01-01",
                "expires is not a time in UTC",
            ),
        ] {
            let error = one(rest);
            assert!(error.contains(said), "{rest}: {error}");
        }
    }
}
