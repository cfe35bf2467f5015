//! What a connection says first: whether it is HTTP/2, and that nothing waits for ever for a peer that does not say.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use prost::bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
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

/// The same of a stream that cannot be peeked into.
pub(super) async fn await_of<S: AsyncRead + Unpin>(mut stream: S) -> io::Result<Unread<S>> {
    let mut seen = [0; PREFACE.len()];
    let mut length = 0;
    while may_be_preface(&seen[..length]) {
        match stream.read(&mut seen[length..]).await? {
            0 => break,
            more => length += more,
        }
    }
    let seen = Bytes::copy_from_slice(&seen[..length]);
    Ok(Unread { seen, stream })
}

/// Whether this may become a preface, and is none yet.
pub(super) fn may_be_preface(seen: &[u8]) -> bool {
    seen.len() < PREFACE.len() && PREFACE.starts_with(seen)
}

/// Whether this is the beginning of a preface.
pub(super) fn begins_preface(seen: &[u8]) -> bool {
    !seen.is_empty() && PREFACE.starts_with(&seen[..seen.len().min(PREFACE.len())])
}

/// A stream that gives what was read of it once more.
pub(super) struct Unread<S> {
    seen: Bytes,
    stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Unread<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.seen.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let length = self.seen.len().min(buffer.remaining());
        buffer.put_slice(&self.seen.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Unread<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn what_was_read_to_see_what_it_is_is_read_once_more() {
        for said in [
            &b""[..],
            b"P",
            b"POST / HTTP/1.1\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore",
        ] {
            let mut unread = await_of(said).await.expect("a slice");
            let mut again = Vec::new();
            unread.read_to_end(&mut again).await.expect("a slice");
            assert_eq!(again, said);
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
        let unread = (&mut waiting).await.expect("a task").expect("a pipe");
        assert_eq!(unread.seen, PREFACE);
    }
}
