//! Lists in pieces, for the calls that stream them (KEP-5825): each item once, the stream's end is
//! the list's.

use std::pin::Pin;

use futures_util::Stream;
use futures_util::stream;
use prost::Message;
use tonic::{Response, Status};

/// Items in a piece.
const ITEMS: usize = 1000;
/// Bytes in a piece, unless one item alone has more. The kubelet takes 16 MiB.
const BYTES: usize = 1 << 20;

/// A stream of answers.
pub(crate) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Answers with `items` in pieces, each made a message by `wrap`.
pub(crate) fn answer<I, T>(
    items: Vec<I>,
    wrap: impl Fn(Vec<I>) -> T + Send + 'static,
) -> Result<Response<Answers<T>>, Status>
where
    I: Message + 'static,
    T: Send + 'static,
{
    let pieces = split(items).into_iter().map(move |piece| Ok(wrap(piece)));
    Ok(Response::new(Box::pin(stream::iter(pieces))))
}

fn split<I: Message>(items: Vec<I>) -> Vec<Vec<I>> {
    let mut pieces: Vec<Vec<I>> = Vec::new();
    let mut bytes = 0_usize;
    for item in items {
        let size = item.encoded_len();
        let full = |piece: &Vec<I>| piece.len() >= ITEMS || bytes.saturating_add(size) > BYTES;
        match pieces.last_mut() {
            Some(piece) if !full(piece) => {
                piece.push(item);
                bytes = bytes.saturating_add(size);
            }
            _ => {
                pieces.push(vec![item]);
                bytes = size;
            }
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1;

    fn image(id: usize, bytes: usize) -> v1::Image {
        v1::Image {
            id: id.to_string(),
            username: "x".repeat(bytes),
            ..Default::default()
        }
    }

    #[test]
    fn each_item_comes_once_and_no_piece_is_too_large() {
        for (count, size) in [
            (0, 0),
            (1, 0),
            (1000, 1),
            (1001, 1),
            (10, 400_000),
            (3, 3_000_000),
        ] {
            let items: Vec<_> = (0..count).map(|id| image(id, size)).collect();
            let pieces = split(items.clone());
            assert!(
                pieces
                    .iter()
                    .all(|piece| !piece.is_empty() && piece.len() <= ITEMS)
            );
            let of = |piece: &Vec<v1::Image>| piece.iter().map(Message::encoded_len).sum::<usize>();
            assert!(
                pieces
                    .iter()
                    .all(|piece| piece.len() == 1 || of(piece) <= BYTES)
            );
            assert_eq!(pieces.concat(), items);
        }
    }
}
