//! The table of mounts (`/proc/self/mountinfo`, `proc_pid_mountinfo(5)`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

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
}
