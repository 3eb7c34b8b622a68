//! Sizes of a terminal, as a client sends them: JSON values, one after another.

use serde::Deserialize;

use crate::backend::Size;
use crate::limits;

#[derive(Debug, Deserialize)]
struct Sent {
    #[serde(rename = "Width")]
    width: u16,
    #[serde(rename = "Height")]
    height: u16,
}

/// Sizes that come in pieces.
#[derive(Debug, Default)]
pub(crate) struct Sizes(Vec<u8>);

impl Sizes {
    /// Bytes that wait for more.
    #[cfg(feature = "fuzzing")]
    pub(crate) fn held(&self) -> usize {
        self.0.len()
    }

    /// The last size that is whole now. What is none is forgotten: a terminal of a wrong size is no
    /// reason to end a session.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Option<Size> {
        let room = limits::SIZE_BYTES.saturating_sub(self.0.len());
        self.0.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        let mut values = serde_json::Deserializer::from_slice(&self.0).into_iter::<Sent>();
        let (mut last, mut whole) = (None, 0);
        let wrong = loop {
            match values.next() {
                Some(Ok(size)) => {
                    whole = values.byte_offset();
                    last = Some(Size {
                        rows: size.height,
                        columns: size.width,
                    });
                }
                Some(Err(error)) => break !error.is_eof() || self.0.len() >= limits::SIZE_BYTES,
                None => break true,
            }
        };
        if wrong {
            self.0.clear();
        } else {
            self.0.drain(..whole);
        }
        last.filter(|size| size.rows > 0 && size.columns > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_may_come_in_pieces_and_together() {
        let size = |rows, columns| Some(Size { rows, columns });
        let mut sizes = Sizes::default();
        for (sent, wanted) in [
            (&b"{\"Width\":80,\"Height\":24}\n"[..], size(24, 80)),
            (b"{\"Width\":100,", None),
            (b"\"Height\":30}{\"Width\":90,\"Height\":20}", size(20, 90)),
            (b"nonsense", None),
            (b"{\"Width\":0,\"Height\":0}", None),
            (b"{\"Width\":70000,\"Height\":1}", None),
            (&[b' '; 5000], None),
            (&[b'['; 5000], None),
            (b"{\"Width\":1,\"Height\":2}", size(2, 1)),
        ] {
            assert_eq!(sizes.push(sent), wanted, "{sent:?}");
        }
    }
}
