//! Names in an archive: cleaned, beneath the root, and what they ask for (image-spec, layer.md
//! "Whiteouts").

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::limits;

const PREFIX: &[u8] = b".wh.";
const META_PREFIX: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Where an entry goes: relative, without `.`, `..` and double slashes; empty for the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EntryPath {
    bytes: Vec<u8>,
    kind: PathKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PathKind {
    Plain,
    Whiteout,
    Opaque,
    Meta,
}

/// What a name asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted<'a> {
    /// The root itself.
    Root,
    /// `name` in the directory `parent`.
    Entry {
        /// Relative to the root.
        parent: &'a [u8],
        /// One component.
        name: &'a [u8],
    },
    /// That `name`, as lower layers have it, is not there.
    Whiteout {
        /// Relative to the root.
        parent: &'a [u8],
        /// One component.
        name: &'a [u8],
    },
    /// That nothing of the directory shows which lower layers have in it.
    Opaque(&'a [u8]),
    /// Something of the aufs driver's own, which nobody needs.
    Nothing,
}

impl EntryPath {
    /// Cleans a name. An absolute one is taken as relative, as tar does; one that climbs out of
    /// the root is refused, and so is a whiteout of `.` or `..`.
    pub(crate) fn parse(name: &[u8]) -> Result<Self, &'static str> {
        let bytes = clean(name)?;
        if bytes.len() > limits::PATH_BYTES {
            return Err("path too long");
        }
        if bytes.contains(&0) {
            return Err("NUL in a path");
        }
        if bytes
            .split(|byte| *byte == b'/')
            .any(|name| name.len() > limits::NAME_BYTES)
        {
            return Err("file name too long");
        }
        let (_, base) = split(&bytes);
        let kind = if base == OPAQUE {
            PathKind::Opaque
        } else if bytes.starts_with(META_PREFIX) || base.starts_with(META_PREFIX) {
            PathKind::Meta
        } else if let Some(target) = base.strip_prefix(PREFIX) {
            if matches!(target, b"" | b"." | b"..") {
                return Err("whiteout of a directory itself");
            }
            PathKind::Whiteout
        } else {
            PathKind::Plain
        };
        Ok(Self { bytes, kind })
    }

    /// The cleaned path.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn wanted(&self) -> Wanted<'_> {
        let (parent, base) = split(&self.bytes);
        match self.kind {
            PathKind::Plain if self.bytes.is_empty() => Wanted::Root,
            PathKind::Plain => Wanted::Entry { parent, name: base },
            PathKind::Whiteout => Wanted::Whiteout {
                parent,
                name: &base[PREFIX.len()..],
            },
            PathKind::Opaque => Wanted::Opaque(parent),
            PathKind::Meta => Wanted::Nothing,
        }
    }

    pub(crate) fn is_whiteout(&self) -> bool {
        self.kind != PathKind::Plain
    }

    /// The path, relative.
    pub(crate) fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.bytes))
    }

    /// Parent directory and last component.
    pub(crate) fn split(&self) -> (&[u8], &[u8]) {
        split(&self.bytes)
    }
}

fn clean(name: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop().ok_or("path climbs out of the root")?;
            }
            part => parts.push(part),
        }
    }
    Ok(parts.join(&b'/'))
}

pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// The name as Go's `filepath.Clean` makes it, by which tar-split tells names apart: an absolute
/// name is another than a relative one.
pub(super) fn go_clean(name: &[u8]) -> Vec<u8> {
    let absolute = name.starts_with(b"/");
    let mut cleaned = if absolute { b"/".to_vec() } else { Vec::new() };
    // A name that climbs has been refused already.
    cleaned.extend(clean(name).unwrap_or_default());
    cleaned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned_and_never_climb() {
        let entry = |parent, name| Some(Wanted::Entry { parent, name });
        let whiteout = |parent, name| Some(Wanted::Whiteout { parent, name });
        for (name, wanted) in [
            (&b"a"[..], entry(&b""[..], &b"a"[..])),
            (b"./a/b/", entry(b"a", b"b")),
            (b"/etc//passwd", entry(b"etc", b"passwd")),
            (b"a/../b", entry(b"", b"b")),
            (b"...", entry(b"", b"...")),
            (b".", Some(Wanted::Root)),
            (b"./", Some(Wanted::Root)),
            (b"/", Some(Wanted::Root)),
            (b"a/..", Some(Wanted::Root)),
            (b"..", None),
            (b"../a", None),
            (b"a/../../b", None),
            (b"/../a", None),
            (b"a\0b", None),
            (b"d/.wh.x", whiteout(b"d", b"x")),
            (b".wh.x", whiteout(b"", b"x")),
            (b".wh.", None),
            (b"d/.wh..", None),
            (b"d/.wh...", None),
            (b"d/.wh..hidden", whiteout(b"d", b".hidden")),
            (b"d/.wh..wh..opq", Some(Wanted::Opaque(b"d"))),
            (b".wh..wh..opq", Some(Wanted::Opaque(b""))),
            (b".wh..wh.plnk/1.2", Some(Wanted::Nothing)),
            (b"d/.wh..wh.aufs", Some(Wanted::Nothing)),
        ] {
            let path = EntryPath::parse(name);
            let found = path.as_ref().ok().map(EntryPath::wanted);
            assert_eq!(found, wanted, "{}", name.escape_ascii());
        }
        assert!(EntryPath::parse(&[b'x'; 256]).is_err());
        assert!(EntryPath::parse(&b"x/".repeat(3000)).is_err());
    }
}
