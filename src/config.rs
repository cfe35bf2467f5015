//! Settings of the server: every limit and every wait, with unit, default and where it can be set.

mod auth;
pub mod file;
mod memory;
pub mod telemetry;
mod tls;

pub use auth::{Auth, KeySet, without_query};
pub use memory::MemoryMax;
pub use tls::{Tls, TlsVersion};

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::builder::BoolishValueParser;

/// Limits of the service. Each is a flag of `fanout serve` and an environment variable.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
pub struct Limits {
    /// Largest message in and out, in bytes: 98304 (96 KiB) to 4294967295 (4 GiB, less one).
    #[arg(long, env = "FANOUT_MESSAGE_BYTES_MAX", default_value_t = 16 << 20, value_name = "BYTES", value_parser = message_bytes)]
    pub message_bytes_max: usize,
    /// Largest body of a record, in bytes.
    #[arg(long, env = "FANOUT_RECORD_BODY_BYTES_MAX", default_value_t = 1 << 20, value_name = "BYTES")]
    pub record_body_bytes_max: usize,
    /// Most records in one message: 1 to 50000.
    #[arg(
        long,
        env = "FANOUT_RECORDS_PER_MESSAGE_MAX",
        default_value_t = 1_000,
        value_name = "N",
        value_parser = records_per_message
    )]
    pub records_per_message_max: usize,
    /// Most items in one plan.
    #[arg(
        long,
        env = "FANOUT_ITEMS_PER_PLAN_MAX",
        default_value_t = 1_000_000,
        value_name = "N"
    )]
    pub items_per_plan_max: usize,
    /// Most tasks in one plan.
    #[arg(
        long,
        env = "FANOUT_TASKS_PER_PLAN_MAX",
        default_value_t = 1_000_000,
        value_name = "N"
    )]
    pub tasks_per_plan_max: usize,
    /// Most bytes of items in one PlanStream.
    #[arg(long, env = "FANOUT_PLAN_STREAM_BYTES_MAX", default_value_t = 1 << 30, value_name = "BYTES")]
    pub plan_stream_bytes_max: usize,
    /// Most PlanStreams at a time; what they bring is kept until their commit.
    #[arg(
        long,
        env = "FANOUT_PLAN_STREAMS_MAX",
        default_value_t = 16,
        value_name = "N"
    )]
    pub plan_streams_max: usize,
    /// Most live plans, ended ones included until their retention is over.
    #[arg(
        long,
        env = "FANOUT_PLANS_MAX",
        default_value_t = 10_000,
        value_name = "N"
    )]
    pub plans_max: usize,
    /// Most bytes of rendered task requests in one plan, below 4 GiB.
    #[arg(long, env = "FANOUT_TASK_REQUEST_BYTES_MAX", default_value_t = 512 << 20, value_name = "BYTES", value_parser = task_request_bytes)]
    pub task_request_bytes_max: usize,
    /// Deepest nesting of a JSON document: 1 to 1024.
    #[arg(long, env = "FANOUT_JSON_DEPTH_MAX", default_value_t = 512, value_name = "LEVELS", value_parser = json_depth)]
    pub json_depth_max: usize,
    /// Longest plan id, request id or record key, in bytes.
    #[arg(
        long,
        env = "FANOUT_KEY_BYTES_MAX",
        default_value_t = 1_024,
        value_name = "BYTES"
    )]
    pub key_bytes_max: usize,
    /// Most records in quarantine of one plan.
    #[arg(
        long,
        env = "FANOUT_QUARANTINED_RECORDS_MAX",
        default_value_t = 100_000,
        value_name = "N"
    )]
    pub quarantined_records_max: u64,
    /// Most producers of one plan.
    #[arg(
        long,
        env = "FANOUT_PRODUCERS_PER_PLAN_MAX",
        default_value_t = 10_000,
        value_name = "N"
    )]
    pub producers_per_plan_max: u64,
    /// Most records with offsets in one plan. Of each it is remembered what became of it, in 24 bytes, why it was refused, if
    /// it was, in about 100 and the text, and about 150 for all that were taken together.
    #[arg(
        long,
        env = "FANOUT_NUMBERED_RECORDS_MAX",
        default_value_t = 10_000_000,
        value_name = "N"
    )]
    pub numbered_records_max: u64,
    /// Most bytes of record documents in one plan's history.
    #[arg(long, env = "FANOUT_PLAN_DOCUMENT_BYTES_MAX", default_value_t = 8 << 30, value_name = "BYTES")]
    pub plan_document_bytes_max: u64,
    /// Most live plans of one tenant.
    #[arg(
        long,
        env = "FANOUT_TENANT_PLANS_MAX",
        default_value_t = 10_000,
        value_name = "N"
    )]
    pub tenant_plans_max: u64,
    /// Most tasks in all live plans of one tenant.
    #[arg(
        long,
        env = "FANOUT_TENANT_TASKS_MAX",
        default_value_t = 100_000_000,
        value_name = "N"
    )]
    pub tenant_tasks_max: u64,
    /// Most bytes that the plans of one tenant hold in memory, about.
    #[arg(
        long,
        env = "FANOUT_TENANT_BYTES_MAX",
        default_value_t = 1 << 50,
        value_name = "BYTES"
    )]
    pub tenant_bytes_max: u64,
    /// Most streams of one tenant that are open at a time: SubmitRecord, WatchPlan, PlanStream, and Reconcile that waits,
    /// together.
    #[arg(
        long,
        env = "FANOUT_TENANT_STREAMS_MAX",
        default_value_t = 100_000,
        value_name = "N"
    )]
    pub tenant_streams_max: usize,
    /// Most PlanStreams of one tenant at a time, so that others find places.
    #[arg(
        long,
        env = "FANOUT_TENANT_PLAN_STREAMS_MAX",
        default_value_t = 8,
        value_name = "N"
    )]
    pub tenant_plan_streams_max: usize,
    /// Most records a second of one tenant; those of a second may come at once. A stream that brings more is read slower; one
    /// message more by itself is refused, and told when to come again: after no longer than the records of one message take.
    /// Records that are refused count as well. 0: as many as come.
    #[arg(
        long,
        env = "FANOUT_TENANT_RECORDS_PER_SECOND_MAX",
        default_value_t = 0,
        value_name = "N"
    )]
    pub tenant_records_per_second_max: u32,
    /// Most bytes that all plans hold in memory, about: then no plan and no record is taken. auto: half of what the process
    /// may have (of its control group's limit, else of the machine's memory).
    #[arg(
        long,
        env = "FANOUT_MEMORY_BYTES_MAX",
        default_value = "auto",
        value_name = "BYTES"
    )]
    pub memory_bytes_max: MemoryMax,
    /// Most watchers of one plan.
    #[arg(
        long,
        env = "FANOUT_WATCHERS_PER_PLAN_MAX",
        default_value_t = 1_000,
        value_name = "N"
    )]
    pub watchers_per_plan_max: usize,
    /// Most request ids remembered; each for 24 hours. One of a DeletePlan counts as one more for each KiB of the plan's
    /// labels, which are answered again.
    #[arg(
        long,
        env = "FANOUT_REQUEST_IDS_MAX",
        default_value_t = 100_000,
        value_name = "N"
    )]
    pub request_ids_max: usize,
    /// Most request ids of one tenant among these, so that others may use theirs.
    #[arg(
        long,
        env = "FANOUT_TENANT_REQUEST_IDS_MAX",
        default_value_t = 50_000,
        value_name = "N"
    )]
    pub tenant_request_ids_max: usize,
    /// Most connections; one more is closed at once. At the start the process has the system allow so many open files
    /// and 256 more (ulimit -n), as far as it may, and warns if that is not enough.
    #[arg(
        long,
        env = "FANOUT_CONNECTIONS_MAX",
        default_value_t = 4_096,
        value_name = "N"
    )]
    pub connections_max: usize,
    /// Most streams on one connection.
    #[arg(
        long,
        env = "FANOUT_STREAMS_PER_CONNECTION_MAX",
        default_value_t = 1_024,
        value_name = "N"
    )]
    pub streams_per_connection_max: u32,
}

/// A result leaves 64 KiB of its message for what is beside the document; a message says its length in 32 bits.
fn message_bytes(text: &str) -> Result<usize, String> {
    whole_number(text, 96 << 10..=u32::MAX as usize)
}

/// A message has at most [`crate::proto::FIELDS_PER_MESSAGE_MAX`] fields, and each record is one.
fn records_per_message(text: &str) -> Result<usize, String> {
    whole_number(text, 1..=50_000)
}

fn whole_number(text: &str, range: RangeInclusive<usize>) -> Result<usize, String> {
    let (least, most) = (*range.start(), *range.end());
    let number: usize = text
        .parse()
        .map_err(|_| "expected a whole number".to_owned())?;
    if range.contains(&number) {
        Ok(number)
    } else {
        Err(format!("expected {least} to {most}"))
    }
}

/// Names of tasks, which are parts of their requests, are kept with 32 bits for their places.
fn task_request_bytes(text: &str) -> Result<usize, String> {
    whole_number(text, 0..=u32::MAX as usize)
}

/// The parser recurses; deeper than this it would need more stack than a worker thread has.
fn json_depth(text: &str) -> Result<usize, String> {
    whole_number(text, 1..=1_024)
}

/// Waits of the service.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = "Times")]
pub struct Times {
    /// How long an ended plan can be read, unless it says otherwise: for example 90s, 15m, 24h.
    #[arg(long, env = "FANOUT_RETENTION", default_value = "24h", value_parser = duration, value_name = "TIME")]
    pub retention: Duration,
    /// Time between heartbeats on a quiet watch, unless the watcher says otherwise: 100ms to 5m.
    #[arg(long, env = "FANOUT_HEARTBEAT_INTERVAL", default_value = "15s", value_parser = heartbeat_interval, value_name = "TIME")]
    pub heartbeat_interval: Duration,
    /// How long a PlanStream waits for its next message before it is ended.
    #[arg(long, env = "FANOUT_PLAN_STREAM_IDLE", default_value = "60s", value_parser = duration, value_name = "TIME")]
    pub plan_stream_idle: Duration,
    /// How long a PlanStream may take, from its beginning to its commit.
    #[arg(long, env = "FANOUT_PLAN_STREAM_TIME_MAX", default_value = "10m", value_parser = duration, value_name = "TIME")]
    pub plan_stream_time_max: Duration,
    /// How long open calls may take to finish after SIGTERM before they are cut.
    #[arg(long, env = "FANOUT_DRAIN_GRACE", default_value = "30s", value_parser = duration, value_name = "TIME")]
    pub drain_grace: Duration,
    /// How long to go on serving after SIGTERM, no longer ready, so that balancers stop sending.
    #[arg(long, env = "FANOUT_DRAIN_DELAY", default_value = "0s", value_parser = duration, value_name = "TIME")]
    pub drain_delay: Duration,
    /// How long a new connection may take to say its first bytes.
    #[arg(long, env = "FANOUT_FIRST_BYTES_TIMEOUT", default_value = "5s", value_parser = duration, value_name = "TIME")]
    pub first_bytes_timeout: Duration,
    /// How long a connection lives, give or take a tenth, before it is ended so that its client connects anew; 0s: for
    /// ever.
    #[arg(long, env = "FANOUT_CONNECTION_AGE", default_value = "0s", value_parser = duration, value_name = "TIME")]
    pub connection_age: Duration,
    /// How long a quiet connection waits before it is asked for a sign of life.
    #[arg(long, env = "FANOUT_KEEPALIVE_INTERVAL", default_value = "45s", value_parser = duration, value_name = "TIME")]
    pub keepalive_interval: Duration,
    /// How long that sign of life may take.
    #[arg(long, env = "FANOUT_KEEPALIVE_TIMEOUT", default_value = "20s", value_parser = duration, value_name = "TIME")]
    pub keepalive_timeout: Duration,
}

/// Longest deadline and retention that a plan can ask for.
pub const PLAN_TIME_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long a request id is remembered.
pub const REQUEST_ID_LIFE: Duration = Duration::from_secs(24 * 3600);
/// Longest long poll of Reconcile.
pub const RECONCILE_WAIT_MAX: Duration = Duration::from_secs(300);
/// Shortest and longest heartbeat interval that a watcher can ask for.
pub const HEARTBEAT_RANGE: (Duration, Duration) =
    (Duration::from_millis(100), Duration::from_secs(300));
fn heartbeat_interval(text: &str) -> Result<Duration, String> {
    let (least, most) = HEARTBEAT_RANGE;
    match duration(text)? {
        time if (least..=most).contains(&time) => Ok(time),
        _ => Err(format!("expected {} to {}", shown(least), shown(most))),
    }
}

/// Page size when none is asked for, and the largest.
pub const PAGE_SIZE: (usize, usize) = (100, 1_000);
/// Largest plan document that PlanResponse carries whole; a quarter of the largest message, if that is less.
pub const WHOLE_DOCUMENT_BYTES_MAX: usize = 4 << 20;
/// JSON values in the items of one PlanStream, for each item that a plan may have: every number, text and list counts, as
/// two bytes of an empty list become dozens in memory.
pub const PLAN_STREAM_VALUES_PER_ITEM: usize = 64;
/// Bytes of the largest message for each JSON value that one document in a message may have, in Plan and Reconcile: 4,194,304
/// values by default. A million items of three members each have fewer.
pub const MESSAGE_BYTES_PER_VALUE: usize = 4;
/// Most calls of Reconcile at a time whose own documents are reconciled; others wait. Of the largest one, what is made takes
/// hundreds of megabytes.
pub const DOCUMENT_RECONCILIATIONS_MAX: usize = 2;
/// How long the message of a call that has one may take to become whole, from when the call waits for it.
pub const REQUEST_MESSAGE_TIME: Duration = Duration::from_secs(60);
/// Largest request of health and of reflection, in bytes: a name or two. Anybody may send them.
pub const ANYBODYS_MESSAGE_BYTES_MAX: usize = 4 << 10;
/// How long a connection may take to make its first call, after its first bytes.
pub const FIRST_CALL_TIME: Duration = Duration::from_secs(60);
/// Most labels, and the longest key or value of one, in bytes.
pub const LABELS: (usize, usize) = (64, 256);
/// Longest reason given with SealPlan or CancelPlan, in bytes.
pub const REASON_BYTES_MAX: usize = 1_024;

/// Which web pages may use the server from a browser, with gRPC-Web. Programs that are no browser are not meant: they
/// do not say where they come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebOrigins {
    /// Pages that come from the browser's own machine: `http://localhost`, `http://127.0.0.1`, `http://[::1]`, with
    /// https and any port, too.
    Loopback,
    /// No page.
    None,
    /// Every page.
    Any,
    /// These, as browsers write them: `https://console.example.org`, with the port where it is not the scheme's own.
    These(Arc<[String]>),
}

impl WebOrigins {
    /// Whether a page of this origin may.
    #[must_use]
    pub fn admit(&self, origin: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::None => false,
            Self::Loopback => std::str::from_utf8(origin).is_ok_and(is_loopback),
            Self::These(origins) => origins.iter().any(|admitted| admitted.as_bytes() == origin),
        }
    }
}

fn is_loopback(origin: &str) -> bool {
    let host = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"));
    let port_less = host.map(|host| match host.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => host,
        _ => host,
    });
    matches!(port_less, Some("localhost" | "127.0.0.1" | "[::1]"))
}

impl FromStr for WebOrigins {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "loopback" => return Ok(Self::Loopback),
            "none" => return Ok(Self::None),
            "any" => return Ok(Self::Any),
            _ => {}
        }
        let origins = text.split(',').map(|origin| {
            let host = origin.split_once("://").map_or("", |(_, host)| host);
            let sound = !host.is_empty()
                && !host.contains('/')
                && origin.bytes().all(|byte| byte.is_ascii_graphic());
            sound.then(|| origin.to_ascii_lowercase()).ok_or_else(|| {
                format!(
                    "{origin:?} is no origin; expected loopback, none, any, or origins such as \
                     https://console.example.org, separated by commas"
                )
            })
        });
        origins
            .collect::<Result<_, _>>()
            .map(|origins: Vec<_>| Self::These(origins.into()))
    }
}

/// Settings of the server.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Address to listen on. The default is reached from this machine only; for one that others reach there has to be TLS, and
    /// callers who say who they are, or --insecure.
    #[arg(
        long,
        env = "FANOUT_LISTEN",
        default_value = "127.0.0.1:7117",
        value_name = "ADDRESS:PORT"
    )]
    pub listen: SocketAddr,
    /// Web pages that may use the server from a browser (gRPC-Web): loopback (pages from the browser's own machine),
    /// none, any, or origins (scheme://host:port, the port unless it is the scheme's own), separated by commas.
    #[arg(
        long,
        env = "FANOUT_WEB_ORIGINS",
        default_value = "loopback",
        value_name = "ORIGINS"
    )]
    pub web_origins: WebOrigins,
    /// Do not tell which methods and messages there are (gRPC server reflection). It is told to anybody, also where callers have
    /// to say who they are.
    #[arg(
        long,
        env = "FANOUT_NO_REFLECTION",
        value_parser = BoolishValueParser::new()
    )]
    pub no_reflection: bool,
    /// How connections are kept private.
    #[command(flatten)]
    pub tls: Tls,
    /// What may not be exceeded.
    #[command(flatten)]
    pub limits: Limits,
    /// How long things may take.
    #[command(flatten)]
    pub times: Times,
    /// What the server tells of itself, and where.
    #[command(flatten)]
    pub telemetry: telemetry::Telemetry,
    /// Who may call.
    #[command(flatten)]
    pub auth: Auth,
}

impl Default for Config {
    fn default() -> Self {
        /// The defaults stand with the flags, once.
        #[derive(clap::Parser)]
        struct Defaults {
            #[command(flatten)]
            config: Config,
        }
        <Defaults as clap::Parser>::parse_from(["fanout"]).config
    }
}

/// Reads a duration: a number with `ms`, `s`, `m`, `h` or `d`; seconds without.
///
/// # Errors
/// It is none.
pub fn duration(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| c != '.' && !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds_per_unit = match unit.trim() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return Err(format!("unknown unit {unit:?}; expected ms, s, m, h or d")),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| "expected a time such as 90s, 15m or 24h".to_owned())?;
    Duration::try_from_secs_f64(number * seconds_per_unit)
        .map_err(|_| "time is too long".to_owned())
}

/// A duration as [`duration`] reads it, in the largest unit of which it is a whole number.
#[must_use]
pub fn shown(time: Duration) -> String {
    let milliseconds = time.as_millis();
    let units = [
        (86_400_000, "d"),
        (3_600_000, "h"),
        (60_000, "m"),
        (1_000, "s"),
    ];
    let whole = |unit: &&(u128, &str)| milliseconds.is_multiple_of(unit.0);
    match units.iter().find(whole) {
        _ if milliseconds == 0 => "0s".to_owned(),
        Some((unit, name)) => format!("{}{name}", milliseconds / unit),
        None => format!("{milliseconds}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::{WebOrigins, duration, shown};
    use std::time::Duration;

    #[test]
    fn a_page_may_use_the_server_only_if_its_origin_is_named() {
        let admits = |origins: &str, origin: &str| {
            let origins: WebOrigins = origins.parse().expect("origins");
            origins.admit(origin.as_bytes())
        };
        for origin in [
            "http://localhost",
            "http://localhost:8080",
            "https://127.0.0.1:1",
            "http://[::1]:80",
            "http://[::1]",
        ] {
            assert!(admits("loopback", origin), "{origin}");
            assert!(!admits("none", origin), "{origin}");
        }
        for origin in [
            "null",
            "http://evil.example",
            "http://localhost.evil.example",
            "http://evil.example:80",
            "http://localhost:80@evil.example",
            "http://localhost:x",
            "ftp://localhost",
            "",
        ] {
            assert!(!admits("loopback", origin), "{origin}");
            assert!(admits("any", origin), "{origin}");
        }
        let two = "https://a.example,https://B.example:8443";
        assert!(admits(two, "https://a.example"));
        assert!(admits(two, "https://b.example:8443"));
        assert!(!admits(two, "https://b.example"));
        assert!(!admits(two, "http://a.example"));
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for text in [
            "",
            "a.example",
            "https://",
            "https://a.example/",
            "https://a.example, https://b.example",
        ] {
            assert!(text.parse::<WebOrigins>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_duration_is_shown_as_it_is_read() {
        for text in ["0s", "100ms", "1s", "90s", "5m", "1h", "30d"] {
            assert_eq!(duration(text).map(shown), Ok(text.into()));
        }
    }

    #[test]
    fn durations_are_read_with_their_unit_and_refused_without_a_number() {
        assert_eq!(duration("1.5h"), Ok(Duration::from_secs(5_400)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("7"), Ok(Duration::from_secs(7)));
        assert_eq!(
            duration("2w"),
            Err("unknown unit \"w\"; expected ms, s, m, h or d".into())
        );
        assert_eq!(
            duration("soon"),
            Err("unknown unit \"soon\"; expected ms, s, m, h or d".into())
        );
        assert_eq!(
            duration("s"),
            Err("expected a time such as 90s, 15m or 24h".into())
        );
    }
}
