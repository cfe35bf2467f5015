//! A plan on its way to a coordinator: in one message if its items fit, else as a stream of chunks.

use std::fmt::Write;

use sha2::{Digest, Sha256};
use tonic::Response;

use super::Failure;
use super::client::{Client, explain};
use super::trace_context::carrying;
use crate::json::{self, Value};
use crate::proto::plan_request::Source;
use crate::proto::plan_stream_request::Part;
use crate::proto::{PlanCommit, PlanRequest, PlanResponse, PlanStreamRequest, PlanStreamResponse};

/// Items up to this size go in one message: a quarter of what a server takes by default.
const ONE_MESSAGE_BYTES_MAX: usize = 4 << 20;
/// How long a chunk is, give or take an item.
const CHUNK_BYTES: usize = 1 << 20;

/// What is to be registered.
pub(super) struct Registration {
    /// The request without the items.
    pub(super) request: PlanRequest,
    /// The items, a list, if they are given beside the config.
    pub(super) items: Option<Value>,
}

/// Registers a plan.
pub(super) async fn send(
    client: &mut Client,
    registration: Registration,
) -> Result<PlanResponse, Failure> {
    let Registration { mut request, items } = registration;
    let answer = match items {
        None => client.plan(carrying(request)).await,
        Some(items) => {
            let mut text = String::new();
            if json::write_compact_within(&mut text, &items, ONE_MESSAGE_BYTES_MAX) {
                request.source = Some(Source::Items(text.into()));
                client.plan(carrying(request)).await
            } else {
                drop(text);
                let parts = tokio_stream::iter(Parts::new(request, items));
                client.plan_stream(carrying(parts)).await.map(as_planned)
            }
        }
    };
    answer
        .map(Response::into_inner)
        .map_err(|status| explain(&status))
}

fn as_planned(streamed: Response<PlanStreamResponse>) -> Response<PlanResponse> {
    streamed.map(|streamed| {
        let PlanStreamResponse {
            plan,
            created,
            document,
            task_requests,
            next_page_token,
        } = streamed;
        PlanResponse {
            plan,
            created,
            document,
            task_requests,
            next_page_token,
        }
    })
}

/// The messages of a plan stream, made as they are sent.
struct Parts {
    header: Option<PlanRequest>,
    items: Value,
    sent: usize,
    digest: Sha256,
    committed: bool,
}

impl Parts {
    fn new(header: PlanRequest, items: Value) -> Self {
        Self {
            header: Some(header),
            items,
            sent: 0,
            digest: Sha256::new(),
            committed: false,
        }
    }

    fn next_part(&mut self) -> Option<Part> {
        if let Some(header) = self.header.take() {
            return Some(Part::Header(header));
        }
        let items = self.items.as_array().unwrap_or_default();
        if self.sent < items.len() {
            let mut chunk = String::from("[");
            for item in &items[self.sent..] {
                if chunk.len() >= CHUNK_BYTES {
                    break;
                }
                if chunk.len() > 1 {
                    chunk.push(',');
                }
                let whole = json::write_compact_within(&mut chunk, item, usize::MAX);
                debug_assert!(whole, "no text is longer than the address space");
                self.sent += 1;
            }
            chunk.push(']');
            self.digest.update(&chunk);
            return Some(Part::Items(chunk.into()));
        }
        if std::mem::replace(&mut self.committed, true) {
            return None;
        }
        let digest = std::mem::take(&mut self.digest).finalize();
        let digest = digest.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        Some(Part::Commit(PlanCommit {
            item_count: self.sent as u64,
            digest,
        }))
    }
}

impl Iterator for Parts {
    type Item = PlanStreamRequest;

    fn next(&mut self) -> Option<PlanStreamRequest> {
        let part = self.next_part()?;
        Some(PlanStreamRequest { part: Some(part) })
    }
}
