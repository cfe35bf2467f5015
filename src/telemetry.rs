//! What the server tells of itself: logs, metrics, traces, and what it was built of. Never a payload, never a secret.

mod build;
mod calls;
mod exposition;
mod histogram;
mod logs;
pub mod metrics;
mod trace_context;
pub mod traces;

pub use build::{COMMIT, VERSION, VERSION_AND_COMMIT};
pub use calls::Call;
pub use exposition::{CONTENT_TYPE, Census, page};
pub use logs::{LogFormat, start};
pub use trace_context::TraceContext;
