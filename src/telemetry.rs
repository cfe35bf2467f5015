//! Logs: for people on a terminal, as JSON lines for machines. Never a payload.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text.
    Human,
    /// One JSON object a line.
    Json,
}

/// Begins to log to standard error. `FANOUT_LOG` says what: `info` by default; `fanout=debug,warn` and the like.
pub fn start(format: LogFormat) {
    let filter = EnvFilter::try_from_env("FANOUT_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Human => logs.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => logs.json().with_ansi(false).init(),
    }
}
