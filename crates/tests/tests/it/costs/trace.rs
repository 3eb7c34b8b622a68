//! Reads what `strace --follow-forks` writes: `PID call(arguments) = result`, where a call that
//! another thread interrupts is `PID call(arguments <unfinished ...>` and later
//! `PID <... call resumed>arguments) = result`.

use std::collections::HashMap;
use std::path::Path;

/// What was spent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Costs {
    /// Programs started.
    pub(super) spawns: u32,
    /// `fsync`, `fdatasync`, `syncfs`.
    pub(super) syncs: u32,
    /// Opened with `O_CREAT` or `O_TMPFILE`: but for lock files, which whoever looks opens, and how
    /// often they look is chance, and for the kernel's own in `/proc` and `/sys`.
    pub(super) files: u32,
    /// Renamed or linked.
    pub(super) renames: u32,
}

/// Who does it, of those whose costs are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Daemon,
    Monitor,
    /// A runtime, a plugin, pinns, a container, and whatever they start.
    Other,
}

/// The threads of the daemon, of the monitors and of others, as the trace goes on.
#[derive(Debug, Default)]
pub(super) struct Trace {
    threads: HashMap<u32, Who>,
    /// Parents of threads, from the results of clone.
    parents: HashMap<u32, u32>,
    /// Calls that are not finished.
    unfinished: HashMap<u32, String>,
    /// What was counted, a line each.
    pub(super) counted: String,
}

impl Trace {
    /// A trace that begins with these threads of the daemon.
    pub(super) fn new(threads: impl Iterator<Item = u32>) -> Self {
        Self {
            threads: threads.map(|thread| (thread, Who::Daemon)).collect(),
            ..Self::default()
        }
    }

    /// Begins a part of [`Self::counted`].
    pub(super) fn heading(&mut self, text: &str) {
        self.counted.push_str(text);
        self.counted.push('\n');
    }

    /// Counts what these lines say.
    pub(super) fn count(&mut self, text: &str) -> Costs {
        let calls: Vec<_> = text.lines().filter_map(|line| self.whole(line)).collect();
        // First, whose child each is: after vfork a child acts before clone returns to its parent.
        for (thread, call) in &calls {
            if let Some(child) = cloned(call) {
                self.parents.insert(child, *thread);
            }
        }
        let mut costs = Costs::default();
        for (thread, call) in &calls {
            let who = self.who(*thread);
            let name = call.split('(').next().unwrap_or_default();
            let failed = result(call).is_none_or(|result| result < 0);
            if matches!(name, "execve" | "execveat") && !failed {
                self.threads.insert(*thread, program(call));
            }
            if who == Who::Other || failed {
                continue;
            }
            let spent = match name {
                "execve" | "execveat" => &mut costs.spawns,
                "fsync" | "fdatasync" | "syncfs" => &mut costs.syncs,
                "creat" | "open" | "openat" | "openat2" if creates(call) => &mut costs.files,
                "rename" | "renameat" | "renameat2" | "link" | "linkat" => &mut costs.renames,
                _ => continue,
            };
            *spent += 1;
            self.counted
                .push_str(&format!("  {who:?} {thread} {call}\n"));
        }
        costs
    }

    /// The thread and the whole call of a line that finishes one.
    fn whole(&mut self, line: &str) -> Option<(u32, String)> {
        let (thread, rest) = line.split_once(char::is_whitespace)?;
        let (thread, rest) = (thread.parse().ok()?, rest.trim_start());
        if let Some(begun) = rest.strip_suffix("<unfinished ...>") {
            self.unfinished.insert(thread, begun.trim_end().to_owned());
            return None;
        }
        let Some(resumed) = rest.strip_prefix("<... ") else {
            return Some((thread, rest.to_owned()));
        };
        let (_, end) = resumed.split_once("resumed>")?;
        Some((thread, self.unfinished.remove(&thread)? + end))
    }

    /// Whose a thread is: where it is not known yet, its parent's.
    fn who(&mut self, thread: u32) -> Who {
        if let Some(who) = self.threads.get(&thread) {
            return *who;
        }
        let who = match self.parents.remove(&thread) {
            Some(parent) => self.who(parent),
            None => Who::Other,
        };
        self.threads.insert(thread, who);
        who
    }
}

fn cloned(call: &str) -> Option<u32> {
    let clone = ["clone(", "clone3(", "fork(", "vfork("];
    clone
        .iter()
        .any(|name| call.starts_with(name))
        .then(|| result(call)?.try_into().ok())?
}

/// The number behind the last `=`.
fn result(call: &str) -> Option<i64> {
    let (_, result) = call
        .rsplit_once(") = ")
        .or_else(|| call.rsplit_once(" = "))?;
    result.split_whitespace().next()?.parse().ok()
}

fn creates(call: &str) -> bool {
    let path = path(call);
    let uncounted =
        path.ends_with(".lock") || path.starts_with("/proc/") || path.starts_with("/sys/");
    let flags = ["O_CREAT", "O_TMPFILE", "creat("];
    !uncounted && flags.iter().any(|flag| call.contains(flag))
}

/// The first path among a call's arguments.
fn path(call: &str) -> &str {
    call.split('"').nth(1).unwrap_or_default()
}

/// Whose program a successful `execve("path", …)` starts. A program without a path, from a
/// descriptor, is a runtime's.
fn program(call: &str) -> Who {
    match Path::new(path(call))
        .file_name()
        .and_then(|name| name.to_str())
    {
        Some("crioxide") => Who::Daemon,
        Some("crioxide-monitor") => Who::Monitor,
        _ => Who::Other,
    }
}

#[test]
fn a_trace_is_read() {
    let text = "\
10 clone(child_stack=0x1, flags=CLONE_VM|CLONE_VFORK <unfinished ...>
20 execve(\"/x/runc\", [\"runc\"], 0x1 /* 1 var */ <unfinished ...>
11 openat(AT_FDCWD, \"a\", O_WRONLY|O_CREAT|O_CLOEXEC, 0600) = 5
20 <... execve resumed>) = 0
10 <... clone resumed>) = 20
20 fsync(3) = 0
20 vfork() = 21
21 execveat(27, \"\", [\"other\"], 0x1, AT_EMPTY_PATH) = 0
11 openat(AT_FDCWD, \"b\", O_WRONLY|O_CREAT) = -1 EEXIST (File exists)
11 openat(AT_FDCWD, \"/d/a.lock\", O_RDWR|O_CREAT) = 6
11 fdatasync(5) = 0
12 rename(\"a\", \"b\") = 0
11 rename(\"a\", \"b\") = 0
";
    let costs = Trace::new([10, 11].into_iter()).count(text);
    let wanted = Costs {
        spawns: 1,
        syncs: 1,
        files: 1,
        renames: 1,
    };
    assert_eq!(costs, wanted);
}
