//! Plans on disk, by the real program: what a killed server had acknowledged, the next one has; and what operators do with
//! a data directory.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use crate::harness::{Said, Served, fanout, parse, plan_request, said, said_with, says};

const WHOLE: &str = "2 of 2 tasks recorded: 1 successful, 1 failed, 0 missing";

/// A server that keeps its plans here, and has read what it kept.
fn serve(data: &Path, durability: &str) -> Served {
    let data = data.display().to_string();
    let server = Served::start(&["--data-dir", &data, "--durability", durability]);
    while server.said(&["health"]).code != 0 {}
    server
}

fn journal(data: &Path, arguments: &[&str]) -> Said {
    let data = data.display().to_string();
    let arguments = [&["journal"], arguments, &["--data-dir", &data]].concat();
    said(Path::new("."), &arguments)
}

/// A directory with a plan `p` that has two records, left by a server that was killed.
fn left_by_a_killed_server(durability: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let server = serve(&data, durability);
    server.plan(plan_request("p", &["a", "b"]));
    let records =
        "{\"id\":\"task-a\",\"status\":\"completed\"}\n{\"id\":\"task-b\",\"status\":\"failed\"}\n";
    let submitted = server.said_with(&["submit", "--plan-id", "p"], records);
    assert_eq!(submitted.code, 0, "{submitted:?}");
    kill(server);
    (directory, data)
}

fn kill(server: Served) {
    server.program.signal(Signal::SIGKILL);
    drop(server);
}

/// The one file of the one plan.
fn file_of_the_plan(data: &Path) -> PathBuf {
    let mut plans = fs::read_dir(data.join("plans")).unwrap();
    let plan = plans.next().unwrap().unwrap().path();
    assert!(plans.next().is_none());
    plan.join("journal")
}

#[test]
fn what_a_killed_server_had_acknowledged_the_next_one_has() {
    for durability in ["fsync", "os"] {
        let (_directory, data) = left_by_a_killed_server(durability);
        let server = serve(&data, durability);
        let got = server.said(&["get", "p"]);
        assert!(got.stdout.contains(WHOLE), "{durability}: {got:?}");
        let watched = server.said(&["watch", "p"]);
        let seen = format!(
            "completed    task-a\nfailed       task-b\nend          failed (all_recorded): {WHOLE}\n"
        );
        assert_eq!(watched, says(0, &seen, ""), "{durability}");
    }
}

#[test]
fn a_directory_is_one_servers_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let server = serve(&data, "fsync");
    let shown = data.display().to_string();
    let second = said(
        Path::new("."),
        &["serve", "--listen", "127.0.0.1:0", "--data-dir", &shown],
    );
    assert_eq!(second.code, 1);
    let expected = format!("error: --data-dir: {shown} is in use by another process\n");
    assert_eq!(second.stderr, expected);
    let verified = journal(&data, &["verify"]);
    assert_eq!(
        verified,
        says(
            1,
            "",
            &format!("error: {shown} is in use by another process\n")
        )
    );
    drop(server);
}

#[test]
fn durability_without_a_directory_is_a_mistake_that_is_named() {
    let mut command = fanout();
    let output = command
        .args(["serve", "--durability", "os"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("--data-dir <DIR>"), "{stderr}");
}

#[test]
fn a_sound_journal_is_verified_and_what_is_damaged_is_named_and_set_aside_at_the_start() {
    let (_directory, data) = left_by_a_killed_server("fsync");
    let sound = journal(&data, &["verify", "--json"]);
    assert_eq!(sound.code, 0, "{sound:?}");
    assert!(
        sound.stdout.starts_with(r#"{"plan_id":"p","directory":"p"#)
            && sound.stdout.contains(r#""finding":"sound","#),
        "{sound:?}"
    );
    assert_eq!(sound.stderr, "1 plan, 0 of them cannot be served\n");

    let file = file_of_the_plan(&data);
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.windows(6).position(|part| part == b"task-a").unwrap();
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    let damaged = journal(&data, &["verify"]);
    assert_eq!(damaged.code, 1);
    assert!(damaged.stdout.contains(": damaged (at "), "{damaged:?}");

    let server = serve(&data, "fsync");
    let gone = server.said(&["get", "p"]);
    assert_eq!(gone.code, 1, "{gone:?}");
    assert_eq!(fs::read_dir(data.join("set-aside")).unwrap().count(), 1);
    server.plan(plan_request("q", &["a"]));
}

/// What an import wrote, header and creation in two frames, with one bit of the second changed.
#[test]
fn a_plan_whose_creation_is_damaged_is_not_called_torn_by_verify_and_set_aside_by_serve() {
    let (directory, data) = left_by_a_killed_server("fsync");
    let exported = journal(&data, &["export", "p"]);
    let other = directory.path().join("other");
    let shown = other.display().to_string();
    let arguments = ["journal", "import", "--data-dir", &shown];
    let imported = said_with(Path::new("."), &arguments, &exported.stdout);
    assert_eq!(imported.code, 0, "{imported:?}");
    let file = file_of_the_plan(&other);
    let mut bytes = fs::read(&file).unwrap();
    bytes[200] ^= 1;
    fs::write(&file, bytes).unwrap();

    let problem = "the plan's creation was not written whole";
    let verified = journal(&other, &["verify", "--json"]);
    assert_eq!(verified.code, 1, "{verified:?}");
    let found = parse(&verified.stdout);
    let text = |member: &str| found.get(member).unwrap().text().into_owned();
    assert_eq!(text("finding"), "damaged");
    assert!(text("detail").ends_with(problem), "{verified:?}");
    assert_eq!(text("plan_id"), "p");
    assert_eq!(verified.stderr, "1 plan, 1 of them cannot be served\n");

    drop(serve(&other, "fsync"));
    assert_eq!(fs::read_dir(other.join("set-aside")).unwrap().count(), 1);
}

#[test]
fn a_plan_that_cannot_be_read_is_one_that_cannot_be_served() {
    let (_directory, data) = left_by_a_killed_server("fsync");
    let file = file_of_the_plan(&data);
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let verified = journal(&data, &["verify"]);
    assert_eq!(verified.code, 1, "{verified:?}");
    assert!(verified.stdout.contains(": unreadable ("), "{verified:?}");
}

#[test]
fn an_exported_plan_is_imported_elsewhere_as_it_was() {
    let (directory, data) = left_by_a_killed_server("fsync");
    let exported = journal(&data, &["export", "p"]);
    assert_eq!(exported.code, 0, "{exported:?}");
    assert!(
        exported.stdout.starts_with("{") && exported.stdout.contains("fanout/history/v1"),
        "{exported:?}"
    );
    let other = directory.path().join("other");
    let shown = other.display().to_string();
    let arguments = ["journal", "import", "--data-dir", &shown];
    let imported = said_with(Path::new("."), &arguments, &exported.stdout);
    assert_eq!(imported.code, 0, "{imported:?}");
    let again = said_with(Path::new("."), &arguments, &exported.stdout);
    assert_eq!(again.code, 1, "there is such a plan: {again:?}");
    assert_eq!(journal(&other, &["export", "p"]).stdout, exported.stdout);
    let server = serve(&other, "fsync");
    assert!(server.said(&["get", "p"]).stdout.contains(WHOLE));

    let nobody = journal(&data, &["export", "nobody"]);
    assert_eq!(nobody.code, 1, "{nobody:?}");
}

#[test]
fn submit_goes_on_with_the_next_server_where_the_killed_one_was() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let first = serve(&data, "fsync");
    first.plan(plan_request("p", &["a", "b"]));
    let address = first.address.clone();
    let mut submit =
        crate::harness::Program::start(&mut first.client(&["submit", "--plan-id", "p", "--json"]));
    submit.say("{\"id\":\"task-a\",\"status\":\"completed\"}\n");
    let line = submit.stdout.line();
    assert!(line.contains(r#""disposition":"accepted""#), "{line}");
    kill(first);
    let arguments = ["--data-dir", &data.display().to_string()];
    let second = Served::at(&address, &arguments);
    submit.say("{\"id\":\"task-b\",\"status\":\"completed\"}\n");
    let line = submit.stdout.line();
    assert!(line.contains(r#""disposition":"accepted""#), "{line}");
    assert!(line.contains(r#""record":1,"#), "{line}");
    assert_eq!(submit.finish().code, 0);
    drop(second);
}
