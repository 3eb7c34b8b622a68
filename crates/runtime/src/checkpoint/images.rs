//! criu's images of a container's open files, in which stdio becomes pipes.
//!
//! Our containers' stdio are named FIFOs outside of the container. criu takes them when they are
//! named to it (`external file[mnt:ino]`), and restores them only if whoever calls criu gives it
//! descriptors under the same keys, which OCI runtimes do for pipes alone (`descriptors.json`, keys
//! `pipe:[n]`). So after a dump the FIFOs' entries are written again as those of pipes: then every
//! runtime connects them to its own stdio, and the archive is what it would be elsewhere.
//!
//! The messages are those of criu's `images/fdinfo.proto`, `regfile.proto`, `fifo.proto` and
//! `pipe.proto`.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::{BTreeMap, BTreeSet};

use super::BadImage;
use super::protobuf::{append, bytes, fields, number, put_bytes, put_number, split};

const FILES: u32 = 0x5630_3138;
const FDINFO: u32 = 0x5621_3732;
/// criu's `fd_types`.
const REG: u64 = 1;
const PIPE: u64 = 2;
const FIFO: u64 = 3;

/// What a pipe's flags may be: its access, `O_APPEND`, `O_NONBLOCK` (the same on all architectures that
/// we run on). criu opens it again by a link of `/proc`, which `O_NOFOLLOW` of the FIFO would refuse.
const PIPE_FLAGS: u64 = 0o6003;

/// What became a pipe.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Pipes {
    /// Ids of the open files that it is about.
    ids: BTreeSet<u64>,
    /// Number of the pipe that is each of stdin, stdout, stderr, where it is one.
    stdio: [Option<u64>; 3],
}

/// Makes pipes of the FIFOs in `files.img` that criu was told of: `keys` are the names under which
/// it was told of stdin, stdout and stderr.
///
/// # Errors
/// [`BadImage`].
pub fn connect_pipes(files: &[u8], keys: &[Vec<String>; 3]) -> Result<(Vec<u8>, Pipes), BadImage> {
    let (head, entries) = split(files, FILES)?;
    let mut paths = BTreeMap::new();
    for entry in &entries {
        if let Some((id, path)) = external(entry, keys)? {
            paths.insert(id, path);
        }
    }
    let (mut out, mut pipes) = (head.to_vec(), Pipes::default());
    for entry in &entries {
        let fields = fields(entry)?;
        let kind = number(&fields, 1);
        let id = number(&fields, 2).ok_or(BadImage("an open file without an id"))?;
        if kind == Some(REG) && paths.contains_key(&id) {
            continue;
        }
        if kind == Some(FIFO)
            && let Some(fifo) = bytes(&fields, 17)
        {
            let fifo = super::protobuf::fields(fifo)?;
            let path = number(&fifo, 3).and_then(|path| paths.get(&path));
            if let (Some(path), Some(pipe)) = (path, number(&fifo, 2)) {
                pipes.ids.insert(id);
                if let Some(stdio) = pipes.stdio.get_mut(path.stdio) {
                    *stdio = Some(pipe);
                }
                append(&mut out, &pipe_entry(id, pipe, path))?;
                continue;
            }
        }
        append(&mut out, entry)?;
    }
    Ok((out, pipes))
}

/// Rewrites a process's table of open files, `fdinfo-N.img`, for what became a pipe.
///
/// # Errors
/// [`BadImage`].
pub fn descriptors(fdinfo: &[u8], pipes: &Pipes) -> Result<Vec<u8>, BadImage> {
    let (head, entries) = split(fdinfo, FDINFO)?;
    let mut out = head.to_vec();
    for entry in entries {
        let fields = fields(entry)?;
        let is_pipe = number(&fields, 1).is_some_and(|id| pipes.ids.contains(&id));
        if number(&fields, 3) != Some(FIFO) || !is_pipe {
            append(&mut out, entry)?;
            continue;
        }
        let mut changed = Vec::with_capacity(entry.len());
        for field in fields {
            if field.number == 3 {
                put_number(&mut changed, 3, PIPE);
            } else {
                changed.extend(field.raw);
            }
        }
        append(&mut out, &changed)?;
    }
    Ok(out)
}

impl Pipes {
    /// `descriptors.json`: what the runtime has to connect to its own stdio.
    #[must_use]
    pub fn json(&self) -> Vec<u8> {
        let names = self.stdio.map(|pipe| match pipe {
            Some(pipe) => format!("pipe:[{pipe}]"),
            None => NOTHING.to_owned(),
        });
        serde_json::to_vec(&names).unwrap_or_default()
    }
}

const NOTHING: &str = "/dev/null";

/// A `descriptors.json` from an archive with nothing in it but names of pipes, three at most.
///
/// # Errors
/// [`BadImage`]: no list of texts.
pub fn safe_descriptors(json: &[u8]) -> Result<Vec<u8>, BadImage> {
    let names: Vec<String> =
        serde_json::from_slice(json).map_err(|_| BadImage("descriptors.json is no list"))?;
    let is_pipe = |name: &str| {
        let digits = name
            .strip_prefix("pipe:[")
            .and_then(|rest| rest.strip_suffix(']'));
        digits.is_some_and(|digits| digits.parse::<u32>().is_ok())
    };
    let mut names: Vec<_> = names
        .into_iter()
        .take(3)
        .map(|name| {
            if is_pipe(&name) {
                name
            } else {
                NOTHING.to_owned()
            }
        })
        .collect();
    names.resize(3, NOTHING.to_owned());
    serde_json::to_vec(&names).map_err(|_| BadImage("descriptors.json"))
}

/// A path that criu was told of.
struct External<'a> {
    /// Which of the stdio.
    stdio: usize,
    flags: u64,
    owner: &'a [u8],
}

fn external<'a>(
    entry: &'a [u8],
    keys: &[Vec<String>; 3],
) -> Result<Option<(u64, External<'a>)>, BadImage> {
    let outer = fields(entry)?;
    let (Some(REG), Some(message)) = (number(&outer, 1), bytes(&outer, 3)) else {
        return Ok(None);
    };
    let inner = fields(message)?;
    let name = bytes(&inner, 6).unwrap_or_default();
    let stdio = keys
        .iter()
        .position(|keys| keys.iter().any(|key| key.as_bytes() == name));
    let (Some(stdio), Some(1)) = (stdio, number(&inner, 9)) else {
        return Ok(None);
    };
    match (number(&outer, 2), number(&inner, 2), bytes(&inner, 5)) {
        (Some(id), Some(flags), Some(owner)) => Ok(Some((
            id,
            External {
                stdio,
                flags,
                owner,
            },
        ))),
        _ => Err(BadImage("a file's entry is not whole")),
    }
}

fn pipe_entry(id: u64, pipe: u64, path: &External<'_>) -> Vec<u8> {
    let mut inner = Vec::new();
    put_number(&mut inner, 1, id);
    put_number(&mut inner, 2, pipe);
    put_number(&mut inner, 3, path.flags & PIPE_FLAGS);
    put_bytes(&mut inner, 4, path.owner);
    let mut outer = Vec::new();
    put_number(&mut outer, 1, PIPE);
    put_number(&mut outer, 2, id);
    put_bytes(&mut outer, 18, &inner);
    outer
}

#[cfg(test)]
mod tests {
    use super::super::protobuf::made::{image, message};
    use super::*;

    fn path(id: u64, name: &str, external: u64) -> Vec<u8> {
        let owner = message(&[(1, 0), (2, 0)], &[]);
        let nested = [(5, &*owner), (6, name.as_bytes())];
        let inner = message(&[(1, id), (2, 0x8002), (9, external)], &nested);
        message(&[(1, REG), (2, id)], &[(3, &inner)])
    }

    fn fifo(id: u64, pipe: u64, path: u64) -> Vec<u8> {
        let inner = message(&[(1, id), (2, pipe), (3, path)], &[]);
        message(&[(1, FIFO), (2, id)], &[(17, &inner)])
    }

    #[test]
    fn stdio_becomes_pipes_and_nothing_else_does() {
        let other = [path(1, "/bin/sh", 0), path(4, "tmp/fifo", 0), fifo(5, 9, 4)];
        let [shell, inside, inside_fifo] = other.clone();
        let files = image(
            FILES,
            &[
                shell,
                path(2, "file[56:2e]", 1),
                fifo(3, 0x2e, 2),
                inside,
                inside_fifo,
            ],
        );
        let keys = [vec![], vec!["file[56:2e]".to_owned()], vec![]];
        let (rewritten, pipes) = connect_pipes(&files, &keys).unwrap();
        assert_eq!(pipes.ids, BTreeSet::from([3]));
        assert_eq!(pipes.json(), br#"["/dev/null","pipe:[46]","/dev/null"]"#);
        let (_, entries) = split(&rewritten, FILES).unwrap();
        assert_eq!(entries.len(), 4, "the path outside is gone");
        let [shell, pipe, ..] = &entries[..] else {
            panic!()
        };
        assert_eq!(*shell, other[0]);
        let outer = fields(pipe).unwrap();
        assert_eq!((number(&outer, 1), number(&outer, 2)), (Some(2), Some(3)));
        let inner = fields(bytes(&outer, 18).unwrap()).unwrap();
        assert_eq!(
            [1, 2, 3].map(|field| number(&inner, field)),
            [Some(3), Some(0x2e), Some(0x2)]
        );

        let open = |id, kind| message(&[(1, id), (2, 0), (3, kind), (4, 1)], &[]);
        let table = image(FDINFO, &[open(3, FIFO), open(5, FIFO), open(1, REG)]);
        let expected = image(FDINFO, &[open(3, PIPE), open(5, FIFO), open(1, REG)]);
        assert_eq!(descriptors(&table, &pipes).unwrap(), expected);
    }

    #[test]
    fn without_a_key_nothing_changes() {
        let files = image(FILES, &[path(2, "file[56:2e]", 1), fifo(3, 0x2e, 2)]);
        let none = connect_pipes(&files, &Default::default()).unwrap();
        assert_eq!(none, (files, Pipes::default()));
    }

    #[test]
    fn what_is_torn_is_refused() {
        let files = image(FILES, &[path(2, "f", 1), fifo(3, 0x2e, 2)]);
        for end in (0..8).chain(9..files.len()) {
            let torn = files.get(..end).unwrap();
            let whole = split(torn, FILES).is_ok();
            assert_eq!(
                connect_pipes(torn, &Default::default()).is_ok(),
                whole,
                "{end}"
            );
        }
        assert!(connect_pipes(&image(FDINFO, &[]), &Default::default()).is_err());
    }

    #[test]
    fn descriptors_of_an_archive_are_pipes_or_nothing() {
        for (json, safe) in [
            (
                r#"["/dev/null","pipe:[7]","pipe:[8]"]"#,
                Some(r#"["/dev/null","pipe:[7]","pipe:[8]"]"#),
            ),
            (
                r#"["xpipe:","pipe:[7]x","/etc/shadow","pipe:[9]"]"#,
                Some(r#"["/dev/null","/dev/null","/dev/null"]"#),
            ),
            ("[]", Some(r#"["/dev/null","/dev/null","/dev/null"]"#)),
            ("{}", None),
            ("[1]", None),
        ] {
            let is = safe_descriptors(json.as_bytes()).ok();
            assert_eq!(is.as_deref(), safe.map(str::as_bytes), "{json}");
        }
    }
}
