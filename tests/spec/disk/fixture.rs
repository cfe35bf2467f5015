//! Journals that earlier versions wrote are read by this one. `tests/fixtures/journal` has one of each version.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use fanout::journal::disk::files::SystemFiles;
use fanout::journal::disk::{self, Options};
use fanout::journal::{Disk, Journal};

use crate::harness::project;

const VERSION_1: [&str; 11] = [
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

#[tokio::test]
async fn a_journal_of_version_1_has_what_was_appended_to_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("v1");
    copy(&project("tests/fixtures/journal/v1"), &path);
    let disk = Disk::open(&Options::new(&path)).unwrap();
    assert_eq!(disk.opening_report().entries, 10);
    let history = disk.open("scan-42").wait().await.unwrap();
    let mut lines = vec![VERSION_1[0].to_owned()];
    for entry in history.replay(0, usize::MAX).wait().await.unwrap() {
        lines.push(String::new());
        entry.write_line(lines.last_mut().unwrap());
    }
    assert_eq!(lines, VERSION_1);
    drop((history, disk));

    let mut exported = Vec::new();
    disk::export(Arc::new(SystemFiles), &path, "scan-42", &mut exported).unwrap();
    let expected = VERSION_1.map(|line| format!("{line}\n")).concat();
    assert_eq!(String::from_utf8(exported).unwrap(), expected);
}
