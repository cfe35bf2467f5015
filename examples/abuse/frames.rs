//! Frames of HTTP/2 that no client library would send.

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const CONTINUATION: u8 = 9;
pub const END_HEADERS: u8 = 4;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header that is in no table. What it says is shorter than 127 bytes, or this is no header.
pub fn header(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    [&[0][..], &text(name), &text(value)].concat()
}

/// The headers of a call.
pub fn call(method: &str, token: &str) -> Vec<u8> {
    [
        // POST, http.
        vec![0x83, 0x86],
        header(":path", &format!("/fanout.v1.FanoutService/{method}")),
        header(":authority", "there"),
        header("content-type", "application/grpc"),
        header("te", "trailers"),
        header("authorization", &format!("Bearer {token}")),
    ]
    .concat()
}

/// What a connection begins with, and then these frames.
pub fn begun(frames: &[u8]) -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, b""), frames].concat()
}

/// Numbers of streams that a client may open.
pub fn streams() -> impl Iterator<Item = u32> {
    (0..).map(|n| n * 2 + 1)
}
