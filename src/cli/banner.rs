//! What `serve` says at its start of every setting that it runs with: no secret among it.

use clap::parser::ValueSource;
use clap::{ArgMatches, Id};

use super::Arguments;
use super::print::object;
use crate::json::{self, Object};
use crate::telemetry::LogFormat;

/// One setting.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// Its flag, without dashes.
    name: String,
    /// Its value without secrets; empty if it has none.
    value: String,
    /// Who said so: `default`, `file`, `environment` or `flag`.
    from: &'static str,
}

/// Every setting of `fanout serve`, in the order of its help; none for other commands. Those that the file says are among the
/// arguments.
pub(super) fn settings(matches: &ArgMatches, of_file: &[Id]) -> Vec<Setting> {
    let Some((name @ "serve", matches)) = matches.subcommand() else {
        return Vec::new();
    };
    let command = <Arguments as clap::CommandFactory>::command();
    let arguments = command.find_subcommand(name).into_iter();
    let settings = arguments.flat_map(|command| command.get_arguments());
    let settings = settings.filter_map(|argument| {
        let id = argument.get_id().as_str();
        let from = matches.value_source(id);
        let values = matches.get_raw(id).into_iter().flatten();
        let values: Vec<_> = values
            .map(|value| {
                without_secrets(&value.to_string_lossy(), argument.is_hide_env_values_set())
            })
            .collect();
        Some(Setting {
            name: argument.get_long()?.to_owned(),
            value: values.join(","),
            from: match from {
                Some(ValueSource::CommandLine) if of_file.contains(argument.get_id()) => "file",
                Some(ValueSource::CommandLine) => "flag",
                Some(ValueSource::EnvVariable) => "environment",
                _ => "default",
            },
        })
    });
    settings.collect()
}

/// A value as everybody may read it. Of a URL, user and password, path, query and fragment may be secrets; of another value
/// that the help hides, everything.
fn without_secrets(value: &str, is_hidden: bool) -> String {
    let Some((scheme, rest)) = value.split_once("://") else {
        return if is_hidden {
            "***".to_owned()
        } else {
            value.to_owned()
        };
    };
    let end = rest.find(['/', '?', '#']);
    let (authority, after) = rest.split_at(end.unwrap_or(rest.len()));
    // A password may hold what ends an authority, if somebody has not written it as a URL has to be.
    let (authority, after) = match after.rfind('@') {
        Some(at) => (&after[at..], ""),
        None => (authority, after),
    };
    let (user, host) = match authority.rsplit_once('@') {
        Some((_, host)) => ("***@", host),
        None => ("", authority),
    };
    let after = if after.trim_matches('/').is_empty() {
        ""
    } else {
        "/***"
    };
    format!("{scheme}://{user}{host}{after}")
}

/// Says them: a line each for people, one event for machines.
pub(super) fn say(settings: &[Setting], format: LogFormat) {
    match format {
        LogFormat::Human => {
            for Setting { name, value, from } in settings {
                tracing::info!(value, from, "setting {name}");
            }
        }
        LogFormat::Json => {
            let mut said = Object::with_capacity(settings.len());
            for Setting { name, value, from } in settings {
                let value = [("value", value.as_str().into()), ("from", (*from).into())];
                said.set(name.as_str(), object(value));
            }
            // A logged field is a text; this one holds a JSON object.
            tracing::info!(settings = json::compact(&said.into()), "settings");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::without_secrets;

    #[test]
    fn of_a_url_only_scheme_and_host_are_told() {
        for (value, told) in [
            ("nats://127.0.0.1:4222", "nats://127.0.0.1:4222"),
            ("nats://me:secret@nats:4222", "nats://***@nats:4222"),
            ("nats://token@nats:4222", "nats://***@nats:4222"),
            ("nats://me:se@cret@nats:4222", "nats://***@nats:4222"),
            ("nats://me:se/cr?e#t@nats:4222", "nats://***@nats:4222"),
            ("https://otel.example:4317/", "https://otel.example:4317"),
            (
                "https://otel.example/v1?key=secret",
                "https://otel.example/***",
            ),
            ("16777216", "16777216"),
        ] {
            assert_eq!(without_secrets(value, false), told);
        }
        assert_eq!(without_secrets("secret", true), "***");
    }
}
