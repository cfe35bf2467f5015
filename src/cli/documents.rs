//! `reconcile`, `findings` and the single form: documents in files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::client::{ServerAddress, connect};
use super::files::{read_config, read_document, read_list, read_plan, write_document};
use super::{DONE, Failure, NOT_COMPLETED, Outcome, fetched_result, plan_document, registered};
use crate::config::duration;
use crate::json::{Object, Value};
use crate::plan::{self, FindingsInput, Input};
use crate::reconcile;

/// The existing tool's single form: plans without --records, reconciles with it.
#[derive(Debug, Args)]
pub(super) struct SingleForm {
    /// The config: a JSON object.
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    /// Items: a JSON list or JSON Lines; `-` is standard input. Without it: the config's.
    #[arg(long, value_name = "FILE")]
    items: Option<PathBuf>,
    /// With --records: the plan to reconcile. Without: where the plan is written if there is no --output.
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Records to reconcile: a JSON list or JSON Lines; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    records: Option<PathBuf>,
    /// Where to write; `-` or nothing is standard output.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Exit with 2 if the result is not `completed`.
    #[arg(long)]
    fail_on_failure: bool,
}

/// `fanout reconcile`.
#[derive(Debug, Args)]
#[command(
    override_usage = "fanout reconcile --config <FILE> --records <FILE> [OPTIONS]\n       \
    fanout reconcile --plan-id <PLAN> [OPTIONS]"
)]
pub(super) struct ReconcileFiles {
    /// The config: a JSON object.
    #[arg(long, value_name = "FILE", required_unless_present = "plan_id")]
    config: Option<PathBuf>,
    /// The plan document. Without it the plan is made from the config and the items.
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Items, if there is no plan: a JSON list or JSON Lines; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    items: Option<PathBuf>,
    /// Records: a JSON list or JSON Lines; `-` is standard input.
    #[arg(long, value_name = "FILE", required_unless_present = "plan_id")]
    records: Option<PathBuf>,
    /// Instead of all these files: a plan that is registered with a coordinator.
    #[arg(long, value_name = "PLAN", conflicts_with_all = ["config", "plan", "items", "records"])]
    plan_id: Option<String>,
    /// Wait until that plan has ended, at most so long (5m at most).
    #[arg(long, value_name = "TIME", value_parser = duration, requires = "plan_id")]
    wait: Option<Duration>,
    /// End that plan first: tasks without a record become missing_record.
    #[arg(long, requires = "plan_id")]
    seal: bool,
    #[command(flatten)]
    server: ServerAddress,
    /// Where to write the result document; `-` or nothing is standard output.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Exit with 2 if the result is not `completed`.
    #[arg(long)]
    fail_on_failure: bool,
}

/// `fanout findings`.
#[derive(Debug, Args)]
pub(super) struct FindingsFiles {
    /// Finding packets: a JSON list or JSON Lines; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    packets: PathBuf,
    /// How packets and findings are named and grouped: a JSON object.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Config fields to plan with: a JSON object.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Records to reconcile: a JSON list or JSON Lines.
    #[arg(long, value_name = "FILE")]
    records: Option<PathBuf>,
    /// What to write. Default: the plan, or the result if there are records.
    #[arg(long, value_enum)]
    emit: Option<Emit>,
    /// Where to write; `-` or nothing is standard output.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Exit with 2 if the result is not `completed`.
    #[arg(long)]
    fail_on_failure: bool,
}

/// A document that findings can become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Emit {
    /// The normalised items.
    Items,
    /// The materialised config, with groups and items.
    Config,
    /// The plan document.
    Plan,
    /// The input for reconciling: config, plan and normalised records.
    ReconcileInput,
    /// The result document.
    Result,
}

pub(super) fn single_form(form: &SingleForm) -> Outcome {
    let config = form
        .config
        .as_deref()
        .ok_or_else(|| Failure::new("--config is required"))?;
    let config = read_config(config)?;
    let items = form.items.as_deref().map(read_list).transpose()?;
    match &form.records {
        None => {
            let output = form.output.as_deref().or(form.plan.as_deref());
            write_plan(config, items, output)
        }
        Some(records) => {
            let plan = form.plan.as_deref().map(read_plan).transpose()?;
            let result = result(config, items, plan, records)?;
            finish(form.output.as_deref(), &result, form.fail_on_failure)
        }
    }
}

pub(super) async fn reconcile_files(command: ReconcileFiles) -> Outcome {
    let result = match (&command.plan_id, &command.config, &command.records) {
        (Some(plan_id), ..) => {
            let mut client = connect(&command.server).await?;
            registered::wait(&mut client, plan_id, command.wait, command.seal).await?;
            let mut result = fetched_result::fetch(&mut client, plan_id).await?;
            result.write(command.output.as_deref())?;
            return Ok(exit_code(result.is_completed(), command.fail_on_failure));
        }
        (None, Some(config), Some(records)) => {
            let items = command.items.as_deref().map(read_list).transpose()?;
            let plan = command.plan.as_deref().map(read_plan).transpose()?;
            let config = read_config(config)?;
            let plan = match FindingsInput::of_config(&config) {
                Some(packets) if items.is_none() && plan.is_none() => {
                    let plan = plan::plan_findings(&packets, &plan::Limits::default())?;
                    Some(plan.document())
                }
                _ => plan,
            };
            result(config, items, plan, records)?
        }
        _ => {
            return Err(Failure::new(
                "--config and --records, or --plan-id, are required",
            ));
        }
    };
    finish(command.output.as_deref(), &result, command.fail_on_failure)
}

fn write_plan(config: Object, items: Option<Value>, output: Option<&Path>) -> Outcome {
    let input = Input {
        config,
        items,
        groups: None,
    };
    plan_document::write_plan(output, plan::outline(input, &plan::Limits::default())?)?;
    Ok(DONE)
}

/// Reconciles a plan, given or made, with the records of a file.
fn result(
    config: Object,
    items: Option<Value>,
    plan: Option<Value>,
    records: &Path,
) -> Result<Value, Failure> {
    let records = read_list(records)?;
    let plan = match plan.filter(Value::is_present) {
        Some(plan) => plan,
        None => {
            let input = Input {
                config: config.clone(),
                items,
                groups: None,
            };
            plan::plan(input, &plan::Limits::default())?.document()
        }
    };
    Ok(reconcile::reconcile(&config, &plan, records.into_list())?)
}

/// Writes a result, and answers whether it is what was hoped for.
fn finish(output: Option<&Path>, result: &Value, fail_on_failure: bool) -> Outcome {
    write_document(output, result)?;
    let completed = result.get("status").and_then(Value::as_str) == Some("completed");
    Ok(exit_code(completed, fail_on_failure))
}

fn exit_code(completed: bool, fail_on_failure: bool) -> u8 {
    if completed || !fail_on_failure {
        DONE
    } else {
        NOT_COMPLETED
    }
}

pub(super) fn findings_files(command: &FindingsFiles) -> Outcome {
    let limits = plan::Limits::default();
    let packets = read_list(&command.packets)?;
    let policy = command.policy.as_deref().map(read_document).transpose()?;
    let config = command
        .config
        .as_deref()
        .map(read_config)
        .transpose()?
        .unwrap_or_default();
    let records = command.records.as_deref().map(read_list).transpose()?;
    let input = FindingsInput::new(Some(packets), policy, config);
    let default = if records.is_some() {
        Emit::Result
    } else {
        Emit::Plan
    };
    let emit = command.emit.unwrap_or(default);
    let records = records.as_ref().and_then(Value::as_array);
    if records.is_none() && matches!(emit, Emit::ReconcileInput | Emit::Result) {
        return Err(Failure::new(
            "--emit reconcile-input and --emit result need --records",
        ));
    }
    let reconcile_input =
        || plan::reconcile_input(&input, None, records.unwrap_or_default(), &limits);
    let document = match emit {
        Emit::Items => Value::array(plan::normalize_items(&input, &limits)?),
        Emit::Config => plan::materialize_config(&input, &limits)?.document(),
        Emit::Plan => plan::plan_findings(&input, &limits)?.document(),
        Emit::ReconcileInput => reconcile_input()?,
        Emit::Result => {
            let input = reconcile_input()?;
            let config = input
                .get("config")
                .and_then(Value::as_object)
                .cloned()
                .unwrap_or_default();
            let records = input.get("records").cloned().map(Value::into_list);
            let records = records.unwrap_or_default();
            let plan = input.get("plan").cloned().unwrap_or(Value::Null);
            let result = reconcile::reconcile(&config, &plan, records)?;
            return finish(command.output.as_deref(), &result, command.fail_on_failure);
        }
    };
    write_document(command.output.as_deref(), &document)?;
    Ok(DONE)
}
