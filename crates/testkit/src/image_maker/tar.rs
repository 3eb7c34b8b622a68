//! A small tar writer (ustar): enough for test images, and for hostile ones.

const BLOCK: usize = 512;

/// What an entry is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A file with this content.
    File(Vec<u8>),
    /// A directory.
    Directory,
    /// A symbolic link to this.
    Symlink(String),
    /// Another name of that entry.
    Hardlink(String),
    /// A device or a FIFO: tar's type flag, major, minor.
    Special(u8, u32, u32),
}

/// One entry of an archive. The name is written as it is, `..` and all.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its path; at most 100 bytes, or with a `/` that splits it into 155 and 100.
    pub name: String,
    /// Permissions, setuid and the like.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// What it is.
    pub kind: Kind,
}

impl Entry {
    /// A file of root's.
    #[must_use]
    pub fn file(name: &str, mode: u32, content: impl AsRef<[u8]>) -> Self {
        Self::new(name, mode, Kind::File(content.as_ref().to_vec()))
    }

    /// A directory of root's.
    #[must_use]
    pub fn directory(name: &str, mode: u32) -> Self {
        Self::new(name, mode, Kind::Directory)
    }

    /// A symbolic link.
    #[must_use]
    pub fn symlink(name: &str, target: &str) -> Self {
        Self::new(name, 0o777, Kind::Symlink(target.to_owned()))
    }

    /// A hard link.
    #[must_use]
    pub fn hardlink(name: &str, target: &str) -> Self {
        // That of what tests link to, programs: containerd gives the file the mode of its last link.
        Self::new(name, 0o755, Kind::Hardlink(target.to_owned()))
    }

    /// What removes `name` of the layers below.
    #[must_use]
    pub fn whiteout(name: &str) -> Self {
        let (directory, file) = name
            .rsplit_once('/')
            .map_or(("", name), |(dir, file)| (dir, file));
        let separator = if directory.is_empty() { "" } else { "/" };
        Self::file(&format!("{directory}{separator}.wh.{file}"), 0o644, b"")
    }

    /// The same with another owner.
    #[must_use]
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    fn new(name: &str, mode: u32, kind: Kind) -> Self {
        Self {
            name: name.to_owned(),
            mode,
            uid: 0,
            gid: 0,
            kind,
        }
    }
}

/// Makes an archive of entries.
#[must_use]
pub fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        bytes.extend(header(entry));
        if let Kind::File(content) = &entry.kind {
            bytes.extend(content);
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        }
    }
    bytes.resize(bytes.len() + 2 * BLOCK, 0);
    bytes
}

fn header(entry: &Entry) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    let (prefix, name) = split(&entry.name);
    let (flag, size, link, device) = match &entry.kind {
        Kind::File(content) => (b'0', content.len(), "", None),
        Kind::Directory => (b'5', 0, "", None),
        Kind::Symlink(target) => (b'2', 0, target.as_str(), None),
        Kind::Hardlink(target) => (b'1', 0, target.as_str(), None),
        Kind::Special(flag, major, minor) => (*flag, 0, "", Some((*major, *minor))),
    };
    put(0, name.as_bytes());
    put(100, format!("{:07o}\0", entry.mode).as_bytes());
    put(108, format!("{:07o}\0", entry.uid).as_bytes());
    put(116, format!("{:07o}\0", entry.gid).as_bytes());
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"14544666705\0");
    put(148, b"        ");
    put(156, &[flag]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    if let Some((major, minor)) = device {
        put(329, format!("{major:07o}\0").as_bytes());
        put(337, format!("{minor:07o}\0").as_bytes());
    }
    put(345, prefix.as_bytes());
    let sum: u32 = header.iter().copied().map(u32::from).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

fn split(name: &str) -> (&str, &str) {
    if name.len() <= 100 {
        return ("", name);
    }
    let at = name.len() - 101;
    let slash = name[at..].find('/').map(|slash| at + slash);
    name.split_at_checked(slash.expect("a long name has a place to split it"))
        .map_or(("", name), |(prefix, name)| (prefix, &name[1..]))
}
