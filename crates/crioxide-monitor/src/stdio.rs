//! A container's stdio: FIFOs with names on tmpfs.
//!
//! The container gets stdout and stderr opened for reading *and* writing: with no reader left, a
//! writer waits instead of getting EPIPE, so nothing breaks when the monitor dies, and its
//! successor opens the same FIFO by its name. A stdin that is never to be closed is opened for both
//! as well, and so never ends; one with `stdin_once` ends when the last writer has closed it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use monitor_protocol::Create;
use rustix::fs::{CWD, FileType, Mode, OFlags};

/// Everybody's: the container opens its ends again by `/dev/stdout`, as any user and as root of a
/// user namespace, to whom the runtime can't give them. Nobody else gets at them: their names are in
/// a directory of root's.
const SHARED: Mode = Mode::from_raw_mode(0o666);

/// The container's ends, for the runtime to pass on.
#[derive(Debug)]
pub(crate) struct ContainerEnds {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// The monitor's ends.
#[derive(Debug)]
pub(crate) struct MonitorEnds {
    pub(crate) outputs: [OwnedFd; 2],
    pub(crate) stdin: Option<OwnedFd>,
}

/// Makes the FIFOs in `dir` and opens both ends.
pub(crate) fn make(dir: &Path, create: &Create) -> io::Result<(ContainerEnds, MonitorEnds)> {
    for name in ["stdin", "stdout", "stderr"] {
        if name != "stdin" || create.stdin {
            let path = dir.join(name);
            rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0)?;
            // Beyond the umask.
            rustix::fs::chmod(&path, SHARED)?;
        }
    }
    let outputs = open_outputs(dir)?;
    let (theirs, ours) = if !create.stdin {
        (None, None)
    } else if create.stdin_once {
        // Not blocking while the other end isn't open; the container's reads shall block.
        let read = open(&dir.join("stdin"), OFlags::RDONLY | OFlags::NONBLOCK)?;
        let write = open_stdin(dir)?;
        rustix::fs::fcntl_setfl(&read, OFlags::empty())?;
        (Some(read), write)
    } else {
        (Some(open(&dir.join("stdin"), OFlags::RDWR)?), None)
    };
    let container = ContainerEnds {
        stdin: theirs,
        stdout: open(&dir.join("stdout"), OFlags::RDWR)?,
        stderr: open(&dir.join("stderr"), OFlags::RDWR)?,
    };
    Ok((
        container,
        MonitorEnds {
            outputs,
            stdin: ours,
        },
    ))
}

/// Opens the monitor's ends of stdout and stderr: a description of its own, whose O_NONBLOCK the
/// container doesn't see.
pub(crate) fn open_outputs(dir: &Path) -> io::Result<[OwnedFd; 2]> {
    let output = |name| open(&dir.join(name), OFlags::RDONLY | OFlags::NONBLOCK);
    Ok([output("stdout")?, output("stderr")?])
}

/// Opens another writing end of a container's stdin; `None` if nobody reads it.
pub(crate) fn open_stdin(dir: &Path) -> io::Result<Option<OwnedFd>> {
    match open(&dir.join("stdin"), OFlags::WRONLY | OFlags::NONBLOCK) {
        Ok(fd) => Ok(Some(fd)),
        Err(err) if err.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => Ok(None),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err),
    }
}

/// What a runtime that failed has written to the container's stderr.
pub(crate) fn read_words(stderr: &OwnedFd) -> Vec<u8> {
    let mut buffer = vec![0; 4096];
    let n = rustix::io::read(stderr, &mut buffer).unwrap_or(0);
    buffer.truncate(n);
    buffer
}

/// A container's directory in the monitor's.
pub(crate) fn container_dir(dir: &Path, id: &monitor_protocol::Id) -> PathBuf {
    dir.join("containers").join(id.as_str())
}

fn open(path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}
