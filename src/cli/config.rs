//! `config`, and what `serve` takes from a file of settings before its arguments are read.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, CommandFactory, Id};

use super::files::write_out;
use super::{Arguments, DONE, Failure, Outcome};
use crate::config::file::{self, CONFIG_FILE_BYTES_MAX};
use crate::server::bounded_file;

/// `fanout config`.
#[derive(Debug, Args)]
pub(super) struct ConfigCommand {
    /// Print the file of settings that `fanout serve --config-file` reads, every one commented out, with its default.
    #[arg(long, required = true)]
    defaults: bool,
}

/// Which file has settings, and whether to do more than to check them.
#[derive(Debug, Args)]
pub(super) struct FileOptions {
    /// A file of settings (TOML): the flags' long names with _ for -. A flag wins over its environment variable, that over
    /// the file.
    #[arg(long, env = "FANOUT_CONFIG_FILE", value_name = "FILE")]
    pub(super) config_file: Option<PathBuf>,
    /// Check all settings and the files that they name, and end: with 0 if all is well, else with 1. Nobody is connected to but
    /// the URL of --jwks, no address is listened on, and no plan is read.
    #[arg(long)]
    pub(super) check_config: bool,
}

pub(super) fn config(command: &ConfigCommand) -> Outcome {
    if command.defaults {
        write_out(&file::defaults(&serve_command()))?;
    }
    Ok(DONE)
}

fn serve_command() -> Command {
    let program = Arguments::command();
    program
        .find_subcommand("serve")
        .cloned()
        .unwrap_or_default()
}

/// The arguments of the program, with those of the file that they or the environment name put in: what neither of them
/// says; and which settings those are. Of other commands than `serve`, and where there is no file, they stay as they are.
pub(super) fn with_file(arguments: Vec<OsString>) -> Result<(Vec<OsString>, Vec<Id>), Failure> {
    if arguments.get(1).is_none_or(|command| command != "serve") {
        return Ok((arguments, Vec::new()));
    }
    let command = serve_command();
    // What is wrong with the arguments is said when all of them are there. Who asks for help gets it then, too.
    let lenient = command.clone().ignore_errors(true);
    let Ok(matches) = lenient.try_get_matches_from(&arguments[1..]) else {
        return Ok((arguments, Vec::new()));
    };
    let Some(path) = matches.get_one::<PathBuf>("config_file") else {
        return Ok((arguments, Vec::new()));
    };
    let wrong = |problem: String| Failure::new(format!("{}:{problem}", path.display()));
    let text = bounded_file::text(path, CONFIG_FILE_BYTES_MAX);
    let text = text.map_err(|error| wrong(format!(" {error}")))?;
    let settings = file::read(&text, &command).map_err(|problem| wrong(problem.to_string()))?;
    let is_said = |id: &Id| {
        let flag = command.get_arguments().find(|flag| flag.get_id() == id);
        let variable = flag.and_then(clap::Arg::get_env);
        matches.value_source(id.as_str()) == Some(ValueSource::CommandLine)
            || variable.is_some_and(|variable| std::env::var_os(variable).is_some())
    };
    let new = settings.into_iter().filter(|setting| !is_said(&setting.id));
    let new: Vec<_> = new.collect();
    let of_file = new.iter().map(|setting| setting.id.clone()).collect();
    let new = new.into_iter().flat_map(|setting| setting.arguments);
    let (before, after) = arguments.split_at(2);
    let with_file = before
        .iter()
        .cloned()
        .chain(new.map(OsString::from))
        .chain(after.iter().cloned())
        .collect();
    Ok((with_file, of_file))
}

/// Looks whether the files that the settings of `serve` name can be read, and whether what is to be a directory could be one.
pub(super) fn look_at_files(matches: &ArgMatches) -> Result<(), Failure> {
    let command = serve_command();
    for flag in command.get_arguments() {
        let names = flag.get_value_names().unwrap_or_default();
        let (is_file, is_directory) = match names {
            [name] => (name == "FILE", name == "DIR"),
            _ => (false, false),
        };
        let said = matches.try_get_raw(flag.get_id().as_str());
        let Some(path) = said.ok().flatten().and_then(|mut values| values.next()) else {
            continue;
        };
        let path = Path::new(path);
        let problem = match fs::metadata(path) {
            Ok(found) if is_file && found.is_dir() => Some("is a directory".to_owned()),
            // Opening a pipe would wait for who writes to it.
            Ok(found) if is_file && found.is_file() => {
                File::open(path).err().map(|error| error.to_string())
            }
            Ok(found) if is_directory && !found.is_dir() => Some("is no directory".to_owned()),
            Err(error) if is_file => Some(error.to_string()),
            _ => None,
        };
        if let Some(problem) = problem {
            let long = flag.get_long().unwrap_or_default();
            return Err(Failure::new(format!(
                "--{long} {}: {problem}",
                path.display()
            )));
        }
    }
    Ok(())
}
