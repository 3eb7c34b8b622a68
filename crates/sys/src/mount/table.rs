//! The table of mounts (`/proc/self/mountinfo`, `proc_pid_mountinfo(5)`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use super::Propagation;

/// Mount points at and beneath `dir`, the last mounted first: the order to unmount them in.
///
/// # Errors
/// If the table can't be read.
pub fn beneath(dir: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(among(&fs::read_to_string("/proc/self/mountinfo")?, dir))
}

fn among(table: &str, dir: &Path) -> Vec<PathBuf> {
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    let mut points: Vec<_> = points
        .map(|point| PathBuf::from(unescape(point)))
        .filter(|point| point.starts_with(dir))
        .collect();
    points.reverse();
    points
}

/// The mount that `path` is on, which must be there: its mount point, and how what is mounted in it
/// later reaches others (`Shared` where it receives as well).
///
/// # Errors
/// `ENOENT`; `ENOSYS` on a kernel before 5.8; the table can't be read.
pub fn holding(path: &Path) -> io::Result<(PathBuf, Propagation)> {
    let found = statx(CWD, path, AtFlags::NO_AUTOMOUNT, StatxFlags::MNT_ID)?;
    if found.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    // Not in the table: beneath another root, or unmounted meanwhile.
    with_id(&table, found.stx_mnt_id).ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn with_id(table: &str, id: u64) -> Option<(PathBuf, Propagation)> {
    let line = table.lines().find(|line| {
        let first = line.split(' ').next();
        first.and_then(|text| text.parse().ok()) == Some(id)
    })?;
    let mut fields = line.split(' ').skip(4);
    let point = unescape(fields.next()?);
    // After the options come tags, up to a single dash.
    let tags = fields.skip(1).take_while(|field| *field != "-");
    let propagation = tags.fold(Propagation::Private, |found, tag| {
        match tag.split_once(':') {
            Some(("shared", _)) => Propagation::Shared,
            Some(("master", _)) if found == Propagation::Private => Propagation::Slave,
            _ => found,
        }
    });
    Some((point.into(), propagation))
}

/// Blanks, tabs, newlines and backslashes are octal in the table.
pub(crate) fn unescape(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beneath_a_directory_comes_innermost_first() {
        let table = "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 8:1 / /a\\040b rw - tmpfs t rw\n\
                     3 2 8:1 / /a\\040b/c rw shared:1 - tmpfs t rw\n4 1 8:1 / /a\\040bc rw - tmpfs t rw\n";
        let found = among(table, Path::new("/a b"));
        assert_eq!(found, [Path::new("/a b/c"), Path::new("/a b")]);
        assert!(among(table, Path::new("/x")).is_empty());
    }

    #[test]
    fn a_mount_tells_how_mounts_in_it_travel() {
        let table = "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 8:1 / /a\\040b rw shared:3 - tmpfs t rw\n\
                     13 1 8:1 / /c rw master:3 - tmpfs shared:1 rw\n14 1 8:1 / /d rw master:2 shared:4 - t t rw\n";
        for (id, mount) in [
            (1, Some(("/", Propagation::Private))),
            (2, Some(("/a b", Propagation::Shared))),
            (13, Some(("/c", Propagation::Slave))),
            (14, Some(("/d", Propagation::Shared))),
            (3, None),
        ] {
            let mount = mount.map(|(point, how)| (PathBuf::from(point), how));
            assert_eq!(with_id(table, id), mount, "{id}");
        }
        let (point, _) = holding(Path::new("/proc/self/status")).unwrap();
        assert_eq!(point, Path::new("/proc"));
        assert!(holding(Path::new("/no/such")).is_err());
    }
}
