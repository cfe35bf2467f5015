//! Journals that earlier versions wrote are read by this one. `tests/fixtures/journal` has one of each version.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use fanout::journal::disk::files::SystemFiles;
use fanout::journal::disk::{self, Options};
use fanout::journal::{Disk, History, Journal};

use crate::harness::project;
use crate::journal::entries;

/// What each of them holds, in the lines of an export.
const LINES: [&str; 11] = [
    r#"{"form":"fanout/history/v1","plan_id":"scan-42","entries":10}"#,
    r#"{"sequence":1,"at":1760000000000,"event":"plan_created","plan_id":"scan-42","digest":"00aa","labels":{"team":"core","ü":""},"seal_rule":"when_all_recorded","min_successful":1,"tolerated_failures":2,"tolerated_failure_percentage":"12.5","deadline":1760000600000,"retention_seconds":86400,"retention_nanoseconds":500000000,"created_at":1760000000000,"config":{"success_statuses":["done"],"task_request_template":{"id":"scan-{{group.key}}"}},"head":{"schema":"homeboy/fanout-reconcile-plan/v1","summary":{"item_count":3,"group_count":2,"task_count":2}},"item_count":3,"group_count":2,"task_requests":[{"id":"scan-api","group_key":"api","n":12345678901234567890},{"id":"scan-web","group_key":{"x":7}}]}"#,
    r#"{"sequence":2,"at":1760000000001,"event":"session_learnt","session":"s-1","task":0}"#,
    r#"{"sequence":3,"at":1760000000002,"event":"task_progressed","task":0,"kind":"started","session":"s-1","document":{"id":"scan-api"}}"#,
    r#"{"sequence":4,"at":1760000000003,"event":"record_accepted","task":0,"revision":1,"status":"failed","successful":false,"has_outcome":false,"matched_by":"task_id","document":{"id":"scan-api",  "status":"failed"}}"#,
    r#"{"sequence":5,"at":1760000000004,"event":"record_accepted","task":0,"revision":2,"status":"completed","successful":true,"has_outcome":true,"matched_by":"sandbox_session_id","document":"{\n\"outcome\":{\"n\":1.50}}"}"#,
    r#"{"sequence":6,"at":1760000000005,"event":"record_quarantined","id":1,"reason":"ambiguous","candidates":[0, 1],"kind":"result","status":"missing_record","successful":false,"has_outcome":true,"document":{"id":"?"}}"#,
    r#"{"sequence":7,"at":1760000000006,"event":"quarantine_resolved","id":1,"rematched_to":1,"note":"it was the web's"}"#,
    r#"{"sequence":8,"at":1760000000007,"event":"quarantine_resolved","id":2,"note":""}"#,
    r#"{"sequence":9,"at":1760000000008,"event":"producer_advanced","producer":"p-1","first_offset":5,"outcomes":[{"sequence":4,"held":0,"task":0,"disposition":"accepted","matched_by":"task_id","warnings":["session_not_learnt"]},{"sequence":9,"held":0,"disposition":"invalid","warnings":[]}],"violations":[{"position":1,"field":"body","description":"1:1: no","reason":"INVALID_JSON","limit":0,"quota":false}]}"#,
    r#"{"sequence":10,"at":1760000000009,"event":"plan_ended","reason":"tolerance_exceeded","note":"„zu viele“"}"#,
];

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

async fn lines(history: &dyn History) -> Vec<String> {
    let mut lines = vec![LINES[0].to_owned()];
    for entry in history.replay(0, usize::MAX).wait().await.unwrap() {
        lines.push(String::new());
        entry.write_line(lines.last_mut().unwrap());
    }
    lines
}

async fn has_what_was_appended(version: &str) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(version);
    copy(
        &project(&format!("tests/fixtures/journal/{version}")),
        &path,
    );
    let before = fs::read_to_string(path.join("format")).unwrap();
    let found = disk::verify(Arc::new(SystemFiles), &path).unwrap();
    assert_eq!(found[0].finding, disk::Finding::Sound);
    let mut exported = Vec::new();
    disk::export(Arc::new(SystemFiles), &path, "scan-42", &mut exported).unwrap();
    let expected = LINES.map(|line| format!("{line}\n")).concat();
    assert_eq!(String::from_utf8(exported).unwrap(), expected);
    let after = fs::read_to_string(path.join("format")).unwrap();
    assert_eq!(after, before, "who only reads changes nothing");

    let disk = Disk::open(&Options::new(&path)).unwrap();
    assert_eq!(disk.opening_report().entries, 10);
    let history = disk.open("scan-42").wait().await.unwrap();
    assert_eq!(lines(&*history).await, LINES);
}

#[tokio::test]
async fn a_journal_of_version_1_has_what_was_appended_to_it() {
    has_what_was_appended("v1").await;
}

#[tokio::test]
async fn a_journal_of_version_2_has_what_was_appended_to_it() {
    has_what_was_appended("v2").await;
}

/// What version 1 wrote is not written again: the file goes on behind it.
#[tokio::test]
async fn a_journal_of_version_1_goes_on_in_version_2() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("v1");
    copy(&project("tests/fixtures/journal/v1"), &path);
    let plan = path.join("plans/scan-42.78a2dc8516141455d1877faf291ae605/journal");
    let before = fs::read(&plan).unwrap();
    let written = before.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    {
        let disk = Disk::open(&Options::new(&path)).unwrap();
        let history = disk.open("scan-42").wait().await.unwrap();
        let more = history.append(10, &entries(11..=13));
        more.wait().await.unwrap();
    }
    let format = fs::read_to_string(path.join("format")).unwrap();
    assert_eq!(format, "fanout journal 2\n");
    assert!(fs::read(&plan).unwrap().starts_with(&before[..written]));
    let found = disk::verify(Arc::new(SystemFiles), &path).unwrap();
    assert_eq!(
        (found[0].entries, &found[0].finding),
        (13, &disk::Finding::Sound)
    );

    let disk = Disk::open(&Options::new(&path)).unwrap();
    let history = disk.open("scan-42").wait().await.unwrap();
    let lines = lines(&*history).await;
    assert_eq!(lines[..11], LINES);
    assert_eq!(lines.len(), 14);
}
