//! A runtime's program, copied once to sealed memory instead of by each of its calls.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A program's sealed copy, made when it is first asked for and again when its file is another.
#[derive(Debug, Clone)]
pub struct Image(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    wanted: bool,
    made: Mutex<Option<(Stamp, Option<Arc<OwnedFd>>)>>,
}

/// What tells a file from its successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

impl Image {
    pub(crate) fn new(path: &Path, wanted: bool) -> Self {
        Self(Arc::new(Inner {
            path: path.to_owned(),
            wanted,
            made: Mutex::default(),
        }))
    }

    /// The copy of the program as it is now; `None` where the file is to be run itself: the runtime
    /// has no use for a copy, or it can't be made ([`sys::sealed::program`]). Blocks.
    #[must_use]
    pub fn get(&self) -> Option<Arc<OwnedFd>> {
        if !self.0.wanted {
            return None;
        }
        let metadata = self.0.path.metadata().ok()?;
        let stamp = Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        };
        let mut made = self.0.made.lock().unwrap_or_else(PoisonError::into_inner);
        match &*made {
            Some((of, image)) if *of == stamp => image.clone(),
            _ => {
                // What the kernel refuses once it refuses again: the file is run then.
                let image = sys::sealed::program(&self.0.path).ok().map(Arc::new);
                *made = Some((stamp, image.clone()));
                image
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_once_for_each_file() {
        let dir = std::env::temp_dir().join(format!("image-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let file = dir.join("program");
        std::fs::copy("/bin/true", &file).unwrap();
        let image = Image::new(&file, true);
        let first = image.get().unwrap();
        assert!(Arc::ptr_eq(&first, &image.get().unwrap()));
        std::fs::remove_file(&file).unwrap();
        std::fs::copy("/bin/false", &file).unwrap();
        assert!(!Arc::ptr_eq(&first, &image.get().unwrap()));
        std::fs::write(&file, "#!/bin/sh\n").unwrap();
        assert!(image.get().is_none());
        assert!(Image::new(Path::new("/bin/true"), false).get().is_none());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
