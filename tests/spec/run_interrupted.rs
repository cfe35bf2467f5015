//! `fanout run` cut short: by Ctrl-C or SIGTERM, once, twice or three times.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::{Output, Program, Said, Served, document, names_in, pipe, says};
use crate::run::{command, compact_at, run, tasks};

/// Interrupts a run of which the first task is done, the second one hangs with something it started, and the third one
/// has not begun; answers what the run said. `executor` is what the second one does before it hangs.
fn interrupted(signals: &[Signal], executor: &str) -> (tempfile::TempDir, Said, Duration) {
    let directory = tasks(&["a", "b", "c"]);
    pipe(&directory.path().join("never"));
    let mut alive = Output::of_pipe(directory.path().join("alive"));
    // What it starts ignores SIGTERM, and is known to live as long as it holds its end of the pipe.
    let script = format!(
        r#"
        [ "$FANOUT_GROUP_KEY" = a ] && {{ echo '{{"success":true}}'; exit; }}
        {executor}
        sh -c 'trap "" TERM; exec 3> alive; echo "$FANOUT_GROUP_KEY $$" >&3; read -r _ < never' &
        wait"#
    );
    let flags = ["--concurrency", "1", "--output", "o.json"];
    let mut program = Program::start(&mut command(directory.path(), &flags, &script));
    program.stderr.line_with("completed    t-a");
    let line = alive.line();
    let (key, pid) = line.split_once(' ').unwrap();
    assert_eq!(key, "b");
    assert!(lives(pid));
    let begin = Instant::now();
    for (time, signal) in signals.iter().enumerate() {
        program.signal(*signal);
        let heard = ["interrupted: ending the executors", "killing the executors"];
        program.stderr.line_with(heard[time]);
    }
    let said = program.finish();
    let time = begin.elapsed();
    assert_eq!(alive.rest(), format!("{line}\n"));
    (directory, said, time)
}

/// Whether a process runs; one that is dead and only waits to be buried does not.
pub fn lives(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

#[track_caller]
fn check_interrupted(directory: &Path, said: &Said, heard: &str) {
    assert_eq!((said.code, &*said.stdout), (130, ""), "{}", said.stderr);
    let counts = "failed (interrupted): 1 of 3 tasks recorded: 1 successful, 0 failed, 2 missing\n";
    assert!(
        said.stderr.ends_with(&format!("{heard}{counts}")),
        "{}",
        said.stderr
    );
    let result = document(&fs::read(directory.join("o.json")).unwrap());
    assert_eq!(
        compact_at(&result, "records"),
        concat!(
            r#"[{"task_id":"t-a","success":true,"status":"completed"},"#,
            r#"{"id":"t-b","group_key":"b","status":"missing_record"},"#,
            r#"{"id":"t-c","group_key":"c","status":"missing_record"}]"#
        )
    );
    assert_eq!(compact_at(&result, "status"), r#""failed""#);
    assert_eq!(
        names_in(directory),
        ["alive", "c.json", "i.json", "never", "o.json"]
    );
}

const ENDING: &str = "interrupted: ending the executors (once more to kill them)\n";

#[test]
fn ctrl_c_and_sigterm_end_executors_with_what_they_started_and_leave_a_partial_result() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let (directory, said, _) = interrupted(&[signal], "");
        check_interrupted(directory.path(), &said, ENDING);
    }
}

#[test]
fn an_executor_that_ignores_sigterm_is_killed_after_its_grace() {
    let (directory, said, time) = interrupted(&[Signal::SIGINT], "trap '' TERM");
    assert!(time >= Duration::from_secs(5), "{time:?}");
    check_interrupted(directory.path(), &said, ENDING);
}

#[test]
fn the_second_ctrl_c_kills_executors_that_ignore_sigterm() {
    let signals = [Signal::SIGINT, Signal::SIGINT];
    let (directory, said, time) = interrupted(&signals, "trap '' TERM");
    assert!(time < Duration::from_secs(5), "{time:?}");
    let killing = "killing the executors (once more to leave at once)\n";
    check_interrupted(directory.path(), &said, &format!("{ENDING}{killing}"));
}

#[test]
fn the_third_ctrl_c_leaves_a_coordinator_that_does_not_answer() {
    let server = Served::start(&[]);
    let directory = tasks(&["a"]);
    pipe(&directory.path().join("never"));
    let mut started = Output::of_pipe(directory.path().join("started"));
    let script = "echo started > started; read -r _ < never";
    let flags = ["--server", &*server.address];
    let mut program = Program::start(&mut command(directory.path(), &flags, script));
    assert_eq!(started.line(), "started");
    server.program.signal(Signal::SIGSTOP);
    for heard in ["once more to kill them", "once more to leave at once"] {
        program.signal(Signal::SIGINT);
        program.stderr.line_with(heard);
    }
    program.signal(Signal::SIGINT);
    let killing = "killing the executors (once more to leave at once)\n";
    assert_eq!(
        program.finish(),
        says(130, "", &format!("{ENDING}{killing}"))
    );
}

#[test]
fn a_run_that_was_interrupted_has_sealed_its_plan() {
    let server = Served::start(&[]);
    let directory = tasks(&["a"]);
    pipe(&directory.path().join("never"));
    let mut started = Output::of_pipe(directory.path().join("started"));
    let script = "echo started > started; read -r _ < never";
    let flags = ["--server", &*server.address];
    let program = Program::start(&mut command(directory.path(), &flags, script));
    assert_eq!(started.line(), "started");
    program.signal(Signal::SIGINT);
    let said = program.finish();
    assert_eq!(said.code, 130);
    let plan = document(server.said(&["get", "r:p", "--json"]).stdout.as_bytes());
    assert_eq!(compact_at(&plan, "end_reason"), r#""sealed""#);
    assert_eq!(compact_at(&plan, "end_note"), r#""interrupted""#);
    let again = run(directory.path(), &flags, "echo ran > ran");
    let ended = "plan r:p has ended already (sealed); nothing is run\n\
                 failed: 0 of 1 tasks recorded: 0 successful, 0 failed, 1 missing\n";
    assert_eq!(again, says(0, &said.stdout, ended));
}
