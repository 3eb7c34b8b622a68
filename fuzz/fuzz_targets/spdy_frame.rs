//! SPDY frames: what is decoded is bounded and comes back from its bytes; what is incomplete asks
//! for no more than a whole frame.
#![no_main]

use libfuzzer_sys::fuzz_target;
use streaming::limits;
use streaming::spdy::frame::{Frame, Undecodable};

fuzz_target!(|bytes: &[u8]| {
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
});
