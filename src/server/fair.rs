//! Connections that leave others their turn: what one brings is taken in portions, its calls run in its task, a few at a
//! time, and what they answer is sent together.
//!
//! Whoever sends small frames, or begins calls, as fast as they can would otherwise keep a worker for as long as there is
//! something to read, which is some tens of milliseconds of a megabyte, and fill the workers' queues with calls, while
//! everybody else waits. In its connection's task a call also takes what came for it, and hands over what it answers,
//! without a task to be woken for it.

use std::io;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use hyper::rt::Executor;
use prost::bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is read in a turn, about: the most of it, or as much less as it takes more time than others should wait for.
const PORTION_BYTES: RangeInclusive<usize> = 2 << 10..=32 << 10;
/// After a turn that took longer, half as much is read; after one that took less than half of it for all that it might read,
/// twice as much. Records take a tenth of a millisecond for the most that is read, and small frames ten times that.
const TURN_TIME: Duration = Duration::from_micros(250);
/// After so many calls that it began, no more is read in a turn; and so many go on in it.
const CALLS_AT_A_TIME: usize = 16;

/// What is said and not yet sent; what comes after it waits.
const SAID_BYTES_MAX: usize = 64 << 10;

/// What a connection has had of its turn.
pub(super) struct Turn {
    /// Bytes that may be read.
    portion: AtomicUsize,
    /// Bytes that were read.
    read: AtomicUsize,
    /// Calls that began.
    begun: AtomicUsize,
    /// Calls that have gone on.
    gone_on: AtomicUsize,
}

impl Default for Turn {
    fn default() -> Self {
        Self {
            portion: AtomicUsize::new(*PORTION_BYTES.end()),
            read: AtomicUsize::default(),
            begun: AtomicUsize::default(),
            gone_on: AtomicUsize::default(),
        }
    }
}

impl Turn {
    /// Another one begins.
    pub(super) fn begin(&self) {
        self.read.store(0, Ordering::Relaxed);
        self.begun.store(0, Ordering::Relaxed);
        self.gone_on.store(0, Ordering::Relaxed);
    }

    /// It took so long; the next one is to be no longer than others should wait for.
    pub(super) fn end(&self, took: Duration) {
        let portion = self.portion.load(Ordering::Relaxed);
        let is_used_up = self.read.load(Ordering::Relaxed) >= portion;
        let next = if took > TURN_TIME {
            portion / 2
        } else if took < TURN_TIME / 2 && is_used_up {
            portion * 2
        } else {
            portion
        };
        let next = next.clamp(*PORTION_BYTES.start(), *PORTION_BYTES.end());
        self.portion.store(next, Ordering::Relaxed);
    }

    /// Whether no more is to be read in it.
    fn is_over(&self) -> bool {
        self.read.load(Ordering::Relaxed) >= self.portion.load(Ordering::Relaxed)
            || self.begun.load(Ordering::Relaxed) >= CALLS_AT_A_TIME
    }
}

/// The calls of a connection.
pub(super) struct Calls {
    turn: Arc<Turn>,
    begun: Arc<Begun>,
    running: FuturesUnordered<InTurn>,
}

/// Calls that have come and not gone on.
#[derive(Default)]
struct Begun(Mutex<Vec<InTurn>>);

impl Begun {
    /// A panic while calls are pushed and taken leaves them as they were.
    fn lock(&self) -> MutexGuard<'_, Vec<InTurn>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Begins calls of a connection, from within its task only. Calls hold one of these, and so no other calls.
#[derive(Clone)]
pub(super) struct Begin {
    turn: Arc<Turn>,
    begun: Weak<Begun>,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Begin {
    fn execute(&self, call: F) {
        // Without its connection a call is nobody's.
        if let Some(begun) = self.begun.upgrade() {
            self.turn.begun.fetch_add(1, Ordering::Relaxed);
            begun.lock().push(InTurn {
                call: Box::pin(call),
                turn: Arc::clone(&self.turn),
            });
        }
    }
}

impl Calls {
    pub(super) fn new(turn: Arc<Turn>) -> Self {
        Self {
            turn,
            begun: Arc::default(),
            running: FuturesUnordered::new(),
        }
    }

    /// What begins them.
    pub(super) fn begin(&self) -> Begin {
        Begin {
            turn: Arc::clone(&self.turn),
            begun: Arc::downgrade(&self.begun),
        }
    }

    /// Has those go on that can, some of them.
    pub(super) fn go_on(&mut self, context: &mut Context<'_>) {
        self.running.extend(self.begun.lock().drain(..));
        while let Poll::Ready(Some(())) = self.running.poll_next_unpin(context) {}
    }
}

/// A call that waits for another turn when enough have gone on in this one.
struct InTurn {
    call: BoxFuture<'static, ()>,
    turn: Arc<Turn>,
}

impl Future for InTurn {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.turn.gone_on.fetch_add(1, Ordering::Relaxed) >= CALLS_AT_A_TIME {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.call.as_mut().poll(context)
    }
}

/// A stream of which a portion is read in each turn. What is written to it is kept until it is [sent](Fair::poll_send): the
/// HTTP implementation writes frame by frame, and to hand each over to the system by itself costs more than to make it.
///
/// It can be had twice: by the HTTP implementation, and by who sends what that writes.
pub(super) struct Fair<S> {
    stream: Arc<Mutex<Stream<S>>>,
    turn: Arc<Turn>,
}

struct Stream<S> {
    /// What was read of it to see what it is, and comes first.
    seen: Bytes,
    stream: S,
    /// What was written and is not sent yet. It has no memory while there is nothing.
    said: BytesMut,
    /// How much that was the last time.
    said_before: usize,
    /// Whether all that was sent has left, too.
    is_flushed: bool,
}

impl<S> Clone for Fair<S> {
    fn clone(&self) -> Self {
        Self {
            stream: Arc::clone(&self.stream),
            turn: Arc::clone(&self.turn),
        }
    }
}

impl<S> Fair<S> {
    pub(super) fn new(seen: Bytes, stream: S) -> Self {
        let stream = Stream {
            seen,
            stream,
            said: BytesMut::new(),
            said_before: 0,
            is_flushed: true,
        };
        Self {
            stream: Arc::new(Mutex::new(stream)),
            turn: Arc::default(),
        }
    }

    /// What says when a turn begins.
    pub(super) fn turn(&self) -> Arc<Turn> {
        Arc::clone(&self.turn)
    }

    /// A panic in the middle of reading or writing ends the connection's task.
    fn lock(&self) -> MutexGuard<'_, Stream<S>> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: AsyncWrite + Unpin> Fair<S> {
    /// Sends what was written.
    pub(super) fn poll_send(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.lock().poll_send(context)
    }
}

impl<S: AsyncWrite + Unpin> Stream<S> {
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_flushed {
            self.said_before = self.said.len();
        }
        while !self.said.is_empty() {
            self.is_flushed = false;
            let sent = ready!(Pin::new(&mut self.stream).poll_write(context, &self.said))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.said.advance(sent);
        }
        if !self.is_flushed {
            self.said = BytesMut::new();
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            self.is_flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Makes room, and answers how much there is.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.said.len() >= SAID_BYTES_MAX {
            ready!(self.poll_send(context))?;
        }
        if self.said.capacity() == 0 {
            self.said.reserve(self.said_before);
        }
        Poll::Ready(Ok(SAID_BYTES_MAX - self.said.len()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Fair<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut stream = self.lock();
        if !stream.seen.is_empty() {
            let length = stream.seen.len().min(buffer.remaining());
            buffer.put_slice(&stream.seen.split_to(length));
            return Poll::Ready(Ok(()));
        }
        if self.turn.is_over() {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut stream.stream).poll_read(context, buffer))?;
        let read = buffer.filled().len() - before;
        self.turn.read.fetch_add(read, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Fair<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut stream = self.lock();
        let mut room = ready!(stream.poll_room(context))?;
        let mut written = 0;
        for piece in bytes {
            let piece = &piece[..piece.len().min(room)];
            stream.said.extend_from_slice(piece);
            written += piece.len();
            room -= piece.len();
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What was written is sent at the end of the turn.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut stream = self.lock();
        ready!(stream.poll_send(context))?;
        Pin::new(&mut stream.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn};
    use std::pin::pin;

    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn who_has_much_to_read_lets_others_have_their_turn_and_reads_all_of_it() {
        const PORTIONS: usize = 20;
        let much = vec![7; PORTIONS * PORTION_BYTES.end()];
        let mut fair = Fair::new(Bytes::new(), &much[..]);
        let turn = fair.turn();
        let (mut read, mut piece, mut turns) = (Vec::new(), [0; 1_024], 0);
        loop {
            match futures_util::poll!(pin!(fair.read(&mut piece))) {
                Poll::Pending => {
                    turns += 1;
                    turn.begin();
                }
                Poll::Ready(Ok(0) | Err(_)) => break,
                Poll::Ready(Ok(length)) => read.extend_from_slice(&piece[..length]),
            }
        }
        assert!(read == much);
        assert_eq!(turns, PORTIONS);
    }

    #[test]
    fn a_connection_whose_turns_take_long_has_shorter_ones_until_they_do_not() {
        let turn = Turn::default();
        let mut portions = Vec::new();
        for micros in [100, 900, 251, 250, 125, 600, 600, 600, 124, 90, 90, 90, 90] {
            turn.begin();
            turn.read.store(32 << 10, Ordering::Relaxed);
            turn.end(Duration::from_micros(micros));
            portions.push(turn.portion.load(Ordering::Relaxed) >> 10);
        }
        assert_eq!(portions, [32, 16, 8, 8, 8, 4, 2, 2, 4, 8, 16, 32, 32]);
    }

    #[test]
    fn a_turn_with_little_to_read_says_nothing_about_one_with_much() {
        let turn = Turn::default();
        turn.end(TURN_TIME * 2);
        turn.begin();
        turn.read.store((16 << 10) - 1, Ordering::Relaxed);
        turn.end(Duration::ZERO);
        assert_eq!(turn.portion.load(Ordering::Relaxed), 16 << 10);
    }

    #[tokio::test]
    async fn what_was_seen_of_a_stream_comes_before_the_rest_of_it() {
        let mut fair = Fair::new(Bytes::from_static(b"seen, "), &b"not seen"[..]);
        let mut read = [0; 4];
        fair.read_exact(&mut read).await.expect("a slice");
        let mut rest = String::new();
        fair.read_to_string(&mut rest).await.expect("a slice");
        assert_eq!((&read, &*rest), (b"seen", ", not seen"));
    }

    /// What a pipe has got, without waiting for more.
    fn got(pipe: &mut tokio::io::DuplexStream) -> Vec<u8> {
        let mut got = Vec::new();
        let mut piece = [0; 1_024];
        while let Some(Ok(length @ 1..)) = pipe.read(&mut piece).now_or_never() {
            got.extend_from_slice(&piece[..length]);
        }
        got
    }

    #[tokio::test]
    async fn what_is_written_in_a_turn_is_sent_together_at_its_end() {
        let (mut peer, stream) = tokio::io::duplex(1_024);
        let mut fair = Fair::new(Bytes::new(), stream);
        fair.write_all(b"one, ").await.expect("a pipe");
        fair.write_all(b"two").await.expect("a pipe");
        fair.flush().await.expect("a pipe");
        assert_eq!(got(&mut peer), b"");
        let sent = poll_fn(|context| fair.poll_send(context)).await;
        sent.expect("a pipe");
        assert_eq!(got(&mut peer), b"one, two");
    }

    #[tokio::test]
    async fn who_does_not_read_has_so_much_waiting_for_them_and_then_gets_all_of_it() {
        const PIPE: usize = 1_000;
        let (mut peer, stream) = tokio::io::duplex(PIPE);
        let mut fair = Fair::new(Bytes::new(), stream);
        let said: Vec<u8> = (0..=250).cycle().take(3 * SAID_BYTES_MAX).collect();
        let mut written = 0;
        while let Some(Ok(length)) = fair.write(&said[written..]).now_or_never() {
            written += length;
        }
        // The pipe has taken of the first portion what fits, and nothing is taken on before the rest has left.
        assert_eq!(written, SAID_BYTES_MAX);
        let saying = async {
            fair.write_all(&said[written..]).await?;
            // All of it is sent before its end.
            fair.shutdown().await
        };
        let mut read = Vec::new();
        let (said_all, read_all) = tokio::join!(saying, peer.read_to_end(&mut read));
        said_all.expect("a pipe");
        read_all.expect("a pipe");
        assert!(read == said);
    }

    #[tokio::test]
    async fn pieces_that_are_written_together_keep_their_order_up_to_the_room_that_there_is() {
        let (mut peer, stream) = tokio::io::duplex(2 * SAID_BYTES_MAX);
        let mut fair = Fair::new(Bytes::new(), stream);
        let (head, body) = (vec![1; 9], vec![2; SAID_BYTES_MAX]);
        let pieces = [io::IoSlice::new(&head), io::IoSlice::new(&body)];
        let written = fair.write_vectored(&pieces).await.expect("a pipe");
        assert_eq!(written, SAID_BYTES_MAX);
        fair.write_all(&body[written - head.len()..])
            .await
            .expect("a pipe");
        fair.shutdown().await.expect("a pipe");
        assert!(got(&mut peer) == [head, body].concat());
    }

    #[tokio::test]
    async fn calls_that_never_went_on_are_gone_with_their_connection() {
        let calls = Calls::new(Arc::default());
        let (begin, held) = (calls.begin(), Arc::new(()));
        let its_own = (begin.clone(), Arc::clone(&held));
        begin.execute(async move {
            let _its_own = its_own;
            pending::<()>().await;
        });
        drop(begin);
        assert_eq!(Arc::strong_count(&held), 2);
        drop(calls);
        assert_eq!(Arc::strong_count(&held), 1);
    }

    #[tokio::test]
    async fn many_calls_that_can_go_on_do_so_a_few_in_a_turn_and_all_of_them() {
        const COUNT: usize = 20 * CALLS_AT_A_TIME;
        let turn = Arc::new(Turn::default());
        let mut calls = Calls::new(Arc::clone(&turn));
        let begun = Arc::new(AtomicUsize::new(0));
        for _ in 0..COUNT {
            let begun = Arc::clone(&begun);
            calls.begin().execute(async move {
                begun.fetch_add(1, Ordering::Relaxed);
            });
        }
        let mut turns = 0;
        poll_fn(|context| {
            let before = begun.load(Ordering::Relaxed);
            turn.begin();
            calls.go_on(context);
            turns += 1;
            let now = begun.load(Ordering::Relaxed);
            assert!(now - before <= CALLS_AT_A_TIME, "{now} after {before}");
            // It is told to come again as long as some are left.
            if now < COUNT {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
        assert_eq!(turns, COUNT / CALLS_AT_A_TIME);
    }
}
