//! Mounts that all containers have: `mounts.conf`, for a distribution's subscriptions and the like
//! (containers-mounts.conf(5)). What is there on the host is copied, so that a container changes
//! nothing of it.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use spec::mounts::Bind;

use crate::bundle::Ingredients;
use crate::node::Node;
use crate::{Error, node_files};

/// The administrator's file, and the distribution's: the first that is there counts.
const DEFAULT_FILES: [&str; 2] = [
    "/etc/containers/mounts.conf",
    "/usr/share/containers/mounts.conf",
];
/// Where the copies are, in the container's bundle: they end with it.
const DIR: &str = "default-mounts";
/// Most bytes and files that are copied for a container; they are in memory.
const BYTES: u64 = 64 << 20;
const FILES: usize = 10_000;
/// Deepest directory; links are followed, and may go round.
const DEPTH: usize = 32;

/// Copies what the file names, and says what is to be mounted. A mount at the same place that is
/// `asked` for goes before; an entry that can't be had is left out, with a warning.
pub(crate) fn make(node: &Node, from: &Ingredients, asked: &[Bind]) -> Result<Vec<Bind>, Error> {
    let Some((file, bytes)) = find(&node.options.default_mounts_file) else {
        return Ok(Vec::new());
    };
    let mut binds: Vec<Bind> = Vec::new();
    let mut left = Budget {
        bytes: BYTES,
        files: FILES,
        owner: from.pod.request.id_map.map_or((0, 0), |map| map.root()),
    };
    let label = &from.selinux.mount;
    let text = String::from_utf8_lossy(&bytes);
    for (number, (source, destination)) in text.lines().filter_map(entry).enumerate() {
        let taken = |bind: &Bind| Path::new(&bind.destination) == Path::new(destination);
        if asked.iter().chain(&binds).any(taken) {
            continue;
        }
        let copy = from.bundle.join(DIR).join(number.to_string());
        let skipped = |error: io::Error| {
            let (file, line) = (file.display(), format!("{source}:{destination}"));
            if error.kind() == io::ErrorKind::NotFound {
                tracing::info!(%file, line, "default mount skipped: it is not there");
            } else {
                tracing::warn!(%file, line, %error, "default mount skipped");
            }
        };
        let made = is_destination(destination)
            .and_then(|()| fs::metadata(source))
            .and_then(|_| make_dir(copy.parent().unwrap_or(&copy), 0o755))
            .and_then(|()| left.copy(Path::new(source), &copy, 0))
            .and_then(|()| match label.is_empty() {
                true => Ok(()),
                false => sys::selinux::relabel(&copy, label),
            });
        match made {
            Ok(()) => binds.push(Bind {
                destination: destination.to_owned(),
                source: copy,
                ..Bind::default()
            }),
            Err(error) => skipped(error),
        }
    }
    Ok(binds)
}

/// The file that counts: the configured one, else the first that is there.
fn find(configured: &Path) -> Option<(PathBuf, Vec<u8>)> {
    let candidates: Vec<&Path> = match configured.as_os_str().is_empty() {
        true => DEFAULT_FILES.map(Path::new).to_vec(),
        false => vec![configured],
    };
    for path in candidates {
        match node_files::read(path) {
            Ok(bytes) => return Some((path.to_owned(), bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "default mounts are not read");
                return None;
            }
        }
    }
    None
}

/// `/SRC:/DST`, or one path for both; anything else is a comment.
fn entry(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    line.starts_with('/')
        .then(|| line.split_once(':').unwrap_or((line, line)))
}

fn is_destination(path: &str) -> io::Result<()> {
    let path = Path::new(path);
    let climbs = path.components().any(|part| part == Component::ParentDir);
    if path.is_absolute() && path.parent().is_some() && !climbs {
        Ok(())
    } else {
        Err(io::Error::other("its destination is no absolute path"))
    }
}

fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// What may still be copied.
#[derive(Debug)]
struct Budget {
    bytes: u64,
    files: usize,
    /// Whose the copies are: root's of the container.
    owner: (u32, u32),
}

impl Budget {
    /// Copies a file or a directory with modes; links are followed, those that lead nowhere are left
    /// out.
    fn copy(&mut self, from: &Path, to: &Path, depth: usize) -> io::Result<()> {
        let too_much = |what: &str| io::Error::other(format!("{}: too {what}", from.display()));
        self.files = self
            .files
            .checked_sub(1)
            .ok_or_else(|| too_much("many files"))?;
        let metadata = fs::metadata(from)?;
        let permissions = Permissions::from_mode(metadata.permissions().mode() & 0o7777);
        if metadata.is_dir() {
            if depth >= DEPTH {
                return Err(too_much("deep"));
            }
            make_dir(to, 0o700)?;
            for entry in fs::read_dir(from)? {
                let name = entry?.file_name();
                match self.copy(&from.join(&name), &to.join(&name), depth + 1) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    copied => copied?,
                }
            }
        } else if metadata.is_file() {
            let too_large = || too_much("large");
            let left = self
                .bytes
                .checked_sub(metadata.len())
                .ok_or_else(too_large)?;
            let bytes = node_files::read(from)?;
            self.bytes = left;
            let mut new = File::options();
            let new = new.write(true).create_new(true).mode(0o600);
            new.open(to)?.write_all(&bytes)?;
        } else {
            return Err(io::Error::other(format!(
                "{}: unsupported file type",
                from.display()
            )));
        }
        std::os::unix::fs::chown(to, Some(self.owner.0), Some(self.owner.1))?;
        fs::set_permissions(to, permissions)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn lines_are_a_source_and_a_destination() {
        for (line, wanted) in [
            ("/a:/b", Some(("/a", "/b"))),
            (" /a ", Some(("/a", "/a"))),
            ("# /a:/b", None),
            ("a:/b", None),
            ("", None),
        ] {
            assert_eq!(entry(line), wanted, "{line:?}");
        }
        for (path, good) in [("/b", true), ("b", false), ("/", false), ("/a/../b", false)] {
            assert_eq!(is_destination(path).is_ok(), good, "{path}");
        }
    }

    #[test]
    fn what_is_copied_has_its_content_and_modes_and_no_links() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("sub/empty")).unwrap();
        fs::write(from.join("sub/key"), "secret").unwrap();
        symlink("sub/key", from.join("link")).unwrap();
        symlink("nowhere", from.join("dangling")).unwrap();
        let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode));
        mode(&from.join("sub/key"), 0o640).unwrap();
        mode(&from.join("sub"), 0o2750).unwrap();
        let mut all = Budget {
            bytes: 12,
            files: 5,
            owner: (0, 0),
        };
        all.copy(&from, &to, 0).unwrap_err();
        fs::remove_dir_all(&to).unwrap();
        let mut all = Budget {
            bytes: 12,
            files: 6,
            owner: (0, 0),
        };
        all.copy(&from, &to, 0).unwrap();
        let of = |name: &str| fs::symlink_metadata(to.join(name)).unwrap();
        assert_eq!(fs::read(to.join("link")).unwrap(), b"secret");
        assert!(of("link").is_file() && of("sub/empty").is_dir());
        assert_eq!(of("sub/key").permissions().mode() & 0o7777, 0o640);
        assert_eq!(of("sub").permissions().mode() & 0o7777, 0o2750);
        assert!(fs::symlink_metadata(to.join("dangling")).is_err());
    }

    #[test]
    fn what_has_no_end_is_not_copied() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        fs::create_dir(&from).unwrap();
        symlink(".", from.join("round")).unwrap();
        let mut all = Budget {
            bytes: 1,
            files: 1000,
            owner: (0, 0),
        };
        assert!(all.copy(&from, &dir.path().join("to"), 0).is_err());
        fs::remove_file(from.join("round")).unwrap();
        fs::write(from.join("large"), "xx").unwrap();
        assert!(all.copy(&from, &dir.path().join("other"), 0).is_err());
    }
}
