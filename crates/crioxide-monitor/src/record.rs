//! Exit records' files. Their text is [`Exit::to_record`]'s.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;

use monitor_protocol::{Exit, Id};
use rustix::fs::{Mode, OFlags};

/// Stack of the thread that syncs a record.
const STACK: usize = 64 * 1024;

/// Writes the record of `exit` into the directory for records (a tmpfs: nothing to sync).
pub(crate) fn write(exits_dir: &Path, exit: &Exit) -> io::Result<()> {
    replace(&exits_dir.join(exit.id.as_str()), &exit.to_record(), false)
}

/// Writes and syncs a copy into a container's persistent directory, on a thread of its own: a
/// hung disk must not stop reaping.
pub(crate) fn write_persistent(persist_dir: PathBuf, exit: &Exit) {
    let text = exit.to_record();
    let work = move || {
        // Nobody to tell: the record on tmpfs is there, this one is for a reboot before the
        // daemon is back.
        let _lost = replace(&persist_dir.join("exit"), &text, true);
    };
    let thread = thread::Builder::new()
        .name("persist".into())
        .stack_size(STACK);
    // Without a thread there is no copy: as above.
    let _lost = thread.spawn(work);
}

/// Reads the record of a container, if there is one.
pub(crate) fn read(exits_dir: &Path, id: &Id) -> io::Result<Option<Exit>> {
    match fs::read(exits_dir.join(id.as_str())) {
        Ok(bytes) => Ok(Exit::from_record(id, &bytes)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err),
    }
}

/// Replaces a file at once; readers see the old one or the new one.
fn replace(path: &Path, text: &str, sync: bool) -> io::Result<()> {
    let mut temporary = path.to_owned().into_os_string();
    temporary.push(Exit::TEMPORARY);
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    let mut file = File::from(rustix::fs::open(&temporary, flags, mode)?);
    file.write_all(text.as_bytes())?;
    if sync {
        file.sync_all()?;
    }
    rustix::fs::rename(&temporary, path)?;
    if sync && let Some(dir) = path.parent() {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_conmons_too() {
        let dir = tempfile::tempdir().unwrap();
        let id = Id::try_from("c1").unwrap();
        assert_eq!(read(dir.path(), &id).unwrap(), None);
        let exit = Exit {
            id: id.clone(),
            pid: 12,
            code: 137,
            signal: 9,
            oom_killed: true,
            finished_ns: 5,
            reason: "monitor lost".into(),
        };
        write(dir.path(), &exit).unwrap();
        let text = fs::read_to_string(dir.path().join("c1")).unwrap();
        assert_eq!(text.lines().next(), Some("137"));
        assert_eq!(read(dir.path(), &id).unwrap(), Some(exit));
        fs::write(dir.path().join("c1"), "3").unwrap();
        assert_eq!(
            read(dir.path(), &id).unwrap().map(|exit| exit.code),
            Some(3)
        );
        fs::write(dir.path().join("c1"), "x").unwrap();
        assert_eq!(read(dir.path(), &id).unwrap(), None);
    }
}
