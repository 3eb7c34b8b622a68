//! A layer's files against the entries of its archive: kinds, owners, permissions, times, extended
//! attributes, and that nothing is there that no entry made.
//!
//! An entry whose path leads through a symbolic link of the layer is not compared, nor are
//! permissions and extended attributes of hard links (the tools that unpack differ there) and times of
//! directories.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{FileType, Stat};
use sys::beneath::Dir;

use super::extended::{self, Attributes};
use crate::error::Context;
use crate::record::LayerRecord;
use crate::tar::{Entry, Kind, Source, Stream};
use crate::unpack::{EntryPath, Wanted};
use crate::{Error, Store, force_mask, limits};

/// What is first found to differ; `None` if nothing does. The archive can be made again.
pub(super) fn compare(store: &Store, layer: &LayerRecord) -> Result<Option<String>, Error> {
    if layer.is_mapped() {
        return Ok(None);
    }
    let diff = store.paths().files(&layer.id);
    let expected = expected(store, layer)?;
    let root = Dir::open(&diff).at("open", &diff)?;
    let mut found = BTreeMap::new();
    walk(&root, &mut found).at("read", &diff)?;
    let rules = Rules {
        users_kept: extended::are_users_kept(&root).at("read", &diff)?,
        whole: store.driver().keeps_whole_trees(),
        owners: !store.0.options.ignore_chown_errors,
        masked: store.0.options.force_mask.is_some(),
    };
    Ok(differs(&expected, &found, &rules))
}

/// What of a layer is as its archive says.
struct Rules {
    /// The file system has users' extended attributes.
    users_kept: bool,
    /// What is there has the files of the layers below, too.
    whole: bool,
    /// Owners are given.
    owners: bool,
    /// Owners, permissions and kinds may be in an attribute.
    masked: bool,
}

/// The last word of an archive about a path.
#[derive(Debug)]
enum Wish {
    /// This entry.
    Entry(Box<Entry>),
    /// A hard link, or a file that has one: something that is no directory.
    Linked,
    /// Nothing of the layers below.
    Whiteout,
}

impl Wish {
    /// Whether nothing may be there where a layer is a whole tree; overlay's own mark is one, too.
    fn hides(&self) -> bool {
        match self {
            Self::Whiteout => true,
            Self::Entry(entry) => entry.kind == Kind::CharacterDevice && entry.device == (0, 0),
            Self::Linked => false,
        }
    }
}

type Expected = BTreeMap<Vec<u8>, Wish>;

/// What is there under a path.
struct There {
    stat: Stat,
    /// Where a symbolic link leads.
    target: Vec<u8>,
    extended: Attributes,
}

impl There {
    fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }
}

type Found = BTreeMap<Vec<u8>, There>;

fn expected(store: &Store, layer: &LayerRecord) -> Result<Expected, Error> {
    let (reader, writer) = io::pipe().at("make", "a pipe")?;
    let writer = io::BufWriter::with_capacity(64 << 10, writer);
    std::thread::scope(|scope| {
        let making = scope.spawn(move || store.write_layer(&layer.id, writer));
        let wishes = wishes(Stream::new(
            Source::new(reader, limits::LAYER_BYTES),
            limits::ENTRIES,
        ));
        let made = making
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match (wishes, made) {
            (Ok(wishes), Ok(())) => Ok(wishes),
            // Its reader went first.
            (Err(error), _) | (_, Err(error)) => Err(error),
        }
    })
}

fn wishes<R: io::Read>(mut stream: Stream<R>) -> Result<Expected, Error> {
    let mut wishes = Expected::new();
    while let Some(entry) = stream.next()? {
        loop {
            let piece = stream.data()?.len();
            if piece == 0 {
                break;
            }
            stream.consume(piece);
        }
        stream.take_raw().clear();
        if entry.kind == Kind::Global {
            continue;
        }
        let path = EntryPath::parse(&entry.name).map_err(|reason| entry.bad(reason))?;
        match path.wanted() {
            Wanted::Nothing | Wanted::Opaque(_) => {}
            Wanted::Root => {
                wishes.insert(Vec::new(), Wish::Entry(Box::new(entry)));
            }
            Wanted::Whiteout { parent, name } => {
                let path = join(parent, name);
                forget_beneath(&mut wishes, &path);
                wishes.insert(path, Wish::Whiteout);
            }
            Wanted::Entry { parent, name } => {
                let path = join(parent, name);
                let is_directory = entry.kind == Kind::Directory;
                let is_link = entry.kind == Kind::HardLink;
                if !is_directory {
                    forget_beneath(&mut wishes, &path);
                }
                if is_link && let Ok(target) = EntryPath::parse(&entry.link) {
                    if let Wanted::Entry { parent, name } = target.wanted() {
                        wishes.insert(join(parent, name), Wish::Linked);
                    }
                    wishes.insert(path, Wish::Linked);
                } else {
                    wishes.insert(path, Wish::Entry(Box::new(entry)));
                }
            }
        }
    }
    while !stream.trailing()?.is_empty() {}
    Ok(wishes)
}

/// Something took the place of `path`, and of all that was in it.
fn forget_beneath(wishes: &mut Expected, path: &[u8]) {
    let prefix = [path, b"/"].concat();
    let beneath: Vec<_> = wishes
        .range(prefix.clone()..)
        .map(|(path, _)| path)
        .take_while(|path| path.starts_with(&prefix))
        .cloned()
        .collect();
    for path in beneath {
        wishes.remove(&path);
    }
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() {
        name.to_vec()
    } else {
        [parent, b"/", name].concat()
    }
}

/// What is there, by path; follows no link.
fn walk(root: &Dir, found: &mut Found) -> io::Result<()> {
    let mut waiting = vec![Vec::new()];
    while let Some(path) = waiting.pop() {
        let here: &OsStr = if path.is_empty() {
            OsStr::new(".")
        } else {
            OsStr::from_bytes(&path)
        };
        let dir = root.dir_plain(Path::new(here))?;
        for (name, _) in dir.entries()? {
            let Some(stat) = dir.stat(&name)? else {
                continue;
            };
            let path = join(&path, name.as_bytes());
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind == FileType::Directory {
                waiting.push(path.clone());
            }
            let target = if kind == FileType::Symlink {
                dir.read_link(&name)?.into_encoded_bytes()
            } else {
                Vec::new()
            };
            let extended = extended::read(&dir, &name)?;
            let there = There {
                stat,
                target,
                extended,
            };
            found.insert(path, there);
        }
    }
    Ok(())
}

fn differs(expected: &Expected, found: &Found, rules: &Rules) -> Option<String> {
    let whole = rules.whole;
    let shown = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    let is_symlink = |path: &[u8]| {
        let there = found.get(path);
        there.is_some_and(|there| there.kind() == FileType::Symlink)
    };
    let mut parents: HashSet<&[u8]> = HashSet::new();
    // Where links of the layer lead entries elsewhere, what is there is not known to be wrong.
    let mut led_elsewhere = false;
    for (path, wish) in expected {
        let above: Vec<&[u8]> = prefixes(path).collect();
        if above.iter().any(|path| is_symlink(path)) {
            led_elsewhere = true;
            continue;
        }
        parents.extend(above);
        if path.is_empty() {
            continue;
        }
        if whole && wish.hides() {
            match found.get(path) {
                None => continue,
                Some(_) => return Some(format!("{} is there", shown(path))),
            }
        }
        let Some(there) = found.get(path) else {
            return Some(format!("{} is missing", shown(path)));
        };
        if let Some(what) = differing(wish, there, rules) {
            return Some(format!("{} has another {what}", shown(path)));
        }
        if let Wish::Entry(entry) = wish
            && let Some(key) =
                extended::differing(entry, there.kind(), &there.extended, rules.users_kept)
        {
            let path = shown(path);
            return Some(format!("{path} has another extended attribute {key}"));
        }
    }
    let unexpected = found
        .keys()
        .find(|path| !expected.contains_key(*path) && !parents.contains(path.as_slice()));
    match unexpected {
        Some(path) if !led_elsewhere && !whole => Some(format!("{} is in no archive", shown(path))),
        _ => None,
    }
}

/// The directories that lead to `path`.
fn prefixes(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    slashes.map(|(at, _)| &path[..at])
}

fn differing(wish: &Wish, there: &There, rules: &Rules) -> Option<&'static str> {
    let (kind, stat, target) = (there.kind(), &there.stat, &there.target);
    let entry = match wish {
        Wish::Whiteout => {
            let is_whiteout = kind == FileType::CharacterDevice && stat.st_rdev == 0;
            return (!is_whiteout).then_some("kind");
        }
        Wish::Linked => return (kind == FileType::Directory).then_some("kind"),
        Wish::Entry(entry) => entry,
    };
    let wanted = match entry.kind {
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::CharacterDevice => FileType::CharacterDevice,
        Kind::BlockDevice => FileType::BlockDevice,
        Kind::Fifo => FileType::Fifo,
        Kind::Regular | Kind::HardLink | Kind::Global => FileType::RegularFile,
    };
    let device = sys::beneath::makedev(entry.device.0, entry.device.1);
    let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
    let has_mode = kind != FileType::Symlink;
    let has_time = kind != FileType::Directory;
    let time = i128::from(stat.st_mtime) != i128::from(entry.modified.0);
    let stands_for = there.extended.get(force_mask::ATTRIBUTE.as_bytes());
    if let (true, Some(value)) = (rules.masked, stands_for) {
        let is_directory = kind == FileType::Directory;
        let differences = [
            (is_directory != (entry.kind == Kind::Directory), "kind"),
            (*value != force_mask::of_entry(entry).into_bytes(), "mode"),
            (!is_directory && time, "time"),
        ];
        let mut differences = differences.into_iter();
        return differences.find_map(|(differs, what)| differs.then_some(what));
    }
    let owner = stat.st_uid != entry.uid || stat.st_gid != entry.gid;
    let differences = [
        (kind != wanted, "kind"),
        (rules.owners && owner, "owner"),
        (
            has_mode && stat.st_mode & 0o7777 != entry.mode & 0o7777,
            "mode",
        ),
        (has_time && time, "time"),
        (kind == FileType::Symlink && *target != entry.link, "target"),
        (is_device && stat.st_rdev != device, "device number"),
    ];
    differences
        .into_iter()
        .find_map(|(differs, what)| differs.then_some(what))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_is_replaced_is_not_expected_any_more() {
        let mut wishes = Expected::new();
        for path in ["a", "a/b", "a/b/c", "a-b", "ab"] {
            wishes.insert(path.into(), Wish::Linked);
        }
        forget_beneath(&mut wishes, b"a");
        let left: BTreeSet<_> = wishes.keys().map(|path| path.as_slice()).collect();
        let wanted: BTreeSet<&[u8]> = [b"a".as_slice(), b"a-b", b"ab"].into();
        assert_eq!(left, wanted);
        assert_eq!(prefixes(b"a/b/c").collect::<Vec<_>>(), [&b"a"[..], b"a/b"]);
    }
}
