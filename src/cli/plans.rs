//! `plan`, `get`, `list`, `seal`, `cancel`, `delete`.

use std::path::PathBuf;

use clap::Args;

use super::client::{ServerAddress, connect, explain};
use super::files::write_out;
use super::plan_document::write_plan;
use super::plan_parts;
use super::print::{self, counted, json_line, printable, short, table};
use super::registered::{Ending, PlanInput};
use super::{DONE, Failure, Outcome};
use crate::proto::{
    CancelPlanRequest, DeletePlanRequest, GetPlanRequest, ListPlansRequest, Plan, SealPlanRequest,
};

/// `fanout plan`.
#[derive(Debug, Args)]
pub(super) struct PlanCommand {
    #[command(flatten)]
    input: PlanInput,
    /// Where to write the plan document; `-` or nothing is standard output.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Register the plan with a coordinator, too, so that records can be sent to it. Items of more than 4 MiB go there
    /// as a stream of many messages.
    #[arg(long)]
    register: bool,
    /// Name for the registered plan. Default: `run_id:plan_id` of the config's orchestrator, or a new one.
    #[arg(
        long,
        value_name = "PLAN",
        requires = "register",
        default_value = "",
        hide_default_value = true
    )]
    plan_id: String,
    #[command(flatten)]
    server: ServerAddress,
    #[command(flatten)]
    ending: Ending,
}

/// The plan and the form of the answer.
#[derive(Debug, Args)]
pub(super) struct Target {
    /// The plan's id.
    plan_id: String,
    #[command(flatten)]
    server: ServerAddress,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// `fanout get`.
#[derive(Debug, Args)]
pub(super) struct Get {
    #[command(flatten)]
    target: Target,
}

/// `fanout list`.
#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    server: ServerAddress,
    /// Print one JSON object a line instead of a table.
    #[arg(long)]
    json: bool,
    /// Only plans with this label: KEY=VALUE. May be repeated.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
}

/// `fanout seal`.
#[derive(Debug, Args)]
pub(super) struct Seal {
    #[command(flatten)]
    target: Target,
    /// Why, for people.
    #[arg(long, default_value = "")]
    reason: String,
}

/// `fanout cancel`.
#[derive(Debug, Args)]
pub(super) struct Cancel {
    #[command(flatten)]
    target: Target,
    /// Why, for people.
    #[arg(long, default_value = "")]
    reason: String,
}

/// `fanout delete`.
#[derive(Debug, Args)]
pub(super) struct Delete {
    #[command(flatten)]
    target: Target,
}

pub(super) async fn plan(command: PlanCommand) -> Outcome {
    if !command.register && !command.ending.is_default() {
        return Err(Failure::new(
            "only a registered plan has a deadline, a minimum or a tolerance: --register is missing",
        ));
    }
    let input = command.input.read()?;
    let registration = command.register.then(|| input.registration());
    let outline = input.outline()?;
    if let Some(mut registration) = registration {
        let mut client = connect(&command.server).await?;
        registration.request.plan_id = command.plan_id;
        registration.request.page_size = 1;
        command.ending.put_into(&mut registration.request)?;
        let answer = plan_parts::send(&mut client, registration).await?;
        let plan = answer.plan.unwrap_or_default();
        eprintln!(
            "plan {} {}, {}",
            printable(&plan.plan_id),
            if answer.created {
                "is registered"
            } else {
                "was registered already"
            },
            counted(plan.counts.unwrap_or_default().tasks, "task")
        );
    }
    write_plan(command.output.as_deref(), outline)?;
    Ok(DONE)
}

pub(super) async fn get(Get { target }: Get) -> Outcome {
    let mut client = connect(&target.server).await?;
    let request = GetPlanRequest {
        plan_id: target.plan_id,
        ..Default::default()
    };
    let answer = client
        .get_plan(request)
        .await
        .map_err(|status| explain(&status))?;
    show(answer.into_inner().plan, target.json)
}

pub(super) async fn list(command: List) -> Outcome {
    let mut client = connect(&command.server).await?;
    let mut request = ListPlansRequest {
        page_size: 1_000,
        labels: command.labels.into_iter().collect(),
        ..Default::default()
    };
    let mut rows = Vec::new();
    loop {
        let answer = client
            .list_plans(request.clone())
            .await
            .map_err(|status| explain(&status))?;
        let answer = answer.into_inner();
        for plan in answer.plans {
            if command.json {
                write_out(&json_line(print::plan(&plan)))?;
            } else {
                rows.push(row(&plan));
            }
        }
        if answer.next_page_token.is_empty() {
            break;
        }
        request.page_token = answer.next_page_token;
    }
    if !command.json {
        write_out(&table(
            &["PLAN", "STATUS", "RECORDED", "FAILED", "MISSING", "CREATED"],
            &rows,
        ))?;
    }
    Ok(DONE)
}

pub(super) async fn seal(Seal { target, reason }: Seal) -> Outcome {
    let mut client = connect(&target.server).await?;
    let request = SealPlanRequest {
        plan_id: target.plan_id,
        reason,
        ..Default::default()
    };
    let answer = client
        .seal_plan(request)
        .await
        .map_err(|status| explain(&status))?;
    show(answer.into_inner().plan, target.json)
}

pub(super) async fn cancel(Cancel { target, reason }: Cancel) -> Outcome {
    let mut client = connect(&target.server).await?;
    let request = CancelPlanRequest {
        plan_id: target.plan_id,
        reason,
        ..Default::default()
    };
    let answer = client
        .cancel_plan(request)
        .await
        .map_err(|status| explain(&status))?;
    show(answer.into_inner().plan, target.json)
}

pub(super) async fn delete(Delete { target }: Delete) -> Outcome {
    let mut client = connect(&target.server).await?;
    let request = DeletePlanRequest {
        plan_id: target.plan_id,
        ..Default::default()
    };
    let answer = client
        .delete_plan(request)
        .await
        .map_err(|status| explain(&status))?;
    match answer.into_inner().plan {
        Some(plan) => show(Some(plan), target.json),
        None => {
            eprintln!("deleted; an internal error had made the plan unusable");
            Ok(DONE)
        }
    }
}

fn show(plan: Option<Plan>, json: bool) -> Outcome {
    let plan = plan.ok_or_else(|| Failure::new("the server's answer has no plan"))?;
    if json {
        write_out(&json_line(print::plan(&plan)))?;
        return Ok(DONE);
    }
    let time = |time: Option<prost_types::Timestamp>| {
        time.map_or_else(|| "-".to_owned(), |time| time.to_string())
    };
    let counts = plan.counts.unwrap_or_default();
    let mut rows = vec![
        ("plan", print::printable(&plan.plan_id)),
        ("status", print::plan_status(plan.status())),
        ("tasks", print::counts_line(&counts)),
        ("created", time(plan.create_time)),
        ("deadline", time(plan.deadline)),
        ("ended", time(plan.end_time)),
        ("digest", plan.digest.clone()),
        ("cursor", plan.cursor.clone()),
    ];
    if plan.end_time.is_some() {
        rows.push(("end reason", print::end_reason(plan.end_reason())));
        rows.push(("expires", time(plan.expire_time)));
    }
    if !plan.end_note.is_empty() {
        rows.push(("end note", print::printable(&plan.end_note)));
    }
    let lines: String = rows
        .iter()
        .map(|(name, value)| format!("{name:<11} {value}\n"))
        .collect();
    write_out(&lines)?;
    Ok(DONE)
}

fn row(plan: &Plan) -> Vec<String> {
    let counts = plan.counts.unwrap_or_default();
    vec![
        short(&plan.plan_id, 60),
        print::plan_status(plan.status()),
        format!("{}/{}", counts.recorded, counts.tasks),
        counts.failed.to_string(),
        counts.missing.to_string(),
        plan.create_time
            .map(|time| time.to_string())
            .unwrap_or_default(),
    ]
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}
