//! Planning and reconciling whole documents at 1,000, 10,000 and 100,000 tasks, with the exponent of their growth.
//!
//! `cargo bench --bench documents`. Each figure is the median of nine runs, each in a process of its own, as the program
//! does it. An exponent of 1.0 is linear.

use std::process::Command;
use std::time::{Duration, Instant};

use fanout::json::{self, Limits, Object, Value};
use fanout::plan::{self, Input};
use fanout::reconcile;

const SIZES: [usize; 3] = [1_000, 10_000, 100_000];
const RUNS: usize = 9;

/// As the program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What is timed.
const STEPS: [&str; 4] = ["parse items", "plan", "reconcile", "print plan"];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, step, tasks] = &arguments[..]
        && let Ok(tasks) = tasks.parse()
    {
        println!("{}", once(step, tasks).as_nanos());
        return;
    }
    touch_memory();
    // Round by round, so that what else the machine does disturbs all alike.
    let mut times = SIZES.map(|_| STEPS.map(|_| Vec::new()));
    for _ in 0..RUNS {
        for (tasks, times) in SIZES.iter().zip(&mut times) {
            for (step, times) in STEPS.iter().zip(times) {
                times.push(in_a_process(step, *tasks));
            }
        }
    }
    let times = times.map(|times| times.map(median));
    println!(
        "{:>8}  {:>12} {:>12} {:>12} {:>12}",
        "tasks", STEPS[0], STEPS[1], STEPS[2], STEPS[3]
    );
    for (tasks, times) in SIZES.iter().zip(&times) {
        println!(
            "{tasks:>8}  {:>12.1?} {:>12.1?} {:>12.1?} {:>12.1?}",
            times[0], times[1], times[2], times[3]
        );
    }
    for (step, name) in STEPS.iter().enumerate() {
        let ratio = times[2][step].as_secs_f64() / times[1][step].as_secs_f64();
        println!(
            "{name}: exponent {:.2} from 10,000 to 100,000 tasks",
            ratio.log10()
        );
    }
}

/// Does one step once. What it takes to make its input or to free its result is not timed.
fn once(step: &str, tasks: usize) -> Duration {
    let config = config();
    let items = items(tasks);
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
        "plan" => {
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
        other => panic!("there is no step {other:?}; there are {STEPS:?}"),
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    let result = work();
    let taken = start.elapsed();
    drop(result);
    taken
}

/// A virtual machine gets its memory from its host when it is first touched, which takes longer than the work measured
/// here. A quarter of what is free is touched once, and is the machine's from then on.
fn touch_memory() {
    let free = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let free = free
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = free.and_then(|free| free.trim().strip_suffix(" kB")?.parse::<usize>().ok());
    let mut memory = vec![0_u8; kib.unwrap_or(1 << 20) * 1_024 / 4];
    memory.iter_mut().step_by(4_096).for_each(|byte| *byte = 1);
    std::hint::black_box(&memory);
}

/// Each run is a process of its own, so that every size pays for its memory.
fn in_a_process(step: &str, tasks: usize) -> Duration {
    let program = std::env::current_exe().expect("this program has a path");
    let run = Command::new(program)
        .args([step, &tasks.to_string()])
        .output()
        .expect("this program starts again");
    let printed = String::from_utf8_lossy(&run.stdout);
    Duration::from_nanos(printed.trim().parse().expect("a run prints nanoseconds"))
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

fn items(count: usize) -> String {
    let item = |n| {
        format!(
            r#"{{"id":"item-{n}","category":"group-{n}","payload":{{"value":{n},"path":"src/{n}.rs"}}}}"#
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
