//! Looking after a journal that no server has open: verify, export, import.

use std::path::Path;
use std::sync::Arc;

use fanout::engine::{Entry, Event, Held, MatchedBy, Spec, Status, Timestamp, Verdict};
use fanout::journal::disk::{self, Finding, OpenError, Verified};
use fanout::journal::{Disk, Journal};
use fanout::plan::{self, Input};
use proptest::prelude::*;

use super::histories::{history, terms};
use super::simulated::Drive;
use super::stored::{created, shown, the_spec};
use super::{entries, entry, kept, open};
use crate::arbitrary::{self, cases};
use crate::harness::parse;

const DATA: &str = "data";

fn line(entry: &Entry) -> String {
    let mut line = String::new();
    entry.write_line(&mut line);
    line
}

fn export(drive: &Drive, plan_id: &str) -> Result<String, String> {
    let mut lines = Vec::new();
    let exported = disk::export(drive.boot(), Path::new(DATA), plan_id, &mut lines);
    exported.map_err(|error| error.to_string())?;
    Ok(String::from_utf8(lines).unwrap())
}

fn import(drive: &Drive, lines: &str) -> Result<(String, u64), String> {
    let imported = disk::import(drive.boot(), Path::new(DATA), &mut lines.as_bytes());
    imported.map_err(|error| error.to_string())
}

fn verify(drive: &Drive) -> Vec<Verified> {
    disk::verify(drive.boot(), Path::new(DATA)).unwrap()
}

async fn write_plan(disk: &Disk, name: &str, last: u64) {
    let history = disk.create(name).wait().await.unwrap();
    for sequence in 1..=last {
        let answer = history.append(sequence - 1, &[entry_of(name, sequence)]);
        answer.wait().await.unwrap();
    }
}

/// As [`entry`], for a plan of this name.
fn entry_of(name: &str, sequence: u64) -> Arc<Entry> {
    let mut entry = Entry::clone(&entry(sequence));
    if sequence == 1 {
        entry.event = Event::PlanCreated(super::spec(name, 2));
    }
    Arc::new(entry)
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn every_event_goes_through_a_line(expected in history()) {
        for expected in expected {
            let line = line(&expected);
            prop_assert!(!line.contains('\n'));
            let found = Entry::read_line(line.as_bytes()).unwrap();
            prop_assert_eq!(format!("{found:?}"), format!("{:?}", *expected));
        }
    }

    #[test]
    fn every_plan_goes_through_a_line(terms in terms(), config in arbitrary::object_text()) {
        let config = parse(&config);
        let config = config.as_object().unwrap();
        let input = Input { config: config.clone(), items: None, groups: None };
        let Ok(plan) = plan::plan(input, &plan::Limits::default()) else {
            return Ok(());
        };
        if let Ok(spec) = Spec::new(terms, config, &plan, usize::MAX) {
            let expected = shown(&spec);
            let found = Entry::read_line(line(&created(spec)).as_bytes()).unwrap();
            prop_assert_eq!(shown(the_spec(&found)), expected);
        }
    }

    #[test]
    fn any_line_is_an_entry_or_refused(text in arbitrary::object_text(), bytes: Vec<u8>) {
        let _ = Entry::read_line(text.as_bytes());
        let _ = Entry::read_line(&bytes);
    }
}

#[test]
fn a_line_is_what_people_can_read() {
    let held = Held {
        task: 3,
        revision: 1,
        sequence: 2,
        at: Timestamp(1_000),
        verdict: Verdict {
            status: Status::Completed,
            successful: true,
        },
        has_outcome: false,
        matched_by: MatchedBy::GroupKey,
        document: r#"{"id": "a",  "n": 1.50}"#.into(),
    };
    let accepted = |document: &'static str| Entry {
        sequence: 2,
        at: Timestamp(1_000),
        event: Event::RecordAccepted(Arc::new(Held {
            document: document.into(),
            ..held.clone()
        })),
    };
    assert_eq!(
        line(&accepted(r#"{"id": "a",  "n": 1.50}"#)),
        r#"{"sequence":2,"at":1000,"event":"record_accepted","task":3,"revision":1,"status":"completed","successful":true,"has_outcome":false,"matched_by":"group_key","document":{"id": "a",  "n": 1.50}}"#
    );
    for document in ["{\n \"a\": 1\r\n}", " {} "] {
        let entry = accepted(document);
        let found = Entry::read_line(line(&entry).as_bytes()).unwrap();
        assert_eq!(
            format!("{found:?}"),
            format!("{entry:?}"),
            "to the last space"
        );
    }
}

#[tokio::test]
async fn what_was_exported_can_be_imported_elsewhere_with_the_same_result() {
    let drive = Drive::new(1);
    let disk = open(&drive);
    write_plan(&disk, "plan", 600).await;
    let refused = export(&drive, "plan");
    assert_eq!(refused, Err("data is in use by another process".into()));
    drop(disk);
    let exported = export(&drive, "plan").unwrap();
    let first = exported.lines().next().unwrap();
    assert_eq!(
        first,
        r#"{"form":"fanout/history/v1","plan_id":"plan","entries":600}"#
    );
    assert_eq!(exported.lines().count(), 601);

    let other = Drive::new(2);
    assert_eq!(import(&other, &exported), Ok(("plan".into(), 600)));
    other.lose_power();
    assert_eq!(export(&other, "plan").unwrap(), exported);
    let disk = open(&other);
    assert_eq!(kept(&disk, "plan").await, 600);
    let history = disk.open("plan").wait().await.unwrap();
    history
        .append(600, &entries(601..=601))
        .wait()
        .await
        .unwrap();
}

#[tokio::test]
async fn lines_that_are_not_a_whole_history_change_nothing() {
    let drive = Drive::new(1);
    let disk = open(&drive);
    write_plan(&disk, "plan", 3).await;
    drop(disk);
    let exported = export(&drive, "plan").unwrap();
    let taken = import(&drive, &exported).unwrap_err();
    assert_eq!(
        taken,
        r#"plan "plan": there is a plan of this name already"#
    );

    let lines: Vec<_> = exported.lines().collect();
    let with = |changed: &[&str]| changed.join("\n");
    let form = lines[0].replace("v1", "v2");
    let unknown = lines[3].replace("\"note\"", "\"more\":1,\"note\"");
    let cases = [
        ("".into(), "line 1: there is none"),
        (with(&lines[..3]), "line 4: 2 of 3 entries are there"),
        (
            with(&[lines[0], lines[1], lines[3]]),
            "line 3: expected sequence 2",
        ),
        (with(&[lines[0], lines[2]]), "line 2: expected sequence 1"),
        (
            with(&[lines[0], lines[1], lines[2], &unknown]),
            "line 4: more: is unknown",
        ),
        (
            with(&[&form]),
            r#"line 1: form: expected "fanout/history/v1", found "fanout/history/v2""#,
        ),
        (
            with(&[lines[0], "[]"]),
            "line 2: 1:1: expected an object, found \"[\"",
        ),
        (
            exported.replace(
                r#""plan_id":"plan","entries""#,
                r#""plan_id":"else","entries""#,
            ),
            "line 2: another plan, or the same again, is created",
        ),
    ];
    let event = |event: &str| {
        let event = format!(r#"{{"sequence":2,"at":1000,{event}}}"#);
        with(&[lines[0], lines[1], &event, lines[3]])
    };
    let impossible = [
        (
            event(r#""event":"session_learnt","session":"s","task":2"#),
            "line 3: there is no task 2 of 2",
        ),
        (
            event(
                r#""event":"task_progressed","task":4294967295,"kind":"started","session":"s","document":{}"#,
            ),
            "line 3: there is no task 4294967295 of 2",
        ),
        (
            event(
                r#""event":"record_accepted","task":2,"revision":1,"status":"failed","successful":false,"has_outcome":false,"matched_by":"task_id","document":{}"#,
            ),
            "line 3: there is no task 2 of 2",
        ),
        (
            event(
                r#""event":"record_quarantined","id":1,"reason":"ambiguous","candidates":[0, 2],"kind":"result","status":"failed","successful":false,"has_outcome":true,"document":{}"#,
            ),
            "line 3: there is no task 2 of 2",
        ),
        (
            event(
                r#""event":"record_quarantined","id":2,"reason":"ambiguous","candidates":[0, 1],"kind":"result","status":"failed","successful":false,"has_outcome":true,"document":{}"#,
            ),
            "line 3: expected id 1",
        ),
        (
            event(r#""event":"quarantine_resolved","id":1,"note":"""#),
            "line 3: there is no record 1 set aside",
        ),
    ];
    for (lines, problem) in cases.into_iter().chain(impossible) {
        let other = Drive::new(2);
        assert_eq!(import(&other, &lines).unwrap_err(), problem);
        assert_eq!(open(&other).plans().wait().await.unwrap(), []);
        assert_eq!(other.paths("journal"), [""; 0]);
    }
    let missing = export(&drive, "other").unwrap_err();
    assert_eq!(missing, r#"plan "other": there is no such plan"#);
}

#[tokio::test]
async fn verify_says_what_opening_would_do_and_does_nothing() {
    let drive = Drive::new(1);
    let disk = open(&drive);
    for name in ["a", "b", "c", "d"] {
        write_plan(&disk, name, 3).await;
    }
    disk.create("e").wait().await.unwrap();
    drop(disk);
    let bytes = verify(&drive)[0].bytes;
    drive.edit("plans/b.", |file| file[bytes as usize - 1] ^= 1);
    drive.edit("plans/c.", |file| file[100] ^= 1);
    drive.edit("plans/d.", Vec::clear);
    for _ in 0..2 {
        let found = verify(&drive);
        let findings: Vec<_> = found
            .iter()
            .map(|found| (found.plan_id.as_deref(), found.entries, &found.finding))
            .collect();
        let torn = found[1].bytes;
        let length = drive.read("plans/b.").len() as u64;
        assert_eq!(
            findings,
            [
                (Some("a"), 3, &Finding::Sound),
                (
                    Some("b"),
                    2,
                    &Finding::Torn {
                        offset: torn,
                        bytes: length - torn
                    }
                ),
                (
                    None,
                    0,
                    &Finding::Damaged {
                        offset: 69,
                        problem: "a frame is not as it was written, and later ones are".into()
                    }
                ),
                (None, 0, &Finding::NeverWritten),
                (Some("e"), 0, &Finding::NeverWritten),
            ]
        );
    }
    let refused = disk::verify(drive.boot(), Path::new("elsewhere"));
    assert!(matches!(refused, Err(OpenError::Io { .. })));
    assert!(drive.paths("elsewhere").is_empty());
}
