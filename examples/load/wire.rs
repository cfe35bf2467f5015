//! Messages as bytes: encoded before anything is measured, and read by looking at no more than has to be checked.

use std::sync::Arc;

use fanout::proto::{Disposition, Record, SubmitRecordRequest, View};
use prost::Message;
use prost::bytes::{Buf, BufMut, Bytes};
use prost::encoding::{WireType, decode_varint};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Fits the largest batch.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

const ACCEPTED: u64 = Disposition::Accepted as u64;

/// What is sent on one stream.
#[derive(Default)]
pub struct Messages {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    pub records: usize,
}

impl Messages {
    /// Records of this size, so many a message, one for each of these tasks. The first message says the view.
    pub fn submit(
        plan_id: &str,
        tasks: impl Iterator<Item = usize>,
        record_bytes: usize,
        batch: usize,
        view: View,
    ) -> Self {
        let mut messages = Self::default();
        let mut request = SubmitRecordRequest {
            plan_id: plan_id.to_owned(),
            records: Vec::with_capacity(batch),
            view: view.into(),
            ..Default::default()
        };
        let mut tasks = tasks.peekable();
        while let Some(task) = tasks.next() {
            request.records.push(record(task, record_bytes));
            messages.records += 1;
            if request.records.len() == batch || tasks.peek().is_none() {
                messages.push(&request);
                request.records.clear();
                request.view = View::Unspecified.into();
            }
        }
        messages
    }

    /// One message.
    pub fn one(message: &impl Message) -> Self {
        let mut messages = Self::default();
        messages.push(message);
        messages
    }

    fn push(&mut self, message: &impl Message) {
        self.bytes.reserve(message.encoded_len());
        message.encode_raw(&mut self.bytes);
        self.ends.push(self.bytes.len());
    }

    /// How many messages.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The first of them.
    pub fn first(&self) -> &[u8] {
        self.get(0)
    }

    fn get(&self, nth: usize) -> &[u8] {
        let begin = nth.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[begin..self.ends[nth]]
    }
}

/// What an executor sends: its task, and a document with a status, an outcome, nested members and numbers. Encoded it
/// takes exactly so many bytes.
fn record(task: usize, bytes: usize) -> Record {
    let (score, changed, tokens) = (task % 1_000, task % 97, 1_000 + task % 9_000);
    let body = format!(
        r#"{{"status":"succeeded","attempt":1,"outcome":{{"changed":{changed},"score":0.{score:03},"checks":{{"lint":true,"tests":"passed"}}}},"usage":{{"input_tokens":{tokens},"seconds":1.5e1}},"summary":"module \"{task}\" is fine"#
    );
    let mut record = Record {
        task_id: format!("task-{task}"),
        body: body.into(),
        ..Default::default()
    };
    let end = "\"}";
    let words = " and nothing else had to be changed;".chars().cycle();
    let room = bytes.saturating_sub(record.encoded_len() + end.len());
    let words: String = words.take(room).collect();
    record.body = [&record.body, words.as_bytes(), end.as_bytes()]
        .concat()
        .into();
    record
}

/// How many records an answer answers, or nothing if it does not say that all went well.
pub type Count = fn(&[u8]) -> Option<usize>;

/// The receipts of an answer; each has to say that its record was accepted.
pub fn receipts(answer: &[u8]) -> Option<usize> {
    let mut receipts = 0;
    for field in Fields(answer) {
        if let (1, Value::Bytes(receipt)) = field? {
            let (mut disposition, mut code) = (0, 0);
            for field in Fields(receipt) {
                match field? {
                    (1, Value::Number(number)) => disposition = number,
                    (2, Value::Number(number)) => code = number,
                    _ => {}
                }
            }
            if (disposition, code) != (ACCEPTED, 0) {
                return None;
            }
            receipts += 1;
        }
    }
    Some(receipts)
}

/// The records of an echoed message.
pub fn echoed(message: &[u8]) -> Option<usize> {
    let mut records = 0;
    for field in Fields(message) {
        records += usize::from(field?.0 == 2);
    }
    Some(records)
}

/// Whether a watch's frame is a result.
pub fn results(frame: &[u8]) -> Option<usize> {
    let mut results = 0;
    for field in Fields(frame) {
        results += usize::from(field?.0 == 3);
    }
    Some(results)
}

/// The fields of an encoded message, each with its number.
struct Fields<'m>(&'m [u8]);

enum Value<'m> {
    Number(u64),
    Bytes(&'m [u8]),
}

impl<'m> Fields<'m> {
    fn read(&mut self) -> Option<(u32, Value<'m>)> {
        let key = self.varint()?;
        let wire_type = WireType::try_from(key & 7).ok()?;
        let (number, value) = (u32::try_from(key >> 3).ok()?, self.varint()?);
        match wire_type {
            WireType::Varint => Some((number, Value::Number(value))),
            WireType::LengthDelimited => {
                let (bytes, rest) = self.0.split_at_checked(usize::try_from(value).ok()?)?;
                self.0 = rest;
                Some((number, Value::Bytes(bytes)))
            }
            // Nothing that is read here has others.
            _ => None,
        }
    }

    /// The client's time is not the server's, but they share the processors: most take a byte.
    fn varint(&mut self) -> Option<u64> {
        match self.0 {
            [byte @ ..0x80, rest @ ..] => {
                self.0 = rest;
                Some(u64::from(*byte))
            }
            _ => decode_varint(&mut self.0).ok(),
        }
    }
}

impl<'m> Iterator for Fields<'m> {
    type Item = Option<(u32, Value<'m>)>;

    fn next(&mut self) -> Option<Self::Item> {
        (!self.0.is_empty()).then(|| self.read())
    }
}

/// The client's side: sends the messages by their number, and counts what the answers answer.
#[derive(Clone)]
pub struct Sending(pub Arc<Messages>, pub Count);

impl Codec for Sending {
    type Encode = usize;
    type Decode = usize;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        self.clone()
    }

    fn decoder(&mut self) -> Self {
        self.clone()
    }
}

impl Encoder for Sending {
    type Item = usize;
    type Error = Status;

    fn encode(&mut self, nth: usize, bytes: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes.put_slice(self.0.get(nth));
        Ok(())
    }
}

impl Decoder for Sending {
    type Item = usize;
    type Error = Status;

    fn decode(&mut self, answer: &mut DecodeBuf<'_>) -> Result<Option<usize>, Status> {
        let length = answer.remaining();
        let counted = match answer.chunk() {
            whole if whole.len() == length => (self.1)(whole),
            _ => None,
        };
        answer.advance(length);
        let unexpected = || Status::internal("an answer does not say that all went well");
        counted.map(Some).ok_or_else(unexpected)
    }
}

/// The echoes' side: bytes in, bytes out.
#[derive(Clone, Copy, Default)]
pub struct AsIs;

impl Codec for AsIs {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for AsIs {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, bytes: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes.put(message);
        Ok(())
    }
}

impl Decoder for AsIs {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(bytes.copy_to_bytes(bytes.remaining())))
    }
}
