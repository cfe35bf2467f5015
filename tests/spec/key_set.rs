//! Keys that an issuer publishes: fetched from it, followed as they change, and kept while it cannot be had.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use fanout::identity::{self, Audience, Claims, Grant, Role};
use fanout::proto::ListPlansRequest;
use tempfile::TempDir;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};
use tonic::{Code, Request};

use crate::harness::{Authority, Certified, PATIENCE, Program, Served, directory, fanout};

const ISSUER: &str = "https://ci.example.org";

/// An issuer that publishes its keys over TLS.
struct Publisher {
    url: String,
    /// What it answers: a status line and a body.
    answer: Arc<Mutex<(&'static str, String)>>,
    authority: Authority,
    files: TempDir,
}

impl Publisher {
    fn start(keys: &str) -> Self {
        let authority = Authority::new("issuer");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}/keys", listener.local_addr().unwrap());
        let answer = Arc::new(Mutex::new(("200 OK", keys.to_owned())));
        let (tls, answers) = (
            server_config(&authority.server(), &[b"http/1.1"]),
            Arc::clone(&answer),
        );
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let session = ServerConnection::new(Arc::clone(&tls)).unwrap();
                let mut stream = StreamOwned::new(session, stream);
                let mut asked = [0; 4_096];
                // Who does not trust it says nothing.
                let Ok(1..) = stream.read(&mut asked) else {
                    continue;
                };
                let (status, body) = answers.lock().unwrap().clone();
                let length = body.len();
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        });
        let files = directory(&[("ca.pem", &authority.pem())]);
        Self {
            url,
            answer,
            authority,
            files,
        }
    }

    fn says(&self, status: &'static str, body: &str) {
        *self.answer.lock().unwrap() = (status, body.to_owned());
    }

    /// Settings of a server that believes it.
    fn settings(&self) -> Vec<String> {
        let ca = self.files.path().join("ca.pem");
        [
            "--jwks",
            &self.url,
            "--jwks-ca",
            ca.to_str().unwrap(),
            "--jwt-issuer",
            ISSUER,
            "--auth-reload-interval",
            "50ms",
        ]
        .map(str::to_owned)
        .into()
    }
}

fn server_config(certified: &Certified, protocols: &[&[u8]]) -> Arc<ServerConfig> {
    let certificates = CertificateDer::pem_slice_iter(certified.certificate.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(certified.key.as_bytes()).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let mut config = builder
        .with_no_client_auth()
        .with_single_cert(certificates.map(Result::unwrap).collect(), key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// A token of this key for who may watch.
fn token(key: &str, key_id: &str) -> String {
    let claims = Claims {
        iss: ISSUER.into(),
        aud: Audience::One("fanout".into()),
        sub: "test".into(),
        exp: 4_000_000_000,
        nbf: None,
        fanout: Grant {
            roles: vec![Role::Watch],
            ..Grant::default()
        },
    };
    identity::issue(&claims, Some(key_id), key.as_bytes()).unwrap()
}

/// How a call with this token ends.
fn code(server: &Served, token: &str) -> Code {
    server.call(async |mut client| {
        let mut request = Request::new(ListPlansRequest::default());
        let value = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
        let called = client.list_plans(request).await;
        called.map_or_else(|status| status.code(), |_| Code::Ok)
    })
}

fn start(publisher: &Publisher) -> Served {
    let settings = publisher.settings();
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    Served::start(&settings)
}

#[test]
fn published_keys_are_believed_and_new_ones_in_their_place() {
    let (first, first_set) = identity::new_key("1").unwrap();
    let (second, second_set) = identity::new_key("2").unwrap();
    let publisher = Publisher::start(&first_set);
    let mut server = start(&publisher);
    let (first, second) = (token(&first, "1"), token(&second, "2"));
    assert_eq!(code(&server, &first), Code::Ok);
    assert_eq!(code(&server, &second), Code::Unauthenticated);

    publisher.says("200 OK", &second_set);
    server
        .program
        .stderr
        .line_with("who is believed has changed");
    assert_eq!(code(&server, &first), Code::Unauthenticated);
    assert_eq!(code(&server, &second), Code::Ok);
}

#[test]
fn an_issuer_that_cannot_be_had_changes_nothing() {
    let (key, set) = identity::new_key("1").unwrap();
    let publisher = Publisher::start(&set);
    let mut server = start(&publisher);
    let token = token(&key, "1");
    let large = " ".repeat(2 << 20);
    for (status, body, said) in [
        (
            "500 Internal Server Error",
            "",
            "answers 500 Internal Server Error",
        ),
        ("302 Found", "", "answers 302 Found"),
        ("200 OK", "{}", "missing field `keys`"),
        (
            "200 OK",
            r#"{"keys":[{"kty":"oct","k":"c2VjcmV0","alg":"HS256"}]}"#,
            "no key can be used: key 1: alg is not RS256, ES256 or EdDSA",
        ),
        ("200 OK", &large, "length limit exceeded"),
    ] {
        publisher.says(status, body);
        let line = server.program.stderr.line_with("stays as it was");
        assert!(line.contains("ERROR") && line.contains(said), "{line}");
        assert_eq!(code(&server, &token), Code::Ok, "{said}");
    }
}

#[test]
fn an_empty_set_takes_every_key_back_at_the_start_and_later() {
    let (key, set) = identity::new_key("1").unwrap();
    let publisher = Publisher::start(&set);
    let mut server = start(&publisher);
    let token = token(&key, "1");
    assert_eq!(code(&server, &token), Code::Ok);
    publisher.says("200 OK", r#"{"keys":[]}"#);
    let told = "the issuer has no keys: no signed token is believed";
    let changed = "who is believed has changed";
    server.program.stderr.line_with(told);
    server.program.stderr.line_with(changed);
    assert_eq!(code(&server, &token), Code::Unauthenticated);

    let mut started_then = start(&publisher);
    assert_eq!(code(&started_then, &token), Code::Unauthenticated);
    publisher.says("200 OK", &set);
    started_then.program.stderr.line_with(changed);
    assert_eq!(code(&started_then, &token), Code::Ok);
}

#[test]
fn a_list_is_followed_while_the_issuer_is_away_and_an_issuer_while_the_list_is_broken() {
    let (first, first_set) = identity::new_key("1").unwrap();
    let (second, second_set) = identity::new_key("2").unwrap();
    let publisher = Publisher::start(&first_set);
    let list = publisher.files.path().join("tokens.toml");
    let listed = |token: &str| {
        let hash = identity::digest(token).map(|byte| format!("{byte:02x}"));
        let hash = hash.concat();
        format!("[[token]]\nname = \"n\"\nsha256 = \"{hash}\"\nroles = [\"watch\"]\n")
    };
    std::fs::write(&list, listed("one")).unwrap();
    let mut settings = publisher.settings();
    settings.extend(["--tokens".to_owned(), list.to_str().unwrap().to_owned()]);
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let mut server = Served::start(&settings);
    let (first, second) = (token(&first, "1"), token(&second, "2"));
    let believed = |server: &Served| {
        ["one", "two", &*first, &*second].map(|token| code(server, token) == Code::Ok)
    };
    assert_eq!(believed(&server), [true, false, true, false]);

    publisher.says("500 Internal Server Error", "");
    server.program.stderr.line_with("answers 500");
    // At once, as a list that is half written is broken.
    let next = publisher.files.path().join("next");
    std::fs::write(&next, listed("two")).unwrap();
    std::fs::rename(&next, &list).unwrap();
    server
        .program
        .stderr
        .line_with("who is believed has changed");
    assert_eq!(believed(&server), [false, true, true, false]);

    std::fs::write(&next, "[[token").unwrap();
    std::fs::rename(&next, &list).unwrap();
    server
        .program
        .stderr
        .line_with("tokens.toml: line 1, column 8: ");
    publisher.says("200 OK", &second_set);
    server
        .program
        .stderr
        .line_with("who is believed has changed");
    assert_eq!(believed(&server), [false, true, false, true]);
}

#[test]
fn what_a_url_asks_with_is_not_told_when_its_keys_cannot_be_had() {
    let (_, set) = identity::new_key("1").unwrap();
    let mut publisher = Publisher::start(&set);
    let shown = format!("{}?***: answers 500", publisher.url);
    publisher.url.push_str("?code=s3cret");
    let mut server = start(&publisher);
    publisher.says("500 Internal Server Error", "");
    let line = server.program.stderr.line_with("stays as it was");
    assert!(line.contains(&shown) && !line.contains("s3cret"), "{line}");

    let mut serve = fanout();
    serve
        .args(["serve", "--listen", "127.0.0.1:0"])
        .args(publisher.settings());
    for (status, body) in [("500 Internal Server Error", ""), ("200 OK", "{}")] {
        publisher.says(status, body);
        let said = Program::start(&mut serve).finish();
        assert_eq!(said.code, 1);
        assert!(
            said.stderr.contains("?***: ") && !said.stderr.contains("s3cret"),
            "{}",
            said.stderr
        );
    }
}

#[test]
fn keys_that_are_of_no_use_here_are_passed_over() {
    let (key, set) = identity::new_key("1").unwrap();
    let own = set
        .trim_end()
        .trim_end_matches('}')
        .trim_end()
        .trim_end_matches(']');
    let set = format!(
        r#"{own},{{"kty":"RSA","use":"enc","alg":"RSA-OAEP","n":"AQAB","e":"AQAB"}},{{"kty":"new"}}]}}"#
    );
    // A key says what it is used with, or its kind does.
    let set = set.replacen(r#""alg": "EdDSA","#, "", 1);
    assert!(!set.contains("EdDSA"), "{set}");
    let publisher = Publisher::start(&set);
    let server = start(&publisher);
    assert_eq!(code(&server, &token(&key, "1")), Code::Ok);
}

#[test]
fn a_key_that_says_what_it_does_has_to_say_that_it_verifies() {
    let (key, set) = identity::new_key("1").unwrap();
    let publisher = Publisher::start(&set);
    let mut server = start(&publisher);
    let token = token(&key, "1");
    let doing = |operations: &str| {
        let with = format!(r#""alg": "EdDSA","key_ops": {operations},"#);
        let doing = set.replacen(r#""alg": "EdDSA","#, &with, 1);
        assert_ne!(doing, set);
        doing
    };
    publisher.says("200 OK", &doing(r#"["sign","encrypt"]"#));
    let line = server.program.stderr.line_with("stays as it was");
    let said = "no key can be used: key 1: key_ops does not contain verify";
    assert!(line.contains(said), "{line}");
    publisher.says("200 OK", &doing(r#"["sign","verify"]"#));
    server
        .program
        .stderr
        .line_with("who is believed has changed");
    assert_eq!(code(&server, &token), Code::Ok);
}

#[test]
fn an_issuer_whom_nobody_vouches_for_is_not_asked() {
    let (_, set) = identity::new_key("1").unwrap();
    let publisher = Publisher::start(&set);
    let other = Authority::new("other").pem();
    assert_ne!(other, publisher.authority.pem());
    std::fs::write(publisher.files.path().join("ca.pem"), other).unwrap();
    let mut serve = fanout();
    serve
        .args(["serve", "--listen", "127.0.0.1:0"])
        .args(publisher.settings());
    let said = Program::start(&mut serve).finish();
    assert_eq!(said.code, 1);
    let begin = format!("error: {}: ", publisher.url);
    assert!(
        said.stderr.contains(&begin) && said.stderr.contains("UnknownIssuer"),
        "{}",
        said.stderr
    );
}
