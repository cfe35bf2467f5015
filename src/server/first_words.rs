//! What a connection says first: whether it is HTTP/2, and that nothing waits for ever for a peer that does not say.

use std::io;
use std::time::Duration;

use prost::bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;

/// What every HTTP/2 connection begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How often to look whether the rest of a preface has come.
const PREFACE_POLL: Duration = Duration::from_millis(20);

/// Waits until the peer has said what an HTTP/2 client says first, or something else; it stays to be read.
pub(super) async fn await_on(stream: &TcpStream) -> io::Result<()> {
    let mut seen = [0; PREFACE.len()];
    loop {
        let length = stream.peek(&mut seen).await?;
        if length == 0 || !may_be_preface(&seen[..length]) {
            return Ok(());
        }
        tokio::time::sleep(PREFACE_POLL).await;
    }
}

/// The same of a stream that cannot be peeked into; answers what was read of it.
pub(super) async fn await_of(mut stream: impl AsyncRead + Unpin) -> io::Result<Bytes> {
    let mut seen = [0; PREFACE.len()];
    let mut length = 0;
    while may_be_preface(&seen[..length]) {
        match stream.read(&mut seen[length..]).await? {
            0 => break,
            more => length += more,
        }
    }
    Ok(Bytes::copy_from_slice(&seen[..length]))
}

/// Whether this may become a preface, and is none yet.
pub(super) fn may_be_preface(seen: &[u8]) -> bool {
    seen.len() < PREFACE.len() && PREFACE.starts_with(seen)
}

/// Whether this is the beginning of a preface.
pub(super) fn begins_preface(seen: &[u8]) -> bool {
    !seen.is_empty() && PREFACE.starts_with(&seen[..seen.len().min(PREFACE.len())])
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn no_more_is_read_than_the_length_of_a_preface_and_nothing_of_it_is_lost() {
        for said in [
            &b""[..],
            b"P",
            b"POST / HTTP/1.1\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore",
        ] {
            let mut rest = said;
            let seen = await_of(&mut rest).await.expect("a slice");
            assert!(seen.len() <= PREFACE.len());
            assert_eq!([&seen, rest].concat(), said);
        }
    }

    #[tokio::test]
    async fn a_preface_in_pieces_is_waited_for_and_what_comes_after_it_is_not() {
        let (mut peer, stream) = tokio::io::duplex(64);
        let mut waiting = tokio::spawn(await_of(stream));
        for piece in PREFACE.chunks(5) {
            assert!(!waiting.is_finished());
            peer.write_all(piece).await.expect("a pipe");
            tokio::task::yield_now().await;
        }
        let seen = (&mut waiting).await.expect("a task").expect("a pipe");
        assert_eq!(seen, PREFACE);
    }
}
