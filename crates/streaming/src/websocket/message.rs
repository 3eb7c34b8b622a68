//! Messages, to and from bytes.
//!
//! A message is the number of a channel and its bytes: 0 stdin, 1 stdout, 2 stderr, 3 the status,
//! 4 the terminal's size. For ports, 2n carries the n-th port's bytes and 2n + 1 its errors. Only
//! `v5.channel.k8s.io` can end a channel: channel 255 with the number of the one that ends.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Channel whose bytes are the number of a channel that ends.
const CLOSE: u8 = 255;

/// A subprotocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocol {
    /// As it is negotiated; empty where the client asks for none.
    pub name: &'static str,
    base64: bool,
    close: bool,
    /// Whether an end is told as JSON, success too.
    pub status: bool,
}

const fn protocol(name: &'static str, base64: bool, close: bool, status: bool) -> Protocol {
    Protocol {
        name,
        base64,
        close,
        status,
    }
}

/// Of a process, the best first.
pub const REMOTE: &[Protocol] = &[
    protocol("v5.channel.k8s.io", false, true, true),
    protocol("v4.channel.k8s.io", false, false, true),
    protocol("v4.base64.channel.k8s.io", true, false, true),
    protocol("channel.k8s.io", false, false, false),
    protocol("base64.channel.k8s.io", true, false, false),
    protocol("", false, false, false),
];

/// Of ports, the best first.
pub const FORWARD: &[Protocol] = &[
    protocol("v4.channel.k8s.io", false, false, true),
    protocol("v4.base64.channel.k8s.io", true, false, true),
];

/// The best of `known` among those that a client asks for.
#[must_use]
pub fn choose<'a>(
    known: &'static [Protocol],
    asked: impl IntoIterator<Item = &'a str>,
) -> Option<Protocol> {
    let asked: Vec<_> = asked.into_iter().collect();
    let is_asked = |protocol: &&Protocol| {
        asked.contains(&protocol.name) || (asked.is_empty() && protocol.name.is_empty())
    };
    known.iter().find(is_asked).copied()
}

/// What a client's message says.
#[derive(Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Bytes of a channel.
    Data(u8, Cow<'a, [u8]>),
    /// A channel's end.
    End(u8),
}

/// A message that says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadMessage(&'static str);

impl Protocol {
    /// Reads a message.
    ///
    /// # Errors
    /// It names no channel, or isn't base64 where it should be.
    pub fn decode<'a>(&self, message: &'a [u8]) -> Result<Message<'a>, BadMessage> {
        let (channel, bytes) = message
            .split_first()
            .ok_or(BadMessage("a message without a channel"))?;
        if self.base64 {
            // The number is a digit there.
            let digit = channel.checked_sub(b'0').filter(|digit| *digit <= 9);
            let channel = digit.ok_or(BadMessage("a channel that is no digit"))?;
            let bytes = STANDARD
                .decode(bytes)
                .map_err(|_| BadMessage("not base64"))?;
            return Ok(Message::Data(channel, bytes.into()));
        }
        if self.close && *channel == CLOSE {
            return match bytes {
                [channel] => Ok(Message::End(*channel)),
                _ => Err(BadMessage("an end of no channel")),
            };
        }
        Ok(Message::Data(*channel, bytes.into()))
    }

    /// A message with bytes of a channel, and whether it is text.
    #[must_use]
    pub fn encode(&self, channel: u8, bytes: &[u8]) -> Vec<u8> {
        if self.base64 {
            let mut message = vec![channel.saturating_add(b'0')];
            message.extend_from_slice(STANDARD.encode(bytes).as_bytes());
            return message;
        }
        let mut message = Vec::with_capacity(bytes.len().saturating_add(1));
        message.push(channel);
        message.extend_from_slice(bytes);
        message
    }

    /// Whether messages are text.
    #[must_use]
    pub fn is_text(&self) -> bool {
        self.base64
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

    #[test]
    fn the_best_protocol_is_chosen() {
        for (asked, chosen) in [
            (
                &["v4.channel.k8s.io", "v5.channel.k8s.io"][..],
                Some("v5.channel.k8s.io"),
            ),
            (
                &["channel.k8s.io", "v4.channel.k8s.io"],
                Some("v4.channel.k8s.io"),
            ),
            (&["base64.channel.k8s.io"], Some("base64.channel.k8s.io")),
            (&[], Some("")),
            (&["v6.channel.k8s.io"], None),
        ] {
            let found = choose(REMOTE, asked.iter().copied());
            assert_eq!(found.map(|protocol| protocol.name), chosen, "{asked:?}");
        }
        assert_eq!(choose(FORWARD, []), None);
    }

    #[test]
    fn messages_are_read_by_their_protocol() {
        let by = |name| choose(REMOTE, [name]).unwrap();
        let data = |channel, bytes: &'static [u8]| Ok(Message::Data(channel, bytes.into()));
        for (name, message, read) in [
            ("v5.channel.k8s.io", &b"\x00abc"[..], data(0, b"abc")),
            ("v5.channel.k8s.io", b"\xff\x00", Ok(Message::End(0))),
            (
                "v5.channel.k8s.io",
                b"\xff",
                Err(BadMessage("an end of no channel")),
            ),
            ("v4.channel.k8s.io", b"\xff\x00", data(255, b"\x00")),
            (
                "v4.channel.k8s.io",
                b"",
                Err(BadMessage("a message without a channel")),
            ),
            ("base64.channel.k8s.io", b"4e30=", data(4, b"{}")),
            (
                "base64.channel.k8s.io",
                b"x",
                Err(BadMessage("a channel that is no digit")),
            ),
            (
                "base64.channel.k8s.io",
                b"0?",
                Err(BadMessage("not base64")),
            ),
        ] {
            assert_eq!(by(name).decode(message), read, "{name} {message:?}");
        }
    }

    proptest! {
        #[test]
        fn bytes_come_back(channel in 0..9_u8, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            for protocol in REMOTE {
                let message = protocol.encode(channel, &bytes);
                prop_assert_eq!(protocol.decode(&message), Ok(Message::Data(channel, bytes.clone().into())));
            }
        }
    }
}
