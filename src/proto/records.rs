//! The messages of the record path as they are on the wire: one that comes is read where it stands, one that goes out is
//! written once. To callers they are `SubmitRecordRequest`, `SubmitRecordsRequest` and what answers them.

use prost::Message as _;
use prost::bytes::{Buf, BufMut, Bytes};
use prost::encoding::{DecodeContext, WireType, decode_varint, encode_varint, skip_field};
use tonic::Status;
use tonic::codec::{DecodeBuf, EncodeBuf};

use super::codec::{Incoming, Outgoing};
use super::generated::SubmitRecordRequest;

/// A message with records, as it came.
#[derive(Debug)]
pub struct RecordsMessage(Bytes);

/// What the messages before it have said, and a message need not say again. Empty: nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known<'k> {
    /// The plan.
    pub plan_id: &'k str,
    /// Who sends the records.
    pub producer_id: &'k str,
}

/// What a message says beside its records. Empty or `None`: not given, or nothing that was not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header<'m> {
    /// The plan.
    pub plan_id: &'m str,
    /// Who sends the records.
    pub producer_id: &'m str,
    /// Offset of the first of them.
    pub first_offset: Option<u64>,
    /// A `View`.
    pub view: i32,
}

/// The fields of a record; see `Record` in the contract. Empty or `None`: not given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordFields<'m> {
    /// The executor's id or the task's.
    pub id: &'m str,
    /// The task's identity.
    pub task_id: &'m str,
    /// The sandbox or session.
    pub sandbox_session_id: &'m str,
    /// The group's key.
    pub group_key: &'m str,
    /// The executor's word for how it went.
    pub status: &'m str,
    /// Whether it calls itself successful.
    pub success: Option<bool>,
    /// The record: a JSON object.
    pub body: &'m [u8],
    /// A `RecordKind`.
    pub kind: i32,
}

impl RecordsMessage {
    /// The message of these bytes.
    #[must_use]
    pub fn of(message: Bytes) -> Self {
        Self(message)
    }

    /// Bytes of the message.
    #[must_use]
    pub fn length(&self) -> usize {
        self.0.len()
    }

    /// The plan that it names, without reading its records. `None` if it is no message; [`read`](Self::read) says why.
    #[must_use]
    pub fn plan_id(&self) -> Option<&str> {
        let mut plan_id = "";
        let mut fields = Fields(&self.0);
        while let Some((number, value)) = fields.next()? {
            if let (1, Value::Bytes(id)) = (number, value) {
                plan_id = std::str::from_utf8(id).ok()?;
            }
        }
        Some(plan_id)
    }

    /// How many records it brings, without reading them; of what is no message, how many until that shows.
    #[must_use]
    pub fn count(&self) -> usize {
        let mut count = 0;
        let mut fields = Fields(&self.0);
        while let Some(Some((number, value))) = fields.next() {
            count += usize::from(matches!((number, value), (2, Value::Bytes(_))));
        }
        count
    }

    /// Reads the message: answers what it says beside its records, and appends these to `records`.
    ///
    /// # Errors
    /// It is not one: what prost says is wrong with it. Records before that place may have been appended.
    pub fn read<'m>(
        &'m self,
        known: Known<'_>,
        records: &mut Vec<RecordFields<'m>>,
    ) -> Result<Header<'m>, String> {
        read(&self.0, known, records).ok_or_else(|| {
            match SubmitRecordRequest::decode(&self.0[..]) {
                Err(error) => error.to_string(),
                Ok(_) => "is malformed".to_owned(),
            }
        })
    }
}

impl Incoming for RecordsMessage {
    fn read(message: &mut DecodeBuf<'_>) -> Result<Self, Status> {
        Ok(Self(message.copy_to_bytes(message.remaining())))
    }
}

fn read<'m>(
    message: &'m [u8],
    known: Known<'_>,
    records: &mut Vec<RecordFields<'m>>,
) -> Option<Header<'m>> {
    // What is known is text.
    let unknown = |bytes: &'m [u8], known: &str| match bytes == known.as_bytes() {
        true => Some(""),
        false => std::str::from_utf8(bytes).ok(),
    };
    let mut header = Header::default();
    let mut fields = Fields(message);
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, Value::Bytes(id)) => header.plan_id = unknown(id, known.plan_id)?,
            (2, Value::Bytes(record)) => records.push(read_record(record)?),
            (3, Value::Bytes(id)) => header.producer_id = unknown(id, known.producer_id)?,
            (4, Value::Number(offset)) => header.first_offset = Some(offset),
            (5, Value::Number(view)) => header.view = enumerated(view),
            (1..=5, _) => return None,
            _ => {}
        }
    }
    Some(header)
}

fn read_record(message: &[u8]) -> Option<RecordFields<'_>> {
    let text = |bytes| std::str::from_utf8(bytes).ok();
    let mut record = RecordFields::default();
    let mut fields = Fields(message);
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, Value::Bytes(id)) => record.id = text(id)?,
            (2, Value::Bytes(id)) => record.task_id = text(id)?,
            (3, Value::Bytes(id)) => record.sandbox_session_id = text(id)?,
            (4, Value::Bytes(key)) => record.group_key = text(key)?,
            (5, Value::Bytes(status)) => record.status = text(status)?,
            (6, Value::Number(success)) => record.success = Some(success != 0),
            (7, Value::Bytes(body)) => record.body = body,
            (8, Value::Number(kind)) => record.kind = enumerated(kind),
            (1..=8, _) => return None,
            _ => {}
        }
    }
    Some(record)
}

/// An enum is an int32, of which a varint has more bits than count.
#[expect(clippy::cast_possible_truncation, reason = "the rule of the format")]
fn enumerated(number: u64) -> i32 {
    number as i32
}

/// The fields of a message that are left.
struct Fields<'m>(&'m [u8]);

enum Value<'m> {
    Number(u64),
    Bytes(&'m [u8]),
    /// Of a kind that the record path does not use.
    Other,
}

impl<'m> Fields<'m> {
    /// The next field with its number; `Some(None)` at the end, `None` if there is no field where one must be. Without
    /// being asked to, the compiler leaves it a call, which takes longer to hand over a field than to read it.
    #[inline(always)]
    fn next(&mut self) -> Option<Option<(u32, Value<'m>)>> {
        match self.0 {
            [] => Some(None),
            // As nearly all: text, bytes or a message, with a key of a byte.
            [key @ 8..0x80, rest @ ..] if key & 7 == WireType::LengthDelimited as u8 => {
                self.0 = rest;
                self.bytes().map(|bytes| Some((u32::from(key >> 3), bytes)))
            }
            _ => self.any(),
        }
    }

    /// The same of any field.
    #[inline(never)]
    fn any(&mut self) -> Option<Option<(u32, Value<'m>)>> {
        let key = self.number()?;
        let (number, wire_type) = (u32::try_from(key >> 3).ok()?, key & 7);
        if number == 0 || key > u64::from(u32::MAX) {
            return None;
        }
        let value = match WireType::try_from(wire_type).ok()? {
            WireType::Varint => Value::Number(self.number()?),
            WireType::LengthDelimited => self.bytes()?,
            wire_type => {
                skip_field(wire_type, number, &mut self.0, DecodeContext::default()).ok()?;
                Value::Other
            }
        };
        Some(Some((number, value)))
    }

    #[inline(always)]
    fn bytes(&mut self) -> Option<Value<'m>> {
        let length = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(Value::Bytes(bytes))
    }

    /// A varint; most take a byte or two.
    #[inline(always)]
    fn number(&mut self) -> Option<u64> {
        match self.0 {
            [byte @ ..0x80, rest @ ..] => {
                self.0 = rest;
                Some(u64::from(*byte))
            }
            [low, high @ ..0x80, rest @ ..] => {
                self.0 = rest;
                Some(u64::from(low & 0x7f) | u64::from(*high) << 7)
            }
            _ => decode_varint(&mut self.0).ok(),
        }
    }
}

/// A message that goes out as it is here, without a frame.
#[derive(Debug)]
pub struct WrittenMessage(pub Bytes);

impl Outgoing for WrittenMessage {
    fn write(self, message: &mut EncodeBuf<'_>) -> Result<(), Status> {
        message.put(self.0);
        Ok(())
    }
}

/// Fields of a message, written one after the other. Those below 16, whose keys take a byte.
pub trait PutFields {
    /// A number, bool or enum; not there if 0, as proto3 has it.
    fn put_number(&mut self, field: u8, number: u64);
    /// A number that is there also if it is 0.
    fn put_given_number(&mut self, field: u8, number: u64);
    /// Text or bytes; not there if empty.
    fn put_text(&mut self, field: u8, bytes: &[u8]);
    /// A message inside, also if it is empty. If it is long, it is written twice.
    fn put_message(&mut self, field: u8, write: impl Fn(&mut Self));
}

impl PutFields for Vec<u8> {
    #[inline]
    fn put_number(&mut self, field: u8, number: u64) {
        if number != 0 {
            self.put_given_number(field, number);
        }
    }

    #[inline]
    fn put_given_number(&mut self, field: u8, number: u64) {
        put_field(self, field, WireType::Varint, number);
    }

    #[inline]
    fn put_text(&mut self, field: u8, bytes: &[u8]) {
        if !bytes.is_empty() {
            put_field(self, field, WireType::LengthDelimited, bytes.len() as u64);
            self.extend_from_slice(bytes);
        }
    }

    #[inline]
    fn put_message(&mut self, field: u8, write: impl Fn(&mut Self)) {
        let begin = self.len();
        // Its length takes two bytes at most, nearly always.
        self.extend_from_slice(&[key(field, WireType::LengthDelimited), 0, 0]);
        write(self);
        let length = self.len() - begin - 3;
        match length {
            0..0x80 => {
                self[begin + 1] = length as u8;
                self.copy_within(begin + 3.., begin + 2);
                self.truncate(begin + 2 + length);
            }
            0x80..0x4000 => {
                let place = &mut self[begin + 1..begin + 3];
                place.copy_from_slice(&[length as u8 | 0x80, (length >> 7) as u8]);
            }
            _ => {
                self.truncate(begin);
                put_field(self, field, WireType::LengthDelimited, length as u64);
                write(self);
            }
        }
    }
}

fn key(field: u8, wire_type: WireType) -> u8 {
    field << 3 | wire_type as u8
}

/// A field's key, and the number after it: the field's own, or the length of what follows. Most are small.
#[inline]
fn put_field(to: &mut Vec<u8>, field: u8, wire_type: WireType, number: u64) {
    let key = key(field, wire_type);
    match number {
        0..0x80 => to.extend_from_slice(&[key, number as u8]),
        0x80..0x4000 => to.extend_from_slice(&[key, number as u8 | 0x80, (number >> 7) as u8]),
        _ => {
            to.push(key);
            encode_varint(number, to);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        Bytes, Header, Known, PutFields, RecordFields, RecordsMessage, SubmitRecordRequest,
    };
    use crate::proto::{Counts, Record, SubmitRecordResponse};
    use prost::Message;

    fn fields(record: &Record) -> RecordFields<'_> {
        RecordFields {
            id: &record.id,
            task_id: &record.task_id,
            sandbox_session_id: &record.sandbox_session_id,
            group_key: &record.group_key,
            status: &record.status,
            success: record.success,
            body: &record.body,
            kind: record.kind,
        }
    }

    /// Reads bytes here and as the generated message, and compares.
    fn assert_same(bytes: Vec<u8>) {
        let expected = SubmitRecordRequest::decode(&bytes[..]);
        let message = RecordsMessage(Bytes::from(bytes));
        let mut records = Vec::new();
        match (message.read(Known::default(), &mut records), expected) {
            (Ok(header), Ok(expected)) => {
                let fields: Vec<_> = expected.records.iter().map(fields).collect();
                let expected = Header {
                    plan_id: &expected.plan_id,
                    producer_id: &expected.producer_id,
                    first_offset: expected.first_offset,
                    view: expected.view,
                };
                assert_eq!(message.count(), fields.len());
                assert_eq!((header, records), (expected, fields));
            }
            (Err(found), Err(expected)) => assert_eq!(found, expected.to_string()),
            (found, expected) => panic!("{found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn what_is_known_is_not_said_and_what_is_no_text_is_refused_all_the_same() {
        let known = Known {
            plan_id: "plan",
            producer_id: "producer",
        };
        let header = |plan_id: &[u8], producer_id: &[u8]| {
            let mut message = Vec::new();
            message.put_text(1, plan_id);
            message.put_text(3, producer_id);
            let message = RecordsMessage(message.into());
            let header = message.read(known, &mut Vec::new());
            header.map(|header| [header.plan_id.to_owned(), header.producer_id.to_owned()])
        };
        let said =
            |plan_id: &str, producer_id: &str| Ok([plan_id.to_owned(), producer_id.to_owned()]);
        assert_eq!(header(b"plan", b"producer"), said("", ""));
        assert_eq!(header(b"plan ", b""), said("plan ", ""));
        assert_eq!(header(b"producer", b"plan"), said("producer", "plan"));
        assert!(header(b"pl\xffn", b"producer").is_err());
        assert!(header(b"plan", b"\xff").is_err());
    }

    #[test]
    fn a_message_inside_another_has_its_length_before_it_however_long_it_is() {
        for length in [0, 1, 126, 127, 128, 129, 16_383, 16_384, 16_385, 100_000] {
            let text = "x".repeat(length);
            let mut written = b"before".to_vec();
            written.put_message(2, |inner| {
                inner.put_text(2, text.as_bytes());
                inner.put_text(7, text.as_bytes());
            });
            let record = Record {
                task_id: text.clone(),
                body: text.into(),
                ..Default::default()
            };
            let expected = SubmitRecordRequest {
                records: vec![record],
                ..Default::default()
            };
            let expected = [&b"before"[..], &expected.encode_to_vec()].concat();
            assert!(written == expected, "{length}");
        }
    }

    proptest! {
        #[test]
        fn fields_are_written_as_the_generated_messages_have_them(
            counts in any::<[u64; 8]>(),
            shifts in prop::array::uniform8(0..64_u32),
            committed in any::<Option<u64>>(),
        ) {
            // Numbers of all lengths.
            let mut numbers = [0; 8];
            for ((number, count), shift) in numbers.iter_mut().zip(counts).zip(shifts) {
                *number = count >> shift;
            }
            let [items, groups, tasks, recorded, successful, failed, missing, running] = numbers;
            let expected = SubmitRecordResponse {
                counts: Some(Counts { items, groups, tasks, recorded, successful, failed, missing, running, ..Default::default() }),
                committed_offset: committed,
                ..Default::default()
            };
            let mut written = Vec::new();
            written.put_message(2, |counts| {
                for (field, number) in (1..).zip(numbers) {
                    counts.put_number(field, number);
                }
            });
            if let Some(committed) = committed {
                written.put_given_number(5, committed);
            }
            prop_assert_eq!(written, expected.encode_to_vec());
        }

        #[test]
        fn a_message_says_what_the_generated_one_says(
            ids in prop::array::uniform2(".{0,9}"),
            first_offset in any::<Option<u64>>(),
            view in any::<i32>(),
            records in prop::collection::vec(
                (prop::collection::vec(".{0,9}", 5), any::<Option<bool>>(), any::<Vec<u8>>(), any::<i32>()),
                0..4,
            ),
            changed in any::<Option<(prop::sample::Index, u8)>>(),
        ) {
            let record = |(texts, success, body, kind): (Vec<String>, _, Vec<u8>, _)| Record {
                id: texts[0].clone(),
                task_id: texts[1].clone(),
                sandbox_session_id: texts[2].clone(),
                group_key: texts[3].clone(),
                status: texts[4].clone(),
                success,
                body: body.into(),
                kind,
            };
            let records = records.into_iter().map(record).collect();
            let [plan_id, producer_id] = ids;
            let request = SubmitRecordRequest { plan_id, records, producer_id, first_offset, view };
            let mut bytes = request.encode_to_vec();
            if let Some((at, byte)) = changed.filter(|_| !bytes.is_empty()) {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            assert_same(bytes);
        }

        #[test]
        fn any_bytes_are_read_or_refused_as_the_generated_message_does(bytes: Vec<u8>) {
            assert_same(bytes);
        }
    }
}
