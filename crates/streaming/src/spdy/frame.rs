//! Frames, to and from bytes (SPDY/3.1 draft, 2.2 and 2.6).
//!
//! ```text
//! control: 1 | version 15 | type 16      data: 0 | stream 31
//!          flags 8 | length 24                 flags 8 | length 24
//!          payload                             payload
//! ```
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::limits;

/// The version in control frames.
const VERSION: u16 = 3;
/// Bytes before any payload.
const HEAD: usize = 8;
const FIN: u8 = 1;
/// A setting's number, without its flags.
const NUMBER: u32 = 0x00ff_ffff;
/// The setting of what streams begin with (draft, 2.6.4).
const INITIAL_WINDOW: u32 = 7;
/// Every stream number has 31 bits; the one before them is reserved.
const STREAM: u32 = 0x7fff_ffff;

/// A frame; of a data frame its head alone, since its payload is handed on in pieces as it comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Opens a stream.
    SynStream {
        /// Its number.
        stream: u32,
        /// Whether nothing follows from the sender.
        fin: bool,
        /// Its headers, deflated.
        block: Vec<u8>,
    },
    /// Accepts a stream.
    SynReply {
        /// Its number.
        stream: u32,
        /// Whether nothing follows from the sender.
        fin: bool,
        /// Headers, deflated.
        block: Vec<u8>,
    },
    /// Ends both directions of a stream at once.
    Reset {
        /// Its number.
        stream: u32,
        /// Why: [`status`].
        status: u32,
    },
    /// Settings, of which one means anything here.
    Settings {
        /// What a stream may be sent without an update, where it is set.
        initial_window: Option<u32>,
    },
    /// To be sent back, if its number is odd: the client's.
    Ping(u32),
    /// No more streams are accepted.
    GoAway {
        /// The last stream that was.
        last: u32,
        /// Why; 0 as a rule.
        status: u32,
    },
    /// Further headers of a stream.
    Headers {
        /// Its number.
        stream: u32,
        /// Whether nothing follows from the sender.
        fin: bool,
        /// The headers, deflated.
        block: Vec<u8>,
    },
    /// More may be sent on a stream.
    WindowUpdate {
        /// Its number; 0 for the connection.
        stream: u32,
        /// By how much.
        delta: u32,
    },
    /// A control frame of a type that we don't know, to be skipped.
    Unknown(u16),
    /// `length` bytes of a stream follow.
    Data {
        /// Its number.
        stream: u32,
        /// Whether they are the sender's last.
        fin: bool,
        /// How many; less than 2^24.
        length: usize,
    },
}

/// Why a stream is reset.
pub mod status {
    /// Its headers are wrong.
    pub const PROTOCOL_ERROR: u32 = 1;
    /// It is not wanted; nothing was done for it.
    pub const REFUSED_STREAM: u32 = 3;
    /// Its window is larger than there is a number for.
    pub const FLOW_CONTROL_ERROR: u32 = 7;
}

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    /// There is more to come.
    #[error("incomplete frame")]
    Incomplete,
    /// The connection can't go on.
    #[error("{0}")]
    Wrong(&'static str),
}

impl Frame {
    /// Takes a frame off the front of `bytes`.
    ///
    /// # Errors
    /// [`Undecodable::Incomplete`] never asks for more than a whole control frame of
    /// [`limits::CONTROL_BYTES`].
    pub fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), Undecodable> {
        let (word, after) = take_u32(bytes)?;
        let (second, after) = take_u32(after)?;
        let [flags, a, b, c] = second.to_be_bytes();
        let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
        if word & !STREAM == 0 {
            let (stream, fin) = (word, flags & FIN != 0);
            return match stream {
                0 => Err(Undecodable::Wrong("data on stream 0")),
                _ => Ok((
                    Self::Data {
                        stream,
                        fin,
                        length,
                    },
                    after,
                )),
            };
        }
        let [_, _, kind @ ..] = word.to_be_bytes();
        let kind = u16::from_be_bytes(kind);
        if (word & STREAM) >> 16 != u32::from(VERSION) {
            return Err(Undecodable::Wrong("another version of SPDY"));
        }
        if length > limits::CONTROL_BYTES {
            return Err(Undecodable::Wrong("control frame too long"));
        }
        let Some((payload, rest)) = after.split_at_checked(length) else {
            return Err(Undecodable::Incomplete);
        };
        let short = |_| Undecodable::Wrong("control frame too short");
        Ok((control(kind, flags, payload).map_err(short)?, rest))
    }

    /// The frame's bytes. A block longer than [`limits::CONTROL_BYTES`] makes a frame that nobody
    /// takes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let words = |kind, flags, words: &[u32], block: &[u8]| {
            let payload: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
            encode_control(kind, flags, &[&payload, block].concat())
        };
        match self {
            Self::SynStream { stream, fin, block } => {
                // No associated stream; priority and slot 0.
                let block = [&[0, 0], block.as_slice()].concat();
                words(1, u8::from(*fin), &[*stream, 0], &block)
            }
            Self::SynReply { stream, fin, block } => words(2, u8::from(*fin), &[*stream], block),
            Self::Reset { stream, status } => words(3, 0, &[*stream, *status], &[]),
            Self::Settings {
                initial_window: None,
            } => words(4, 0, &[0], &[]),
            Self::Settings {
                initial_window: Some(window),
            } => words(4, 0, &[1, INITIAL_WINDOW, *window], &[]),
            Self::Ping(id) => words(6, 0, &[*id], &[]),
            Self::GoAway { last, status } => words(7, 0, &[*last, *status], &[]),
            Self::Headers { stream, fin, block } => words(8, u8::from(*fin), &[*stream], block),
            Self::WindowUpdate { stream, delta } => words(9, 0, &[*stream, *delta], &[]),
            Self::Unknown(kind) => words(*kind, 0, &[], &[]),
            Self::Data {
                stream,
                fin,
                length,
            } => {
                let length = u32::try_from(*length).unwrap_or(u32::MAX);
                let [_, a, b, c] = length.to_be_bytes();
                let flags = [u8::from(*fin), a, b, c];
                [(stream & STREAM).to_be_bytes(), flags].concat()
            }
        }
    }
}

fn control(kind: u16, flags: u8, payload: &[u8]) -> Result<Frame, Undecodable> {
    let fin = flags & FIN != 0;
    Ok(match kind {
        1 => {
            let (stream, rest) = take_stream(payload)?;
            // The associated stream, then priority and slot: nothing of it matters.
            let (_, rest) = take_u32(rest)?;
            let block = rest.get(2..).ok_or(Undecodable::Incomplete)?.to_vec();
            Frame::SynStream { stream, fin, block }
        }
        2 => {
            let (stream, block) = take_stream(payload)?;
            let block = block.to_vec();
            Frame::SynReply { stream, fin, block }
        }
        3 => {
            let (stream, rest) = take_stream(payload)?;
            let (status, _) = take_u32(rest)?;
            Frame::Reset { stream, status }
        }
        4 => settings(payload)?,
        6 => Frame::Ping(take_u32(payload)?.0),
        7 => {
            let (last, rest) = take_stream(payload)?;
            let (status, _) = take_u32(rest)?;
            Frame::GoAway { last, status }
        }
        8 => {
            let (stream, block) = take_stream(payload)?;
            let block = block.to_vec();
            Frame::Headers { stream, fin, block }
        }
        9 => {
            let (stream, rest) = take_stream(payload)?;
            let (delta, _) = take_u32(rest)?;
            let delta = delta & STREAM;
            Frame::WindowUpdate { stream, delta }
        }
        other => Frame::Unknown(other),
    })
}

/// Entries of flags, number and value; the last one of a number counts.
fn settings(payload: &[u8]) -> Result<Frame, Undecodable> {
    let (count, mut rest) = take_u32(payload)?;
    let mut initial_window = None;
    // Each takes eight bytes, and the payload is bounded: so is the count.
    for _ in 0..count {
        let (number, after) = take_u32(rest)?;
        let (value, after) = take_u32(after)?;
        if number & NUMBER == INITIAL_WINDOW {
            initial_window = Some(value);
        }
        rest = after;
    }
    Ok(Frame::Settings { initial_window })
}

fn encode_control(kind: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len())
        .unwrap_or(u32::MAX)
        .to_be_bytes();
    let mut bytes = Vec::with_capacity(payload.len().saturating_add(HEAD));
    bytes.extend_from_slice(&(VERSION | 0x8000).to_be_bytes());
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&[flags, a, b, c]);
    bytes.extend_from_slice(payload);
    bytes
}

fn take_u32(bytes: &[u8]) -> Result<(u32, &[u8]), Undecodable> {
    let (word, rest) = bytes.split_first_chunk().ok_or(Undecodable::Incomplete)?;
    Ok((u32::from_be_bytes(*word), rest))
}

fn take_stream(bytes: &[u8]) -> Result<(u32, &[u8]), Undecodable> {
    take_u32(bytes).map(|(word, rest)| (word & STREAM, rest))
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

    #[test]
    fn frames_are_what_the_draft_draws() {
        for (bytes, frame) in [
            (&[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 7][..], Frame::Ping(7)),
            (
                &[0x80, 3, 0, 3, 0, 0, 0, 8, 0x80, 0, 0, 5, 0, 0, 0, 1],
                Frame::Reset {
                    stream: 5,
                    status: status::PROTOCOL_ERROR,
                },
            ),
            (
                &[0, 0, 0, 3, 1, 0, 0, 2],
                Frame::Data {
                    stream: 3,
                    fin: true,
                    length: 2,
                },
            ),
            (
                &[
                    0x80, 3, 0, 1, 1, 0, 0, 11, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xaa,
                ],
                Frame::SynStream {
                    stream: 1,
                    fin: true,
                    block: vec![0xaa],
                },
            ),
            (
                &[
                    0x80, 3, 0, 4, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 1,
                ],
                Frame::Settings {
                    initial_window: Some(1),
                },
            ),
            (
                &[
                    0x80, 3, 0, 4, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 1,
                ],
                Frame::Settings {
                    initial_window: None,
                },
            ),
            (&[0x80, 3, 0, 77, 0, 0, 0, 1, 9], Frame::Unknown(77)),
        ] {
            assert_eq!(Frame::decode(bytes), Ok((frame, &[][..])), "{bytes:?}");
            for end in 0..bytes.len() {
                let cut = Frame::decode(&bytes[..end]);
                assert_eq!(cut, Err(Undecodable::Incomplete), "{bytes:?} cut at {end}");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_not_waited_for() {
        for (bytes, why) in [
            (&[0x80, 2, 0, 6, 0, 0, 0, 4][..], "another version of SPDY"),
            (&[0x80, 3, 0, 1, 0, 0, 0x40, 1], "control frame too long"),
            (
                &[0x80, 3, 0, 6, 0, 0, 0, 3, 0, 0, 7],
                "control frame too short",
            ),
            (&[0, 0, 0, 0, 0, 0, 0, 1], "data on stream 0"),
            (
                &[0x80, 3, 0, 4, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff],
                "control frame too short",
            ),
        ] {
            let wrong = Frame::decode(bytes);
            assert_eq!(wrong, Err(Undecodable::Wrong(why)), "{bytes:?}");
        }
    }

    fn frames() -> impl Strategy<Value = Frame> {
        let stream = || 1..=STREAM;
        let block = || prop::collection::vec(any::<u8>(), 0..100);
        prop_oneof![
            (stream(), any::<bool>(), block()).prop_map(|(stream, fin, block)| Frame::SynStream {
                stream,
                fin,
                block
            }),
            (stream(), any::<bool>(), block()).prop_map(|(stream, fin, block)| Frame::SynReply {
                stream,
                fin,
                block
            }),
            (stream(), any::<bool>(), block()).prop_map(|(stream, fin, block)| Frame::Headers {
                stream,
                fin,
                block
            }),
            (stream(), any::<u32>()).prop_map(|(stream, status)| Frame::Reset { stream, status }),
            (stream(), any::<u32>()).prop_map(|(last, status)| Frame::GoAway { last, status }),
            (stream(), 0..=STREAM)
                .prop_map(|(stream, delta)| Frame::WindowUpdate { stream, delta }),
            any::<u32>().prop_map(Frame::Ping),
            any::<Option<u32>>().prop_map(|initial_window| Frame::Settings { initial_window }),
            (stream(), any::<bool>(), 0..1_usize << 24).prop_map(|(stream, fin, length)| {
                Frame::Data {
                    stream,
                    fin,
                    length,
                }
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_frame_comes_back_from_its_bytes(frame in frames(), more in prop::collection::vec(any::<u8>(), 0..9)) {
            let bytes = [frame.encode(), more.clone()].concat();
            prop_assert_eq!(Frame::decode(&bytes), Ok((frame, &more[..])));
        }
    }
}
