//! Connections that leave others their turn: what one brings is taken in portions, and its calls run in its task, a few at a
//! time.
//!
//! Whoever sends small frames, or begins calls, as fast as they can would otherwise keep a worker for as long as there is
//! something to read, which is some tens of milliseconds of a megabyte, and fill the workers' queues with calls, while
//! everybody else waits. In its connection's task a call also takes what came for it, and hands over what it answers,
//! without a task to be woken for it.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use hyper::rt::Executor;
use prost::bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is read in a turn, about.
const PORTION_BYTES: usize = 32 << 10;
/// After so many calls that it began, no more is read in a turn; and so many go on in it.
const CALLS_AT_A_TIME: usize = 16;

/// What a connection has had of its turn.
#[derive(Default)]
pub(super) struct Turn {
    /// Bytes that were read.
    read: AtomicUsize,
    /// Calls that began.
    begun: AtomicUsize,
    /// Calls that have gone on.
    gone_on: AtomicUsize,
}

impl Turn {
    /// Another one begins.
    pub(super) fn begin(&self) {
        self.read.store(0, Ordering::Relaxed);
        self.begun.store(0, Ordering::Relaxed);
        self.gone_on.store(0, Ordering::Relaxed);
    }

    /// Whether no more is to be read in it.
    fn is_over(&self) -> bool {
        self.read.load(Ordering::Relaxed) >= PORTION_BYTES
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

/// A stream of which a portion is read in each turn.
pub(super) struct Fair<S> {
    /// What was read of it to see what it is, and comes first.
    seen: Bytes,
    stream: S,
    turn: Arc<Turn>,
}

impl<S> Fair<S> {
    pub(super) fn new(seen: Bytes, stream: S) -> Self {
        Self {
            seen,
            stream,
            turn: Arc::default(),
        }
    }

    /// What says when a turn begins.
    pub(super) fn turn(&self) -> Arc<Turn> {
        Arc::clone(&self.turn)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Fair<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.seen.is_empty() {
            let length = self.seen.len().min(buffer.remaining());
            buffer.put_slice(&self.seen.split_to(length));
            return Poll::Ready(Ok(()));
        }
        if self.turn.is_over() {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let read = buffer.filled().len() - before;
        self.turn.read.fetch_add(read, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Fair<S> {
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
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
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
    use std::future::{pending, poll_fn};
    use std::pin::pin;

    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn who_has_much_to_read_lets_others_have_their_turn_and_reads_all_of_it() {
        const PORTIONS: usize = 20;
        let much = vec![7; PORTIONS * PORTION_BYTES];
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

    #[tokio::test]
    async fn what_was_seen_of_a_stream_comes_before_the_rest_of_it() {
        let mut fair = Fair::new(Bytes::from_static(b"seen, "), &b"not seen"[..]);
        let mut read = [0; 4];
        fair.read_exact(&mut read).await.expect("a slice");
        let mut rest = String::new();
        fair.read_to_string(&mut rest).await.expect("a slice");
        assert_eq!((&read, &*rest), (b"seen", ", not seen"));
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
