//! Logs: for people on a terminal, as JSON lines for machines. Never a payload.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

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
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(FmtSpan::CLOSE)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Human => logs.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => logs.json().with_ansi(false).init(),
    }
    // Where a panic was is known only here; what it did to a call is in the call's answer.
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string);
        let message = panic.payload_as_str().unwrap_or_default();
        tracing::error!(location, message, "a panic: this is a defect");
    }));
    Ok(())
}
