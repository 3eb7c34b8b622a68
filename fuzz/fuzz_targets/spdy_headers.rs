//! SPDY header blocks: blocks of one connection, deflated and not, never become more than is
//! allowed, and headers come back from their bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use streaming::limits;
use streaming::spdy::headers::{Headers, Inflater, Storer};

fuzz_target!(|bytes: &[u8]| {
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
});
