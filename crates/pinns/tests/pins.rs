//! `pinns` against the real kernel; needs root and util-linux's nsenter.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sys::namespace::{Kind, open, owner, unpin};
use sys::spawn::{Output, Program, run};
use tempfile::TempDir;

/// A directory whose pins go with it.
struct Pins(TempDir);

impl Pins {
    fn new() -> Self {
        Self(tempfile::tempdir_in("/dev/shm").unwrap())
    }

    fn pinns(&self, args: &str) -> Output {
        let program = Program::new(env!("CARGO_BIN_EXE_pinns"), Duration::from_secs(20))
            .args(["-d", self.0.path().to_str().unwrap(), "-f", "x"])
            .args(args.split_whitespace());
        run(&program).unwrap()
    }

    fn make(&self, args: &str) {
        let output = self.pinns(args);
        assert!(output.status.success(), "{args}: {}", text(&output.stderr));
    }

    fn path(&self, kind: Kind) -> PathBuf {
        self.0.path().join(kind.dir_name()).join("x")
    }

    fn is_there(&self, kind: Kind) -> bool {
        self.path(kind).try_exists().unwrap()
    }

    /// Runs a script inside pinned namespaces.
    fn inside(&self, kinds: &[Kind], script: &str) -> Output {
        let mut program = Program::new("/usr/bin/nsenter", Duration::from_secs(20));
        for kind in kinds {
            let name = match kind {
                Kind::Mount => "mount",
                other => other.proc_name(),
            };
            program = program.arg(format!("--{name}={}", self.path(*kind).display()));
        }
        let program = program
            .args(["/bin/sh", "-c", script])
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        run(&program).unwrap()
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        for kind in Kind::ALL {
            unpin(&self.path(kind)).unwrap();
        }
        // Where a mount namespace was pinned.
        let dir = self.0.path().join(Kind::Mount.dir_name());
        let _none = rustix::mount::unmount(dir, rustix::mount::UnmountFlags::DETACH);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn own(kind: Kind) -> String {
    std::fs::read_link(format!("/proc/self/ns/{}", kind.proc_name()))
        .unwrap()
        .display()
        .to_string()
}

#[test]
fn namespaces_are_new_set_up_and_stay() {
    let pins = Pins::new();
    pins.make("-u -i -n --hostname web --loopback -s net.ipv4.ip_forward=1+kernel.shmmax=12345 -s net.ipv4.ping_group_range=0");
    let kinds = [Kind::Uts, Kind::Ipc, Kind::Net];
    let script = "uname -n; cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmax; readlink /proc/self/ns/net";
    let seen = text(&pins.inside(&kinds, script).stdout);
    let lines: Vec<&str> = seen.lines().collect();
    assert_eq!(lines[..3], ["web", "1", "12345"]);
    assert_ne!(lines[3], own(Kind::Net));
    // Up: its address answers to a bind.
    let up = pins.inside(&kinds, "cat /proc/net/fib_trie");
    assert!(text(&up.stdout).contains("127.0.0.1"), "{up:?}");
    assert!(!pins.is_there(Kind::User) && !pins.is_there(Kind::Cgroup));
}

#[test]
fn with_a_user_namespace_the_others_belong_to_it() {
    let pins = Pins::new();
    pins.make("-U -u -i -n -c --uid-mapping 0-100000-65536@ --gid-mapping 0-200000-65536 --loopback -s net.ipv4.ip_forward=1 --hostname inner");
    let maps = pins.inside(&[Kind::User], "cat /proc/self/uid_map /proc/self/gid_map");
    let maps = text(&maps.stdout);
    let maps: Vec<Vec<&str>> = maps
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(maps, [["0", "100000", "65536"], ["0", "200000", "65536"]]);
    let all = [Kind::User, Kind::Uts, Kind::Ipc, Kind::Net, Kind::Cgroup];
    let entered = pins.inside(&all, "uname -n; cat /proc/sys/net/ipv4/ip_forward");
    assert_eq!(text(&entered.stdout), "inner\n1\n", "{entered:?}");
    let inode = |fd: &std::os::fd::OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino;
    let user = open(&pins.path(Kind::User)).unwrap();
    for kind in &all[1..] {
        let pinned = open(&pins.path(*kind)).unwrap();
        assert_eq!(
            inode(&owner(pinned.as_fd()).unwrap()),
            inode(&user),
            "{kind:?}"
        );
    }
}

#[test]
fn a_mount_namespace_and_the_hosts_own_can_be_pinned() {
    let pins = Pins::new();
    pins.make("-m --uts=host");
    let seen = pins.inside(&[Kind::Mount], "readlink /proc/self/ns/mnt");
    assert!(
        seen.status.success() && text(&seen.stdout).trim() != own(Kind::Mount),
        "{seen:?}"
    );
    let seen = pins.inside(&[Kind::Uts], "readlink /proc/self/ns/uts");
    assert_eq!(text(&seen.stdout).trim(), own(Kind::Uts));
}

#[test]
fn what_fails_leaves_nothing() {
    let nothing_left = |pins: &Pins, taken: Option<Kind>| {
        for kind in Kind::ALL.into_iter().filter(|kind| Some(*kind) != taken) {
            assert!(!pins.is_there(kind), "{kind:?}");
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&*pins.0.path().display().to_string()));
    };
    let pins = Pins::new();
    let failed = pins.pinns("-u -i -n -s net.no.such=1");
    assert!(
        !failed.status.success() && text(&failed.stderr).contains("set net.no.such"),
        "{failed:?}"
    );
    nothing_left(&pins, None);
    // The last of three is taken.
    std::fs::create_dir_all(pins.path(Kind::Net).parent().unwrap()).unwrap();
    std::fs::write(pins.path(Kind::Net), "").unwrap();
    let failed = pins.pinns("-u -i -n");
    assert!(
        !failed.status.success() && text(&failed.stderr).contains("netns/x"),
        "{failed:?}"
    );
    nothing_left(&pins, Some(Kind::Net));
    let failed = pins.pinns("-u -s kernel.panic=1");
    assert!(
        text(&failed.stderr).contains("not a sysctl of a namespace"),
        "{failed:?}"
    );
    let help =
        run(&Program::new(env!("CARGO_BIN_EXE_pinns"), Duration::from_secs(5)).arg("--help"));
    assert!(text(&help.unwrap().stdout).starts_with("usage:"));
}

#[test]
fn many_at_once_do_not_disturb_each_other() {
    let pins = Pins::new();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let dir: &Path = pins.0.path();
            scope.spawn(move || {
                let name = format!("n{n}");
                let program = Program::new(env!("CARGO_BIN_EXE_pinns"), Duration::from_secs(20))
                    .args(["-d", dir.to_str().unwrap(), "-f", &name, "-u", "-i", "-n"]);
                let output = run(&program).unwrap();
                assert!(output.status.success(), "{}", text(&output.stderr));
                for kind in [Kind::Uts, Kind::Ipc, Kind::Net] {
                    unpin(&dir.join(kind.dir_name()).join(&name)).unwrap();
                }
            });
        }
    });
}
