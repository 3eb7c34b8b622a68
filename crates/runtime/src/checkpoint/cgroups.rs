//! What criu's image of cgroups, `cgroup.img`, may hold: cgroups of one container and its processes in
//! them, and nothing elsewhere in the tree.
//!
//! criu makes the cgroups of the image that are missing and moves each process into its own. At a
//! restore it is told of the new container's cgroup (`cgroup-root`), which it puts in place of the old
//! one: in every path that is beneath a directory of the image, and in no other. So an image is refused
//! of which a path would stay as it is, or come to lie beside the new cgroup. The messages are those of
//! criu's `images/cgroup.proto`.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::BadImage;
use super::protobuf::{bytes, fields, messages, number, split};

const CGROUPS: u32 = 0x5938_3330;
/// Cgroups and sets of them that are looked at (ours: a container has a few).
const MOST: usize = 1024;

/// Checks an image of cgroups.
///
/// # Errors
/// [`BadImage`]: a process or a cgroup would not be in the container's own.
pub fn cgroups(image: &[u8]) -> Result<(), BadImage> {
    let (_, entries) = split(image, CGROUPS)?;
    let Some(entry) = entries.first() else {
        return Ok(());
    };
    let entry = fields(entry)?;
    let mut members = Vec::new();
    for set in messages(&entry, 1)? {
        for member in messages(&fields(set)?, 2)? {
            members.push(Member::parse(member)?);
        }
    }
    let controllers = messages(&entry, 2)?;
    if members.len() > MOST || controllers.len() > MOST {
        return Err(BadImage("too many cgroups"));
    }
    let mut names = Vec::new();
    for controller in controllers {
        let controller = fields(controller)?;
        let its = messages(&controller, 1)?;
        if its.is_empty()
            || its
                .iter()
                .any(|name| names.contains(name) || !is_name(name))
        {
            return Err(BadImage("a hierarchy of cgroups without a name of its own"));
        }
        names.extend(&its);
        for dir in messages(&controller, 2)? {
            moved(dir, &its, &mut members)?;
        }
    }
    if members.iter().all(|member| member.moved) {
        Ok(())
    } else {
        Err(BadImage(
            "a process in a cgroup that is not its container's",
        ))
    }
}

/// A cgroup that processes are in.
struct Member<'a> {
    controller: &'a [u8],
    path: &'a [u8],
    /// Bytes of its path that the root of their cgroup namespace has; 0 without one.
    prefix: usize,
    /// Whether criu puts it beneath the new cgroup.
    moved: bool,
}

impl<'a> Member<'a> {
    fn parse(member: &'a [u8]) -> Result<Self, BadImage> {
        let member = fields(member)?;
        let (Some(controller), Some(path)) = (bytes(&member, 1), bytes(&member, 2)) else {
            return Err(BadImage("a cgroup that is not whole"));
        };
        let prefix = number(&member, 3).unwrap_or(0);
        let prefix = usize::try_from(prefix).unwrap_or(usize::MAX);
        match path.strip_prefix(b"/") {
            Some(path) if is_path(path) => {}
            _ => return Err(BadImage("a cgroup's path is no plain one")),
        }
        Ok(Self {
            controller,
            path,
            prefix,
            moved: false,
        })
    }
}

/// Notes which members criu moves with `dir`, a cgroup of the hierarchy `names`, whose children are
/// beneath it.
fn moved(dir: &[u8], names: &[&[u8]], members: &mut [Member<'_>]) -> Result<(), BadImage> {
    let top = fields(dir)?;
    let path = bytes(&top, 1).ok_or(BadImage("a cgroup without a path"))?;
    if !is_path(path) {
        return Err(BadImage("a cgroup's path is no plain one"));
    }
    let mut any = false;
    let of_dir = |member: &&mut Member<'_>| !member.moved && names.contains(&member.controller);
    for member in members.iter_mut().filter(of_dir) {
        let Some(rest) = member.path.get(1..).and_then(|own| own.strip_prefix(path)) else {
            continue;
        };
        // What is left of both is put behind the new cgroup's path.
        let whole = match member.prefix {
            0 => is_end(Some(rest)),
            prefix => {
                let of_dir = prefix.checked_sub(1).and_then(|at| path.get(at..));
                is_end(member.path.get(prefix..)) && is_end(of_dir)
            }
        };
        if !whole {
            return Err(BadImage("a cgroup beside its container's"));
        }
        member.moved = true;
        any = true;
    }
    if !any {
        return Err(BadImage("a cgroup that no process of the container is in"));
    }
    // Not by recursion: how deep they are is the image's to say.
    let mut dirs = vec![dir];
    let mut children = 0_usize;
    while let Some(dir) = dirs.pop() {
        let dir = fields(dir)?;
        for property in messages(&dir, 3)? {
            if !bytes(&fields(property)?, 1).is_some_and(is_name) {
                return Err(BadImage("a property of a cgroup without a plain name"));
            }
        }
        for child in messages(&dir, 2)? {
            let name = fields(child)?;
            if !bytes(&name, 1).is_some_and(|name| is_path(name) && !name.contains(&b'/')) {
                return Err(BadImage("a cgroup's name is no plain one"));
            }
            children = children.saturating_add(1);
            if children > MOST {
                return Err(BadImage("too many cgroups"));
            }
            dirs.push(child);
        }
    }
    Ok(())
}

/// Whether this, behind a path, names the same or something beneath it.
fn is_end(rest: Option<&[u8]>) -> bool {
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// A path that begins with a name, and does not climb.
fn is_path(path: &[u8]) -> bool {
    let plain = |part: &[u8]| !part.is_empty() && part != b"." && part != b"..";
    !path.contains(&0) && path.split(|byte| *byte == b'/').all(plain)
}

/// Of a hierarchy (version 2 has an empty one) or a file in a cgroup.
fn is_name(name: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-=".contains(byte);
    name.iter().all(plain) && !name.starts_with(b".")
}

#[cfg(test)]
mod tests {
    use super::super::protobuf::made::{image, message};
    use super::*;

    fn member(controller: &str, path: &str, prefix: u64) -> Vec<u8> {
        let nested = [(1, controller.as_bytes()), (2, path.as_bytes())];
        message(&[], &[&nested[..], &[]].concat())
            .into_iter()
            .chain(message(&[(3, prefix)], &[]))
            .collect()
    }

    fn set(members: &[Vec<u8>]) -> Vec<u8> {
        let nested: Vec<_> = members
            .iter()
            .map(|member| (2, member.as_slice()))
            .collect();
        message(&[(1, 2)], &nested)
    }

    /// A directory with these messages in it: children (2) and properties (3).
    fn dir(path: &str, inside: &[(u64, &[u8])]) -> Vec<u8> {
        message(&[], &[&[(1, path.as_bytes())][..], inside].concat())
    }

    fn controller(names: &[&str], dirs: &[Vec<u8>]) -> Vec<u8> {
        let names = names.iter().map(|name| (1, name.as_bytes()));
        let dirs = dirs.iter().map(|dir| (2, dir.as_slice()));
        message(&[], &names.chain(dirs).collect::<Vec<_>>())
    }

    fn cgroups_of(sets: &[Vec<u8>], controllers: &[Vec<u8>]) -> Vec<u8> {
        let sets = sets.iter().map(|set| (1, set.as_slice()));
        let controllers = controllers.iter().map(|one| (2, one.as_slice()));
        image(
            CGROUPS,
            &[message(&[], &sets.chain(controllers).collect::<Vec<_>>())],
        )
    }

    /// With one hierarchy of version 2: its directories, and the paths of processes in them.
    fn unified(dirs: &[Vec<u8>], members: &[(&str, u64)]) -> bool {
        let member = |(path, prefix): &(&str, u64)| set(&[member("", path, *prefix)]);
        let sets: Vec<_> = members.iter().map(member).collect();
        cgroups(&cgroups_of(&sets, &[controller(&[""], dirs)])).is_ok()
    }

    #[test]
    fn processes_are_in_their_containers_cgroup() {
        let one = || dir("k/c", &[]);
        for (what, dirs, members, good) in [
            ("alone", vec![one()], vec![("/k/c", 4)], true),
            ("without a namespace", vec![one()], vec![("/k/c", 0)], true),
            (
                "and beneath",
                vec![one()],
                vec![("/k/c", 4), ("/k/c/x", 4)],
                true,
            ),
            (
                "beneath first",
                vec![dir("k/c/x", &[]), one()],
                vec![("/k/c/x", 4), ("/k/c", 4)],
                true,
            ),
            (
                "all beneath",
                vec![dir("k/c/x", &[])],
                vec![("/k/c/x", 4)],
                true,
            ),
            (
                "elsewhere",
                vec![one()],
                vec![("/k/c", 4), ("/k/d", 4)],
                false,
            ),
            ("the root", vec![one()], vec![("/k/c", 4), ("/", 0)], false),
            ("climbs", vec![one()], vec![("/k/c/../d", 4)], false),
            ("a neighbour", vec![one()], vec![("/k/cd", 0)], false),
            ("within a name", vec![one()], vec![("/k/c", 3)], false),
            (
                "a neighbour by its namespace",
                vec![one()],
                vec![("/k/c-d", 4)],
                false,
            ),
            ("beyond its end", vec![one()], vec![("/k/c", 5)], false),
            (
                "beyond the directory",
                vec![one()],
                vec![("/k/c/x", 6)],
                false,
            ),
            (
                "an empty one elsewhere",
                vec![one(), dir("d", &[])],
                vec![("/k/c", 4)],
                false,
            ),
            (
                "a second that is moved along",
                vec![one(), dir("k/c/x", &[])],
                vec![("/k/c", 4), ("/k/c/x", 4)],
                false,
            ),
            (
                "a directory that climbs",
                vec![dir("k/../c", &[])],
                vec![("/k/../c", 0)],
                false,
            ),
            ("no directory", vec![], vec![("/k/c", 4)], false),
        ] {
            assert_eq!(unified(&dirs, &members), good, "{what}");
        }
    }

    #[test]
    fn hierarchies_have_names_of_their_own() {
        let dirs = [dir("c", &[])];
        let sets = [set(&[member("cpu", "/c", 0), member("cpuacct", "/c", 0)])];
        let both = controller(&["cpu", "cpuacct"], &dirs);
        assert!(cgroups(&cgroups_of(&sets, std::slice::from_ref(&both))).is_ok());
        for (what, controllers) in [
            ("one is missing", vec![controller(&["cpu"], &dirs)]),
            ("one twice", vec![both.clone(), controller(&["cpu"], &dirs)]),
            ("climbs", vec![both.clone(), controller(&["../x"], &[])]),
            ("none", vec![both, controller(&[], &[])]),
        ] {
            assert!(cgroups(&cgroups_of(&sets, &controllers)).is_err(), "{what}");
        }
        assert!(cgroups(&cgroups_of(&[], &[])).is_ok());
        assert!(cgroups(&image(CGROUPS, &[])).is_ok());
        assert!(cgroups(&image(CGROUPS + 1, &[])).is_err());
    }

    #[test]
    fn what_is_in_a_cgroup_stays_there() {
        let property = |name: &str| message(&[], &[(1, name.as_bytes()), (2, b"1")]);
        for (what, inside, good) in [
            ("a child", vec![(2, dir("x", &[]))], true),
            ("a property", vec![(3, property("memory.max"))], true),
            ("a child elsewhere", vec![(2, dir("../x", &[]))], false),
            (
                "a child's child",
                vec![(2, dir("x", &[(2, &dir("..", &[]))]))],
                false,
            ),
            (
                "a file elsewhere",
                vec![(3, property("../memory.max"))],
                false,
            ),
        ] {
            let inside: Vec<_> = inside
                .iter()
                .map(|(field, of)| (*field, of.as_slice()))
                .collect();
            assert_eq!(unified(&[dir("c", &inside)], &[("/c", 2)]), good, "{what}");
        }
        let mut deep = dir("x", &[]);
        for _ in 0..MOST {
            deep = dir("x", &[(2, &deep)]);
        }
        assert!(!unified(&[dir("c", &[(2, &deep)])], &[("/c", 2)]));
    }
}
