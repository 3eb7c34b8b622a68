//! `/dev/null`, for programs that may give it away: runtimes make standard streams their container's
//! (crun before 1.24 devices too), and whoever owns a file can change its mode for everybody.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags};

const PATH: &str = "/dev/null";

/// Opens it to read and write, as a file whose owner and mode nobody can change by the descriptor:
/// `fchown(2)` and `fchmod(2)` get `EROFS`. Where this process may not mount, or before Linux 5.12, it is
/// the file itself. Devices can be written to by read-only mounts.
///
/// # Errors
/// Of `open(2)`.
pub fn open() -> io::Result<OwnedFd> {
    static COPY: OnceLock<Option<OwnedFd>> = OnceLock::new();
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let opened = match COPY.get_or_init(|| crate::mount::read_only_copy(PATH.as_ref()).ok()) {
        Some(mount) => {
            let path = format!("/proc/self/fd/{}", mount.as_raw_fd());
            rustix::fs::open(path, flags, Mode::empty())
        }
        None => rustix::fs::open(PATH, flags, Mode::empty()),
    };
    Ok(opened?)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn it_takes_and_gives_nothing_and_stays_what_it_is() {
        let null = open().unwrap();
        assert_eq!(rustix::io::write(&null, b"text").unwrap(), 4);
        assert_eq!(rustix::io::read(&null, &mut [0; 4]).unwrap(), 0);
        let refused = rustix::fs::fchmod(null.as_fd(), Mode::from_raw_mode(0o666)).unwrap_err();
        assert_eq!(refused, rustix::io::Errno::ROFS);
        let root = rustix::fs::Uid::ROOT;
        let refused = rustix::fs::fchown(null.as_fd(), Some(root), None).unwrap_err();
        assert_eq!(refused, rustix::io::Errno::ROFS);
    }
}
