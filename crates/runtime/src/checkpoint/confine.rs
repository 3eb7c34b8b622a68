//! What criu's images of an archive may hold: no process with more than the request gives it, and no
//! mount but those that a container has and those that the runtime gives criu by name.
//!
//! criu restores what its images say: credentials (`images/core.proto`, `creds.proto`) and mounts
//! (`mnt.proto`). This looks at both before it is called. It is no fence around criu itself.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::BadImage;
use super::protobuf::{bytes, fields, number, numbers, split};

const CORE: u32 = 0x5505_3847;
const MOUNTS: u32 = 0x5556_3928;
/// criu's `fstype` of what a container has of its own: proc, sysfs, tmpfs, devpts, cgroup, mqueue,
/// cgroup2.
const OWN: [u64; 7] = [1, 2, 5, 6, 12, 14, 23];
const SETGID: u64 = 1 << 6;
const SETUID: u64 = 1 << 7;
/// criu's `seccomp_mode` with a filter.
const FILTER: u64 = 2;

/// What a process may be at most, by the request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Confinement {
    /// User.
    pub uid: u32,
    /// Groups, the first one its own.
    pub gids: Vec<u32>,
    /// Capabilities, a bit each.
    pub capabilities: u64,
    /// Whether it must not get more by executing a file.
    pub no_new_privileges: bool,
    /// Whether a seccomp filter is on it.
    pub seccomp: bool,
}

/// Checks an image of a process, `core-N.img`.
///
/// # Errors
/// [`BadImage`]: it would be more than `most`.
pub fn process(core: &[u8], most: &Confinement) -> Result<(), BadImage> {
    let (_, entries) = split(core, CORE)?;
    let entry = entries
        .first()
        .ok_or(BadImage("a process without an entry"))?;
    let core = fields(entry)?;
    let thread = fields(bytes(&core, 5).ok_or(BadImage("a process without a thread"))?)?;
    let creds = fields(bytes(&thread, 10).ok_or(BadImage("a process without credentials"))?)?;
    for set in [9, 10, 11, 12, 19] {
        let words = numbers(&creds, set)?;
        let word = |at: usize| words.get(at).copied().unwrap_or(0);
        let has = (word(0) & 0xffff_ffff) | (word(1) << 32);
        if words.len() > 2 || has & !most.capabilities != 0 {
            return Err(BadImage(
                "a process has capabilities that the request does not give",
            ));
        }
    }
    let all = |names: [u64; 4], allowed: &[u32]| {
        names.into_iter().all(|name| {
            let id = number(&creds, name);
            id.is_some_and(|id| allowed.iter().any(|known| u64::from(*known) == id))
        })
    };
    if most.capabilities & SETUID == 0 && !all([1, 3, 5, 7], &[most.uid]) {
        return Err(BadImage(
            "a process is another user's than the request says",
        ));
    }
    let groups = numbers(&creds, 14)?;
    let known = |id: &u64| most.gids.iter().any(|gid| u64::from(*gid) == *id);
    if most.capabilities & SETGID == 0
        && !(all([2, 4, 6, 8], &most.gids) && groups.iter().all(known))
    {
        return Err(BadImage(
            "a process has a group that the request does not give",
        ));
    }
    if most.no_new_privileges && number(&creds, 18) != Some(1) {
        return Err(BadImage(
            "a process may get new privileges, and the request says it must not",
        ));
    }
    if most.seccomp && number(&thread, 11) != Some(FILTER) {
        return Err(BadImage(
            "a process has no seccomp filter, and the request gives it one",
        ));
    }
    Ok(())
}

/// Checks an image of a mount namespace, `mountpoints-N.img`.
///
/// # Errors
/// [`BadImage`]: something would be mounted that no container has.
pub fn mounts(mountpoints: &[u8]) -> Result<(), BadImage> {
    let mut roots = 0_u32;
    for entry in split(mountpoints, MOUNTS)?.1 {
        let mount = fields(entry)?;
        // Given by the runtime under this name, from the request's mounts, or not at all.
        if bytes(&mount, 18).is_some_and(|key| !key.is_empty()) {
            continue;
        }
        if bytes(&mount, 7) == Some(b"/") {
            roots = roots.saturating_add(1);
            continue;
        }
        let own = number(&mount, 1).is_some_and(|kind| OWN.contains(&kind));
        if !own || bytes(&mount, 14).is_some() {
            return Err(BadImage("a mount that no container has"));
        }
    }
    if roots == 1 {
        Ok(())
    } else {
        Err(BadImage("not one root"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::protobuf::made::{image, message};
    use super::*;

    /// A process of `uid` and `gid` with these fields of its credentials beside, and of its thread.
    fn core(uid: u64, gid: u64, creds: &[(u64, u64)], thread: &[(u64, u64)]) -> Vec<u8> {
        let ids = [
            (1, uid),
            (3, uid),
            (5, uid),
            (7, uid),
            (2, gid),
            (4, gid),
            (6, gid),
            (8, gid),
        ];
        let creds = message(&[&ids[..], creds].concat(), &[]);
        let thread = message(thread, &[(10, &creds)]);
        image(CORE, &[message(&[(1, 1)], &[(5, &thread)])])
    }

    #[test]
    fn a_process_is_no_more_than_the_request_says() {
        let plain = Confinement {
            uid: 5,
            gids: vec![6, 7],
            capabilities: 1 | 1 << 33,
            ..Confinement::default()
        };
        let root = Confinement {
            capabilities: SETUID | SETGID,
            ..Confinement::default()
        };
        let bound = Confinement {
            no_new_privileges: true,
            seccomp: true,
            ..plain.clone()
        };
        let words = |low, high| [(10, low), (10, high)];
        for (what, core, most, good) in [
            ("its own", core(5, 6, &words(1, 2), &[]), &plain, true),
            ("a group of its", core(5, 6, &[(14, 7)], &[]), &plain, true),
            (
                "low capability",
                core(5, 6, &words(2, 0), &[]),
                &plain,
                false,
            ),
            (
                "high capability",
                core(5, 6, &words(0, 4), &[]),
                &plain,
                false,
            ),
            (
                "ambient",
                core(5, 6, &[(19, 8), (19, 0)], &[]),
                &plain,
                false,
            ),
            ("another user", core(0, 6, &[], &[]), &plain, false),
            ("another group", core(5, 0, &[], &[]), &plain, false),
            ("one group more", core(5, 6, &[(14, 8)], &[]), &plain, false),
            (
                "root becomes anybody",
                core(8, 9, &[(14, 1)], &[]),
                &root,
                true,
            ),
            ("unbound", core(5, 6, &[(18, 1)], &[]), &bound, false),
            ("may get more", core(5, 6, &[], &[(11, 2)]), &bound, false),
            ("bound", core(5, 6, &[(18, 1)], &[(11, 2)]), &bound, true),
            ("empty", image(CORE, &[]), &root, false),
            (
                "no credentials",
                image(CORE, &[message(&[(1, 1)], &[])]),
                &root,
                false,
            ),
        ] {
            assert_eq!(process(&core, most).is_ok(), good, "{what}");
        }
    }

    #[test]
    fn mounts_are_a_containers_own_or_the_runtimes() {
        let mount = |kind, at: &[u8], key: &[u8]| message(&[(1, kind)], &[(7, at), (18, key)]);
        let root = mount(17, b"/", b"");
        for (what, more, good) in [
            ("proc", mount(1, b"/proc", b""), true),
            ("a named one", mount(0, b"/etc/hosts", b"/etc/hosts"), true),
            ("a disk", mount(0, b"/mnt", b""), false),
            ("debugfs", mount(11, b"/mnt", b""), false),
            ("all devices", mount(3, b"/dev", b""), false),
            ("another root", mount(17, b"/", b""), false),
            (
                "a file system by name",
                message(&[(1, 16)], &[(7, b"/mnt"), (14, b"ext4")]),
                false,
            ),
        ] {
            let is = mounts(&image(MOUNTS, &[root.clone(), more])).is_ok();
            assert_eq!(is, good, "{what}");
        }
        assert!(mounts(&image(MOUNTS, &[])).is_err());
    }
}
