//! What daemon and monitor tell each other.

use monitor_protocol::{Exit, FromMonitor, Id, ToMonitor, limits};

/// Packets: there is one way only to write a message.
pub(crate) fn message(bytes: &[u8]) {
    if let Ok(message) = ToMonitor::decode(bytes) {
        assert!(bytes.len() <= limits::MESSAGE_BYTES);
        assert_eq!(message.encode().as_deref(), Ok(bytes));
    }
    if let Ok(message) = FromMonitor::decode(bytes) {
        assert!(bytes.len() <= limits::MESSAGE_BYTES);
        assert_eq!(message.encode().as_deref(), Ok(bytes));
    }
}

/// Exit records: bounded, and the same when they are read again.
pub(crate) fn exit_record(bytes: &[u8]) {
    let id = Id::try_from("c1").expect("a good id");
    let Some(exit) = Exit::from_record(&id, bytes) else {
        return;
    };
    assert!(exit.reason.len() <= 3 * limits::RECORD_BYTES);
    let record = exit.to_record();
    let again = Exit::from_record(&id, record.as_bytes()).expect("our own record");
    let reason = exit.reason.replace('\r', " ");
    if record.len() <= limits::RECORD_BYTES {
        assert_eq!(again, Exit { reason, ..exit });
    } else {
        assert_eq!(
            (again.code, again.finished_ns),
            (exit.code, exit.finished_ns)
        );
    }
}
