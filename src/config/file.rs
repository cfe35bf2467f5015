//! The file of settings: reading one, and writing one with every default. Both follow the flags' own definitions, so that
//! what is a flag is in the file by itself.

use std::fmt::Write as _;
use std::ops::Range;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command, Id};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Largest file of settings, in bytes.
pub const CONFIG_FILE_BYTES_MAX: u64 = 1 << 20;

/// The flag that names the file; it is no setting in it.
const NAMES_THE_FILE: &str = "config-file";
/// Width of the comments in the file with every default.
const COLUMNS: usize = 110;

/// What a file says of one flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSetting {
    /// The flag.
    pub id: Id,
    /// What would say the same on the command line: nothing for a switch that is off.
    pub arguments: Vec<String>,
}

/// What is wrong with a file of settings, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}: {problem}")]
pub struct Misconfigured {
    /// The line, from 1 on.
    pub line: usize,
    /// What is wrong there; it begins with the key, if it has one.
    pub problem: String,
}

/// The key of a flag in the file: its long name, with `_` for `-`. Only what has an environment variable is a setting.
fn key(flag: &Arg) -> Option<String> {
    let long = flag.get_long().filter(|long| *long != NAMES_THE_FILE)?;
    flag.get_env().map(|_| long.replace('-', "_"))
}

/// Reads a file of settings of a command, in the order in which they stand. Each value is judged as the flag judges it;
/// what settings say together is not.
///
/// # Errors
/// The text is not TOML, has a key that is no setting, or a value that its flag would refuse.
pub fn read(text: &str, command: &Command) -> Result<Vec<FileSetting>, Misconfigured> {
    let at = |place: Range<usize>, problem: String| Misconfigured {
        line: 1 + text
            .bytes()
            .take(place.start)
            .filter(|byte| *byte == b'\n')
            .count(),
        problem,
    };
    let table = DeTable::parse(text).map_err(|error| {
        let problem = error.message().lines().collect::<Vec<_>>().join("; ");
        at(error.span().unwrap_or_default(), problem)
    })?;
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    let read = entries.into_iter().map(|(name, value)| {
        setting(command, name.get_ref(), value)
            .map_err(|problem| at(name.span(), format!("{}: {problem}", name.get_ref())))
    });
    read.collect()
}

fn setting(
    command: &Command,
    name: &str,
    value: &Spanned<DeValue<'_>>,
) -> Result<FileSetting, String> {
    let mut flags = command.get_arguments();
    let flag = flags
        .find(|flag| key(flag).as_deref() == Some(name))
        .ok_or("is no setting; `fanout config --defaults` prints all of them")?;
    let long = flag.get_long().unwrap_or_default();
    let arguments = match (flag.get_action(), value.get_ref()) {
        (ArgAction::SetTrue, DeValue::Boolean(on)) => {
            on.then(|| format!("--{long}")).into_iter().collect()
        }
        (ArgAction::SetTrue, _) => return Err("expected true or false".to_owned()),
        (ArgAction::Append, DeValue::Array(values)) => {
            let said = values.iter().map(|value| said(long, value.get_ref()));
            said.collect::<Result<_, _>>()?
        }
        (_, value) => vec![said(long, value)?],
    };
    match refusal(command, long, &arguments) {
        Some(problem) => Err(problem),
        None => Ok(FileSetting {
            id: flag.get_id().clone(),
            arguments,
        }),
    }
}

/// One value, as it is said on the command line.
fn said(long: &str, value: &DeValue<'_>) -> Result<String, String> {
    let text = match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| number.to_string(), |number| number.to_string()),
        DeValue::Float(number) => number.to_string(),
        other => {
            return Err(format!(
                "expected a text or a number, found {}",
                other.type_str()
            ));
        }
    };
    Ok(format!("--{long}={text}"))
}

/// Why the flag refuses these arguments, if it does. Whether others are missing is not asked.
fn refusal(command: &Command, long: &str, arguments: &[String]) -> Option<String> {
    let words = [command.get_name()].into_iter();
    let words = words.chain(arguments.iter().map(String::as_str));
    let error = command.clone().try_get_matches_from(words).err()?;
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => Some(texts.join(", ")),
        _ => None,
    };
    let flag = context(ContextKind::InvalidArg)?;
    // The environment is read after the arguments, and is not what is asked about.
    if flag.split([' ', '=']).next()?.strip_prefix("--") != Some(long) {
        return None;
    }
    let value = context(ContextKind::InvalidValue).unwrap_or_default();
    match error.kind() {
        ErrorKind::InvalidValue => Some(match context(ContextKind::ValidValue) {
            Some(valid) => format!("invalid value {value:?}; expected one of {valid}"),
            None => format!("invalid value {value:?}"),
        }),
        ErrorKind::ValueValidation => Some(match std::error::Error::source(&error) {
            Some(why) => format!("invalid value {value:?}: {why}"),
            None => format!("invalid value {value:?}"),
        }),
        _ => None,
    }
}

/// A file with every setting of a command, what it means and its default, all of them commented out. Lines that are settings
/// begin with `#` and the key, all others with `# `.
#[must_use]
pub fn defaults(command: &Command) -> String {
    let mut text = String::new();
    comment(
        &mut text,
        "Settings of `fanout serve`, each with its default. A flag wins over its environment variable, that over this file \
         (`--config-file`, or FANOUT_CONFIG_FILE), this file over the default. Files named here are looked for where the \
         server is started.",
    );
    let flags: Vec<_> = command
        .get_arguments()
        .filter_map(|flag| Some((flag, key(flag)?)))
        .collect();
    let mut headings: Vec<Option<&str>> = Vec::new();
    for (flag, _) in &flags {
        if !headings.contains(&flag.get_help_heading()) {
            headings.push(flag.get_help_heading());
        }
    }
    for heading in headings {
        if let Some(heading) = heading {
            let _ = write!(text, "\n# == {heading} ==\n");
        }
        let of_it = |flag: &Arg| flag.get_help_heading() == heading;
        for (flag, key) in flags.iter().filter(|(flag, _)| of_it(flag)) {
            text.push('\n');
            describe(&mut text, flag, key);
        }
    }
    text
}

fn describe(text: &mut String, flag: &Arg, key: &str) {
    let help = flag.get_long_help().or(flag.get_help());
    let help = help.map(ToString::to_string).unwrap_or_default();
    comment(text, &format!("{}.", help.trim_end_matches('.')));
    let is_switch = matches!(flag.get_action(), ArgAction::SetTrue);
    let possible = flag.get_possible_values();
    if !is_switch && !possible.is_empty() {
        let names: Vec<_> = possible.iter().map(|value| value.get_name()).collect();
        comment(text, &format!("One of {}.", names.join(", ")));
    }
    let long = flag.get_long().unwrap_or_default();
    let variable = flag.get_env().unwrap_or_default().to_string_lossy();
    let default = flag.get_default_values().first();
    let default = default.map(|default| default.to_string_lossy().into_owned());
    let none = match &default {
        None if !is_switch => "; no default",
        _ => "",
    };
    comment(text, &format!("--{long}, {variable}{none}"));
    let value = match default {
        _ if is_switch => "false".to_owned(),
        Some(default) if default.parse::<u64>().is_ok() => default,
        Some(default) => toml::Value::String(default).to_string(),
        None => {
            let names = flag.get_value_names().unwrap_or_default();
            let name = names.first().map(ToString::to_string).unwrap_or_default();
            toml::Value::String(name).to_string()
        }
    };
    let _ = writeln!(text, "#{key} = {value}");
}

/// Writes a text as comments, in lines that are not too long.
fn comment(text: &mut String, of: &str) {
    for paragraph in of.lines() {
        let mut line = "#".to_owned();
        for word in paragraph.split_whitespace() {
            if line.len() + 1 + word.len() > COLUMNS {
                let _ = writeln!(text, "{line}");
                "#".clone_into(&mut line);
            }
            line.push(' ');
            line.push_str(word);
        }
        let _ = writeln!(text, "{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::{Misconfigured, defaults, read};
    use clap::{Arg, ArgAction, Command, value_parser};
    use proptest::prelude::*;

    fn command() -> Command {
        let flag = |name: &'static str, variable: &'static str| {
            Arg::new(name)
                .long(name)
                .env(variable)
                .help("Says something.")
        };
        Command::new("serve")
            .arg(flag("config-file", "TEST_CONFIG_FILE"))
            .arg(Arg::new("check").long("check").action(ArgAction::SetTrue))
            .arg(
                flag("plans-max", "TEST_PLANS_MAX")
                    .value_parser(value_parser!(u32))
                    .default_value("7"),
            )
            .arg(flag("mode", "TEST_MODE").value_parser(["os", "fsync"]))
            .arg(
                flag("servers", "TEST_SERVERS")
                    .action(ArgAction::Append)
                    .value_name("URL")
                    .help_heading("Others"),
            )
            .arg(flag("insecure", "TEST_INSECURE").action(ArgAction::SetTrue))
            .arg(flag("needs", "TEST_NEEDS").requires("mode"))
    }

    fn said(text: &str) -> Vec<String> {
        let settings = read(text, &command()).expect("settings");
        settings
            .into_iter()
            .flat_map(|setting| setting.arguments)
            .collect()
    }

    fn problem(text: &str) -> String {
        let problem: Misconfigured = read(text, &command()).expect_err("a problem");
        problem.to_string()
    }

    #[test]
    fn a_setting_says_what_its_flag_says() {
        assert_eq!(
            said("servers = [\"a\", \"b\"]\nplans_max = 1_0\nmode = 'os'\ninsecure = true"),
            [
                "--servers=a",
                "--servers=b",
                "--plans-max=10",
                "--mode=os",
                "--insecure"
            ]
        );
        assert_eq!(
            said("plans_max = 0x10\nservers = \"a\""),
            ["--plans-max=16", "--servers=a"]
        );
        assert_eq!(said("insecure = false\n# mode = 1\n"), [""; 0]);
    }

    #[test]
    fn what_settings_need_of_each_other_is_not_asked_here() {
        assert_eq!(said("needs = \"x\""), ["--needs=x"]);
    }

    #[test]
    fn a_wrong_setting_is_named_with_its_line() {
        for (text, expected) in [
            (
                "\n\nplans = 1",
                "3: plans: is no setting; `fanout config --defaults` prints all of them",
            ),
            (
                "check = true",
                "1: check: is no setting; `fanout config --defaults` prints all of them",
            ),
            (
                "config_file = \"x\"",
                "1: config_file: is no setting; `fanout config --defaults` prints all of them",
            ),
            (
                "plans-max = 1",
                "1: plans-max: is no setting; `fanout config --defaults` prints all of them",
            ),
            (
                "mode = \"os\"\nplans_max = -1",
                "2: plans_max: invalid value \"-1\": -1 is not in 0..=4294967295",
            ),
            (
                "plans_max = \"many\"",
                "1: plans_max: invalid value \"many\": invalid digit found in string",
            ),
            (
                "plans_max = \"\"",
                "1: plans_max: invalid value \"\": cannot parse integer from empty string",
            ),
            (
                "mode = \"both\"",
                "1: mode: invalid value \"both\"; expected one of os, fsync",
            ),
            ("insecure = 1", "1: insecure: expected true or false"),
            (
                "mode = true",
                "1: mode: expected a text or a number, found boolean",
            ),
            (
                "mode = [\"os\"]",
                "1: mode: expected a text or a number, found array",
            ),
            (
                "[mode]\na = 1",
                "1: mode: expected a text or a number, found table",
            ),
        ] {
            assert_eq!(problem(text), expected, "{text}");
        }
        assert!(problem("mode = \"os\"\nmode = \"os\"").starts_with("2: "));
        assert!(problem("\nmode = ").starts_with("2: "));
    }

    #[test]
    fn the_file_of_defaults_has_every_setting_and_says_nothing() {
        let text = defaults(&command());
        assert_eq!(said(&text), [""; 0]);
        let expected = "# Says something.\n# --plans-max, TEST_PLANS_MAX\n#plans_max = 7\n\n\
            # Says something.\n# One of os, fsync.\n# --mode, TEST_MODE; no default\n#mode = \"\"\n\n\
            # Says something.\n# --insecure, TEST_INSECURE\n#insecure = false\n\n\
            # Says something.\n# --needs, TEST_NEEDS; no default\n#needs = \"\"\n\n\
            # == Others ==\n\n\
            # Says something.\n# --servers, TEST_SERVERS; no default\n#servers = \"URL\"\n";
        assert!(text.ends_with(expected), "{text}");
        assert!(text.lines().all(|line| line.len() <= 110), "{text}");
    }
    proptest! {
        #[test]
        fn any_text_is_said_as_it_is(value in "\\PC{1,20}") {
            let written = toml::Value::String(value.clone());
            prop_assert_eq!(said(&format!("servers = {written}")), [format!("--servers={value}")]);
        }

        #[test]
        fn whatever_is_wrong_has_a_line_of_the_file(
            text in "((plans_max|mode|servers|insecure|x)? ?[=\\[\\]{\"'#0-9a-z., \n]{0,6}\n?){0,6}",
        ) {
            if let Err(wrong) = read(&text, &command()) {
                let lines = text.matches('\n').count() + 1;
                prop_assert!((1..=lines).contains(&wrong.line), "{wrong}");
                prop_assert!(!wrong.problem.contains('\n'), "{wrong}");
            }
        }
    }
}
