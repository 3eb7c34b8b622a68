//! Channel messages: what a message says comes back from the bytes that say it, in every protocol,
//! and never is more than the message.
#![no_main]

use libfuzzer_sys::fuzz_target;
use streaming::websocket::message::{FORWARD, Message, REMOTE};

fuzz_target!(|bytes: &[u8]| {
    for protocol in REMOTE.iter().chain(FORWARD) {
        match protocol.decode(bytes) {
            Ok(Message::Data(channel, data)) => {
                assert!(data.len() < bytes.len());
                let again = protocol.encode(channel, &data);
                assert_eq!(protocol.decode(&again), Ok(Message::Data(channel, data)));
            }
            Ok(Message::End(_)) => assert!(bytes.len() == 2 && bytes[0] == 255),
            Err(_) => {}
        }
    }
});
