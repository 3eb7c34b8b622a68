//! SELinux, as the kernel and the node's policy show it (`selinux(8)`): whether it is on, what
//! containers are labelled by default, whether a label is one, and labels of files.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::beneath::Dir;

/// The kernel's file system.
const SELINUXFS: &str = "/sys/fs/selinux";
/// Which policy is in force (selinux_config(5)).
const CONFIG: &str = "/etc/selinux/config";
/// The attribute that holds a file's label.
const ATTRIBUTE: &str = "security.selinux";
/// Bytes of a label that are looked at: the kernel's own are a page at most.
const LABEL_BYTES: usize = 4096;
/// Directories in each other that [`relabel`] goes into: more don't fit into a path.
const DEPTH: usize = 2048;

/// Whether the kernel labels, and lets us see it.
#[must_use]
pub fn is_enabled() -> bool {
    Path::new(SELINUXFS).join("enforce").is_file()
}

/// The policy's file of containers' default labels (`lxc_contexts`).
#[must_use]
pub fn container_contexts() -> PathBuf {
    let config = fs::read_to_string(CONFIG).unwrap_or_default();
    Path::new("/etc/selinux")
        .join(policy(&config))
        .join("contexts/lxc_contexts")
}

fn policy(config: &str) -> &str {
    config
        .lines()
        .filter_map(|line| line.trim().strip_prefix("SELINUXTYPE="))
        .map(str::trim)
        .find(|name| !name.is_empty() && !name.contains('/'))
        .unwrap_or("targeted")
}

/// Whether the policy knows the label, with its user, role, type and level.
///
/// # Errors
/// It can't be asked; not that it says no.
pub fn is_valid(label: &str) -> io::Result<bool> {
    match fs::write(Path::new(SELINUXFS).join("context"), terminated(label)) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => Ok(false),
        Err(error) => Err(error),
    }
}

fn terminated(label: &str) -> Vec<u8> {
    let mut bytes = label.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

/// The label of what is at `path`, links followed; `None` where its file system has none.
///
/// # Errors
/// Of `getxattr(2)`.
pub fn label(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = vec![0; LABEL_BYTES];
    match rustix::fs::getxattr(path, ATTRIBUTE, &mut buffer) {
        Ok(length) => {
            buffer.truncate(length);
            Ok(Some(buffer))
        }
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether what is at `path` has `label`.
///
/// # Errors
/// As [`label`].
pub fn has_label(path: &Path, wanted: &str) -> io::Result<bool> {
    let found = label(path)?.unwrap_or_default();
    Ok(found.strip_suffix(b"\0").unwrap_or(&found) == wanted.as_bytes())
}

/// Labels what is at `path`, links followed; nothing where its file system takes no labels.
///
/// # Errors
/// Of `setxattr(2)`: `EINVAL` for a label that the policy doesn't know.
pub fn set_label(path: &Path, label: &str) -> io::Result<()> {
    match rustix::fs::setxattr(path, ATTRIBUTE, &terminated(label), XattrFlags::empty()) {
        Err(Errno::NOTSUP) => Ok(()),
        set => Ok(set?),
    }
}

/// Labels what is at `path` and all beneath it. Links beneath are labelled themselves and not
/// followed; what has the label already isn't written. Nothing where the file system takes no labels.
///
/// # Errors
/// As [`set_label`]; more than 2048 directories in each other.
pub fn relabel(path: &Path, label: &str) -> io::Result<()> {
    set_label(path, label)?;
    if !fs::metadata(path)?.is_dir() {
        return Ok(());
    }
    let label = terminated(label);
    let mut open = Vec::new();
    let mut next = Some(Dir::open(path)?);
    loop {
        if let Some(dir) = next.take() {
            if open.len() == DEPTH {
                return Err(io::Error::other("too many directories in each other"));
            }
            let entries = dir.entries()?.into_iter();
            open.push((dir, entries));
        }
        let Some((dir, entries)) = open.last_mut() else {
            return Ok(());
        };
        let Some((name, _)) = entries.next() else {
            open.pop();
            continue;
        };
        match label_entry(dir, &name, &label) {
            Ok(()) => {}
            // Somebody removed it meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        }
        next = match dir.dir_plain(Path::new(&name)) {
            Ok(inner) => Some(inner),
            Err(error) if is_no_directory(&error) => None,
            Err(error) => return Err(error),
        };
    }
}

fn is_no_directory(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotADirectory | io::ErrorKind::NotFound
    ) || error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
}

/// Labels an entry, a link itself, unless it has the label.
fn label_entry(dir: &Dir, name: &OsStr, label: &[u8]) -> io::Result<()> {
    use rustix::fd::AsFd as _;
    let path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd())).join(name);
    let mut buffer = [0; LABEL_BYTES];
    match rustix::fs::lgetxattr(&path, ATTRIBUTE, &mut buffer) {
        Ok(length) if buffer.get(..length) == Some(label) => return Ok(()),
        Ok(_) | Err(Errno::NODATA | Errno::RANGE) => {}
        Err(Errno::NOTSUP) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    match dir.set_xattr(name, ATTRIBUTE.as_ref(), label) {
        Err(error) if error.raw_os_error() == Some(Errno::NOTSUP.raw_os_error()) => Ok(()),
        set => set,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_is_the_configured_one_or_the_usual() {
        for (config, wanted) in [
            (
                "# a comment\nSELINUX=enforcing\nSELINUXTYPE=default\n",
                "default",
            ),
            ("SELINUXTYPE= mls \n", "mls"),
            ("SELINUXTYPE=../../x\n", "targeted"),
            ("", "targeted"),
        ] {
            assert_eq!(policy(config), wanted, "{config:?}");
        }
    }
}
