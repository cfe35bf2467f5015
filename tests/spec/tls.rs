//! TLS: who is let in, what those are told who are not, and certificates that change while everything goes on.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use fanout::proto::{GetPlanRequest, SubmitRecordRequest, WatchPlanRequest};
use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};

use crate::harness::{
    Authority, Certified, Client, PATIENCE, Program, Served, directory, fanout, https,
    plan_request, record,
};

/// A server with TLS, and the files that it reads.
struct Secured {
    served: Served,
    files: TempDir,
    authority: Authority,
}

/// So that nothing is said about new files that a test has not asked for.
const ONLY_WHEN_ASKED: [&str; 2] = ["--tls-reload-interval", "1h"];

impl Secured {
    fn start(arguments: &[&str]) -> Self {
        let authority = Authority::new("first");
        let files = tempfile::tempdir().unwrap();
        put(files.path(), &authority.server());
        let served = serve(files.path(), &[&ONLY_WHEN_ASKED[..], arguments].concat());
        Self {
            served,
            files,
            authority,
        }
    }

    /// A server whose clients have to show a certificate of its own authority.
    fn mutual(arguments: &[&str]) -> Self {
        let authority = Authority::new("first");
        let files = tempfile::tempdir().unwrap();
        put(files.path(), &authority.server());
        let clients = files.path().join("clients.pem");
        std::fs::write(&clients, authority.pem()).unwrap();
        let mutual = ["--tls-client-ca", clients.to_str().unwrap()];
        let arguments = [&ONLY_WHEN_ASKED[..], &mutual, arguments].concat();
        let served = serve(files.path(), &arguments);
        Self {
            served,
            files,
            authority,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// Has the files looked at, and answers what is said about it.
    fn look(&mut self) -> String {
        self.served.program.signal(Signal::SIGHUP);
        self.served.program.stderr.line_with("certificates")
    }

    fn connection(&self) -> TcpStream {
        let connection = TcpStream::connect(&self.served.address).unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        connection
    }

    /// A call of whoever shows this, or how it fails.
    async fn called(&self, shown: Option<&Certified>) -> Result<(), Status> {
        let endpoint = https(&self.served.address, &self.authority.pem(), shown);
        call(Client::new(endpoint.connect_lazy())).await
    }
}

/// A call that is answered, also if it finds nothing.
async fn call(mut client: Client) -> Result<(), Status> {
    let request = GetPlanRequest {
        plan_id: "p".into(),
        ..Default::default()
    };
    match client.get_plan(request).await {
        Err(status) if status.code() != Code::NotFound => Err(status),
        _ => Ok(()),
    }
}

fn put(directory: &Path, certified: &Certified) {
    std::fs::write(directory.join("cert.pem"), &certified.certificate).unwrap();
    std::fs::write(directory.join("key.pem"), &certified.key).unwrap();
}

fn serve(directory: &Path, arguments: &[&str]) -> Served {
    let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let (cert, key) = (path("cert.pem"), path("key.pem"));
    let mut all = [&["--tls-cert", &cert, "--tls-key", &key], arguments].concat();
    // A busy machine may take longer for a handshake than a server would wait.
    if !arguments.contains(&"--first-bytes-timeout") {
        all.extend(["--first-bytes-timeout", "2m"]);
    }
    Served::start(&all)
}

/// A connection over TLS without a gRPC client, which speaks this version and asks for this protocol.
fn private(
    server: &Secured,
    version: &'static SupportedProtocolVersion,
    protocol: &str,
) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    let authority = server.authority.pem();
    roots
        .add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.into()];
    let name = "fanout.example".try_into().unwrap();
    let session = ClientConnection::new(Arc::new(config), name).unwrap();
    StreamOwned::new(session, server.connection())
}

#[test]
fn tls_1_3_is_spoken_and_1_2_only_if_it_is_allowed() {
    let greeted = |server: &Secured, version| {
        let mut stream = private(server, version, "h2");
        stream
            .flush()
            .map(|()| stream.conn.alpn_protocol().map(<[u8]>::to_vec))
    };
    let server = Secured::start(&[]);
    assert_eq!(
        greeted(&server, &TLS13).unwrap().as_deref(),
        Some(&b"h2"[..])
    );
    let refusal = greeted(&server, &TLS12).unwrap_err().to_string();
    assert_eq!(refusal, "received fatal alert: ProtocolVersion");
    let server = Secured::start(&["--tls-min", "1.2"]);
    assert_eq!(
        greeted(&server, &TLS13).unwrap().as_deref(),
        Some(&b"h2"[..])
    );
    assert_eq!(
        greeted(&server, &TLS12).unwrap().as_deref(),
        Some(&b"h2"[..])
    );
}

#[test]
fn a_browser_without_http_2_is_served_over_tls_too() {
    let server = Secured::start(&[]);
    let mut stream = private(&server, &TLS13, "http/1.1");
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: fanout.example\r\n\r\n")
        .unwrap();
    let mut line = [0; 34];
    stream.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"HTTP/1.1 415 Unsupported Media Typ");
}

#[tokio::test]
async fn a_client_without_tls_is_told_that_it_needs_it_in_its_own_protocol() {
    let server = Secured::start(&[]);
    let mut connection = server.connection();
    connection.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400 Bad Request\r\n"),
        "{answer}"
    );
    assert!(
        answer.ends_with("\r\n\r\nthis port speaks TLS only: use https://\n"),
        "{answer}"
    );

    let client = Client::connect(format!("http://{}", server.served.address));
    let status = call(client.await.unwrap()).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
}

#[tokio::test]
async fn a_client_with_tls_is_answered_without_it_where_there_is_none() {
    let server = Served::start(&[]);
    let mut connection = TcpStream::connect(&server.address).unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    // The beginning of a ClientHello, which is nothing of HTTP.
    connection
        .write_all(&[
            22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3, b'\r', b'\n', b'\r', b'\n',
        ])
        .unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400 Bad Request\r\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn only_who_shows_a_valid_certificate_of_the_authority_is_let_in() {
    let mut server = Secured::mutual(&[]);
    let foreign = Authority::new("foreign");
    let own = server.authority.client("spiffe://example/sandbox/7");
    let expired = server
        .authority
        .expired_client("spiffe://example/sandbox/7");
    server.called(Some(&own)).await.unwrap();
    for (shown, reason) in [
        (None, "CertificateRequired"),
        (
            Some(foreign.client("spiffe://example/sandbox/7")),
            "UnknownCA",
        ),
        (Some(expired), "CertificateExpired"),
    ] {
        let status = server.called(shown.as_ref()).await.unwrap_err();
        let reasons = format!("{status:?}");
        assert!(reasons.contains(reason), "expected {reason}: {reasons}");
    }
    server.called(Some(&own)).await.unwrap();
    assert_eq!(server.look().matches("as they were").count(), 1);
}

#[tokio::test]
async fn a_client_is_who_the_list_says_by_the_names_in_its_certificate() {
    let list = r#"
        [[certificate]]
        name = "watcher"
        uri = "spiffe://example/watcher"
        roles = ["watch"]

        [[certificate]]
        name = "sender"
        uri = "spiffe://example/sender"
        roles = ["submit"]

        [[certificate]]
        name = "former"
        uri = "spiffe://example/former"
        roles = ["watch"]
        expires = 2020-01-01T00:00:00Z
    "#;
    let files = directory(&[("callers.toml", list)]);
    let callers = files.path().join("callers.toml");
    let server = Secured::mutual(&["--tokens", callers.to_str().unwrap()]);
    let code = async |uri: &str| {
        let called = server.called(Some(&server.authority.client(uri))).await;
        called.map_or_else(|status| status.code(), |()| Code::Ok)
    };
    assert_eq!(code("spiffe://example/watcher").await, Code::Ok);
    assert_eq!(
        code("spiffe://example/sender").await,
        Code::PermissionDenied
    );
    for nobody in ["spiffe://example/former", "spiffe://example/watcher/2"] {
        assert_eq!(code(nobody).await, Code::Unauthenticated, "{nobody}");
    }

    // Whoever brings a token is who the token says, and here it says nothing.
    let shown = server.authority.client("spiffe://example/watcher");
    let endpoint = https(
        &server.served.address,
        &server.authority.pem(),
        Some(&shown),
    );
    let mut client = Client::new(endpoint.connect_lazy());
    for authorization in ["Bearer no-token", "Basic d2F0Y2hlcjo="] {
        let mut request = Request::new(GetPlanRequest::default());
        let value = authorization.parse().unwrap();
        request.metadata_mut().insert("authorization", value);
        let refused = client.get_plan(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{authorization}");
    }
}

#[tokio::test]
async fn a_stream_ends_when_its_certificate_is_struck_off_the_list() {
    let listed = |uri: &str| {
        format!("[[certificate]]\nname = \"n\"\nuri = \"{uri}\"\nroles = [\"plan\", \"watch\"]\n")
    };
    let files = directory(&[("callers.toml", &listed("spiffe://example/one"))]);
    let callers = files.path().join("callers.toml");
    let server = Secured::mutual(&[
        "--tokens",
        callers.to_str().unwrap(),
        "--auth-reload-interval",
        "20ms",
    ]);
    let shown = server.authority.client("spiffe://example/one");
    let address = &server.served.address;
    let endpoint = https(address, &server.authority.pem(), Some(&shown));
    let mut client = Client::new(endpoint.connect_lazy());
    client.plan(plan_request("p", &["a"])).await.unwrap();
    let watch = WatchPlanRequest {
        plan_id: "p".into(),
        ..Default::default()
    };
    let mut frames = client.watch_plan(watch).await.unwrap().into_inner();
    std::fs::write(&callers, listed("spiffe://example/two")).unwrap();
    let ended = loop {
        match frames.message().await {
            Ok(Some(_)) => {}
            other => break other.unwrap_err(),
        }
    };
    assert_eq!(ended.code(), Code::Unauthenticated);
}

#[test]
fn a_list_of_certificates_needs_clients_that_show_them() {
    let list = "[[certificate]]\nname = \"n\"\ndns = \"a.example\"\nroles = [\"watch\"]\n";
    let files = directory(&[("callers.toml", list)]);
    let mut serve = fanout();
    serve.current_dir(files.path()).args([
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--tokens",
        "callers.toml",
    ]);
    let said = Program::start(&mut serve).finish();
    assert_eq!(said.code, 1);
    assert!(
        said.stderr.ends_with(
            "error: callers.toml: lists certificates, but no client shows one without --tls-client-ca\n"
        ),
        "{}",
        said.stderr
    );
}

#[tokio::test]
async fn a_handshake_that_stalls_is_cut_in_time_and_holds_nobody_up() {
    let server = Secured::start(&["--first-bytes-timeout", "1s"]);
    let silent = server.connection();
    let mut half = server.connection();
    half.write_all(&[22, 3, 1, 2, 0, 1]).unwrap();
    let mut greeted = private(&server, &TLS13, "h2");
    greeted.flush().unwrap();
    let mut hesitant = private(&server, &TLS13, "h2");
    hesitant.write_all(b"PRI * HTTP/2.0\r\n").unwrap();
    let others = async || {
        while server.called(None).await.is_err() {}
    };
    for _ in 0..10 {
        tokio::time::timeout(PATIENCE, others()).await.unwrap();
    }
    for mut stalled in [silent, half, greeted.sock, hesitant.sock] {
        // To its end: what was sent for the handshake may come first.
        let ended = stalled.read_to_end(&mut Vec::new());
        let cut = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionReset;
        assert!(ended.as_ref().map_or_else(cut, |_| true), "{ended:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_used_leaves_the_old_certificates_in_place() {
    let mut server = Secured::mutual(&[]);
    let own = server.authority.client("spiffe://example/a");
    let sound = std::fs::read_to_string(server.path("cert.pem")).unwrap();
    let clients = std::fs::read_to_string(server.path("clients.pem")).unwrap();
    let other = Authority::new("other").server();
    for (name, text, problem) in [
        (
            "cert.pem",
            "-----BEGIN CERTIFICATE-----\nAAAA",
            "cert.pem: ",
        ),
        ("cert.pem", "", "cert.pem: no certificate in PEM form"),
        (
            "cert.pem",
            &other.certificate,
            "--tls-cert and --tls-key: the key is not that of the certificate",
        ),
        ("clients.pem", "", "clients.pem: no certificate in PEM form"),
        ("clients.pem", &sound.replace('A', "B"), "--tls-client-ca "),
    ] {
        std::fs::write(server.path(name), text).unwrap();
        let line = server.look();
        assert!(
            line.contains("ERROR") && line.contains("the old ones stay") && line.contains(problem),
            "{line}"
        );
        server.called(Some(&own)).await.unwrap();
        std::fs::write(server.path("cert.pem"), &sound).unwrap();
        std::fs::write(server.path("clients.pem"), &clients).unwrap();
    }
    std::fs::remove_file(server.path("key.pem")).unwrap();
    let line = server.look();
    assert!(
        line.contains("key.pem: No such file or directory"),
        "{line}"
    );
    server.called(Some(&own)).await.unwrap();
}

#[tokio::test]
async fn files_that_come_by_another_link_to_their_directory_are_found_without_a_signal() {
    let authority = Authority::new("first");
    let files = tempfile::tempdir().unwrap();
    let volume = |name: &str| files.path().join(name);
    for name in ["1", "2"] {
        std::fs::create_dir(volume(name)).unwrap();
    }
    put(&volume("1"), &authority.server());
    let second = Authority::new("second");
    put(&volume("2"), &second.server());
    symlink("1", volume("data")).unwrap();
    let mut served = serve(&volume("data"), &["--tls-reload-interval", "1s"]);
    let trusted = async |authority: &Authority| {
        let endpoint = https(&served.address, &authority.pem(), None);
        call(Client::new(endpoint.connect_lazy())).await.is_ok()
    };
    assert_eq!(
        (trusted(&authority).await, trusted(&second).await),
        (true, false)
    );
    symlink("2", volume("next")).unwrap();
    std::fs::rename(volume("next"), volume("data")).unwrap();
    served
        .program
        .stderr
        .line_with("new certificates are in use");
    let trusted = async |authority: &Authority| {
        let endpoint = https(&served.address, &authority.pem(), None);
        call(Client::new(endpoint.connect_lazy())).await.is_ok()
    };
    assert_eq!(
        (trusted(&authority).await, trusted(&second).await),
        (false, true)
    );
}

/// What clients trust and show, as it is now.
struct Held {
    authorities: String,
    shown: Certified,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_and_authorities_change_under_load_and_no_call_fails() {
    const STREAMS: usize = 4;
    let mut server = Secured::mutual(&[]);
    let (first, second) = (server.authority.pem(), Authority::new("second"));
    let both = format!("{first}{}", second.pem());
    let old = server.authority.client("spiffe://example/a");
    let held = Arc::new(Mutex::new(Held {
        authorities: both.clone(),
        shown: old.clone(),
    }));
    let address = server.served.address.clone();
    let connect = {
        let held = Arc::clone(&held);
        move || {
            let held = held.lock().unwrap();
            Client::new(https(&address, &held.authorities, Some(&held.shown)).connect_lazy())
        }
    };
    connect().plan(plan_request("p", &["a"])).await.unwrap();

    // Streams that are open all the time.
    let (ended, stop) = watch::channel(false);
    let answered = watch::Sender::new(0);
    let mut load = tokio::task::JoinSet::new();
    for _ in 0..STREAMS {
        let (requests, stream) = mpsc::channel(1);
        let (mut client, stop, answered) = (connect(), stop.clone(), answered.clone());
        load.spawn(async move {
            let answers = client.submit_record(ReceiverStream::new(stream)).await?;
            let mut answers = answers.into_inner();
            while !*stop.borrow() {
                let request = SubmitRecordRequest {
                    plan_id: "p".into(),
                    records: vec![record(r#"{"id":"task-a","status":"completed"}"#)],
                    ..Default::default()
                };
                requests.send(request).await.unwrap();
                answers.message().await?.expect("receipts");
                answered.send_modify(|answered| *answered += 1);
            }
            Ok::<_, Status>(())
        });
    }
    // And new connections all the time.
    let connected = watch::Sender::new(0);
    load.spawn({
        let (connect, stop, connected) = (connect.clone(), stop.clone(), connected.clone());
        async move {
            while !*stop.borrow() {
                call(connect()).await?;
                connected.send_modify(|connected| *connected += 1);
            }
            Ok(())
        }
    });

    let new = second.client("spiffe://example/a");
    for step in [
        "both may come in",
        "another certificate",
        "clients follow",
        "the first is gone",
    ] {
        match step {
            "both may come in" => std::fs::write(server.path("clients.pem"), &both).unwrap(),
            "another certificate" => put(server.files.path(), &second.server()),
            "clients follow" => held.lock().unwrap().shown = new.clone(),
            _ => {
                held.lock().unwrap().authorities = second.pem();
                std::fs::write(server.path("clients.pem"), second.pem()).unwrap();
            }
        }
        if step != "clients follow" {
            let line = server.look();
            assert!(
                line.contains("new certificates are in use"),
                "{step}: {line}"
            );
        }
        // Some more of both before the next step.
        let more = async {
            let many = *answered.borrow() + 100;
            answered
                .subscribe()
                .wait_for(|answered| *answered >= many)
                .await
                .unwrap();
            let many = *connected.borrow() + 10;
            connected
                .subscribe()
                .wait_for(|connected| *connected >= many)
                .await
                .unwrap();
        };
        tokio::select! {
            more = tokio::time::timeout(PATIENCE, more) => more.expect(step),
            over = load.join_next() => panic!("{step}: {over:?}"),
        }
    }
    ended.send_replace(true);
    while let Some(over) = load.join_next().await {
        over.unwrap().unwrap();
    }
    // Who has not followed is out, with a new connection.
    let endpoint = https(&server.served.address, &both, Some(&old));
    call(Client::new(endpoint.connect_lazy()))
        .await
        .unwrap_err();
}

#[test]
fn an_address_that_others_reach_needs_tls_and_callers_who_say_who_they_are() {
    let files = tempfile::tempdir().unwrap();
    put(files.path(), &Authority::new("first").server());
    std::fs::write(files.path().join("tokens"), "").unwrap();
    let said = |arguments: &[&str]| {
        let mut command = fanout();
        command
            .current_dir(files.path())
            .args(["serve", "--listen", "0.0.0.0:0"]);
        crate::harness::Program::start(command.args(arguments))
    };
    let tls = ["--tls-cert", "cert.pem", "--tls-key", "key.pem"];
    for (arguments, problem) in [
        (
            &[][..],
            "error: --listen 0.0.0.0:0: other machines reach it, and without TLS whoever is on the way reads and \
             changes everything; give --tls-cert and --tls-key, or say --insecure\n",
        ),
        (
            &["--tokens", "tokens"],
            "give --tls-cert and --tls-key, or say --insecure\n",
        ),
        (
            &tls,
            "error: --listen 0.0.0.0:0: other machines reach it, and anybody there reads and changes every plan; \
             give --tokens, --jwks or --tls-client-ca, or say --insecure\n",
        ),
    ] {
        let said = said(arguments).finish();
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.stderr.ends_with(problem), "{}", said.stderr);
    }
    for arguments in [
        [&tls[..], &["--tls-client-ca", "cert.pem"]].concat(),
        [&tls[..], &["--tokens", "tokens"]].concat(),
    ] {
        let mut program = said(&arguments);
        let line = program.stderr.line();
        assert!(!line.contains("WARN"), "{line}");
    }
}

#[test]
fn certificates_that_cannot_be_used_end_serve_with_an_error_that_names_the_file() {
    let files = tempfile::tempdir().unwrap();
    put(files.path(), &Authority::new("first").server());
    std::fs::write(
        files.path().join("other.pem"),
        Authority::new("other").server().key,
    )
    .unwrap();
    std::fs::write(files.path().join("large.pem"), vec![b'\n'; (1 << 20) + 1]).unwrap();
    for (arguments, problem) in [
        (&["--tls-cert", "cert.pem"][..], "--tls-key <FILE>"),
        (&["--tls-client-ca", "cert.pem"], "--tls-cert <FILE>"),
        (
            &["--tls-cert", "cert.pem", "--tls-key", "none.pem"],
            "error: --tls-key none.pem: No such file or directory (os error 2)\n",
        ),
        (
            &["--tls-cert", "cert.pem", "--tls-key", "large.pem"],
            "error: --tls-key large.pem: is larger than 1048576 bytes\n",
        ),
        (
            &["--tls-cert", "cert.pem", "--tls-key", "cert.pem"],
            "error: --tls-key cert.pem: no private key in PEM form",
        ),
        (
            &["--tls-cert", "key.pem", "--tls-key", "key.pem"],
            "error: --tls-cert key.pem: no certificate in PEM form\n",
        ),
        (
            &["--tls-cert", "cert.pem", "--tls-key", "other.pem"],
            "error: --tls-cert and --tls-key: the key is not that of the certificate\n",
        ),
        (
            &[
                "--tls-cert",
                "cert.pem",
                "--tls-key",
                "key.pem",
                "--tls-client-ca",
                "key.pem",
            ],
            "error: --tls-client-ca key.pem: no certificate in PEM form\n",
        ),
        (&["--tls-reload-interval", "500ms"], "is less than 1s"),
    ] {
        let mut command = fanout();
        command
            .current_dir(files.path())
            .args(["serve", "--listen", "127.0.0.1:0"]);
        let said = crate::harness::Program::start(command.args(arguments)).finish();
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.stderr.contains(problem), "{}", said.stderr);
    }
}
