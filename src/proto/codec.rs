//! How messages are read: as prost does, but none that says more than there is room for.

use std::marker::PhantomData;

use prost::Message;
use prost::bytes::Buf;
use prost::encoding::{WireType, decode_key, decode_varint};
use tonic::Status;
use tonic::codec::{self, DecodeBuf, EncodeBuf};

/// Most fields that one message may have, each element of a list counted, nested ones not. Two bytes of an empty element
/// become hundreds in memory, so a limit of the message's bytes alone would let 16 MiB become more than a gibibyte.
pub const FIELDS_PER_MESSAGE_MAX: usize = 100_000;

/// Reads and writes messages.
#[derive(Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

/// A message that comes in.
pub trait Incoming: Sized {
    /// Reads it.
    ///
    /// # Errors
    /// INTERNAL: it is no such message. What is wrong with it.
    fn read(message: &mut DecodeBuf<'_>) -> Result<Self, Status>;
}

/// A message that goes out.
pub trait Outgoing {
    /// Writes it.
    ///
    /// # Errors
    /// INTERNAL: there is no room for it.
    fn write(self, message: &mut EncodeBuf<'_>) -> Result<(), Status>;
}

impl<M: Message + Default> Incoming for M {
    fn read(message: &mut DecodeBuf<'_>) -> Result<Self, Status> {
        M::decode(message).map_err(|error| Status::internal(error.to_string()))
    }
}

impl<M: Message> Outgoing for M {
    fn write(self, message: &mut EncodeBuf<'_>) -> Result<(), Status> {
        self.encode(message)
            .map_err(|error| Status::internal(error.to_string()))
    }
}

impl<T, U> codec::Codec for Codec<T, U>
where
    T: Outgoing + Send + 'static,
    U: Incoming + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self::default()
    }

    fn decoder(&mut self) -> Self {
        Self::default()
    }
}

impl<T: Outgoing, U> codec::Encoder for Codec<T, U> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        message.write(buffer)
    }
}

impl<T, U: Incoming> codec::Decoder for Codec<T, U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        check_fields(message.chunk())?;
        U::read(message).map(Some)
    }
}

/// Refuses a message that says more than there is room for.
///
/// # Errors
/// INTERNAL: it has more than [`FIELDS_PER_MESSAGE_MAX`] fields.
pub fn check_fields(message: &[u8]) -> Result<(), Status> {
    if has_too_many_fields(message) {
        let problem = format!("has more than {FIELDS_PER_MESSAGE_MAX} fields");
        return Err(Status::internal(problem));
    }
    Ok(())
}

/// Steps from field to field. What cannot be read is left to prost, which says what is wrong.
fn has_too_many_fields(mut message: &[u8]) -> bool {
    // The shortest field takes two bytes.
    if message.len() / 2 <= FIELDS_PER_MESSAGE_MAX {
        return false;
    }
    let mut fields = 0;
    while let Ok((_, wire_type)) = decode_key(&mut message) {
        fields += 1;
        let length = match wire_type {
            WireType::Varint => decode_varint(&mut message).map(|_| 0),
            WireType::SixtyFourBit => Ok(8),
            WireType::ThirtyTwoBit => Ok(4),
            WireType::LengthDelimited => decode_varint(&mut message),
            // Nothing here has groups.
            WireType::StartGroup | WireType::EndGroup => return false,
        };
        let length = length.ok().and_then(|length| usize::try_from(length).ok());
        match length.and_then(|length| message.get(length..)) {
            Some(rest) => message = rest,
            None => return false,
        }
        if fields > FIELDS_PER_MESSAGE_MAX {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::{FIELDS_PER_MESSAGE_MAX, has_too_many_fields};

    #[test]
    fn one_field_more_than_there_is_room_for_is_too_many() {
        for field in [
            &[0x12, 0][..],
            &[0x12, 2, 7, 7],
            &[0x08, 0x80, 1],
            &[0x0d, 1, 2, 3, 4],
        ] {
            assert!(!has_too_many_fields(&field.repeat(FIELDS_PER_MESSAGE_MAX)));
            assert!(has_too_many_fields(
                &field.repeat(FIELDS_PER_MESSAGE_MAX + 1)
            ));
        }
    }

    #[test]
    fn what_cannot_be_read_does_not_count() {
        for broken in [
            &[0x12, 0x7f][..],
            &[0x13],
            &[0x14],
            &[
                0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1,
            ],
            &[0x80],
        ] {
            let mut message = [0x12, 0].repeat(FIELDS_PER_MESSAGE_MAX);
            message.extend(broken);
            assert!(!has_too_many_fields(&message), "{broken:?}");
        }
    }
}
