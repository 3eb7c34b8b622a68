//! criu's image files: a magic word of 4 bytes, one for the kind, and entries: 4 bytes of length
//! (little-endian), then a protobuf message. Of protobuf only what is needed to look into a message.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::BadImage;

pub(super) const COMMON: u32 = 0x5456_4319;

/// The head and the entries of an image file.
pub(super) fn split(file: &[u8], kind: u32) -> Result<(&[u8], Vec<&[u8]>), BadImage> {
    let (head, mut rest) = file.split_at_checked(8).ok_or(BadImage("too short"))?;
    let magic = [COMMON.to_le_bytes(), kind.to_le_bytes()].concat();
    if head != magic {
        return Err(BadImage("another magic word"));
    }
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<4>().ok_or(BadImage("torn"))?;
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let (entry, after) = after.split_at_checked(length).ok_or(BadImage("torn"))?;
        entries.push(entry);
        rest = after;
    }
    Ok((head, entries))
}

pub(super) fn append(file: &mut Vec<u8>, entry: &[u8]) -> Result<(), BadImage> {
    let length = u32::try_from(entry.len()).map_err(|_| BadImage("an entry is too long"))?;
    file.extend(length.to_le_bytes());
    file.extend(entry);
    Ok(())
}

/// A field of a protobuf message.
pub(super) struct Field<'a> {
    pub(super) number: u64,
    value: Value<'a>,
    /// All its bytes.
    pub(super) raw: &'a [u8],
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of a fixed size: none that we look at.
    Other,
}

pub(super) fn fields(mut message: &[u8]) -> Result<Vec<Field<'_>>, BadImage> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let (tag, rest) = varint(message)?;
        let (value, rest) = match tag & 7 {
            0 => {
                let (value, rest) = varint(rest)?;
                (Value::Number(value), rest)
            }
            2 => {
                let (length, rest) = varint(rest)?;
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                let (value, rest) = rest.split_at_checked(length).ok_or(BadImage("torn"))?;
                (Value::Bytes(value), rest)
            }
            fixed @ (1 | 5) => {
                let length = if fixed == 1 { 8 } else { 4 };
                let (_, rest) = rest.split_at_checked(length).ok_or(BadImage("torn"))?;
                (Value::Other, rest)
            }
            _ => return Err(BadImage("an unknown wire type")),
        };
        let used = message.len().saturating_sub(rest.len());
        fields.push(Field {
            number: tag >> 3,
            value,
            raw: message.get(..used).unwrap_or_default(),
        });
        message = rest;
    }
    Ok(fields)
}

/// The last value counts, as protobuf has it.
pub(super) fn number(fields: &[Field<'_>], wanted: u64) -> Option<u64> {
    let found = fields.iter().rev().find(|field| field.number == wanted)?;
    match found.value {
        Value::Number(value) => Some(value),
        Value::Bytes(_) | Value::Other => None,
    }
}

pub(super) fn bytes<'a>(fields: &[Field<'a>], wanted: u64) -> Option<&'a [u8]> {
    let found = fields.iter().rev().find(|field| field.number == wanted)?;
    match found.value {
        Value::Bytes(value) => Some(value),
        Value::Number(_) | Value::Other => None,
    }
}

pub(super) fn varint(bytes: &[u8]) -> Result<(u64, &[u8]), BadImage> {
    let (mut value, mut rest) = (0_u64, bytes);
    for shift in (0..64_u32).step_by(7) {
        let (byte, after) = rest.split_first().ok_or(BadImage("torn"))?;
        rest = after;
        value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte & 0x80 == 0 {
            return Ok((value, rest));
        }
    }
    Err(BadImage("a number is too long"))
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or(0));
}

pub(super) fn put_number(out: &mut Vec<u8>, field: u64, value: u64) {
    put_varint(out, field << 3);
    put_varint(out, value);
}

pub(super) fn put_bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    put_varint(out, field << 3 | 2);
    put_varint(out, u64::try_from(value.len()).unwrap_or(u64::MAX));
    out.extend(value);
}

/// All values of a repeated message or text.
pub(super) fn messages<'a>(fields: &[Field<'a>], wanted: u64) -> Result<Vec<&'a [u8]>, BadImage> {
    let all = fields.iter().filter(|field| field.number == wanted);
    all.map(|field| match field.value {
        Value::Bytes(value) => Ok(value),
        Value::Number(_) | Value::Other => Err(BadImage("a message of an unknown form")),
    })
    .collect()
}

/// All values of a repeated number, packed or not.
pub(super) fn numbers(fields: &[Field<'_>], wanted: u64) -> Result<Vec<u64>, BadImage> {
    let mut all = Vec::new();
    for field in fields.iter().filter(|field| field.number == wanted) {
        match field.value {
            Value::Number(value) => all.push(value),
            Value::Bytes(mut packed) => {
                while !packed.is_empty() {
                    let (value, rest) = varint(packed)?;
                    all.push(value);
                    packed = rest;
                }
            }
            Value::Other => return Err(BadImage("a number of an unknown form")),
        }
    }
    Ok(all)
}

/// What the tests of these files' readers are fed with.
#[cfg(test)]
pub(super) mod made {
    use super::*;

    /// An image file of `kind`.
    pub(in super::super) fn image(kind: u32, entries: &[Vec<u8>]) -> Vec<u8> {
        let mut file = [COMMON.to_le_bytes(), kind.to_le_bytes()].concat();
        for entry in entries {
            append(&mut file, entry).unwrap();
        }
        file
    }

    /// A message of numbers, then of bytes.
    pub(in super::super) fn message(numbers: &[(u64, u64)], nested: &[(u64, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (field, value) in numbers {
            put_number(&mut out, *field, *value);
        }
        for (field, value) in nested {
            put_bytes(&mut out, *field, value);
        }
        out
    }
}
