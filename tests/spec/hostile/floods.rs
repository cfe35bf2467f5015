//! What no HTTP/2 client sends: other protocols, broken frames, and far too much of what is sound. A well-behaved client
//! on another connection is served all the time.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Target;
use super::target::PLAN;
use super::wire::{field, framed};
use crate::harness::PATIENCE;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [
        &length[1..],
        &[kind, flags][..],
        &stream.to_be_bytes(),
        payload,
    ]
    .concat()
}

/// A header that is in no table.
fn header(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| {
        let mut bytes = Vec::new();
        // A length of seven bits, and the rest of it if it has more.
        match text.len() {
            short @ 0..127 => bytes.push(short as u8),
            long => {
                bytes.push(127);
                bytes.extend(super::wire::varint(long as u64 - 127));
            }
        }
        bytes.extend(text.as_bytes());
        bytes
    };
    [&[0][..], &text(name), &text(value)].concat()
}

/// The headers of a call.
fn headers(method: &str) -> Vec<u8> {
    [
        // POST, http.
        vec![0x83, 0x86],
        header(":path", &format!("/fanout.v1.FanoutService/{method}")),
        header(":authority", "there"),
        header("content-type", "application/grpc"),
        header("te", "trailers"),
    ]
    .concat()
}

fn begun(frames: &[Vec<u8>]) -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, b""), &frames.concat()].concat()
}

/// Numbers of streams that a client may open.
fn streams() -> impl Iterator<Item = u32> {
    (0..).map(|n| n * 2 + 1)
}

/// Says all of it, as far as the server listens, then no more; answers what it said until it closed.
async fn conversation(address: String, said: Vec<u8>) -> Vec<u8> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let saying = async move {
        // Whether all of it was taken is the server's choice.
        let _ = write.write_all(&said).await;
        let _ = write.shutdown().await;
        write
    };
    let hearing = async move {
        let mut heard = Vec::new();
        let _ = read.read_to_end(&mut heard).await;
        heard
    };
    let both = async { tokio::join!(saying, hearing).1 };
    tokio::time::timeout(PATIENCE, both)
        .await
        .expect("the connection stays open")
}

/// Says all of it and goes on listening; answers what the server said until it ended a stream or the connection. Who
/// stops speaking too early may not hear that: the server then ends, too.
async fn heard_until_an_end(address: String, said: Vec<u8>) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // Whether all of it is taken is the server's choice.
    let _ = stream.write_all(&said).await;
    let mut heard = Vec::new();
    let hearing = async {
        while ends(&heard).is_empty()
            && stream.read_buf(&mut heard).await.is_ok_and(|read| read > 0)
        {}
    };
    tokio::time::timeout(PATIENCE, hearing)
        .await
        .expect("nothing is ended");
    heard
}

/// The codes of the GOAWAY and RST_STREAM frames in what was heard.
fn ends(mut heard: &[u8]) -> Vec<(u8, u32)> {
    let mut ends = Vec::new();
    while heard.len() >= 9 {
        let length = u32::from_be_bytes([0, heard[0], heard[1], heard[2]]) as usize;
        let Some(payload) = heard.get(9..9 + length) else {
            break;
        };
        let code_at = match heard[3] {
            RST_STREAM => Some(0),
            GOAWAY => Some(4),
            _ => None,
        };
        if let Some(code) = code_at.and_then(|at| payload.get(at..at + 4)) {
            let code = u32::from_be_bytes([code[0], code[1], code[2], code[3]]);
            ends.push((heard[3], code));
        }
        heard = &heard[9 + length..];
    }
    ends
}

#[tokio::test]
async fn what_is_no_http2_is_cut_and_harms_nobody() {
    let mut target = Target::start(&[]).await;
    let tls = [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        &[7; 507],
    ]
    .concat();
    let cases = [
        ("nothing", Vec::new()),
        ("HTTP/1.1", b"POST /fanout.v1.FanoutService/ListPlans HTTP/1.1\r\nHost: there\r\nContent-Length: 5\r\n\r\n\0\0\0\0\0".into()),
        ("HTTP/1.1 with endless headers", [&b"GET / HTTP/1.1\r\n"[..], &b"x: y\r\n".repeat(200_000)].concat()),
        ("HTTP/0.9", b"GET /\r\n".into()),
        ("an upgrade", b"GET / HTTP/1.1\r\nHost: there\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n".into()),
        ("TLS", tls),
        ("SSH", b"SSH-2.0-OpenSSH_9.6\r\n".into()),
        ("zeros", vec![0; 1 << 20]),
        ("half a preface", PREFACE[..12].into()),
        ("a preface that goes wrong", [&PREFACE[..20], b"xxxx"].concat()),
        ("only the preface", PREFACE.into()),
        ("no settings first", [PREFACE, &frame(PING, 0, 0, &[0; 8])].concat()),
        ("the preface twice", PREFACE.repeat(2)),
        ("a proxy's header", b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n".into()),
    ];
    for (what, said) in cases {
        conversation(target.served.address.clone(), said).await;
        target.is_well(what).await;
    }
    target.ends_well().await;
}

#[tokio::test]
async fn a_peer_that_stops_in_its_first_words_is_closed_in_time() {
    let mut target = Target::start(&["--first-bytes-timeout", "100ms"]).await;
    for (what, said) in [("nothing", &b""[..]), ("half a preface", &PREFACE[..12])] {
        let mut stream = TcpStream::connect(&target.served.address).await.unwrap();
        stream.write_all(said).await.unwrap();
        let heard = async { stream.read_to_end(&mut Vec::new()).await };
        let closed = tokio::time::timeout(PATIENCE, heard).await;
        closed.unwrap_or_else(|_| panic!("{what}: stays open")).ok();
        target.is_well(what).await;
    }
    target.ends_well().await;
}

#[tokio::test]
async fn broken_frames_end_their_call_or_their_connection_and_no_other() {
    let mut target = Target::start(&[]).await;
    let call = || frame(HEADERS, END_HEADERS, 1, &headers("SubmitRecord"));
    let of = |frames: &[Vec<u8>]| begun(frames);
    // What ends is written out; which of HTTP/2's codes it ends with is the library's choice.
    let cases = [
        (
            "a frame of 16 MiB",
            of(&[[&[0xff; 3][..], &[DATA, 0, 0, 0, 0, 1], &[0; 100]].concat()]),
            GOAWAY,
        ),
        ("data on no stream", of(&[frame(DATA, 0, 0, b"x")]), GOAWAY),
        (
            "data on a stream that was not opened",
            of(&[frame(DATA, 0, 5, b"x")]),
            GOAWAY,
        ),
        (
            "headers on no stream",
            of(&[frame(HEADERS, END_HEADERS, 0, &headers("ListPlans"))]),
            GOAWAY,
        ),
        (
            "headers on a server's stream",
            of(&[frame(HEADERS, END_HEADERS, 2, &headers("ListPlans"))]),
            GOAWAY,
        ),
        (
            "a push",
            of(&[call(), frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])]),
            GOAWAY,
        ),
        (
            "data after the end",
            of(&[
                frame(
                    HEADERS,
                    END_HEADERS | END_STREAM,
                    1,
                    &headers("SubmitRecord"),
                ),
                frame(DATA, 0, 1, b"x"),
            ]),
            GOAWAY,
        ),
        (
            "more padding than frame",
            of(&[call(), frame(DATA, PADDED, 1, &[200, 0])]),
            GOAWAY,
        ),
        (
            "a ping of 7 bytes",
            of(&[frame(PING, 0, 0, &[0; 7])]),
            GOAWAY,
        ),
        (
            "settings of 5 bytes",
            of(&[frame(SETTINGS, 0, 0, &[0; 5])]),
            GOAWAY,
        ),
        (
            "settings of a stream",
            of(&[frame(SETTINGS, 0, 1, b"")]),
            GOAWAY,
        ),
        (
            "a window over 2 GiB",
            of(&[frame(SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff])]),
            GOAWAY,
        ),
        (
            "frames of 1 byte at most",
            of(&[frame(SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 1])]),
            GOAWAY,
        ),
        (
            "a window grown by nothing",
            of(&[frame(WINDOW_UPDATE, 0, 0, &[0; 4])]),
            GOAWAY,
        ),
        (
            "a window grown too far",
            of(&[frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])]),
            GOAWAY,
        ),
        (
            "a reset of what is not there",
            of(&[frame(RST_STREAM, 0, 9, &[0; 4])]),
            GOAWAY,
        ),
        (
            "a continuation of nothing",
            of(&[frame(CONTINUATION, END_HEADERS, 1, b"")]),
            GOAWAY,
        ),
        (
            "a ping within headers",
            of(&[
                frame(HEADERS, 0, 1, &headers("ListPlans")),
                frame(PING, 0, 0, &[0; 8]),
            ]),
            GOAWAY,
        ),
        (
            "headers of no table",
            of(&[frame(
                HEADERS,
                END_HEADERS,
                1,
                &[0xff, 0xff, 0xff, 0xff, 0xff],
            )]),
            GOAWAY,
        ),
        (
            "a header cut in its name",
            of(&[frame(HEADERS, END_HEADERS, 1, &[0, 100, b'a'])]),
            GOAWAY,
        ),
        (
            "a table of 1 GiB",
            of(&[frame(
                HEADERS,
                END_HEADERS,
                1,
                &[0x3f, 0xe1, 0xff, 0xff, 0xff, 0x03],
            )]),
            GOAWAY,
        ),
        (
            "an upper-case header",
            of(&[frame(
                HEADERS,
                END_HEADERS,
                1,
                &[headers("ListPlans"), header("Upper", "x")].concat(),
            )]),
            GOAWAY,
        ),
        (
            "a connection header",
            of(&[frame(
                HEADERS,
                END_HEADERS,
                1,
                &[headers("ListPlans"), header("connection", "close")].concat(),
            )]),
            RST_STREAM,
        ),
        (
            "no path",
            of(&[frame(HEADERS, END_HEADERS, 1, &[0x83, 0x86])]),
            RST_STREAM,
        ),
        (
            "two paths",
            of(&[frame(
                HEADERS,
                END_HEADERS,
                1,
                &[headers("ListPlans"), headers("GetPlan")].concat(),
            )]),
            RST_STREAM,
        ),
    ];
    let mut wrong = Vec::new();
    for (what, said, expected) in cases {
        let heard = heard_until_an_end(target.served.address.clone(), said).await;
        let ends = ends(&heard);
        if !ends.iter().any(|(kind, _)| *kind == expected) {
            wrong.push(format!("{what}: expected frame {expected}, found {ends:?}"));
        }
        target.is_well(what).await;
    }
    assert_eq!(wrong, Vec::<String>::new());
    target.ends_well().await;
}

#[tokio::test]
async fn a_flood_of_frames_harms_nobody_else() {
    let mut target = Target::start(&[]).await;
    let call = |stream| frame(HEADERS, END_HEADERS, stream, &headers("SubmitRecord"));
    let list = |stream| frame(HEADERS, END_HEADERS, stream, &headers("ListPlans"));
    let ended = |stream| {
        let body = framed(b"");
        [
            frame(HEADERS, END_HEADERS, stream, &headers("ListPlans")),
            frame(DATA, END_STREAM, stream, &body),
        ]
        .concat()
    };
    let cut = |stream| frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
    let no_window = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let many = |frames: &mut dyn Iterator<Item = Vec<u8>>, count: usize| {
        frames.take(count).collect::<Vec<_>>().concat()
    };
    let record = {
        let record = field(7, br#"{"id":"nobody"}"#);
        framed(&[field(1, PLAN.as_bytes()), field(2, &record)].concat())
    };
    let bytes_of_a_message = record.iter().map(|byte| frame(DATA, 0, 1, &[*byte]));
    // An entry of 4,000 bytes, and how often it is named again.
    let entry = [&[0x40][..], &header("big", &"x".repeat(4_000))[1..]].concat();
    let bomb = |stream| {
        frame(
            HEADERS,
            END_HEADERS,
            stream,
            &[headers("ListPlans"), entry.clone(), vec![0xbe; 10_000]].concat(),
        )
    };
    let cases = [
        ("pings", frame(PING, 0, 0, &[0; 8]).repeat(100_000)),
        ("settings", frame(SETTINGS, 0, 0, b"").repeat(100_000)),
        (
            "settings that say something",
            frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1, 0, 1, 0, 0, 16, 0]).repeat(50_000),
        ),
        (
            "priorities",
            many(
                &mut streams().map(|stream| frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 1])),
                100_000,
            ),
        ),
        (
            "unknown frames",
            frame(99, 0xff, 0, &[1; 100]).repeat(50_000),
        ),
        (
            "windows",
            frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]).repeat(100_000),
        ),
        (
            "calls that are reset at once",
            many(
                &mut streams().map(|stream| [list(stream), cut(stream)].concat()),
                20_000,
            ),
        ),
        (
            "calls that are answered and reset",
            many(
                &mut streams().map(|stream| [ended(stream), cut(stream)].concat()),
                20_000,
            ),
        ),
        (
            "calls that the server has to reset",
            many(
                &mut streams().map(|stream| {
                    [call(stream), frame(WINDOW_UPDATE, 0, stream, &[0; 4])].concat()
                }),
                20_000,
            ),
        ),
        (
            "calls that are left open",
            many(&mut streams().map(call), 20_000),
        ),
        (
            "calls whose answers have no room",
            [no_window.clone(), many(&mut streams().map(ended), 1_000)].concat(),
        ),
        (
            "headers without an end",
            [
                frame(HEADERS, 0, 1, &headers("ListPlans")),
                frame(CONTINUATION, 0, 1, &header("x", &"y".repeat(16_000))).repeat(1_000),
            ]
            .concat(),
        ),
        (
            "headers of nothing without an end",
            [
                frame(HEADERS, 0, 1, &headers("ListPlans")),
                frame(CONTINUATION, 0, 1, b"").repeat(100_000),
            ]
            .concat(),
        ),
        (
            "headers that name a large one again and again",
            many(&mut streams().map(bomb), 500),
        ),
        (
            "a message of one byte a frame",
            [call(1), many(&mut bytes_of_a_message.cycle(), 100_000)].concat(),
        ),
        (
            "empty data",
            [call(1), frame(DATA, 0, 1, b"").repeat(100_000)].concat(),
        ),
        (
            "data that is only padding",
            [call(1), frame(DATA, PADDED, 1, &[250; 251]).repeat(20_000)].concat(),
        ),
        (
            "records whose receipts have no room",
            [
                no_window,
                many(
                    &mut streams().map(|stream| {
                        [call(stream), frame(DATA, 0, stream, &record.repeat(20))].concat()
                    }),
                    200,
                ),
            ]
            .concat(),
        ),
        (
            "data past every window",
            [call(1), frame(DATA, 0, 1, &[0; 16_384]).repeat(200)].concat(),
        ),
    ];
    for (what, frames) in cases {
        let flood = conversation(target.served.address.clone(), begun(&[frames]));
        target.is_well_during(what, flood).await;
        target.is_well(what).await;
    }
    target.ends_well().await;
}

#[tokio::test]
async fn large_answers_that_nobody_takes_are_let_go_with_their_connection() {
    let mut target = Target::start(&[]).await;
    let large = crate::harness::record(&format!(
        r#"{{"id":"task-a","status":"failed","x":"{}"}}"#,
        "x".repeat(900 << 10)
    ));
    let request = fanout::proto::PlanRequest {
        completion_policy: Some(fanout::proto::CompletionPolicy {
            seal_rule: 2,
            ..Default::default()
        }),
        ..crate::harness::plan_request("large", &["a"])
    };
    target.client.plan(request).await.unwrap();
    let submit = fanout::proto::SubmitRecordsRequest {
        plan_id: "large".into(),
        records: vec![large],
        ..Default::default()
    };
    target.client.submit_records(submit).await.unwrap();
    let no_window = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let body = framed(&field(1, b"large"));
    let calls: Vec<u8> = streams()
        .take(40)
        .flat_map(|stream| {
            [
                frame(HEADERS, END_HEADERS, stream, &headers("Reconcile")),
                frame(DATA, END_STREAM, stream, &body),
            ]
            .concat()
        })
        .collect();
    let address = target.served.address.clone();
    let mut connection = TcpStream::connect(&address).await.unwrap();
    connection
        .write_all(&begun(&[no_window, calls]))
        .await
        .unwrap();
    // Served meanwhile, with all those answers waiting.
    for _ in 0..20 {
        target.serves("answers that nobody takes").await;
    }
    drop(connection);
    target.is_well("answers that nobody takes").await;
    let delete = fanout::proto::DeletePlanRequest {
        plan_id: "large".into(),
        ..Default::default()
    };
    target.client.delete_plan(delete).await.unwrap();
    target.ends_well().await;
}

#[tokio::test]
async fn one_stream_past_the_limit_of_a_connection_is_refused_and_those_before_go_on() {
    let target = Target::start(&["--streams-per-connection-max", "2"]).await;
    let watch = |stream| {
        let body = framed(&field(1, PLAN.as_bytes()));
        [
            frame(HEADERS, END_HEADERS, stream, &headers("WatchPlan")),
            frame(DATA, END_STREAM, stream, &body),
        ]
        .concat()
    };
    // Without a body: frames of a stream that was refused are an error of their own.
    let flags = END_HEADERS | END_STREAM;
    let one_too_many = frame(HEADERS, flags, 5, &headers("WatchPlan"));
    const REFUSED_STREAM: u32 = 7;
    let mut connection = TcpStream::connect(&target.served.address).await.unwrap();
    // The client has seen the server's settings before it opens one too many, so it has no excuse.
    connection
        .write_all(&begun(&[watch(1), watch(3)]))
        .await
        .unwrap();
    connection
        .write_all(&[frame(SETTINGS, 1, 0, b""), one_too_many].concat())
        .await
        .unwrap();
    let mut heard = Vec::new();
    let refused = async {
        while ends(&heard).is_empty() {
            let read = connection.read_buf(&mut heard).await.unwrap();
            assert!(read > 0, "closed after {heard:?}");
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.unwrap();
    assert_eq!(ends(&heard), [(RST_STREAM, REFUSED_STREAM)]);
    drop(connection);
    target.ends_well().await;
}
