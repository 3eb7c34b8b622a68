//! What clients of the streaming server send.

use streaming::limits;
use streaming::spdy::frame::{Frame, Undecodable};
use streaming::spdy::headers::{Headers, Inflater, Storer};
use streaming::websocket::message::{FORWARD, Message, REMOTE};

/// SPDY frames: what is decoded is bounded and comes back from its bytes; what is incomplete asks
/// for no more than a whole frame.
pub(crate) fn spdy_frame(bytes: &[u8]) {
    let mut rest = bytes;
    loop {
        match Frame::decode(rest) {
            Ok((frame, after)) => {
                let taken = rest.len() - after.len();
                assert!((8..=8 + limits::CONTROL_BYTES).contains(&taken));
                assert_eq!(Frame::decode(&frame.encode()), Ok((frame, &[][..])));
                rest = after;
            }
            Err(Undecodable::Incomplete) => {
                assert!(rest.len() < 8 + limits::CONTROL_BYTES);
                break;
            }
            Err(Undecodable::Wrong(_)) => break,
        }
    }
}

/// SPDY header blocks: blocks of one connection, deflated and not, never become more than is
/// allowed, and headers come back from their bytes.
pub(crate) fn spdy_headers(bytes: &[u8]) {
    if let Ok(headers) = Headers::parse(bytes) {
        assert_eq!(headers.to_block(), bytes);
        let (mut storer, mut inflater) = (Storer::default(), Inflater::default());
        for _ in 0..2 {
            let block = inflater.inflate(&storer.store(&headers));
            assert_eq!(block.as_deref(), Ok(bytes));
        }
    }
    // Blocks of a connection: each after its length in two bytes.
    let (mut inflater, mut rest) = (Inflater::default(), bytes);
    while let Some((length, after)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes(*length)).min(after.len());
        let (block, after) = after.split_at(length);
        let Ok(inflated) = inflater.inflate(block) else {
            return;
        };
        assert!(inflated.len() <= limits::HEADER_BYTES);
        if let Ok(headers) = Headers::parse(&inflated) {
            assert_eq!(headers.to_block(), inflated);
        }
        rest = after;
    }
}

/// Channel messages: what a message says comes back from the bytes that say it, in every protocol,
/// and never is more than the message.
pub(crate) fn websocket_message(bytes: &[u8]) {
    for protocol in REMOTE.iter().chain(FORWARD) {
        match protocol.decode(bytes) {
            Ok(Message::Data(channel, data)) => {
                assert!(data.len() < bytes.len());
                let again = protocol.encode(channel, &data);
                assert_eq!(protocol.decode(&again), Ok(Message::Data(channel, data)));
            }
            Ok(Message::End(_)) => assert!(bytes.len() == 2 && bytes.first() == Some(&255)),
            Err(_) => {}
        }
    }
}
