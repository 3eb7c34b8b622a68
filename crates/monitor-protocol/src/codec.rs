//! Little-endian integers, texts and lists with their lengths in front, a byte as the tag of an
//! enum. Nothing is allocated before its bound and the bytes that are there were checked.

use std::fmt;

use crate::{Id, limits};

/// Why bytes are no message. A packet comes whole, so [`Short`](Self::Short) is wrong too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// It ends before its last field does.
    Short,
    /// Bytes follow its last field.
    Trailing,
    /// A text, list or message is beyond its bound.
    TooLong,
    /// An enum's tag, or a bool, that this version doesn't know.
    BadTag {
        /// Which enum.
        what: &'static str,
        /// Its tag.
        tag: u8,
    },
    /// A text is not UTF-8 or contains NUL.
    BadText,
    /// A text is no [`Id`].
    BadId,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => f.write_str("message is cut short"),
            Self::Trailing => f.write_str("message is followed by other bytes"),
            Self::TooLong => f.write_str("message is too long"),
            Self::BadTag { what, tag } => write!(f, "unknown {what} {tag}"),
            Self::BadText => f.write_str("text is not UTF-8 or contains NUL"),
            Self::BadId => f.write_str("text is no id"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// What is left to decode.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(DecodeError::Short)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(DecodeError::Short)?;
        self.0 = rest;
        Ok(*head)
    }
}

/// What has a form on the wire.
pub(crate) trait Wire: Sized {
    fn put(&self, out: &mut Vec<u8>);
    fn get(from: &mut Reader<'_>) -> Result<Self, DecodeError>;
}

pub(crate) fn decode<T: Wire>(bytes: &[u8]) -> Result<T, DecodeError> {
    if bytes.len() > limits::MESSAGE_BYTES {
        return Err(DecodeError::TooLong);
    }
    let mut reader = Reader(bytes);
    let value = T::get(&mut reader)?;
    if reader.0.is_empty() {
        Ok(value)
    } else {
        Err(DecodeError::Trailing)
    }
}

pub(crate) fn encode<T: Wire>(value: &T) -> Result<Vec<u8>, DecodeError> {
    let mut out = Vec::with_capacity(256);
    value.put(&mut out);
    if out.len() > limits::MESSAGE_BYTES {
        Err(DecodeError::TooLong)
    } else {
        Ok(out)
    }
}

macro_rules! integers {
    ($($kind:ty),*) => {$(
        impl Wire for $kind {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            fn get(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
                Ok(Self::from_le_bytes(from.array()?))
            }
        }
    )*};
}
integers!(u8, u16, u32, i32, u64);

impl Wire for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn get(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::get(from)? {
            0 => Ok(false),
            1 => Ok(true),
            tag => Err(DecodeError::BadTag { what: "bool", tag }),
        }
    }
}

fn put_length(length: usize, out: &mut Vec<u8>) {
    // What does not fit makes the message longer than allowed anyway.
    u16::try_from(length).unwrap_or(u16::MAX).put(out);
}

fn get_length(from: &mut Reader<'_>, limit: usize) -> Result<usize, DecodeError> {
    let length = usize::from(u16::get(from)?);
    if length > limit {
        Err(DecodeError::TooLong)
    } else {
        Ok(length)
    }
}

/// A text is cut to its bound: the long ones are errors, of which the start is the best part.
impl Wire for String {
    fn put(&self, out: &mut Vec<u8>) {
        let mut end = self.len().min(limits::TEXT_BYTES);
        while !self.is_char_boundary(end) {
            end = end.saturating_sub(1);
        }
        let text = self.get(..end).unwrap_or_default();
        put_length(text.len(), out);
        out.extend(text.bytes().map(|c| if c == 0 { b'?' } else { c }));
    }

    fn get(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let length = get_length(from, limits::TEXT_BYTES)?;
        let text = std::str::from_utf8(from.take(length)?).map_err(|_| DecodeError::BadText)?;
        if text.contains('\0') {
            Err(DecodeError::BadText)
        } else {
            Ok(text.to_owned())
        }
    }
}

impl Wire for Id {
    fn put(&self, out: &mut Vec<u8>) {
        put_length(self.as_str().len(), out);
        out.extend_from_slice(self.as_str().as_bytes());
    }

    fn get(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let length = get_length(from, limits::ID_BYTES)?;
        let text = std::str::from_utf8(from.take(length)?).map_err(|_| DecodeError::BadText)?;
        Self::try_from(text).map_err(|_| DecodeError::BadId)
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        put_length(self.len(), out);
        for item in self {
            item.put(out);
        }
    }

    fn get(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let length = get_length(from, limits::LIST_ITEMS)?;
        // Every item takes a byte at least: the bytes that are there bound the allocation.
        let mut items = Self::with_capacity(length.min(from.0.len()).min(64));
        for _ in 0..length {
            items.push(T::get(from)?);
        }
        Ok(items)
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            None => out.push(0),
            Some(value) => {
                out.push(1);
                value.put(out);
            }
        }
    }

    fn get(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(if bool::get(from)? {
            Some(T::get(from)?)
        } else {
            None
        })
    }
}

/// The wire form of a struct: its fields in order.
macro_rules! wire_struct {
    ($name:ident { $($field:ident),* $(,)? }) => {
        impl $crate::codec::Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                $($crate::codec::Wire::put(&self.$field, out);)*
            }

            fn get(
                from: &mut $crate::codec::Reader<'_>,
            ) -> Result<Self, $crate::codec::DecodeError> {
                Ok(Self { $($field: $crate::codec::Wire::get(from)?),* })
            }
        }
    };
}
pub(crate) use wire_struct;

/// The wire form of an enum: a tag, then the variant's fields in order. Every variant is written
/// with braces.
macro_rules! wire_enum {
    ($name:ident { $($tag:literal => $variant:ident { $($field:ident),* }),* $(,)? }) => {
        impl $crate::codec::Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$variant { $($field),* } => {
                        out.push($tag);
                        $($crate::codec::Wire::put($field, out);)*
                    })*
                }
            }

            fn get(
                from: &mut $crate::codec::Reader<'_>,
            ) -> Result<Self, $crate::codec::DecodeError> {
                match <u8 as $crate::codec::Wire>::get(from)? {
                    $($tag => Ok(Self::$variant {
                        $($field: $crate::codec::Wire::get(from)?),*
                    }),)*
                    tag => Err($crate::codec::DecodeError::BadTag {
                        what: stringify!($name),
                        tag,
                    }),
                }
            }
        }
    };
}
pub(crate) use wire_enum;
