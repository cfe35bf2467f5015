//! The plan stream: a header, chunks of items that are read as they come, and a commit that plans what came.
//!
//! Nothing is visible before the commit: a stream that breaks off leaves nothing behind, and one that says nothing is
//! ended, as is one that takes too long. Items are counted before anything is built of them, so that a chunk past a limit
//! costs no more than its bytes.

use std::fmt::Write;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::extent::Extent;
use super::{Fanout, blocking, convert, of_tenant, status};
use crate::config::{Limits, PAGE_SIZE, PLAN_STREAM_VALUES_PER_ITEM};
use crate::coordinator::{Error, PlanCommand, Source};
use crate::identity::Caller;
use crate::json::Value;
use crate::proto::plan_stream_request::Part;
use crate::proto::{PlanCommit, PlanRequest, PlanResponse, PlanStreamRequest, PlanStreamResponse};

/// Chunks from this size on are read where they hold up nobody.
const BLOCKING_FROM_BYTES: usize = 64 << 10;

pub(super) async fn serve(
    fanout: &Fanout,
    caller: &Caller,
    mut requests: Streaming<PlanStreamRequest>,
    closing: &CancellationToken,
) -> Result<PlanStreamResponse, Status> {
    let of_its_tenants = fanout.tenants.open_plan_stream(&caller.tenant)?;
    let place = Arc::clone(&fanout.plan_streams).try_acquire_owned();
    let place = place.map_err(|_| {
        status::of(&Error::QuotaExceeded {
            what: "plan streams",
            setting: "plan_streams_max",
            limit: fanout.config.limits.plan_streams_max as u64,
        })
    })?;
    let place = (place, of_its_tenants);
    let (limits, begun) = (fanout.config.limits, Instant::now());
    let header = match next(fanout, &mut requests, begun, closing).await? {
        Some(Part::Header(header)) => header,
        Some(_) => return Err(out_of_order("header", "has to come first")),
        None => return Err(missing("header")),
    };
    let page_size = convert::page_size(header.page_size, PAGE_SIZE.0)?;
    let mut arriving = blocking(move || Arriving::new(header, limits)).await?;
    loop {
        match next(fanout, &mut requests, begun, closing).await? {
            Some(Part::Items(chunk)) if chunk.len() < BLOCKING_FROM_BYTES => {
                arriving.take(&chunk)?;
            }
            Some(Part::Items(chunk)) => {
                let read = move || arriving.take(&chunk).map(|()| arriving);
                arriving = blocking(read).await?;
            }
            Some(Part::Commit(commit)) => {
                let mut command = arriving.commit(&commit)?;
                of_tenant(&mut command, caller)?;
                let response = fanout.register(command, caller, page_size, place).await?;
                return Ok(streamed(response));
            }
            Some(Part::Header(_)) => return Err(out_of_order("header", "has come already")),
            None => return Err(missing("commit")),
        }
    }
}

/// The next part of a stream that was begun then, or nothing if it has ended.
async fn next(
    fanout: &Fanout,
    requests: &mut Streaming<PlanStreamRequest>,
    begun: Instant,
    closing: &CancellationToken,
) -> Result<Option<Part>, Status> {
    let times = &fanout.config.times;
    let (idle, most) = (times.plan_stream_idle, times.plan_stream_time_max);
    let left = most.saturating_sub(begun.elapsed());
    // Not to be waited for: what is there already would win, and so would a sender who never stops.
    if left.is_zero() {
        return Err(status::stream_too_long(most));
    }
    let request = tokio::select! {
        biased;
        () = closing.cancelled() => return Err(status::draining()),
        request = tokio::time::timeout(idle.min(left), requests.message()) => request,
    };
    match request {
        Ok(Ok(Some(PlanStreamRequest { part: Some(part) }))) => Ok(Some(part)),
        Ok(Ok(Some(PlanStreamRequest { part: None }))) => Err(missing("part")),
        Ok(Ok(None)) => Ok(None),
        Ok(Err(broken)) => Err(broken),
        Err(_) if left < idle => Err(status::stream_too_long(most)),
        Err(_) => Err(status::stream_idle(idle)),
    }
}

fn missing(field: &str) -> Status {
    status::invalid(field, "is required", "FIELD_REQUIRED")
}

fn out_of_order(field: &str, problem: &str) -> Status {
    status::invalid(field, problem, "PART_OUT_OF_ORDER")
}

fn over(problem: &str, limit: usize) -> Status {
    status::over_limit("items", problem, "LIMIT_EXCEEDED", limit)
}

/// A plan of which not everything is here.
struct Arriving {
    command: PlanCommand,
    limits: Limits,
    items: Vec<Value>,
    values: usize,
    bytes: usize,
    digest: Sha256,
}

impl Arriving {
    fn new(header: PlanRequest, limits: Limits) -> Result<Self, Status> {
        if header.source.is_some() {
            let problem = "the items of a plan stream come after its header";
            return Err(status::invalid(
                "header.source",
                problem,
                "FIELDS_EXCLUDE_EACH_OTHER",
            ));
        }
        Ok(Self {
            command: convert::plan_command(header, &limits)?,
            limits,
            items: Vec::new(),
            values: 0,
            bytes: 0,
            digest: Sha256::new(),
        })
    }

    /// Takes a list of items.
    fn take(&mut self, chunk: &[u8]) -> Result<(), Status> {
        let most = self.limits.plan_stream_bytes_max;
        self.bytes += chunk.len();
        if self.bytes > most {
            return Err(over(&format!("more than {most} bytes in all chunks"), most));
        }
        let extent = Extent::of(chunk);
        let most = self.limits.items_per_plan_max;
        if self.items.len() + extent.items > most {
            return Err(over(&format!("more than {most} items"), most));
        }
        let most = most.saturating_mul(PLAN_STREAM_VALUES_PER_ITEM);
        self.values += extent.values;
        if self.values > most {
            return Err(over(&format!("more than {most} JSON values"), most));
        }
        self.digest.update(chunk);
        if let Some(items) = convert::counted_list("items", chunk, &self.limits)? {
            self.items.extend(items.into_list());
        }
        Ok(())
    }

    /// What is to be planned, if all of it came.
    fn commit(self, commit: &PlanCommit) -> Result<PlanCommand, Status> {
        let came = self.items.len();
        if commit.item_count != came as u64 {
            let problem = format!("is {}, but {came} items came", commit.item_count);
            return Err(status::invalid(
                "commit.item_count",
                &problem,
                "ITEM_COUNT_MISMATCH",
            ));
        }
        let digest = hex(&self.digest.finalize());
        if commit.digest != digest {
            let problem = format!("is not {digest}, the SHA-256 of the chunks that came");
            return Err(status::invalid(
                "commit.digest",
                &problem,
                "DIGEST_MISMATCH",
            ));
        }
        Ok(PlanCommand {
            tenant: Arc::default(),
            source: Source::Items(Value::array(self.items)),
            ..self.command
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn streamed(response: PlanResponse) -> PlanStreamResponse {
    let PlanResponse {
        plan,
        created,
        document,
        task_requests,
        next_page_token,
    } = response;
    PlanStreamResponse {
        plan,
        created,
        document,
        task_requests,
        next_page_token,
    }
}
