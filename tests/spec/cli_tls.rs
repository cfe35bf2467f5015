//! The client commands over TLS and with a token: that all of them can, and what they say when they are not let in.

use std::process::Command;

use fanout::identity;
use tempfile::TempDir;

use crate::harness::{Authority, Certified, Program, Said, Served, directory, fanout, says};

/// A server with TLS that believes `token`, and the files of a client that it lets in.
struct Secured {
    served: Served,
    files: TempDir,
    authority: Authority,
    token: String,
}

impl Secured {
    /// With these arguments, in which `%` is the directory of the files.
    fn start(arguments: &[&str]) -> Self {
        let authority = Authority::new("first");
        let (token, listed) = listed_token();
        let files = directory(&[
            ("ca.pem", &authority.pem()),
            ("token", &format!("{token}\n")),
            ("tokens", &listed),
            (
                "c.json",
                r#"{"group_key_path":"k","task_request_template":{"id":"task-{{group.key}}"}}"#,
            ),
            ("i.json", r#"[{"k":"a"},{"k":"b"}]"#),
            ("r.jsonl", "{\"id\":\"task-a\",\"success\":true}\n"),
        ]);
        let put = |name: &str, certified: Certified| {
            std::fs::write(
                files.path().join(format!("{name}.pem")),
                certified.certificate,
            )
            .unwrap();
            std::fs::write(files.path().join(format!("{name}.key")), certified.key).unwrap();
        };
        put("server", authority.server());
        put("expired_server", authority.expired_server());
        put("client", authority.client("spiffe://example/ci"));
        put("expired", authority.expired_client("spiffe://example/ci"));
        put(
            "foreign",
            Authority::new("foreign").client("spiffe://example/ci"),
        );
        let place = files.path().to_str().unwrap();
        let arguments: Vec<String> = arguments
            .iter()
            .map(|word| word.replace('%', place))
            .collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        // A busy machine may take longer for a handshake than a server would wait.
        let patient = ["--first-bytes-timeout", "2m"];
        Self {
            served: Served::start(&[&arguments[..], &patient].concat()),
            files,
            authority,
            token,
        }
    }

    /// A client command in the directory of the files, to the server as https://.
    fn client(&self, arguments: &[&str]) -> Command {
        let mut command = fanout();
        command
            .current_dir(self.files.path())
            .args(arguments)
            .env("FANOUT_SERVER", format!("https://{}", self.served.address));
        command
    }

    fn said(&self, arguments: &[&str]) -> Said {
        Program::start(&mut self.client(arguments)).finish()
    }
}

/// A token, and the file that lists it.
fn listed_token() -> (String, String) {
    let token = identity::new_token().unwrap();
    let hash = identity::digest(&token)
        .map(|byte| format!("{byte:02x}"))
        .concat();
    let listed = format!(
        "[[token]]\nname = \"ci\"\nsha256 = \"{hash}\"\nroles = [\"submit\", \"plan\", \"watch\", \"operate\"]\n"
    );
    (token, listed)
}

const TLS: [&str; 4] = ["--tls-cert", "%/server.pem", "--tls-key", "%/server.key"];

#[test]
fn every_client_command_works_over_mutual_tls_with_a_token() {
    let mutual = [
        &TLS[..],
        &["--tls-client-ca", "%/ca.pem", "--tokens", "%/tokens"],
    ]
    .concat();
    let server = Secured::start(&mutual);
    let said = |arguments: &[&str]| {
        let mut command = server.client(arguments);
        command
            .env("FANOUT_CA", "ca.pem")
            .env("FANOUT_CERT", "client.pem")
            .env("FANOUT_KEY", "client.key")
            .env("FANOUT_TOKEN_FILE", "token");
        Program::start(&mut command).finish()
    };
    let address = format!("https://{}", server.served.address);
    assert_eq!(
        said(&["health"]),
        says(0, &format!("{address} is serving\n"), "")
    );
    let plan = ["--config", "c.json", "--items", "i.json"];
    for arguments in [
        &[
            &["plan"],
            &plan[..],
            &["--register", "--plan-id", "p", "--output", "plan.json"],
        ]
        .concat()[..],
        &["submit", "--plan-id", "p", "r.jsonl"],
        &["get", "p"],
        &["list"],
        &["tasks", "p"],
        &["explain", "p", "task-b"],
        &["quarantine", "list", "p"],
        &["seal", "p"],
        &["watch", "p"],
        &["reconcile", "--plan-id", "p"],
        &["delete", "p"],
        &[
            &["run"],
            &plan[..],
            &["--quiet", "--", "echo", "{\"success\":true}"],
        ]
        .concat(),
        &[
            &["plan"],
            &plan[..],
            &["--register", "--plan-id", "c", "--output", "plan.json"],
        ]
        .concat(),
        &["cancel", "c"],
    ] {
        let said = said(arguments);
        assert_eq!(said.code, 0, "{arguments:?}: {said:?}");
    }
}

#[test]
fn who_is_not_let_in_is_told_why_and_what_to_do() {
    let server = Secured::start(&[&TLS[..], &["--tls-client-ca", "%/ca.pem"]].concat());
    let address = format!("https://{}", server.served.address);
    let plain = Served::start(&[]);
    let plain_at = format!("https://{}", plain.address);
    let tls_at = server.served.address.clone();
    let name = address.replace("127.0.0.1", "localhost");
    let with_ca = |more: &[&'static str]| [&["list", "--ca", "ca.pem"], more].concat();
    for (arguments, problem) in [
        (
            vec!["list"],
            format!(
                "{address}: no authority that is trusted here has signed its certificate; name the one that has with --ca"
            ),
        ),
        (
            with_ca(&[]),
            format!("{address}: it wants to see a certificate; show one with --cert and --key"),
        ),
        (
            with_ca(&["--cert", "foreign.pem", "--key", "foreign.key"]),
            format!(
                "{address}: no authority that it trusts has signed the certificate of --cert; show another, or have it \
                 trust that authority (its --tls-client-ca)"
            ),
        ),
        (
            with_ca(&["--cert", "expired.pem", "--key", "expired.key"]),
            format!("{address}: the certificate of --cert has expired; renew it"),
        ),
        (
            with_ca(&["--cert", "client.pem", "--key", "foreign.key"]),
            "--key foreign.key: does not go with --cert: ".to_owned(),
        ),
        (
            with_ca(&["--cert", "client.pem", "--key", "none"]),
            "--key none: ".to_owned(),
        ),
        (
            vec!["list", "--ca", "client.key"],
            "--ca client.key: no certificate in PEM form".to_owned(),
        ),
        (
            vec!["list", "--ca", "ca.pem", "--server", &name],
            "use a name that it has in --server, or give one with --server-name".to_owned(),
        ),
        (
            vec!["list", "--ca", "ca.pem", "--server", &plain_at],
            format!(
                "{plain_at}: it speaks no TLS; give an http:// address, or serve with --tls-cert"
            ),
        ),
        (
            vec!["list", "--server", &tls_at],
            "the coordinator cannot be reached: it speaks TLS only; give an https:// address"
                .to_owned(),
        ),
        (
            vec!["list", "--ca", "ca.pem", "--server", &tls_at],
            format!("--ca is for an https:// address, and --server is {tls_at}"),
        ),
        (
            vec!["list", "--cert", "client.pem"],
            "--key <FILE>".to_owned(),
        ),
        (
            vec!["list", "--server", "ftp://127.0.0.1:1"],
            "--server ftp://127.0.0.1:1: is neither http:// nor https://".to_owned(),
        ),
    ] {
        let said = server.said(&arguments);
        assert_eq!(
            (said.code, &*said.stdout),
            (1, ""),
            "{arguments:?}: {said:?}"
        );
        assert!(
            said.stderr.contains(&problem),
            "{arguments:?}: {}",
            said.stderr
        );
    }
    let named = [
        "--server-name",
        "fanout.example",
        "--cert",
        "client.pem",
        "--key",
        "client.key",
    ];
    let said = server.said(&[&["list", "--ca", "ca.pem", "--server", &name], &named[..]].concat());
    assert_eq!(said.code, 0, "{said:?}");
    assert!(server.authority.pem().starts_with("-----BEGIN"));
}

#[test]
fn an_expired_server_is_told_apart_from_a_stranger() {
    let expired = [
        "--tls-cert",
        "%/expired_server.pem",
        "--tls-key",
        "%/expired_server.key",
    ];
    let server = Secured::start(&expired);
    let said = server.said(&["health", "--ca", "ca.pem"]);
    let problem = "its certificate has expired; renew it there (or set this machine's clock)";
    assert_eq!(
        said,
        says(
            1,
            "",
            &format!("error: https://{}: {problem}\n", server.served.address)
        )
    );
}

#[test]
fn a_token_comes_from_a_file_or_a_variable_and_is_never_shown() {
    let server = Secured::start(&["--tokens", "%/tokens"]);
    let token = server.token.as_str();
    let said = |arguments: &[&str], variable: Option<&str>| {
        let mut command = server.client(arguments);
        command.env("FANOUT_SERVER", &server.served.address);
        if let Some(token) = variable {
            command.env("FANOUT_TOKEN", token);
        }
        let said = Program::start(&mut command).finish();
        assert!(!format!("{said:?}").contains(token), "{said:?}");
        said
    };
    assert_eq!(said(&["list", "--token-file", "token"], None).code, 0);
    assert_eq!(said(&["list"], Some(token)).code, 0);
    // The file is what was said to be; the variable may be there for another.
    assert_eq!(
        said(&["list", "--token-file", "token"], Some("another")).code,
        0
    );
    for (arguments, variable, problem) in [
        (&["list"][..], None, "(Unauthenticated, "),
        (&["list"], Some("another"), "(Unauthenticated, "),
        (&["list"], Some(""), "error: FANOUT_TOKEN: holds no token\n"),
        (
            &["list", "--token-file", "none"],
            Some(token),
            "error: --token-file none: No such file or directory (os error 2)\n",
        ),
        (
            &["list", "--token-file", "tokens"],
            None,
            "error: --token-file tokens: a token is one word of ASCII characters\n",
        ),
    ] {
        let said = said(arguments, variable);
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.stderr.contains(problem), "{}", said.stderr);
    }
    let help = said(&["list", "--help"], Some(token));
    assert_eq!(help.code, 0);
}

#[test]
fn executors_are_not_given_the_token_of_who_plans() {
    let files = directory(&[
        (
            "c.json",
            r#"{"group_key_path":"k","task_request_template":{"id":"task-{{group.key}}"}}"#,
        ),
        ("i.json", r#"[{"k":"a"}]"#),
    ]);
    std::fs::write(files.path().join("token"), "secret").unwrap();
    let names = [
        "FANOUT_TOKEN",
        "FANOUT_TOKEN_FILE",
        "FANOUT_TOKEN_KEY",
        "FANOUT_CERT",
        "FANOUT_KEY",
    ];
    let given: String = names.map(|name| format!("${{{name}+{name}}}")).concat();
    let script = format!(r#"test -z "{given}" && echo '{{"success":true}}'"#);
    let mut command = fanout();
    command
        .current_dir(files.path())
        .envs(names.map(|name| (name, "token")))
        .args([
            "run",
            "--config",
            "c.json",
            "--items",
            "i.json",
            "--quiet",
            "--fail-on-failure",
            "--",
            "sh",
            "-c",
            &script,
        ]);
    let said = Program::start(&mut command).finish();
    assert_eq!(said.code, 0, "{said:?}");
}
