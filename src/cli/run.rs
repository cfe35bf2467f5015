//! `run`: the whole product in one command. Plans, runs a command once for each task, streams every record through a
//! real coordinator (its own on loopback, or another), shows progress, writes the result document.

use std::collections::{HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::num::IntErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgAction, Args, Parser};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::access::Access;
use super::client::{Client, ServerAddress, connect, explain};
use super::display::Display;
use super::executor::{Executor, Interrupt, Ran, refused_record};
use super::fetched_result;
use super::plan_parts::Registration;
use super::print::{self, printable};
use super::record_stream::{self, Answered, Answers, Batches};
use super::registered::{self, Ending, PlanInput};
use super::{DONE, FAILED, Failure, INTERRUPTED, NOT_COMPLETED, Outcome};
use crate::config::{Config, duration};
use crate::json::{self, Object, Value};
use crate::proto::{EndReason, Plan, PlanStatus, Record, SealPlanRequest, TaskRequest, View};
use crate::server;

/// `fanout run`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
The command gets its task request (one line of JSON) on standard input and prints its record (one JSON object) on \
standard output. FANOUT_PLAN_ID, FANOUT_TASK_ID, FANOUT_GROUP_KEY and FANOUT_SERVER are in its environment, and \
TRACEPARENT if the plan has a trace; one of more than 32 KiB or with a NUL in it is left out. Where fanout's own token, \
certificate and keys are is not in it. A crash, a signal, a timeout or an unreadable record becomes a failed record that \
says so.

  fanout run --config config.json --items items.json -- sh -c 'jq \"{status: \\\"completed\\\", outcome: .inputs}\"'")]
pub(super) struct Run {
    #[command(flatten)]
    input: PlanInput,
    #[command(flatten)]
    ending: Ending,
    /// Tasks that run at the same time. Default: the config's `concurrency`, else 3.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: Option<u32>,
    /// The most that --concurrency or the config may ask for.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    max_concurrency: u32,
    /// How long one task may take: for example 90s, 15m. Default: as long as it wants.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
    /// Where to write the result document; `-` or nothing is standard output.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Coordinator to use: host:port, or an http:// or https:// URL. Default: an own one, for as long as the run takes.
    #[arg(long, env = "FANOUT_SERVER", value_name = "ADDRESS")]
    server: Option<String>,
    #[command(flatten)]
    access: Access,
    /// Exit with 2 if the result is not `completed`.
    #[arg(long)]
    fail_on_failure: bool,
    /// Show no progress.
    #[arg(long, short, action = ArgAction::SetTrue)]
    quiet: bool,
    /// The command to run for each task, with its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

const CONCURRENCY_DEFAULT: u32 = 3;

pub(super) async fn run(command: Run) -> Outcome {
    let input = command.input.read()?;
    let concurrency = concurrency(&command, &input.config)?;
    let mut registration = input.registration();
    drop(input);
    command.ending.put_into(&mut registration.request)?;
    let coordinator = Coordinator::reach(command.server.clone(), &command.access).await?;
    let outcome = with_coordinator(command, concurrency, registration, &coordinator).await;
    coordinator.leave().await;
    outcome
}

async fn with_coordinator(
    command: Run,
    concurrency: usize,
    registration: Registration,
    coordinator: &Coordinator,
) -> Outcome {
    let mut client = connect(&coordinator.address).await?;
    let (planned, tasks) = plan(&mut client, registration).await?;
    let plan_id = planned.plan_id;
    let (interrupted, interrupt) = interrupt_on_signal()?;
    let display = Display::new(tasks.len() as u64, command.quiet);
    let executor = Executor {
        command: command.command,
        timeout: command.timeout,
        traceparent: planned.traceparent,
        interrupt: interrupt.clone(),
    };
    let session = Session::open(
        client.clone(),
        &plan_id,
        &coordinator.address.server,
        executor,
        display.clone(),
    );
    // A deadline, too many failures, enough successes, or somebody else: what is still to be done is then in vain.
    let ending = tokio::spawn({
        let (mut client, plan_id) = (client.clone(), plan_id.clone());
        let end = interrupt.end.clone();
        async move {
            registered::end(&mut client, &plan_id).await?;
            end.cancel();
            Ok::<(), Failure>(())
        }
    });
    let something_to_do = !tasks.is_empty();
    let ran = session.run(tasks, concurrency).await;
    ending.abort();
    display.finish();
    let undelivered = ran?;

    let interrupted = interrupted.is_cancelled();
    let sealed_because = match undelivered {
        _ if interrupted => Some("interrupted".to_owned()),
        0 => None,
        tasks => Some(format!("the records of {tasks} tasks were refused")),
    };
    let sealed_here = sealed_because.is_some();
    if let Some(reason) = sealed_because {
        let request = SealPlanRequest {
            plan_id: plan_id.clone(),
            reason,
            ..Default::default()
        };
        client
            .seal_plan(request)
            .await
            .map_err(|status| explain(&status))?;
    }
    let mut result = fetched_result::fetch(&mut client, &plan_id).await?;
    let (status, end_reason) = (result.status, result.end_reason);
    if something_to_do && !sealed_here && end_reason != EndReason::AllRecorded {
        eprintln!("the plan has ended: {}", print::end_reason(end_reason));
    }
    result.write(command.output.as_deref()).or_else(|failure| {
        // The work was done; it is not thrown away with a path that was wrong.
        result.write(None)?;
        Err(failure)
    })?;
    if !command.quiet || status != PlanStatus::Completed {
        let interrupted = if interrupted { " (interrupted)" } else { "" };
        eprintln!(
            "{}{interrupted}: {}",
            print::plan_status(status),
            print::counts_line(&result.counts)
        );
    }
    Ok(match status {
        _ if interrupted => INTERRUPTED,
        _ if undelivered > 0 => FAILED,
        PlanStatus::Completed => DONE,
        _ if command.fail_on_failure => NOT_COMPLETED,
        _ => DONE,
    })
}

/// The coordinator of this run.
struct Coordinator {
    address: ServerAddress,
    own: Option<(CancellationToken, tokio::task::JoinHandle<()>)>,
}

impl Coordinator {
    async fn reach(server: Option<String>, access: &Access) -> Result<Self, Failure> {
        if let Some(server) = server {
            let access = access.clone();
            return Ok(Self {
                address: ServerAddress { server, access },
                own: None,
            });
        }
        let config = own_config()?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = ServerAddress {
            server: listener.local_addr()?.to_string(),
            access: Access::default(),
        };
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let served = tokio::spawn(async move {
            let ended = server::run(listener, config, stopped.cancelled_owned()).await;
            if let Err(error) = ended {
                eprintln!("error: the run's own coordinator: {error}");
            }
        });
        Ok(Self {
            address,
            own: Some((stop, served)),
        })
    }

    async fn leave(self) {
        if let Some((stop, served)) = self.own {
            stop.cancel();
            // The process ends after this; what is still open ends with it.
            let _ = tokio::time::timeout(Duration::from_secs(1), served).await;
        }
    }
}

/// Settings of the run's own coordinator: those that the environment gives to `fanout serve`.
fn own_config() -> Result<Config, Failure> {
    #[derive(Parser)]
    struct Environment {
        #[command(flatten)]
        config: Config,
    }
    let environment = Environment::try_parse_from(["fanout"]).map_err(|error| {
        let text = error.to_string();
        let problem = text.lines().next().unwrap_or_default();
        let problem = problem.trim_start_matches("error: ");
        Failure::new(format!("a setting in the environment: {problem}"))
    })?;
    let mut config = environment.config;
    // It is for this process alone.
    config.tls.switch_off();
    Ok(config)
}

fn concurrency(command: &Run, config: &Object) -> Result<usize, Failure> {
    let most = command.max_concurrency;
    if let Some(asked) = command.concurrency {
        if asked > most {
            let problem = format!(
                "--concurrency {asked} is above the limit of {most}; raise it with --max-concurrency"
            );
            return Err(Failure::new(problem));
        }
        return Ok(asked as usize);
    }
    let configured = match config
        .get("concurrency")
        .filter(|value| **value != Value::Null)
    {
        None => CONCURRENCY_DEFAULT,
        Some(value) => whole_number(&value.text())
            .filter(|asked| *asked >= 1)
            .ok_or_else(|| {
                let found = json::compact(value);
                Failure::new(format!(
                    "config.concurrency: expected a whole number from 1, found {found}"
                ))
            })?,
    };
    Ok(configured.min(most) as usize)
}

/// What is larger than that is cut to what is allowed all the same.
fn whole_number(text: &str) -> Option<u32> {
    match text.parse() {
        Ok(number) => Some(number),
        Err(error) if *error.kind() == IntErrorKind::PosOverflow => Some(u32::MAX),
        Err(_) => None,
    }
}

/// Registers the plan and answers the tasks that have no record yet: all of them, unless an earlier run of the same plan
/// was cut short.
async fn plan(
    client: &mut Client,
    registration: Registration,
) -> Result<(Plan, Vec<TaskRequest>), Failure> {
    let planned = registered::register(client, registration).await?;
    let (plan, mut tasks) = (planned.plan, planned.task_requests);
    let recorded = plan.counts.unwrap_or_default().recorded;
    if !planned.created && plan.status() != PlanStatus::Incomplete {
        eprintln!(
            "plan {} has ended already ({}); nothing is run",
            printable(&plan.plan_id),
            print::end_reason(plan.end_reason())
        );
        tasks.clear();
    } else if !planned.created && recorded > 0 {
        eprintln!(
            "plan {} is there already, with {recorded} of {} tasks recorded; running the rest",
            printable(&plan.plan_id),
            tasks.len()
        );
        let mut missing = fetched_result::missing(client, &plan.plan_id)
            .await?
            .into_iter();
        tasks.retain(|_| missing.next().unwrap_or_default());
    }
    Ok((plan, tasks))
}

/// Ends the run at the first Ctrl-C or SIGTERM; the second one kills the executors, the third one ends the program. The
/// first answer says whether that was why it has ended.
fn interrupt_on_signal() -> Result<(CancellationToken, Interrupt), Failure> {
    let interrupted = CancellationToken::new();
    let interrupt = Interrupt {
        end: interrupted.child_token(),
        kill: CancellationToken::new(),
    };
    let mut signals = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    let (first, kill) = (interrupted.clone(), interrupt.kill.clone());
    tokio::spawn(async move {
        for time in 0..3 {
            tokio::select! {
                _ = signals.0.recv() => {}
                _ = signals.1.recv() => {}
            }
            match time {
                0 => {
                    eprintln!("interrupted: ending the executors (once more to kill them)");
                    first.cancel();
                }
                1 => {
                    eprintln!("killing the executors (once more to leave at once)");
                    kill.cancel();
                }
                _ => {}
            }
        }
        std::process::exit(INTERRUPTED.into());
    });
    Ok((interrupted, interrupt))
}

/// Runs tasks, hands their records on, and takes the receipts.
struct Session {
    executor: Arc<Executor>,
    plan_id: Arc<str>,
    server: Arc<str>,
    display: Display,
    batches: Batches,
    answers: Answers,
    running: JoinSet<(TaskRequest, Ran)>,
    /// Records on their way to the stream.
    outbox: VecDeque<Record>,
    /// Records in the stream that have no receipt yet.
    unanswered: usize,
    /// Tasks whose record was refused, and replaced by one that says so.
    replaced: HashSet<String>,
    /// Tasks for which that one was refused, too.
    undelivered: usize,
}

impl Session {
    fn open(
        client: Client,
        plan_id: &str,
        server: &str,
        executor: Executor,
        display: Display,
    ) -> Self {
        let (batches, answers) = record_stream::open(client, plan_id, View::Full);
        Self {
            executor: Arc::new(executor),
            plan_id: plan_id.into(),
            server: server.into(),
            display,
            batches,
            answers,
            running: JoinSet::new(),
            outbox: VecDeque::new(),
            unanswered: 0,
            replaced: HashSet::new(),
            undelivered: 0,
        }
    }

    /// Runs every task, so many at a time, until each has its receipt. Answers how many are without a record after all.
    async fn run(mut self, tasks: Vec<TaskRequest>, concurrency: usize) -> Result<usize, Failure> {
        let interrupt = self.executor.interrupt.end.clone();
        let batches = self.batches.clone();
        let mut waiting = tasks.into_iter();
        loop {
            while self.running.len() < concurrency && !interrupt.is_cancelled() {
                let Some(task) = waiting.next() else { break };
                self.start(task);
            }
            if self.running.is_empty() && self.outbox.is_empty() && self.unanswered == 0 {
                break;
            }
            tokio::select! {
                Some(ended) = self.running.join_next() => {
                    let (task, ran) = ended.map_err(|panic| Failure::new(format!("internal error: {panic}")))?;
                    self.ended(&task, ran);
                }
                Ok(place) = batches.reserve(), if !self.outbox.is_empty() => {
                    let records: Vec<Record> = self.outbox.pop_front().into_iter().collect();
                    self.unanswered += records.len();
                    place.send(records);
                }
                answered = self.answers.recv() => match answered {
                    Some(Ok(answered)) => self.take_receipts(&answered),
                    Some(Err(failure)) => return Err(self.give_up(failure).await),
                    None => return Err(self.give_up(Failure::new("the record stream ended early")).await),
                },
            }
        }
        // The stream ends before the coordinator does, or it would take that for a broken connection.
        drop((batches, self.batches));
        while let Some(answered) = self.answers.recv().await {
            answered?;
        }
        Ok(self.undelivered)
    }

    fn start(&mut self, task: TaskRequest) {
        let executor = Arc::clone(&self.executor);
        let (plan_id, server) = (Arc::clone(&self.plan_id), Arc::clone(&self.server));
        self.display.start(&task.task_id);
        self.running.spawn(async move {
            let environment = [
                ("FANOUT_PLAN_ID", OsStr::new(&*plan_id)),
                ("FANOUT_TASK_ID", OsStr::new(&task.task_id)),
                ("FANOUT_GROUP_KEY", OsStr::new(&task.group_key)),
                ("FANOUT_SERVER", OsStr::new(&*server)),
            ];
            let ran = executor.run(&task.document, &environment).await;
            (task, ran)
        });
    }

    fn ended(&mut self, task: &TaskRequest, ran: Ran) {
        self.display.stop(&task.task_id);
        if let Ran::Record(record) = ran {
            self.outbox.push_back(record_of(&task.task_id, record));
        }
    }

    /// Shows what became of each record. One that the coordinator refuses is replaced by one that says so, so that its
    /// task is not left without any.
    fn take_receipts(&mut self, answered: &Answered) {
        if answered.response.status() != PlanStatus::Incomplete {
            self.executor.interrupt.end.cancel();
        }
        for (record, receipt) in answered.records.iter().zip(&answered.response.receipts) {
            self.unanswered = self.unanswered.saturating_sub(1);
            self.display.receipt(&record.task_id, receipt);
            let Some(violation) = &receipt.violation else {
                continue;
            };
            if self.replaced.insert(record.task_id.clone()) {
                self.outbox.push_back(record_of(
                    &record.task_id,
                    refused_record(&violation.description),
                ));
            } else {
                self.undelivered += 1;
                self.display.say(&format!(
                    "{}: the coordinator takes no record of this task: {}",
                    printable(&record.task_id),
                    printable(&violation.description)
                ));
            }
        }
    }

    /// Ends the executors: what they would bring cannot be delivered.
    async fn give_up(&mut self, failure: Failure) -> Failure {
        self.executor.interrupt.end.cancel();
        while self.running.join_next().await.is_some() {}
        failure
    }
}

fn record_of(task_id: &str, record: Object) -> Record {
    Record {
        task_id: task_id.to_owned(),
        body: json::compact(&record.into()).into(),
        ..Default::default()
    }
}
