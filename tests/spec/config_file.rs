//! The file of settings: what it says, what wins over it, what is refused, and how it is checked and printed.

use std::path::Path;

use tempfile::TempDir;

use crate::harness::{Program, Said, directory, fanout, names_in, said, says};

/// A directory with this file of settings, `fanout.toml`.
fn with_settings(text: &str) -> TempDir {
    directory(&[("fanout.toml", text)])
}

/// What a check of `fanout.toml` says, with these arguments.
fn checked(directory: &Path, arguments: &[&str]) -> Said {
    let check = ["serve", "--config-file", "fanout.toml", "--check-config"];
    said(directory, &[&check, arguments].concat())
}

/// The same, which fails with this error.
fn assert_refused(text: &str, arguments: &[&str], expected: &str) {
    let directory = with_settings(text);
    let said = checked(directory.path(), arguments);
    assert_eq!(said, says(1, "", expected), "{text}");
}

#[test]
fn a_flag_wins_over_the_environment_that_over_the_file_and_the_file_over_the_default() {
    let directory = with_settings("plans_max = 5\n\nlisten = \"127.0.0.1:0\"\n");
    let served = |variable: Option<&str>, flag: Option<&str>, file: bool| {
        let mut command = fanout();
        command.current_dir(&directory).arg("serve");
        command.envs(variable.map(|value| ("FANOUT_PLANS_MAX", value)));
        command.args(flag.map(|value| format!("--plans-max={value}")));
        if file {
            command.env("FANOUT_CONFIG_FILE", "fanout.toml");
        } else {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        let mut program = Program::start(&mut command);
        let line = program.stderr.line_with(" setting plans-max ");
        let (_, said) = line.split_once(" setting plans-max ").unwrap();
        said.trim_end().to_owned()
    };
    assert_eq!(served(None, None, false), r#"value="10000" from="default""#);
    assert_eq!(served(None, None, true), r#"value="5" from="file""#);
    assert_eq!(
        served(Some("6"), None, true),
        r#"value="6" from="environment""#
    );
    assert_eq!(
        served(Some("6"), Some("7"), true),
        r#"value="7" from="flag""#
    );
    assert_eq!(served(None, Some("7"), true), r#"value="7" from="flag""#);
}

#[test]
fn a_key_that_is_no_setting_and_a_value_that_is_none_are_refused_with_their_line() {
    assert_refused(
        "plans_max = 1\n# and\nplan_max = 1\n",
        &[],
        "error: fanout.toml:3: plan_max: is no setting; `fanout config --defaults` prints all of them\n",
    );
    assert_refused(
        "\nretention = \"soon\"\n",
        &[],
        "error: fanout.toml:2: retention: invalid value \"soon\": unknown unit \"soon\"; expected ms, s, m, h or d\n",
    );
    assert_refused(
        "insecure = \"yes\"\n",
        &[],
        "error: fanout.toml:1: insecure: expected true or false\n",
    );
    // Also if a flag says it better.
    assert_refused(
        "plans_max = -1\n",
        &["--plans-max", "7"],
        "error: fanout.toml:1: plans_max: invalid value \"-1\": invalid digit found in string\n",
    );
}

#[test]
fn a_file_that_is_none_is_refused() {
    let directory = with_settings("plans_max = 1\n");
    let with = |name: &str| said(directory.path(), &["serve", "--config-file", name]);
    assert_eq!(
        with("none.toml"),
        says(
            1,
            "",
            "error: none.toml: No such file or directory (os error 2)\n"
        )
    );
    std::fs::write(directory.path().join("latin.toml"), b"listen = \"\xe9\"").unwrap();
    assert_eq!(
        with("latin.toml"),
        says(1, "", "error: latin.toml: is not UTF-8\n")
    );
    let long = "#".repeat((1 << 20) + 1);
    std::fs::write(directory.path().join("long.toml"), &long).unwrap();
    assert_eq!(
        with("long.toml"),
        says(1, "", "error: long.toml: is larger than 1048576 bytes\n")
    );
    std::fs::write(directory.path().join("long.toml"), &long[1..]).unwrap();
    let fits = said(
        directory.path(),
        &["serve", "--config-file", "long.toml", "--check-config"],
    );
    assert_eq!(fits.code, 0, "{fits:?}");
}

#[test]
fn settings_of_a_file_need_each_other_as_flags_do() {
    for (text, arguments, missing) in [
        ("jwks = \"keys.json\"\n", &[][..], "--jwt-issuer"),
        ("durability = \"os\"\n", &[], "--data-dir"),
        (
            "nats = [\"nats://a\", \"nats://b\"]\n",
            &["--data-dir", "d"],
            "--nats",
        ),
    ] {
        let directory = with_settings(text);
        let said = checked(directory.path(), arguments);
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.stderr.contains(missing), "{said:?}");
    }
    let directory = with_settings("data_dir = \"d\"\n");
    let said = checked(directory.path(), &["--durability", "os"]);
    assert_eq!(said.code, 0, "{said:?}");
}

#[test]
fn a_check_serves_nothing_and_leaves_nothing_behind() {
    let directory = with_settings("data_dir = \"d\"\nlisten = \"192.0.2.1:1\"\ninsecure = true\n");
    let sound = "the settings are sound, those of fanout.toml included\n";
    assert_eq!(checked(directory.path(), &[]), says(0, sound, ""));
    assert_eq!(names_in(directory.path()), ["fanout.toml"]);
    let without_file = said(directory.path(), &["serve", "--check-config"]);
    assert_eq!(without_file, says(0, "the settings are sound\n", ""));
}

#[test]
fn a_check_finds_files_that_cannot_be_read_or_used() {
    for (text, expected) in [
        (
            "tokens = \"none\"\n",
            "error: --tokens none: No such file or directory (os error 2)\n",
        ),
        ("tokens = \".\"\n", "error: --tokens .: is a directory\n"),
        (
            "nats = \"nats://a\"\nnats_credentials = \"none\"\n",
            "error: --nats-credentials none: No such file or directory (os error 2)\n",
        ),
        (
            "tls_cert = \"none\"\ntls_key = \"fanout.toml\"\n",
            "error: --tls-cert none: No such file or directory (os error 2)\n",
        ),
        (
            "data_dir = \"fanout.toml\"\n",
            "error: --data-dir fanout.toml: is no directory\n",
        ),
        (
            "otlp_endpoint = \"foo\"\n",
            "error: --otlp-endpoint: expected http://HOST:PORT or https://HOST:PORT\n",
        ),
        (
            "nats = \"http://me:secret@a\"\n",
            "error: --nats: invalid scheme for NATS server URL: http\n",
        ),
    ] {
        assert_refused(text, &[], expected);
    }
    // A file that is there, and no list of tokens; no certificate.
    for text in [
        "tokens = \"fanout.toml\"\n",
        "tls_cert = \"fanout.toml\"\ntls_key = \"fanout.toml\"\n",
    ] {
        let directory = with_settings(text);
        let said = checked(directory.path(), &[]);
        assert_eq!((said.code, said.stdout.as_str()), (1, ""), "{said:?}");
        assert!(said.stderr.contains("fanout.toml"), "{said:?}");
    }
    // What would not be served is not sound.
    let exposed = with_settings("listen = \"0.0.0.0:0\"\n");
    assert_eq!(checked(exposed.path(), &[]).code, 1);
}

#[test]
fn the_printed_file_has_every_flag_of_serve_and_its_defaults_are_sound() {
    let directory = directory(&[]);
    let help = said(directory.path(), &["serve", "--help"]).stdout;
    let printed = said(directory.path(), &["config", "--defaults"]);
    assert_eq!((printed.code, printed.stderr.as_str()), (0, ""));
    let mut keys = 0;
    for line in help.lines().map(str::trim) {
        let Some(flag) = line.strip_prefix("--") else {
            continue;
        };
        let flag = flag.split([' ', '[']).next().unwrap();
        let key = flag.replace('-', "_");
        let line = printed
            .stdout
            .lines()
            .find(|line| line.starts_with(&format!("#{key} = ")));
        match flag {
            "config-file" | "check-config" => assert_eq!(line, None),
            _ => {
                assert!(line.is_some(), "{flag} is not in the file");
                keys += 1;
            }
        }
    }
    assert!(keys >= 50, "{keys} keys were found");

    // As it is printed it says nothing; with every default said, it says what holds anyway.
    let mut said_all = "data_dir = \"d\"\n".to_owned();
    let mut has_default = true;
    for line in printed.stdout.lines() {
        match line.strip_prefix('#') {
            // The defaults of what NATS is told are for where there is one.
            Some(setting) if line.contains(" = ") && !setting.starts_with([' ', '=']) => {
                if has_default && !setting.starts_with("nats") {
                    said_all.push_str(setting);
                    said_all.push('\n');
                }
            }
            Some(_) => has_default = !line.ends_with("; no default"),
            None => assert_eq!(line, ""),
        }
    }
    assert!(said_all.contains("\nplans_max = 10000\n"), "{said_all}");
    assert!(said_all.contains("\nretention = \"24h\"\n"), "{said_all}");
    for text in [&printed.stdout, &said_all] {
        std::fs::write(directory.path().join("fanout.toml"), text).unwrap();
        let said = checked(directory.path(), &[]);
        assert_eq!(said.code, 0, "{said:?}\n{text}");
    }
}

#[test]
fn no_other_command_asks_for_the_file() {
    let mut command = fanout();
    command
        .args(["config", "--defaults"])
        .env("FANOUT_CONFIG_FILE", "none.toml");
    assert_eq!(Program::start(&mut command).finish().code, 0);
    let mut help = fanout();
    help.args(["serve", "--help"])
        .env("FANOUT_CONFIG_FILE", "none.toml");
    assert_eq!(Program::start(&mut help).finish().code, 0);
}
