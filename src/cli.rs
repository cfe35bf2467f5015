//! The program: arguments, one file for each group of commands, exit codes. Data goes to standard output, the rest to
//! standard error.

mod access;
mod banner;
mod client;
mod client_tls;
mod config;
mod display;
mod documents;
mod executor;
mod fetched_result;
mod files;
mod journal;
mod patience;
mod plan_document;
mod plan_parts;
mod plans;
mod print;
mod quarantine;
mod record_stream;
mod registered;
mod run;
mod serve;
mod serve_journal;
mod submit;
mod tasks;
mod token;
mod trace_context;
mod watch;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::telemetry;

/// Done.
const DONE: u8 = 0;
/// Something was wrong with the call or its input, or the work could not be done.
const FAILED: u8 = 1;
/// Done, but the outcome is not `completed` (only with `--fail-on-failure`).
const NOT_COMPLETED: u8 = 2;
/// Ended by Ctrl-C or SIGTERM, as shells count.
const INTERRUPTED: u8 = 130;

/// After so many turns of tasks the runtime looks who else has something to say. A connection's turn may take a quarter of
/// a millisecond; by default, 61 of them would come first.
const TURNS_BETWEEN_EVENTS: u32 = 8;

const EXIT_CODES: &str = "Exit codes: 0 done; 1 usage or input error, or the work could not be done; 2 done but not \
    completed (only with --fail-on-failure); 130 interrupted.";

/// Why a command could not do its work: one line for people.
#[derive(Debug)]
struct Failure(String);

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

impl Failure {
    fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// What a command answers: its exit code, or why there is none.
type Outcome = Result<u8, Failure>;

/// Plans fan-outs, takes their records, and answers what came back, what failed and what never reported.
#[derive(Debug, Parser)]
#[command(
    name = "fanout",
    version = telemetry::VERSION_AND_COMMIT,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = EXIT_CODES,
    after_long_help = concat!(
        "Run a command once for each group of items, and get one result document:\n\n",
        "  fanout run --config config.json --items items.json -- ./work.sh\n\n",
        "Or serve, and let executors anywhere send their records over gRPC:\n\n",
        "  fanout serve &\n",
        "  fanout plan --config config.json --items items.json --register --plan-id PLAN\n",
        "  fanout submit --plan-id PLAN records.jsonl\n",
        "  fanout watch PLAN\n",
        "  fanout reconcile --plan-id PLAN --wait 5m\n\n",
        "Without a command, --config plans (or, with --records, reconciles) JSON files as the existing tool does.\n\n",
        "Exit codes: 0 done; 1 usage or input error, or the work could not be done; 2 done but not\n",
        "completed (only with --fail-on-failure); 130 interrupted.",
    )
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    single_form: documents::SingleForm,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Plan a fan-out, run a command once for each task, and write the result document.
    Run(run::Run),
    /// Serve the coordinator over gRPC.
    Serve(Box<serve::Serve>),
    /// Group items and render one task request for each group: JSON files in, plan document out; or register it.
    Plan(plans::PlanCommand),
    /// Reconcile records with a plan: JSON files in, result document out; or the result of a registered plan.
    Reconcile(documents::ReconcileFiles),
    /// Turn finding packets into items, a config, a plan or a result.
    Findings(documents::FindingsFiles),
    /// Send records (JSON or JSON Lines) to a plan, and print what became of each.
    Submit(submit::Submit),
    /// Follow a plan as its records are reconciled.
    Watch(watch::Watch),
    /// Show one plan.
    Get(plans::Get),
    /// List plans, oldest first.
    List(plans::List),
    /// Show where the tasks of a plan stand.
    Tasks(tasks::Tasks),
    /// Explain why a task is where it is.
    Explain(tasks::Explain),
    /// Look after records that were set aside.
    Quarantine(quarantine::Quarantine),
    /// End a plan: tasks without a record become missing_record.
    Seal(plans::Seal),
    /// End a plan as failed.
    Cancel(plans::Cancel),
    /// Forget a plan.
    Delete(plans::Delete),
    /// Ask a server whether it is ready; for a container's health check.
    Health(serve::Health),
    /// Print the file of settings of the server.
    Config(config::ConfigCommand),
    /// Check, export and import the plans of a data directory.
    Journal(journal::Journal),
    /// Make keys and tokens for those who may call.
    Token(token::Token),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Runs the program.
#[must_use]
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if arguments.len() < 2 {
        eprintln!("{}", Arguments::command().render_help());
        return ExitCode::from(FAILED);
    }
    let (arguments, of_file) = match config::with_file(arguments) {
        Ok(with_file) => with_file,
        Err(failure) => return failed(&failure),
    };
    let matches = Arguments::command().try_get_matches_from(arguments);
    let parsed = matches.and_then(|matches| {
        let arguments = Arguments::from_arg_matches(&matches)?;
        Ok((arguments, banner::settings(&matches, &of_file), matches))
    });
    let (arguments, settings, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            // Usage errors are input errors here; clap's own code for them is 2.
            let code = if error.use_stderr() { FAILED } else { DONE };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    if let (Some(Command::Serve(serve)), Some((_, matches))) =
        (&arguments.command, matches.subcommand())
        && serve.only_checks()
        && let Err(failure) = config::look_at_files(matches)
    {
        return failed(&failure);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .event_interval(TURNS_BETWEEN_EVENTS)
        .enable_all()
        // Documents may be nested deep, and reading them recurses.
        .thread_stack_size(16 << 20)
        .build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(async {
                // On a worker: the main thread's stack is not ours to size.
                tokio::spawn(dispatch(arguments, settings)).await
            });
            runtime.shutdown_background();
            outcome.unwrap_or_else(|panic| Err(Failure::new(format!("internal error: {panic}"))))
        }
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(failure) => failed(&failure),
    }
}

fn failed(Failure(message): &Failure) -> ExitCode {
    eprintln!("error: {}", print::printable(message));
    ExitCode::from(FAILED)
}

async fn dispatch(arguments: Arguments, settings: Vec<banner::Setting>) -> Outcome {
    match arguments.command {
        None => documents::single_form(&arguments.single_form),
        Some(Command::Run(command)) => run::run(command).await,
        Some(Command::Serve(command)) => serve::serve(*command, &settings).await,
        Some(Command::Plan(command)) => plans::plan(command).await,
        Some(Command::Reconcile(command)) => documents::reconcile_files(command).await,
        Some(Command::Findings(command)) => documents::findings_files(&command),
        Some(Command::Submit(command)) => submit::submit(command).await,
        Some(Command::Watch(command)) => watch::watch(command).await,
        Some(Command::Get(command)) => plans::get(command).await,
        Some(Command::List(command)) => plans::list(command).await,
        Some(Command::Tasks(command)) => tasks::tasks(command).await,
        Some(Command::Explain(command)) => tasks::explain(command).await,
        Some(Command::Quarantine(command)) => quarantine::quarantine(command).await,
        Some(Command::Seal(command)) => plans::seal(command).await,
        Some(Command::Cancel(command)) => plans::cancel(command).await,
        Some(Command::Delete(command)) => plans::delete(command).await,
        Some(Command::Health(command)) => serve::health(command).await,
        Some(Command::Config(command)) => config::config(&command),
        Some(Command::Journal(command)) => journal::journal(command).await,
        Some(Command::Token(command)) => token::token(command),
        Some(Command::Completions { shell }) => {
            clap_complete::generate(
                shell,
                &mut Arguments::command(),
                "fanout",
                &mut std::io::stdout(),
            );
            Ok(DONE)
        }
    }
}
