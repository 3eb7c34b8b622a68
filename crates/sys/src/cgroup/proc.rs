//! The kernel's texts: `proc_pid_mountinfo(5)`, `proc_pid_cgroup(5)`, flat keyed files.

use crate::mount::unescape;
use std::path::PathBuf;

use super::Hierarchy;

/// Options of a cgroup mount that are no controllers.
const OPTIONS: [&str; 8] = [
    "rw",
    "ro",
    "xattr",
    "clone_children",
    "noprefix",
    "all",
    "none",
    "cpuset_v2_mode",
];

/// The hierarchies in `/proc/self/mountinfo`; the last mount of each counts (it is on top).
pub(super) fn parse_mountinfo(text: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for hierarchy in text.lines().filter_map(parse_mount) {
        found.retain(|known| known.controllers != hierarchy.controllers);
        found.push(hierarchy);
    }
    found
}

/// `36 35 98:0 /root /mount options shared:1 - type source super-options`
fn parse_mount(line: &str) -> Option<Hierarchy> {
    let (mount, fs) = line.split_once(" - ")?;
    let mut fs = fs.split(' ');
    let kind = fs.next()?;
    let options = fs.nth(1)?;
    let mut mount = mount.split(' ').skip(3);
    let root = unescape(mount.next()?);
    let place = PathBuf::from(unescape(mount.next()?));
    let controllers = match kind {
        "cgroup2" => Vec::new(),
        "cgroup" => sorted(
            options
                .split(',')
                .filter(|name| !OPTIONS.contains(name) && !name.contains("release_agent")),
        ),
        _ => return None,
    };
    // A mount of version 1 without a controller would look like version 2.
    if kind == "cgroup" && controllers.is_empty() {
        return None;
    }
    Some(Hierarchy {
        mount: place,
        root,
        controllers,
    })
}

/// Lines `id:controllers:path` of `/proc/PID/cgroup`.
pub(super) fn parse_cgroup(text: &str) -> impl Iterator<Item = (Vec<String>, &str)> {
    text.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        Some((
            sorted(controllers.split(',').filter(|name| !name.is_empty())),
            path,
        ))
    })
}

/// The number after `name` in a file of lines `name number`.
pub(super) fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(' ')?;
        (key == name).then(|| value.trim().parse().ok())?
    })
}

fn sorted<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut names: Vec<String> = names.map(str::to_owned).collect();
    names.sort_unstable();
    names
}

/// What the fuzz target does with the kernel's texts: whatever they say, a hierarchy is told once,
/// controllers are sorted, and a field is the first number of its name.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub fn fuzzed(text: &str) {
    let found = parse_mountinfo(text);
    assert!(found.len() <= text.lines().count());
    for (at, hierarchy) in found.iter().enumerate() {
        assert!(hierarchy.controllers.is_sorted());
        let others = found.iter().skip(at + 1);
        assert!(
            others
                .into_iter()
                .all(|other| other.controllers != hierarchy.controllers)
        );
    }
    for (controllers, path) in parse_cgroup(text) {
        assert!(controllers.is_sorted() && controllers.iter().all(|name| !name.is_empty()));
        assert!(text.contains(path));
    }
    let slow = text
        .lines()
        .filter_map(|line| line.strip_prefix("oom_kill "));
    let slow = slow.filter_map(|value| value.trim().parse().ok()).next();
    assert_eq!(field(text, "oom_kill"), slow);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_a_hybrid_machine_are_told_apart() {
        let text = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpuacct,cpu
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/x,name=systemd
41 31 0:38 /a\\040b /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate
";
        let found = parse_mountinfo(text);
        let names: Vec<_> = found.iter().map(|h| h.controllers.join("+")).collect();
        assert_eq!(names, ["cpu+cpuacct", "name=systemd", ""]);
        assert_eq!(
            found[2].dir("/a b/c"),
            PathBuf::from("/sys/fs/cgroup/unified/c")
        );
        assert_eq!(
            found[0].dir("/x/y"),
            PathBuf::from("/sys/fs/cgroup/cpu,cpuacct/x/y")
        );
    }

    #[test]
    fn the_cgroups_of_a_process_are_read() {
        let text = "9:name=systemd:/\n4:cpu,cpuacct:/pod/a:b\n0::/x\n";
        let found: Vec<_> = parse_cgroup(text).map(|(c, p)| (c.join("+"), p)).collect();
        let found: Vec<_> = found.iter().map(|(c, p)| (c.as_str(), *p)).collect();
        assert_eq!(
            found,
            [
                ("name=systemd", "/"),
                ("cpu+cpuacct", "/pod/a:b"),
                ("", "/x")
            ]
        );
    }

    #[test]
    fn counters_are_found_by_their_whole_name() {
        let text = "low 0\noom 3\noom_kill 2\noom_group_kill 9\n";
        assert_eq!(field(text, "oom_kill"), Some(2));
        assert_eq!(field("oom_kill_disable 0\nunder_oom 0\n", "oom_kill"), None);
    }
}
