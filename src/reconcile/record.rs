//! One record, taken apart where it stands: its keys, its verdict, and the reconciled document.
//!
//! A live plan reads each record once, without building a tree: the reconciled document is the submitted one with a few
//! bytes put in. Where that is not enough (repeated keys, or typed fields that differ from the body's) the tree is built
//! after all; both ways give the same document.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::Settings;
use super::status::{Facts, Status, Verdict, classify, decides_alone};
use crate::json::scan::{self, Whole};
use crate::json::{self, Object, Value};
use crate::plan::Keys;

/// The typed fields beside a record's body. Empty or `None`: not given.
#[derive(Clone, Copy, Debug, Default)]
pub struct TypedFields<'r> {
    /// The executor's id or the task's.
    pub id: &'r str,
    /// The task's identity.
    pub task_id: &'r str,
    /// The sandbox or session.
    pub sandbox_session_id: &'r str,
    /// The group's key.
    pub group_key: &'r str,
    /// The executor's word for how it went.
    pub status: &'r str,
    /// Whether it calls itself successful.
    pub success: Option<bool>,
}

/// What is to become of the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewrite {
    /// A result: typed fields and status are written into it.
    Reconciled,
    /// A sign of life: it stays as it is, but for a typed status and success, which are put in as they are.
    AsSubmitted,
}

impl<'r> TypedFields<'r> {
    /// The first of [`FIELDS`].
    fn texts(&self) -> [&'r str; SUCCESS] {
        [
            self.id,
            self.task_id,
            self.sandbox_session_id,
            self.group_key,
        ]
    }

    /// Whether this member of a document is given here; the status is none of those.
    fn has(&self, field: usize) -> bool {
        match field {
            SUCCESS => self.success.is_some(),
            _ => self.texts().get(field).is_some_and(|text| !text.is_empty()),
        }
    }

    /// Room for these fields in a document.
    fn bytes(&self) -> usize {
        let texts = self.texts();
        let texts = texts
            .iter()
            .filter(|text| !text.is_empty())
            .map(|text| text.len() + 24);
        texts.sum::<usize>() + if self.success.is_some() { 16 } else { 0 }
    }
}

/// The form of the records that came.
#[derive(Debug, Default)]
pub struct Form {
    form: json::Form<usize>,
    /// The outcome root of the settings that it was taken with.
    root: Option<Arc<str>>,
}

/// Room for a status: `,"status":"completed"`.
const STATUS_MEMBER_BYTES: usize = 21;

/// A record as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadRecord<'r> {
    /// Its keys: typed where given, else the body's.
    pub keys: Keys<Cow<'r, str>>,
    /// What it comes to.
    pub verdict: Verdict,
    /// Whether it has an outcome.
    pub has_outcome: bool,
    /// The reconciled record: a JSON object.
    pub document: Cow<'r, [u8]>,
    /// Whether a typed field and the body's differ.
    pub body_field_ignored: bool,
}

const ID: usize = 0;
const TASK_ID: usize = 1;
const SESSION: usize = 2;
const GROUP_KEY: usize = 3;
const SUCCESS: usize = 4;
const STATUS: usize = 5;
const STATE: usize = 6;
const OUTCOME: usize = 7;
const OUTCOME_STATUS: usize = 8;
const PROVIDER_STATUS: usize = 9;
/// The member that the outcome path begins with, if it is none of the others.
const OUTCOME_ROOT: usize = 10;
/// The members of a body that mean something; the typed ones first, in the order they are put in front.
const FIELDS: [&str; OUTCOME_ROOT] = [
    "id",
    "task_id",
    "sandbox_session_id",
    "group_key",
    "success",
    "status",
    "state",
    "outcome",
    "outcome_status",
    "provider_status",
];

/// The member of this name, if it means something.
fn field_named(key: &str) -> Option<usize> {
    Some(match key.as_bytes() {
        b"id" => ID,
        b"task_id" => TASK_ID,
        b"sandbox_session_id" => SESSION,
        b"group_key" => GROUP_KEY,
        b"success" => SUCCESS,
        b"status" => STATUS,
        b"state" => STATE,
        b"outcome" => OUTCOME,
        b"outcome_status" => OUTCOME_STATUS,
        b"provider_status" => PROVIDER_STATUS,
        _ => return None,
    })
}

/// The member that an outcome path begins with.
pub(super) fn outcome_field(root: &str) -> usize {
    field_named(root).unwrap_or(OUTCOME_ROOT)
}

/// Reads a record. An empty body is `{}`.
///
/// # Errors
/// The body is not exactly one JSON object, or passes a limit.
pub fn read<'r>(
    typed: TypedFields<'r>,
    body: &'r [u8],
    rewrite: Rewrite,
    limits: json::Limits,
    settings: &Settings,
) -> Result<ReadRecord<'r>, json::Error> {
    let mut document = String::new();
    let mut form = Form::default();
    let read = read_into(
        &mut document,
        &mut form,
        typed,
        body,
        rewrite,
        limits,
        settings,
    )?;
    Ok(ReadRecord {
        document: Cow::Owned(document.into_bytes()),
        ..read
    })
}

/// Reads a record, and writes its document after what `documents` has; that of the answer is empty. The form is that of
/// records before it, read with the same limits.
///
/// # Errors
/// As [`read`].
#[inline]
pub fn read_into<'r>(
    documents: &mut String,
    form: &mut Form,
    typed: TypedFields<'r>,
    body: &'r [u8],
    rewrite: Rewrite,
    limits: json::Limits,
    settings: &Settings,
) -> Result<ReadRecord<'r>, json::Error> {
    let start = documents.len();
    let body = if body.is_empty() { b"{}" } else { body };
    let mut members = Members::default();
    let whole = members.find(form, body, limits, settings)?;
    let scanned = Scanned {
        whole,
        members: &members,
    };
    let typed_texts = typed.texts();
    let key = |field: usize| match json::trim(typed_texts[field]) {
        "" => scanned.text_of(field),
        given => Cow::Borrowed(given),
    };
    let keys = Keys {
        id: key(ID),
        task_id: key(TASK_ID),
        sandbox_session_id: key(SESSION),
        group_key: key(GROUP_KEY),
    };
    let body_field_ignored = typed_texts.iter().enumerate().any(|(field, given)| {
        !given.is_empty() && scanned.has(field) && scanned.text_of(field) != json::trim(given)
    });
    let status_ignored = !typed.status.is_empty()
        && scanned.has(STATUS)
        && scanned.text_of(STATUS) != json::trim(typed.status);
    let success_ignored = typed.success.is_some_and(|given| {
        scanned
            .value_of(SUCCESS)
            .is_some_and(|own| own != if given { "true" } else { "false" })
    });
    let body_field_ignored = body_field_ignored || status_ignored || success_ignored;
    let verdict = classify(
        &scanned.facts(typed, limits, settings),
        settings.success_statuses(),
    );
    let has_outcome = if rewrite == Rewrite::AsSubmitted {
        if typed.status.is_empty() && typed.success.is_none() {
            documents.push_str(scanned.whole.text);
        } else {
            documents.push_str(&json::compact(&with_progress(typed, body, limits)?));
        }
        false
    } else if members.repeated || body_field_ignored {
        let document = build(typed, body_field_ignored, body, limits, verdict.status)?;
        documents.push_str(&json::compact(&document));
        settings.outcome(&document).is_some()
    } else {
        scanned.splice(documents, typed, verdict.status);
        let document = &documents[start..];
        scanned.has_outcome(typed, document, limits, settings)
    };
    Ok(ReadRecord {
        keys,
        verdict,
        has_outcome,
        document: Cow::Borrowed(&[]),
        body_field_ignored,
    })
}

/// The body with the typed status and success, which stand nowhere else.
fn with_progress(
    typed: TypedFields<'_>,
    body: &[u8],
    limits: json::Limits,
) -> Result<Value, json::Error> {
    let members = json::parse(body, limits)?;
    let mut own = Object::default();
    if !typed.status.is_empty() {
        own.set(FIELDS[STATUS], Value::string(typed.status));
    }
    if let Some(success) = typed.success {
        own.set(FIELDS[SUCCESS], Value::Bool(success));
    }
    Ok(in_front(&own, members.as_object(), true).into())
}

/// A document with the keys that its record came with, as far as it lacks them; for a record that is kept without a task.
#[must_use]
pub fn with_keys(document: &Object, keys: &Keys<Cow<'_, str>>) -> String {
    let texts = [
        (ID, &keys.id),
        (TASK_ID, &keys.task_id),
        (SESSION, &keys.sandbox_session_id),
        (GROUP_KEY, &keys.group_key),
    ];
    let mut own = Object::default();
    for (field, text) in texts {
        if !text.is_empty() {
            own.set(FIELDS[field], Value::string(text));
        }
    }
    json::compact(&in_front(&own, Some(document), false).into())
}

/// A record with the host's status: in place of its own, or at the end.
#[must_use]
pub fn with_status(mut record: Arc<Object>, status: Status) -> Value {
    Arc::make_mut(&mut record).set("status", status.value());
    Arc::unwrap_or_clone(record).into()
}

/// The reconciled document by way of the tree. What the body has too is only written over if some of it differs.
fn build(
    typed: TypedFields<'_>,
    some_differ: bool,
    body: &[u8],
    limits: json::Limits,
    status: Status,
) -> Result<Value, json::Error> {
    let body = json::parse(body, limits)?;
    let mut own = Object::default();
    for (key, value) in typed_members(typed) {
        own.set(key, value);
    }
    let merged = in_front(&own, body.as_object(), some_differ);
    Ok(with_status(Arc::new(merged), status))
}

/// Members, those it lacks in front of a body's, which keep their places; it keeps its values of the others unless these
/// are to be written over.
fn in_front(own: &Object, body: Option<&Object>, over: bool) -> Object {
    let body = body.cloned().unwrap_or_default();
    let mut merged = Object::default();
    for (key, value) in own.iter().filter(|(key, _)| body.get(key).is_none()) {
        merged.set(key.clone(), value.clone());
    }
    merged.extend(&body);
    if over {
        merged.extend(own);
    }
    merged
}

/// The typed fields that go into the document; the status is written by itself.
fn typed_members(typed: TypedFields<'_>) -> impl Iterator<Item = (&'static str, Value)> {
    let texts = typed.texts();
    let texts = FIELDS
        .into_iter()
        .zip(texts)
        .filter(|(_, text)| !text.is_empty());
    let success = typed
        .success
        .map(|success| (FIELDS[SUCCESS], Value::Bool(success)));
    texts
        .map(|(field, text)| (field, Value::string(text)))
        .collect::<Vec<_>>()
        .into_iter()
        .chain(success)
}

/// Where the values of the members of a body stand that mean something.
#[derive(Default)]
struct Members {
    /// That of each of [`FIELDS`], and that of the outcome root; none is empty.
    places: [Range<usize>; OUTCOME_ROOT + 1],
    /// Whether one of them comes twice.
    repeated: bool,
}

/// A body as it was scanned.
struct Scanned<'r, 'm> {
    whole: Whole<'r>,
    members: &'m Members,
}

impl Members {
    #[inline]
    fn find<'r>(
        &mut self,
        form: &mut Form,
        body: &'r [u8],
        limits: json::Limits,
        settings: &Settings,
    ) -> Result<Whole<'r>, json::Error> {
        if form.root != settings.outcome_root {
            *form = Form {
                root: settings.outcome_root.clone(),
                ..Form::default()
            };
        }
        let is_root = |key: &str| form.root.as_deref() == Some(key);
        let named = |key: &str| field_named(key).or_else(|| is_root(key).then_some(OUTCOME_ROOT));
        let found = |members: &mut Self, field: usize, place| {
            members.repeated |= !members.places[field].is_empty();
            members.places[field] = place;
        };
        scan::find_alike(&mut form.form, body, limits, self, named, found)
    }
}

impl<'r> Scanned<'r, '_> {
    fn has(&self, field: usize) -> bool {
        !self.members.places[field].is_empty()
    }

    /// The value of a member, as it stands there.
    #[inline]
    fn value_of(&self, field: usize) -> Option<&'r str> {
        let place = &self.members.places[field];
        (!place.is_empty()).then(|| &self.whole.text[place.clone()])
    }

    #[inline]
    fn text_of(&self, field: usize) -> Cow<'r, str> {
        match self.value_of(field) {
            None => Cow::Borrowed(""),
            Some(value) => raw_text(value),
        }
    }

    fn facts(
        &self,
        typed: TypedFields<'r>,
        limits: json::Limits,
        settings: &Settings,
    ) -> Facts<Cow<'r, str>> {
        let own = match json::trim(typed.status) {
            "" => self.text_of(STATUS),
            given => Cow::Borrowed(given),
        };
        let status = if own.is_empty() {
            self.text_of(STATE)
        } else {
            own
        };
        let success = typed
            .success
            .unwrap_or_else(|| self.value_of(SUCCESS) == Some("true"));
        // Most records say it in one word; the outcome need not be looked into then.
        let outcome_status = if settings.success_statuses().is_none() && decides_alone(&status) {
            Cow::Borrowed("")
        } else {
            self.outcome_status(limits)
        };
        Facts {
            status,
            success,
            outcome_status,
        }
    }

    /// Text of the first given of `outcome.status`, `outcome_status`, `provider_status`.
    fn outcome_status(&self, limits: json::Limits) -> Cow<'r, str> {
        let outcome = self
            .value_of(OUTCOME)
            .filter(|outcome| outcome.starts_with('{'));
        let in_outcome = outcome.and_then(|outcome| {
            let status = |status: &mut Option<&'r str>, member: scan::Member<'r>| {
                if member.key == "status" {
                    *status = Some(member.value);
                }
            };
            let scanned = scan::fold(outcome.as_bytes(), limits, status);
            debug_assert!(scanned.is_ok(), "part of a document that was read already");
            scanned.ok()?.found
        });
        let given = [
            in_outcome,
            self.value_of(OUTCOME_STATUS),
            self.value_of(PROVIDER_STATUS),
        ];
        given
            .into_iter()
            .flatten()
            .find(|value| raw_is_present(value))
            .map_or("".into(), raw_text)
    }

    /// The body with the typed fields it lacks put in front, and the status in place or at the end.
    fn splice(&self, document: &mut String, typed: TypedFields<'_>, status: Status) {
        document.reserve(self.whole.text.len() + typed.bytes() + STATUS_MEMBER_BYTES);
        document.push('{');
        let texts = typed.texts();
        for (field, text) in texts.into_iter().enumerate() {
            if !text.is_empty() && !self.has(field) {
                begin_member(document, field);
                json::write_string(document, text);
            }
        }
        if let Some(success) = typed.success.filter(|_| !self.has(SUCCESS)) {
            begin_member(document, SUCCESS);
            document.push_str(if success { "true" } else { "false" });
        }
        let body = &self.whole.text[..self.whole.brace];
        let begin = body.bytes().position(|byte| byte == b'{');
        let begin = begin.map_or(0, |brace| brace + 1);
        let inner = body[begin..].trim_ascii_end();
        if !inner.is_empty() {
            separate(document);
        }
        let own = self.members.places[STATUS].clone();
        if own.is_empty() {
            document.push_str(inner);
            begin_member(document, STATUS);
            write_status(document, status);
        } else {
            document.push_str(&body[begin..own.start]);
            write_status(document, status);
            document.push_str(&body[own.end..]);
        }
        document.push('}');
    }

    fn has_outcome(
        &self,
        typed: TypedFields<'_>,
        document: &str,
        limits: json::Limits,
        settings: &Settings,
    ) -> bool {
        let Some(field) = settings.outcome_field else {
            return false;
        };
        if field == STATUS && settings.outcome_is_root {
            return true;
        }
        let is_typed = typed.has(field);
        let value = self.value_of(field).filter(|_| !is_typed);
        match value {
            Some(value) if settings.outcome_is_root => return raw_is_present(value),
            None if !is_typed => return false,
            _ => {}
        }
        json::parse(document.as_bytes(), limits)
            .is_ok_and(|document| settings.outcome(&document).is_some())
    }
}

/// A status as a value; its name needs no escaping.
fn write_status(document: &mut String, status: Status) {
    document.push('"');
    document.push_str(status.name());
    document.push('"');
}

/// Begins one of the members that are put in: its key, which needs no escaping, and what goes around it.
fn begin_member(document: &mut String, field: usize) {
    const KEYS: [&str; STATUS + 1] = [
        r#""id":"#,
        r#""task_id":"#,
        r#""sandbox_session_id":"#,
        r#""group_key":"#,
        r#""success":"#,
        r#""status":"#,
    ];
    separate(document);
    document.push_str(KEYS[field]);
}

/// A comma, unless this is the first member.
fn separate(document: &mut String) {
    if document.as_bytes().last() != Some(&b'{') {
        document.push(',');
    }
}

/// [`Value::text`] of a value as it stands in a document.
fn raw_text(value: &str) -> Cow<'_, str> {
    match value.as_bytes().first() {
        Some(b'"') if !value.as_bytes().contains(&b'\\') => {
            Cow::Borrowed(json::trim(&value[1..value.len() - 1]))
        }
        Some(b'"' | b'-' | b'0'..=b'9') => json::parse(value.as_bytes(), json::Limits::default())
            .map_or(Cow::Borrowed(""), |value| {
                Cow::Owned(value.text().into_owned())
            }),
        _ => Cow::Borrowed(""),
    }
}

/// [`Value::is_present`] of a value as it stands in a document.
fn raw_is_present(value: &str) -> bool {
    match value.as_bytes().first() {
        Some(b'-' | b'0'..=b'9') => json::parse(value.as_bytes(), json::Limits::default())
            .is_ok_and(|value| value.is_present()),
        _ => !matches!(value, "null" | "false" | "\"\""),
    }
}
