//! Exit records: a file per container, its first line the exit code, as conmon writes it; the
//! other lines are ours, `name=value`.

use crate::{Exit, Id, limits};

impl Exit {
    /// What follows a record's name while it is written.
    pub const TEMPORARY: &str = ".tmp";

    /// The record's text.
    #[must_use]
    pub fn to_record(&self) -> String {
        let Self {
            pid,
            code,
            signal,
            oom_killed,
            finished_ns,
            reason,
            ..
        } = self;
        let reason = reason.replace(['\n', '\r'], " ");
        format!(
            "{code}\nsignal={signal}\noom={oom_killed}\nfinished_ns={finished_ns}\npid={pid}\nreason={reason}\n"
        )
    }

    /// Reads the record of the container `id`; none if it does not begin with a code. What is
    /// beyond [`limits::RECORD_BYTES`] is not looked at.
    #[must_use]
    pub fn from_record(id: &Id, bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..limits::RECORD_BYTES).unwrap_or(bytes);
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.lines();
        let mut exit = Self {
            id: id.clone(),
            pid: 0,
            code: lines.next()?.trim().parse().ok()?,
            signal: 0,
            oom_killed: false,
            finished_ns: 0,
            reason: String::new(),
        };
        for (name, value) in lines.filter_map(|line| line.split_once('=')) {
            match name {
                "signal" => exit.signal = value.parse().unwrap_or(0),
                "oom" => exit.oom_killed = value == "true",
                "finished_ns" => exit.finished_ns = value.parse().unwrap_or(0),
                "pid" => exit.pid = value.parse().unwrap_or(0),
                "reason" => value.clone_into(&mut exit.reason),
                _ => {}
            }
        }
        Some(exit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_damaged_is_read_as_far_as_it_goes() {
        let id = Id::try_from("c1").unwrap();
        let read = |bytes: &[u8]| Exit::from_record(&id, bytes);
        assert_eq!(read(b""), None);
        assert_eq!(read(b"x\n"), None);
        assert_eq!(read(b" 7 ").map(|exit| exit.code), Some(7));
        let exit = read(b"1\nsignal=x\noom=true\nreason=a\xff=b\r\r\nunknown=1").unwrap();
        assert_eq!((exit.signal, exit.oom_killed), (0, true));
        assert_eq!(exit.reason, "a\u{fffd}=b\r");
    }

    #[test]
    fn a_reason_of_several_lines_is_one_line() {
        let id = Id::try_from("c1").unwrap();
        let mut exit = Exit::from_record(&id, b"1").unwrap();
        exit.reason = "a\nb\rc\r".to_owned();
        let again = Exit::from_record(&id, exit.to_record().as_bytes()).unwrap();
        assert_eq!(again.reason, "a b c ");
    }
}
