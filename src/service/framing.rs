//! gRPC's framing, for streams of records and of results: messages are cut from the data that came, without a copy unless
//! one came in pieces, and what goes out is framed where it was written.

use std::pin::Pin;
use std::task::{Context, Poll};

use prost::Message;
use prost::bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_stream::{Stream, StreamExt};
use tonic::body::Body;
use tonic::codegen::Body as _;
use tonic::{Code, Status};

use crate::proto::check_fields;
use crate::proto::records::WrittenMessage;

/// A byte that says whether the message is compressed, and four for its length.
pub(super) const PREFIX_BYTES: usize = 5;

/// The messages of a request that are not compressed.
pub(super) struct Messages {
    body: Body,
    /// What is left of the data that came last.
    data: Bytes,
    /// The beginning of a message whose end has not come.
    begun: BytesMut,
    message_bytes_max: usize,
}

impl Messages {
    pub(super) fn of(body: Body, message_bytes_max: usize) -> Self {
        Self {
            body,
            data: Bytes::new(),
            begun: BytesMut::new(),
            message_bytes_max,
        }
    }

    /// The next message, if all of it has come.
    fn cut(&mut self) -> Result<Option<Bytes>, Status> {
        if self.begun.is_empty()
            && let Some(length) = self.length(&self.data)?
            && self.data.len() - PREFIX_BYTES >= length
        {
            self.data.advance(PREFIX_BYTES);
            let message = self.data.split_to(length);
            return check_fields(&message).map(|()| Some(message));
        }
        // In pieces: first the prefix is made whole, then the message.
        self.begin(PREFIX_BYTES);
        let Some(length) = self.length(&self.begun)? else {
            return Ok(None);
        };
        self.begin(PREFIX_BYTES + length);
        if self.begun.len() < PREFIX_BYTES + length {
            return Ok(None);
        }
        let mut message = std::mem::take(&mut self.begun).freeze();
        message.advance(PREFIX_BYTES);
        check_fields(&message).map(|()| Some(message))
    }

    /// Takes what there is of the first so many bytes of a message.
    fn begin(&mut self, bytes: usize) {
        let missing = bytes.saturating_sub(self.begun.len());
        let piece = self.data.split_to(missing.min(self.data.len()));
        self.begun.extend_from_slice(&piece);
    }

    /// The length of a message that begins so, if its prefix has come.
    fn length(&self, begin: &[u8]) -> Result<Option<usize>, Status> {
        let Some((&[compressed, a, b, c, d], _)) = begin.split_first_chunk() else {
            return Ok(None);
        };
        match compressed {
            0 => {}
            1 => {
                return Err(Status::internal(
                    "is compressed, but the request does not say how",
                ));
            }
            flag => {
                return Err(Status::internal(format!(
                    "begins with {flag}, expected 0 or 1"
                )));
            }
        }
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let most = self.message_bytes_max;
        if length > most {
            let problem = format!("is {length} bytes long, at most {most} are allowed");
            return Err(Status::out_of_range(problem));
        }
        Ok(Some(length))
    }
}

impl Stream for Messages {
    type Item = Result<Bytes, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match self.cut() {
                Ok(None) => {}
                Ok(Some(message)) => return Poll::Ready(Some(Ok(message))),
                Err(broken) => return Poll::Ready(Some(Err(broken))),
            }
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Pending => return Poll::Pending,
                // All data that came before is in `begun`.
                Poll::Ready(Some(Ok(frame))) => self.data = frame.into_data().unwrap_or_default(),
                Poll::Ready(Some(Err(broken))) => return Poll::Ready(Some(Err(broken))),
                Poll::Ready(None) if self.begun.is_empty() => return Poll::Ready(None),
                Poll::Ready(None) => {
                    let cut = Status::new(Code::Internal, "ends in the middle of a message");
                    return Poll::Ready(Some(Err(cut)));
                }
            }
        }
    }
}

/// Messages that go out, framed, one after the other.
pub(super) struct Framed(Bytes);

/// What a stream answers, or why it ends.
pub(super) type FramedStream = Pin<Box<dyn Stream<Item = Result<Framed, Status>> + Send>>;

impl Framed {
    pub(super) fn of(framed: Bytes) -> Self {
        Self(framed)
    }

    /// The messages with their frames.
    pub(super) fn into_bytes(self) -> Bytes {
        self.0
    }

    /// The messages without frames.
    pub(super) fn messages(mut self) -> impl Iterator<Item = WrittenMessage> {
        std::iter::from_fn(move || {
            let (&[_, a, b, c, d], _) = self.0.split_first_chunk()?;
            self.0.advance(PREFIX_BYTES);
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            Some(WrittenMessage(self.0.split_to(length)))
        })
    }
}

/// The same messages one by one, for a server that frames them itself.
pub(super) fn one_by_one(mut framed: FramedStream) -> MessageStream {
    Box::pin(async_stream::stream! {
        while let Some(framed) = framed.next().await {
            match framed {
                Ok(framed) => {
                    for message in framed.messages() {
                        yield Ok(message);
                    }
                }
                Err(status) => yield Err(status),
            }
        }
    })
}

/// Messages, or why there is no other.
pub(super) type MessageStream = Pin<Box<dyn Stream<Item = Result<WrittenMessage, Status>> + Send>>;

/// Appends a message.
pub(super) fn put(to: &mut BytesMut, message: &impl Message) {
    to.reserve(PREFIX_BYTES + message.encoded_len());
    put_by(to, |to| message.encode_raw(to));
}

/// Appends a message that `write` writes.
pub(super) fn put_by<B: BufMut + AsMut<[u8]>>(to: &mut B, write: impl FnOnce(&mut B)) {
    let begin = to.as_mut().len();
    to.put_slice(&[0; PREFIX_BYTES]);
    write(to);
    let (prefix, message) = to.as_mut()[begin..].split_at_mut(PREFIX_BYTES);
    // A message has a limit far below 4 GiB.
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    prefix[1..].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{FutureExt, StreamExt, stream};
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use proptest::prelude::*;
    use tonic::Code;

    use super::{Body, Bytes, BytesMut, Messages, PREFIX_BYTES, Status, put_by};

    const MESSAGE_BYTES_MAX: usize = 300;

    fn framed(messages: &[Vec<u8>]) -> Bytes {
        let mut framed = BytesMut::new();
        for message in messages {
            put_by(&mut framed, |framed| framed.extend_from_slice(message));
        }
        framed.freeze()
    }

    /// What comes of bytes that come in pieces of these lengths, then the rest.
    fn read(bytes: &Bytes, pieces: &[usize]) -> Vec<Result<Bytes, Status>> {
        let mut rest = bytes.clone();
        let mut data = Vec::new();
        for piece in pieces {
            data.push(rest.split_to((*piece).min(rest.len())));
        }
        data.push(rest);
        let frames = data
            .into_iter()
            .map(|data| Ok::<_, Infallible>(Frame::data(data)));
        let body = Body::new(StreamBody::new(stream::iter(frames)));
        let messages = Messages::of(body, MESSAGE_BYTES_MAX);
        // The end is an error or nothing; after an error there is nothing to ask for.
        let mut failed = false;
        let read = messages.take_while(|message| {
            let go_on = !failed;
            failed = message.is_err();
            std::future::ready(go_on)
        });
        read.collect().now_or_never().expect("everything is there")
    }

    proptest! {
        #[test]
        fn messages_are_the_same_however_their_bytes_come(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..MESSAGE_BYTES_MAX), 0..8),
            pieces in prop::collection::vec(0_usize..40, 0..40),
        ) {
            let found: Result<Vec<Bytes>, Status> = read(&framed(&messages), &pieces).into_iter().collect();
            prop_assert_eq!(found.expect("nothing is refused"), messages);
        }

        #[test]
        fn a_body_that_ends_in_a_message_is_refused_after_those_before_it(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..4),
            pieces in prop::collection::vec(0_usize..10, 0..10),
            cut in 1_usize..5,
        ) {
            let whole = framed(&messages);
            let found = read(&whole.slice(..whole.len() - cut), &pieces);
            prop_assert_eq!(found.len(), messages.len());
            let codes = found.iter().map(|message| message.as_ref().err().map(Status::code));
            let expected = std::iter::repeat_n(None, messages.len() - 1).chain([Some(Code::Internal)]);
            prop_assert!(codes.eq(expected));
        }
    }

    #[test]
    fn a_message_over_the_limit_is_refused_by_its_prefix() {
        let whole = framed(&[vec![0; MESSAGE_BYTES_MAX + 1]]);
        let found = read(&whole.slice(..PREFIX_BYTES), &[]);
        let codes: Vec<_> = found
            .iter()
            .map(|found| found.as_ref().map_err(Status::code))
            .collect();
        assert_eq!(codes, [Err(Code::OutOfRange)]);
    }
}
