//! Header blocks: inflated in the connection's one context, then pairs of names and values
//! (SPDY/3.1 draft, 2.6.10).
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use zlib_rs::{Inflate, InflateError, InflateFlush, Status};

use super::dictionary;
use crate::limits;

/// Why a block can't be taken. The context is lost with it, and so is the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("header block: {0}")]
pub struct BadBlock(&'static str);

/// Headers of a stream: few, so looked through. Names are lower case, none is there twice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// A header's value.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Reads an inflated block: all of it.
    ///
    /// # Errors
    /// It is longer or holds more than [`limits`] say, or is no block.
    pub fn parse(block: &[u8]) -> Result<Self, BadBlock> {
        if block.len() > limits::HEADER_BYTES {
            return Err(BadBlock("too long"));
        }
        let (count, mut rest) = take_length(block)?;
        if count > limits::HEADERS {
            return Err(BadBlock("too many headers"));
        }
        let mut headers = Self::default();
        for _ in 0..count {
            let (name, after) = take_text(rest)?;
            let (value, after) = take_text(after)?;
            let plain = |byte: u8| byte.is_ascii_graphic() && !byte.is_ascii_uppercase();
            if name.is_empty() || !name.bytes().all(plain) {
                return Err(BadBlock("not a name"));
            }
            if headers.get(name).is_some() {
                return Err(BadBlock("a name twice"));
            }
            headers.0.push((name.to_owned(), value.to_owned()));
            rest = after;
        }
        if rest.is_empty() {
            Ok(headers)
        } else {
            Err(BadBlock("something after its end"))
        }
    }

    /// The inflated block's bytes.
    #[must_use]
    pub fn to_block(&self) -> Vec<u8> {
        let length = |length| u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
        let mut block = length(self.0.len()).to_vec();
        for text in self.0.iter().flat_map(|(name, value)| [name, value]) {
            block.extend_from_slice(&length(text.len()));
            block.extend_from_slice(text.as_bytes());
        }
        block
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Headers {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(pairs: I) -> Self {
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Self(pairs.into_iter().map(owned).collect())
    }
}

fn take_length(bytes: &[u8]) -> Result<(usize, &[u8]), BadBlock> {
    let (word, rest) = bytes.split_first_chunk().ok_or(BadBlock("too short"))?;
    let length = u32::from_be_bytes(*word);
    Ok((usize::try_from(length).unwrap_or(usize::MAX), rest))
}

fn take_text(bytes: &[u8]) -> Result<(&str, &[u8]), BadBlock> {
    let (length, rest) = take_length(bytes)?;
    let (text, rest) = rest.split_at_checked(length).ok_or(BadBlock("too short"))?;
    let text = std::str::from_utf8(text).map_err(|_| BadBlock("no text"))?;
    Ok((text, rest))
}

/// The receiving side of a connection's compression.
pub struct Inflater(Inflate);

impl std::fmt::Debug for Inflater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inflater")
    }
}

impl Default for Inflater {
    fn default() -> Self {
        Self(Inflate::new(true, 15))
    }
}

impl Inflater {
    /// Inflates a block: never to more than [`limits::HEADER_BYTES`], whatever it would become.
    ///
    /// # Errors
    /// It is damaged, or a bomb.
    pub fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, BadBlock> {
        // One byte more than is allowed, to see that there is one.
        let mut room = vec![0; limits::HEADER_BYTES.saturating_add(1)];
        let mut filled = 0_usize;
        loop {
            let (taken, given) = (self.0.total_in(), self.0.total_out());
            let into = room.get_mut(filled..).unwrap_or_default();
            let status = self.0.decompress(block, into, InflateFlush::SyncFlush);
            let taken = difference(self.0.total_in(), taken);
            block = block.get(taken..).unwrap_or_default();
            let given = difference(self.0.total_out(), given);
            filled = filled.saturating_add(given);
            if filled > limits::HEADER_BYTES {
                return Err(BadBlock("too long"));
            }
            match status {
                Err(InflateError::NeedDict { .. }) => {
                    let set = self.0.set_dictionary(&dictionary::bytes());
                    set.map_err(|_| BadBlock("another dictionary"))?;
                }
                Err(_) => return Err(BadBlock("damaged")),
                // A connection's one stream has no end.
                Ok(Status::StreamEnd) => return Err(BadBlock("the stream's end")),
                Ok(Status::Ok | Status::BufError) if taken == 0 && given == 0 => break,
                Ok(Status::Ok | Status::BufError) => {}
            }
        }
        if !block.is_empty() {
            return Err(BadBlock("damaged"));
        }
        room.truncate(filled);
        Ok(room)
    }
}

fn difference(after: u64, before: u64) -> usize {
    usize::try_from(after.saturating_sub(before)).unwrap_or(usize::MAX)
}

/// The sending side of a connection's compression, which doesn't compress: what is sent is a
/// header or three, and stored blocks are as good a zlib stream as any, without a context.
#[derive(Debug, Default)]
pub struct Storer {
    begun: bool,
}

impl Storer {
    /// The deflated block of `headers`; they must be shorter than 64 KiB.
    pub fn store(&mut self, headers: &Headers) -> Vec<u8> {
        let block = headers.to_block();
        let length = u16::try_from(block.len()).unwrap_or(u16::MAX);
        // RFC 1950: deflate, 32 KiB window, no dictionary, once.
        let mut stored = if self.begun { vec![] } else { vec![0x78, 0x01] };
        self.begun = true;
        // RFC 1951, 3.2.4: not the last block, stored; its length, and that inverted.
        stored.push(0);
        stored.extend_from_slice(&length.to_le_bytes());
        stored.extend_from_slice(&(!length).to_le_bytes());
        stored.extend_from_slice(&block);
        // An empty one, as a flush ends with: Go's inflater gives nothing out before it, and goes
        // on looking for the next block until it has failed for good.
        stored.extend_from_slice(&[0, 0, 0, 0xff, 0xff]);
        stored
    }
}

#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use zlib_rs::{Deflate, DeflateFlush};

    /// What a client does that compresses.
    struct Deflater(Deflate);

    impl Deflater {
        fn new() -> Self {
            let mut deflate = Deflate::new(6, true, 15);
            deflate.set_dictionary(&dictionary::bytes()).unwrap();
            Self(deflate)
        }

        fn deflate(&mut self, block: &[u8]) -> Vec<u8> {
            let mut into = vec![0; block.len() + 1000];
            let before = self.0.total_out();
            let flush = DeflateFlush::SyncFlush;
            self.0.compress(block, &mut into, flush).unwrap();
            into.truncate(usize::try_from(self.0.total_out() - before).unwrap());
            into
        }
    }

    #[test]
    fn blocks_of_one_connection_share_a_context() {
        let (mut deflater, mut inflater) = (Deflater::new(), Inflater::default());
        let mut lengths = Vec::new();
        for _ in 0..3 {
            let headers = Headers::from_iter([("streamtype", "stdout"), ("port", "80")]);
            let block = deflater.deflate(&headers.to_block());
            lengths.push(block.len());
            let inflated = inflater.inflate(&block).unwrap();
            assert_eq!(Headers::parse(&inflated), Ok(headers));
        }
        assert!(lengths[1] < lengths[0], "{lengths:?}");
    }

    #[test]
    fn a_bomb_is_not_inflated() {
        let (mut deflater, mut inflater) = (Deflater::new(), Inflater::default());
        let bomb = deflater.deflate(&vec![0; 10 << 20]);
        assert!(bomb.len() < limits::CONTROL_BYTES, "{}", bomb.len());
        assert_eq!(inflater.inflate(&bomb), Err(BadBlock("too long")));
        let mut most = vec![0; limits::HEADER_BYTES];
        let fits = Deflater::new().deflate(&most);
        assert_eq!(Inflater::default().inflate(&fits), Ok(most.clone()));
        most.push(0);
        let over = Deflater::new().deflate(&most);
        assert!(Inflater::default().inflate(&over).is_err());
    }

    #[test]
    fn blocks_that_lie_are_refused() {
        for (block, why) in [
            (&[0, 0, 0][..], "too short"),
            (&[0xff, 0xff, 0xff, 0xff], "too many headers"),
            (&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff], "too short"),
            (&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], "not a name"),
            (&[0, 0, 0, 1, 0, 0, 0, 1, b'A', 0, 0, 0, 0], "not a name"),
            (&[0, 0, 0, 1, 0, 0, 0, 1, b'a', 0, 0, 0, 1, 0xff], "no text"),
            (&[0, 0, 0, 0, 7], "something after its end"),
            (
                &[
                    0, 0, 0, 2, 0, 0, 0, 1, b'a', 0, 0, 0, 0, 0, 0, 0, 1, b'a', 0, 0, 0, 0,
                ],
                "a name twice",
            ),
        ] {
            assert_eq!(Headers::parse(block), Err(BadBlock(why)), "{block:?}");
        }
    }

    proptest! {
        #[test]
        fn headers_come_back(pairs in prop::collection::btree_map("[a-z-]{1,20}", ".{0,40}", 0..20)) {
            let headers: Headers = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let (mut storer, mut inflater) = (Storer::default(), Inflater::default());
            for _ in 0..2 {
                let block = inflater.inflate(&storer.store(&headers)).unwrap();
                prop_assert_eq!(Headers::parse(&block), Ok(headers.clone()));
            }
            let block = Deflater::new().deflate(&headers.to_block());
            let block = Inflater::default().inflate(&block).unwrap();
            prop_assert_eq!(Headers::parse(&block), Ok(headers));
        }
    }
}
