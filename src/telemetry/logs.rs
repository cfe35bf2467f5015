//! Logs: for people on a terminal, as JSON lines for machines.

use std::io::IsTerminal;

use tracing::{Level, Metadata};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text.
    Human,
    /// One JSON object a line.
    Json,
}

/// Begins to log to standard error. `FANOUT_LOG` says what: `info` by default; `fanout=debug,warn` and the like.
/// With `fanout=trace`, each step of a change is a line, with the time that it was busy and that it waited.
///
/// # Errors
/// `FANOUT_LOG` cannot be understood.
pub fn start(format: LogFormat) -> Result<(), String> {
    let wanted = std::env::var("FANOUT_LOG").unwrap_or_default();
    let wanted = if wanted.trim().is_empty() {
        "info"
    } else {
        &wanted
    };
    let filter = EnvFilter::builder()
        .parse(wanted)
        .map_err(|error| format!("FANOUT_LOG: {error}"))?;
    let logs = tracing_subscriber::registry()
        .with(filter)
        .with(filter_fn(tells_no_secret));
    let lines = fmt::layer()
        .with_span_events(FmtSpan::CLOSE)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Human => {
            let lines = lines.with_ansi(std::io::stderr().is_terminal());
            logs.with(lines).init();
        }
        LogFormat::Json => logs.with(lines.json().with_ansi(false)).init(),
    }
    // Where a panic was is known only here; what it did to a call is in the call's answer. What it says of itself may quote
    // what a caller sent, as a text that is cut amid a character does.
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string);
        tracing::error!(location, "a panic: this is a defect");
    }));
    Ok(())
}

/// Clients that write the URLs of their servers to their debug lines, passwords and all.
const INDISCREET: [&str; 2] = ["async_nats", "opentelemetry"];

fn tells_no_secret(metadata: &Metadata<'_>) -> bool {
    let says = |client: &&str| metadata.target().starts_with(*client);
    !INDISCREET.iter().any(says) || *metadata.level() <= Level::INFO
}
