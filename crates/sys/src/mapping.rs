//! A file mapped into memory, shared with the file: what is stored there is the file's at once,
//! and outlives the process, however it dies (not the machine: that is what tmpfs means).

use std::fs::File;
use std::io;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::mm::{MapFlags, ProtFlags};

/// A private file of ours in memory: words for a journal at its start, bytes behind them.
///
/// The file is locked (`flock(2)`) for as long as it is mapped: no second process of ours has it
/// mapped at the same time.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    length: usize,
    header: usize,
    _lock: File,
}

impl Mapping {
    /// Maps the file at `path`, made with mode 0600 and zeros if it isn't there: `header` bytes of
    /// words, then `bytes` bytes. The directory must be ours alone.
    ///
    /// # Errors
    /// `EWOULDBLOCK`: another process has it. `EINVAL`: it is there with another size, or the sizes
    /// are no multiples of 8.
    #[allow(unsafe_code, reason = "maps a file")]
    pub fn open(path: &Path, header: usize, bytes: usize) -> io::Result<Self> {
        let length = header.saturating_add(bytes);
        if !header.is_multiple_of(8) || header == 0 {
            return Err(rustix::io::Errno::INVAL.into());
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        let wanted = u64::try_from(length).map_err(io::Error::other)?;
        match file.metadata()?.len() {
            0 => file.set_len(wanted)?,
            there if there == wanted => {}
            _ => return Err(rustix::io::Errno::INVAL.into()),
        }
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &file,
                0,
            )?
        };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            start,
            length,
            header,
            _lock: file,
        })
    }

    /// The words and the bytes.
    #[allow(unsafe_code, reason = "views of the mapping")]
    pub fn split(&mut self) -> (&[AtomicU64], &mut [u8]) {
        // SAFETY: the mapping is page-aligned and has `header` bytes of them, which are any bits;
        // `self` is borrowed, and nobody else writes the file (lock, 0600, a directory of ours).
        let words = unsafe {
            std::slice::from_raw_parts(self.start.as_ptr().cast::<AtomicU64>(), self.header / 8)
        };
        // SAFETY: within the mapping.
        let first = unsafe { self.start.as_ptr().add(self.header) };
        // SAFETY: as above; the bytes behind the words are another part than those.
        let bytes = unsafe { std::slice::from_raw_parts_mut(first, self.length - self.header) };
        (words, bytes)
    }
}

#[allow(
    unsafe_code,
    reason = "the pointer is to shared memory, no thread's own"
)]
// SAFETY: the mapping belongs to the process, not to a thread.
unsafe impl Send for Mapping {}

impl Drop for Mapping {
    #[allow(unsafe_code, reason = "unmaps what open mapped")]
    fn drop(&mut self) {
        // SAFETY: ours, with this length, and no view outlives `self`. Can't fail then.
        let _unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn what_was_stored_is_there_for_the_next_and_only_one_has_it() {
        let path = std::env::temp_dir().join(format!("mapping-{}", std::process::id()));
        let mut first = Mapping::open(&path, 4096, 8192).unwrap();
        let (words, bytes) = first.split();
        words[1].store(42, Ordering::Release);
        bytes[8191] = 7;
        assert_eq!(
            Mapping::open(&path, 4096, 8192).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        drop(first);
        assert!(Mapping::open(&path, 4096, 4096).is_err());
        let mut second = Mapping::open(&path, 4096, 8192).unwrap();
        let (words, bytes) = second.split();
        assert_eq!(
            (words[1].load(Ordering::Acquire), bytes[8191], bytes[0]),
            (42, 7, 0)
        );
        std::fs::remove_file(path).unwrap();
    }
}
