//! A program's file copied to sealed memory, to be run from there ([`crate::spawn::Spec::image`]).
//!
//! An OCI runtime runs as root and hands its process over to a container, which could write to the
//! runtime's file by `/proc/PID/exe` (CVE-2019-5736). So `crun` and `runc` start by making a copy
//! of themselves that nobody can write to, and run that: 1 to 4 ms of each call. One that is
//! started from such a copy sees its seals and does not.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{MemfdFlags, SealFlags};

/// What a program may have in bytes: the largest that we know has 20 MiB.
const LIMIT: u64 = 64 << 20;
const ELF: [u8; 4] = *b"\x7fELF";

/// Copies the program at `path`. The seals are those that runtimes look for: all that forbid a
/// change, and the one that forbids further seals.
///
/// # Errors
/// It can't be read; it is not an ELF file (a script can't be run this way) or larger than 64 MiB
/// (`InvalidData`); the kernel forbids executable memory files (memfd_create(2), sysctl
/// `vm.memfd_noexec`).
pub fn program(path: &Path) -> io::Result<OwnedFd> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut source = File::open(path)?;
    let bytes = source.metadata()?.len();
    if bytes > LIMIT {
        return Err(wrong("too large a program"));
    }
    let mut head = [0; ELF.len()];
    source.read_exact(&mut head)?;
    if head != ELF {
        return Err(wrong("not an ELF file"));
    }
    let name = path.file_name().unwrap_or_default();
    let mut copy = File::from(memory(name)?);
    io::Write::write_all(&mut copy, &head)?;
    if io::copy(&mut source, &mut copy)? != bytes.saturating_sub(4) {
        return Err(wrong("changed while it was read"));
    }
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&copy, seals)?;
    Ok(copy.into())
}

fn memory(name: &std::ffi::OsStr) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match rustix::fs::memfd_create(name, flags | MemfdFlags::EXEC) {
        // Before Linux 6.3 there was no such flag, and all were executable.
        Err(rustix::io::Errno::INVAL) => Ok(rustix::fs::memfd_create(name, flags)?),
        made => Ok(made?),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::time::Duration;

    use super::*;
    use crate::spawn::{Session, Spec, Status, spawn};

    #[test]
    fn it_runs_without_its_file_and_cannot_be_written() {
        let dir = std::env::temp_dir().join(format!("sealed-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let file = dir.join("sh");
        std::fs::copy("/bin/sh", &file).unwrap();
        let image = program(&file).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(rustix::io::write(&image, b"x").is_err());
        // A descriptor at the copy's own number: it must not be in the way of the program.
        let number = std::os::fd::AsRawFd::as_raw_fd(&image);
        let null = File::open("/dev/null").unwrap();
        let mut spec = Spec::new(&file);
        spec.image = Some(image.as_fd());
        spec.session = Session::Group;
        spec.fds = vec![(null.as_fd(), number)];
        spec.args = vec![
            "-c".into(),
            format!("read x </proc/self/fd/{number}; exit 7").into(),
        ];
        let mut child = spawn(&spec).unwrap();
        let status = child.wait(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(status, Some(Status::Exited(7)));
    }

    #[test]
    fn a_script_is_none() {
        let error = program(Path::new("/etc/passwd")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
