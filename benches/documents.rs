//! Planning and reconciling whole documents at 1,000 to 1,000,000 tasks, with the exponent of their growth.
//!
//! `cargo bench --bench documents`; with `-- --quick` less often, and up to 100,000 tasks. Each figure is the median of
//! its runs, each in a process of its own, as the program does it. An exponent of 1.0 is linear.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use fanout::json::{self, Limits, Object, Value};
use fanout::plan::{self, Input};
use fanout::reconcile;

const SIZES: [usize; 4] = [1_000, 10_000, 100_000, 1_000_000];
/// Groups of the step that does not make one for each item.
const FEW_GROUPS: usize = 1_000;

/// What the process does that touches memory.
const TOUCH: &str = "touch memory";
/// What is touched: about twice what the largest step takes.
const TOUCHED_BYTES_A_TASK: usize = 4 << 10;
const TOUCHED_BYTES_LEAST: usize = 64 << 20;

/// As the program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What is timed.
const STEPS: [&str; 6] = [
    "parse items",
    "plan",
    "plan 1,000 groups",
    "reconcile",
    "print plan",
    "through files",
];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, step, tasks] = &arguments[..]
        && let Ok(tasks) = tasks.parse()
    {
        if step == TOUCH {
            touch_memory(tasks);
            return;
        }
        println!("{}", once(step, tasks).as_nanos());
        return;
    }
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let sizes = if quick { &SIZES[..3] } else { &SIZES[..] };
    // Round by round, so that what else the machine does disturbs all alike.
    let mut times = vec![STEPS.map(|_| Vec::new()); sizes.len()];
    for round in 0..if quick { 3 } else { 9 } {
        for (tasks, times) in sizes.iter().zip(&mut times) {
            // The largest takes its time.
            if *tasks == 1_000_000 && round % 2 > 0 {
                continue;
            }
            for (step, times) in STEPS.iter().zip(times) {
                times.push(in_a_process(step, *tasks));
            }
        }
    }
    let times: Vec<_> = times.into_iter().map(|times| times.map(median)).collect();
    let line = |first: &str, cells: Vec<String>| {
        let cells: String = cells.iter().map(|cell| format!(" {cell:>17}")).collect();
        println!("{first:>9} {cells}");
    };
    line("tasks", STEPS.map(str::to_owned).to_vec());
    for (tasks, times) in sizes.iter().zip(&times) {
        line(
            &tasks.to_string(),
            times.map(|time| format!("{time:.1?}")).to_vec(),
        );
    }
    let largest = sizes.len() - 1;
    let exponent = |step: usize| {
        let ratio = times[largest][step].as_secs_f64() / times[1][step].as_secs_f64();
        format!("{:.2}", ratio.log10() / (largest - 1) as f64)
    };
    line("exponent", (0..STEPS.len()).map(exponent).collect());
    println!(
        "Exponents are from {} to {} tasks.",
        sizes[1], sizes[largest]
    );
}

/// Does one step once. What it takes to make its input or to free its result is not timed.
fn once(step: &str, tasks: usize) -> Duration {
    let config = config();
    let items = items(tasks, if step == STEPS[2] { FEW_GROUPS } else { tasks });
    let plan = |items| {
        let input = Input {
            config: config.clone(),
            items: Some(items),
            groups: None,
        };
        let plan = plan::plan(input, &plan::Limits::default());
        plan.expect("the input is sound").document()
    };
    match step {
        "parse items" => timed(|| parse(&items)),
        "plan" | "plan 1,000 groups" => {
            let items = parse(&items);
            timed(|| plan(items))
        }
        "reconcile" => {
            let plan = plan(parse(&items));
            let records = parse(&records(tasks)).into_list();
            timed(|| reconcile::reconcile(&config, &plan, records))
        }
        "print plan" => {
            let plan = plan(parse(&items));
            let mut bytes = 0;
            timed(|| {
                json::pretty_in_pieces(&plan, |piece| {
                    bytes += piece.len();
                    Ok::<_, std::convert::Infallible>(())
                })
            })
        }
        "through files" => through_files(&config, &items),
        other => panic!("there is no step {other:?}; there are {STEPS:?}"),
    }
}

/// Runs the program on files, its output in a file, too.
fn through_files(config: &Object, items: &str) -> Duration {
    let directory = tempfile::tempdir().expect("there is room for files");
    let path = |name: &str| -> PathBuf { directory.path().join(name) };
    let config = json::compact(&Value::from(config.clone()));
    fs::write(path("config.json"), config).expect("a file is written");
    fs::write(path("items.json"), items).expect("a file is written");
    let plan = File::create(path("plan.json")).expect("a file is made");
    let mut program = Command::new(env!("CARGO_BIN_EXE_fanout"));
    program.args(["plan", "--config", "config.json", "--items", "items.json"]);
    program.current_dir(&directory).stdout(plan);
    timed(|| assert!(program.status().expect("the program runs").success()))
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    let result = work();
    let taken = start.elapsed();
    drop(result);
    taken
}

/// A virtual machine gets its memory from its host when it is first touched, and gives it back a few seconds after it
/// was freed. To get it takes longer than the work measured here, and how long is the host's business. So a process that
/// is not timed touches what a run may need just before it; what the run itself does about its memory, to have it
/// cleared and mapped, is timed.
fn touch_memory(tasks: usize) {
    let mut memory = vec![0_u8; (tasks * TOUCHED_BYTES_A_TASK).max(TOUCHED_BYTES_LEAST)];
    memory.iter_mut().step_by(4_096).for_each(|byte| *byte = 1);
    std::hint::black_box(&memory);
}

/// Each run is a process of its own, so that every size pays for its memory.
fn in_a_process(step: &str, tasks: usize) -> Duration {
    run(TOUCH, tasks);
    let printed = run(step, tasks);
    Duration::from_nanos(printed.trim().parse().expect("a run prints nanoseconds"))
}

/// Runs this program, and answers what it printed.
fn run(step: &str, tasks: usize) -> String {
    let program = std::env::current_exe().expect("this program has a path");
    let run = Command::new(program)
        .args([step, &tasks.to_string()])
        .output()
        .expect("this program starts again");
    String::from_utf8_lossy(&run.stdout).into_owned()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn config() -> Object {
    let config = parse(
        r#"{"schema":"homeboy/generic-fanout-reconcile-config/v1",
            "orchestrator":{"id":"bench","run_id":"run-1","plan_id":"plan-1"},
            "group_key_path":"category",
            "task_request_template":{"id":"task-{{group.key}}","group_key":"{{group.key}}",
                "item_ids":"{{group.item_ids}}",
                "instructions":"Process {{group.key}} with {{group.item_count}} item(s).",
                "inputs":{"items":"{{group.items}}"}},
            "runtime_execution":{"backend":"any","task":{"name":"process","group":"{{group.key}}"}}}"#,
    );
    config.as_object().expect("an object").clone()
}

fn items(count: usize, groups: usize) -> String {
    let item = |n| {
        let group = n % groups;
        format!(
            r#"{{"id":"item-{n}","category":"group-{group}","payload":{{"value":{n},"path":"src/{n}.rs"}}}}"#
        )
    };
    format!("[{}]", (0..count).map(item).collect::<Vec<_>>().join(","))
}

fn records(count: usize) -> String {
    let record = |n| {
        format!(
            r#"{{"id":"task-group-{n}","status":"succeeded","outcome":{{"changed":{n},"note":"done"}}}}"#
        )
    };
    format!("[{}]", (0..count).map(record).collect::<Vec<_>>().join(","))
}

fn parse(text: &str) -> Value {
    json::parse(text.as_bytes(), Limits::default()).expect("valid JSON")
}
