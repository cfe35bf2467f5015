//! Planning and reconciling whole documents at 1,000, 10,000 and 100,000 tasks, with the exponent of their growth.
//!
//! `cargo bench --bench documents`. Each figure is the median of five runs in one process, after one that is not
//! counted. An exponent of 1.0 is linear.

use std::time::{Duration, Instant};

use fanout::json::{self, Limits, Object, Value};
use fanout::plan::{self, Input};
use fanout::reconcile;

const SIZES: [usize; 3] = [1_000, 10_000, 100_000];
const RUNS: usize = 5;

/// As the program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    println!(
        "{:>8}  {:>12} {:>12} {:>12} {:>12}",
        "tasks", "parse items", "plan", "reconcile", "print plan"
    );
    let mut plans = Vec::new();
    let mut reconciles = Vec::new();
    for tasks in SIZES {
        let items_text = items(tasks);
        let config = config();
        let parse_time = median(|| (), |()| parse(&items_text));
        let planned = |items| {
            let input = Input {
                config: config.clone(),
                items: Some(items),
                groups: None,
            };
            plan::plan(input, &plan::Limits::default())
                .expect("the input is sound")
                .document()
        };
        let plan_time = median(|| parse(&items_text), planned);
        let document = planned(parse(&items_text));
        let records = parse(&records(tasks));
        let records = records.as_array().expect("a list");
        let reconcile_time = median(
            || (),
            |()| reconcile::reconcile(&config, &document, records).expect("the plan is sound"),
        );
        let print_time = median(|| (), |()| json::pretty(&document));
        println!(
            "{tasks:>8}  {:>12.1?} {:>12.1?} {:>12.1?} {:>12.1?}",
            parse_time, plan_time, reconcile_time, print_time
        );
        plans.push(plan_time);
        reconciles.push(reconcile_time);
    }
    for (name, times) in [("plan", plans), ("reconcile", reconciles)] {
        println!(
            "{name}: exponent {:.2} from 10,000 to 100,000 tasks",
            exponent(times[1], times[2])
        );
    }
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

/// Times the work: not what it takes to make its input, nor what it takes to free its result.
fn median<I, O>(input: impl Fn() -> I, work: impl Fn(I) -> O) -> Duration {
    let time = |_| {
        let input = input();
        let start = Instant::now();
        let output = work(input);
        let taken = start.elapsed();
        drop(output);
        taken
    };
    time(0);
    let mut times: Vec<Duration> = (0..RUNS).map(time).collect();
    times.sort();
    times[RUNS / 2]
}

fn exponent(small: Duration, large: Duration) -> f64 {
    (large.as_secs_f64() / small.as_secs_f64()).log10()
}
