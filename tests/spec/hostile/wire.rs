//! What goes over the wire, byte by byte: protobuf fields, gRPC frames, and calls over HTTP/2 that no client library
//! makes.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use h2::Reason;
use h2::client::SendRequest;
use prost::bytes::Bytes;
use tokio::net::TcpStream;
use tonic::Status;
use tonic::codegen::http::{HeaderMap, Method, Request};
use tonic_types::StatusExt;

use crate::harness::PATIENCE;

/// Wire types of protobuf.
pub const VARINT: u32 = 0;
pub const LENGTH: u32 = 2;

pub fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// What begins a field.
pub fn tag(field: u32, wire_type: u32) -> Vec<u8> {
    varint(u64::from(field << 3 | wire_type))
}

/// A field of bytes, a string or a message.
pub fn field(number: u32, content: &[u8]) -> Vec<u8> {
    [
        &tag(number, LENGTH)[..],
        &varint(content.len() as u64),
        content,
    ]
    .concat()
}

/// A message in its gRPC frame.
pub fn framed(message: &[u8]) -> Vec<u8> {
    framed_as(0, message.len() as u32, message)
}

/// A frame that says what it likes of its message.
pub fn framed_as(flag: u8, length: u32, message: &[u8]) -> Vec<u8> {
    [&[flag][..], &length.to_be_bytes(), message].concat()
}

/// So many zeros, compressed.
pub fn gzip_of_zeros(bytes: usize) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    let piece = vec![0; 1 << 20];
    for _ in 0..bytes >> 20 {
        gzip.write_all(&piece).unwrap();
    }
    gzip.finish().unwrap()
}

/// How a call's request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    HalfClose,
    Trailers,
    Reset,
    /// Not at all.
    Open,
}

/// A call.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: Method,
    pub path: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
    pub end: End,
}

impl Call {
    /// A sound call but for what is in its body.
    pub fn of(path: &str, body: impl Into<Bytes>) -> Self {
        Self {
            method: Method::POST,
            path: path.into(),
            headers: vec![
                ("content-type", "application/grpc".into()),
                ("te", "trailers".into()),
            ],
            body: body.into(),
            end: End::HalfClose,
        }
    }

    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.into()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self
    }

    pub fn by(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    pub fn ending(mut self, end: End) -> Self {
        self.end = end;
        self
    }
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// HTTP's status; 0 if there was no answer.
    pub http: u16,
    /// The body.
    pub body: Vec<u8>,
    /// gRPC's status, from the headers or the trailers.
    pub status: Option<Status>,
    /// Why the stream ended otherwise.
    pub broken: Option<String>,
}

impl Answer {
    fn broken(error: &h2::Error) -> Self {
        Self {
            http: 0,
            body: Vec::new(),
            status: None,
            broken: Some(error.to_string()),
        }
    }

    /// In a line, as the tables write it; with how many messages, if there are any.
    pub fn said(&self) -> String {
        let mut said = match (&self.status, &self.broken) {
            (Some(status), _) => said(status),
            (None, Some(broken)) => format!("broken: {broken}"),
            (None, None) => format!("HTTP {}", self.http),
        };
        let messages = messages(&self.body);
        if messages > 0 {
            said.push_str(&format!(" +{messages}"));
        }
        said
    }
}

/// How many whole messages there are in a body.
fn messages(mut body: &[u8]) -> usize {
    let mut messages = 0;
    while body.len() >= 5 {
        let length = u32::from_be_bytes([body[1], body[2], body[3], body[4]]) as usize;
        let Some(rest) = body.get(5 + length..) else {
            break;
        };
        body = rest;
        messages += 1;
    }
    messages
}

/// A status in a line: code, reason, field, limit, as far as it has them.
pub fn said(status: &Status) -> String {
    if status.code() == tonic::Code::Ok {
        return "Ok".into();
    }
    let mut said = format!("{:?}", status.code());
    let details = status.get_error_details();
    let Some(info) = details.error_info() else {
        return said + " -";
    };
    assert_eq!(info.domain, "fanout.v1", "{status:?}");
    said = format!("{said} {}", info.reason);
    let violation = details
        .bad_request()
        .and_then(|bad| bad.field_violations.first());
    if let Some(violation) = violation {
        said = format!("{said} {}", violation.field);
    }
    if let Some(limit) = info.metadata.get("limit") {
        said = format!("{said} <= {limit}");
    }
    said
}

/// A connection without a gRPC library.
#[derive(Clone)]
pub struct Peer {
    address: String,
    send: SendRequest<Bytes>,
}

impl Peer {
    pub async fn connect(address: &str) -> Self {
        Self::with_window(address, 1 << 20).await
    }

    /// Connects, and lets the server send so much of each answer before it is read.
    pub async fn with_window(address: &str, window: u32) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        // Or each window waits for a delayed acknowledgement.
        stream.set_nodelay(true).unwrap();
        let (send, connection) = h2::client::Builder::new()
            .initial_window_size(window)
            .handshake(stream)
            .await
            .unwrap();
        tokio::spawn(async move { drop(connection.await) });
        Self {
            address: address.into(),
            send,
        }
    }

    /// Makes a call and takes in its whole answer.
    pub async fn call(&self, call: Call) -> Answer {
        let path = call.path.clone();
        let answered = tokio::time::timeout(PATIENCE, self.exchange(call)).await;
        answered.unwrap_or_else(|_| panic!("{path} is not answered"))
    }

    async fn exchange(&self, call: Call) -> Answer {
        let mut send = match self.send.clone().ready().await {
            Ok(send) => send,
            Err(error) => return Answer::broken(&error),
        };
        let uri = format!("http://{}{}", self.address, call.path);
        let mut request = Request::builder().method(call.method).uri(uri);
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        let request = request.body(()).unwrap();
        let (response, mut stream) = match send.send_request(request, false) {
            Ok(sent) => sent,
            Err(error) => return Answer::broken(&error),
        };
        let sending = async {
            // A server that has answered may stop listening.
            if send_all(&mut stream, call.body).await.is_err() {
                return;
            }
            let _ = match call.end {
                End::HalfClose => stream.send_data(Bytes::new(), true),
                End::Trailers => {
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", "0".parse().unwrap());
                    stream.send_trailers(trailers)
                }
                End::Reset => {
                    stream.send_reset(Reason::CANCEL);
                    Ok(())
                }
                End::Open => Ok(()),
            };
        };
        let receiving = async {
            let (head, mut body) = match response.await {
                Ok(response) => response.into_parts(),
                Err(error) => return Answer::broken(&error),
            };
            let mut answer = Answer {
                http: head.status.as_u16(),
                status: Status::from_header_map(&head.headers),
                body: Vec::new(),
                broken: None,
            };
            while let Some(data) = body.data().await {
                match data {
                    Ok(data) => {
                        let _ = body.flow_control().release_capacity(data.len());
                        answer.body.extend_from_slice(&data);
                    }
                    Err(error) => {
                        answer.broken = Some(error.to_string());
                        return answer;
                    }
                }
            }
            match body.trailers().await {
                Ok(Some(trailers)) => answer.status = Status::from_header_map(&trailers),
                Ok(None) => {}
                Err(error) => answer.broken = Some(error.to_string()),
            }
            answer
        };
        tokio::join!(sending, receiving).1
    }
}

/// Sends as much at a time as the server has room for.
async fn send_all(stream: &mut h2::SendStream<Bytes>, mut body: Bytes) -> Result<(), h2::Error> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        match std::future::poll_fn(|context| stream.poll_capacity(context)).await {
            Some(room) => {
                let room = room?;
                stream.send_data(body.split_to(room.min(body.len())), false)?;
            }
            None => return Err(Reason::CANCEL.into()),
        }
    }
    Ok(())
}
