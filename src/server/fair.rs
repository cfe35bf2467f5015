//! Connections that leave others their turn: what one brings is taken in portions, and its calls begin a few at a time.
//!
//! Whoever sends small frames, or begins calls, as fast as they can would otherwise keep a worker for as long as there is
//! something to read, which is some tens of milliseconds of a megabyte, while everybody else waits.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;

/// What is read at a stretch, about.
const PORTION_BYTES: usize = 32 << 10;
/// So many calls of a connection begin as they come; of more, so many at a time.
const BEGIN_AT_A_TIME: usize = 16;

/// Calls of a connection that have come and not begun. Many at once begin a few at a time, so that those of other connections
/// come between them.
#[derive(Default)]
pub(super) struct Beginnings {
    /// How many have not begun.
    come: AtomicUsize,
    slots: Slots,
}

struct Slots(Semaphore);

impl Default for Slots {
    fn default() -> Self {
        Self(Semaphore::new(BEGIN_AT_A_TIME))
    }
}

impl Beginnings {
    /// A call that has come.
    pub(super) fn begin<F: Future>(
        self: &Arc<Self>,
        call: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        let beginnings = Arc::clone(self);
        beginnings.come.fetch_add(1, Ordering::Relaxed);
        let come = Come(beginnings);
        async move {
            if come.0.come.load(Ordering::Relaxed) > BEGIN_AT_A_TIME {
                // It is never closed.
                let _slot = come.0.slots.0.acquire().await;
                tokio::task::yield_now().await;
            }
            drop(come);
            call.await
        }
    }
}

/// One that counts among those that have come.
struct Come(Arc<Beginnings>);

impl Drop for Come {
    fn drop(&mut self) {
        self.0.come.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream that is read in portions.
pub(super) struct Fair<S> {
    stream: S,
    /// Bytes that were read since others had their turn.
    read: usize,
}

impl<S> Fair<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, read: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Fair<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read >= PORTION_BYTES {
            self.read = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if polled.is_pending() {
            self.read = 0;
        }
        ready!(polled)?;
        self.read += buffer.filled().len() - before;
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
    use std::cell::Cell;
    use std::rc::Rc;

    use std::pin::pin;

    use tokio::io::AsyncReadExt;
    use tokio::task::LocalSet;

    use super::*;

    #[tokio::test]
    async fn who_has_much_to_read_lets_others_have_their_turn_and_reads_all_of_it() {
        const PORTIONS: usize = 20;
        let much = vec![7; PORTIONS * PORTION_BYTES];
        let mut fair = Fair::new(&much[..]);
        let (mut read, mut piece, mut turns) = (Vec::new(), [0; 1_024], 0);
        loop {
            match futures_util::poll!(pin!(fair.read(&mut piece))) {
                Poll::Pending => turns += 1,
                Poll::Ready(Ok(0) | Err(_)) => break,
                Poll::Ready(Ok(length)) => read.extend_from_slice(&piece[..length]),
            }
        }
        assert!(read == much);
        assert_eq!(turns, PORTIONS);
    }

    #[tokio::test]
    async fn many_calls_that_come_at_once_begin_a_few_at_a_time_and_all_of_them() {
        const CALLS: usize = 20 * BEGIN_AT_A_TIME;
        let (beginnings, begun) = (Arc::new(Beginnings::default()), Rc::new(Cell::new(0)));
        let local = LocalSet::new();
        let calls: Vec<_> = (0..CALLS)
            .map(|_| {
                let begun = Rc::clone(&begun);
                let call = async move { begun.set(begun.get() + 1) };
                local.spawn_local(beginnings.begin(call))
            })
            .collect();
        // Others, who get their turn between them.
        let mut most_between = 0;
        let others = async {
            while begun.get() < CALLS {
                let before = begun.get();
                tokio::task::yield_now().await;
                most_between = most_between.max(begun.get() - before);
            }
        };
        local.run_until(others).await;
        assert!(most_between <= 2 * BEGIN_AT_A_TIME, "{most_between}");
        for call in calls {
            assert!(call.await.is_ok());
        }
        assert_eq!(beginnings.come.load(Ordering::Relaxed), 0);
    }
}
