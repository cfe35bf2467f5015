//! The plan of numbered tasks that examples send records for.

use fanout::proto::plan_request::Source;
use fanout::proto::{CompletionPolicy, PlanRequest, SealRule};

/// A request to plan `task-0`, `task-1` and so on; the plan stays open when each has a record. A million fit a message.
pub fn numbered(plan_id: &str, tasks: u64) -> PlanRequest {
    let config = r#"{"group_key_path":"k","task_request_template":{"id":"task-{{group.key}}"}}"#;
    let items: Vec<String> = (0..tasks).map(|task| format!("{{\"k\":{task}}}")).collect();
    PlanRequest {
        plan_id: plan_id.into(),
        config: config.into(),
        source: Some(Source::Items(format!("[{}]", items.join(",")).into())),
        completion_policy: Some(CompletionPolicy {
            seal_rule: SealRule::Explicit.into(),
            ..Default::default()
        }),
        page_size: 1,
        ..Default::default()
    }
}
