use std::os::fd::AsFd;
use std::time::Duration;

use super::*;
use crate::spawn::{Session, Spec, Status, spawn};

/// Removed even where the test fails.
struct Made(Cgroup);

impl Drop for Made {
    fn drop(&mut self) {
        let killed = self.0.kill().map(|_| wait_until_empty(&self.0));
        let removed = self.0.remove();
        if !std::thread::panicking() {
            killed.unwrap();
            removed.unwrap();
        }
    }
}

/// What is nobody's child of ours is waited for by descriptor.
fn wait_until_empty(cgroup: &Cgroup) {
    for pid in cgroup.processes().unwrap() {
        if let Ok(pidfd) = crate::pidfd::open(pid) {
            crate::pidfd::wait_ended(pidfd.as_fd(), Some(Duration::from_secs(10))).unwrap();
        }
    }
}

fn paths(cgroup: &Cgroup) -> BTreeSet<&Path> {
    cgroup.paths().collect()
}

fn may_make(name: &str) -> Option<Made> {
    let cgroup = Cgroup::at(&format!("/crioxide-{name}-{}", std::process::id())).unwrap();
    match cgroup.make() {
        Ok(()) => Some(Made(cgroup)),
        Err(err) => {
            eprintln!("skipped: no cgroups here: {err}");
            None
        }
    }
}

#[test]
fn a_child_is_born_in_its_cgroup_and_killed_with_it() {
    let Some(made) = may_make("born") else { return };
    let entry = made.0.entry().unwrap();
    let mut spec = Spec::new(Path::new("/bin/sh"));
    spec.args = ["-c", "sleep 100 & sleep 100"].map(Into::into).into();
    spec.env = vec![("PATH".into(), "/bin:/usr/bin".into())];
    spec.cgroup = Some(&entry);
    spec.session = Session::Own;
    let mut child = spawn(&spec).unwrap();
    assert!(made.0.processes().unwrap().contains(&child.pid()));
    let found = of_process(child.pid()).unwrap().named("crioxide-born");
    assert_eq!(paths(&found), paths(&made.0));
    assert!(made.0.kill().unwrap().contains(&child.pid()));
    let status = child.wait(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(status, Some(Status::Signaled(9)));
    wait_until_empty(&made.0);
    assert_eq!(made.0.oom_kills().unwrap_or(0), 0);
}

#[test]
fn what_is_shared_is_not_taken_for_ones_own() {
    let own = of_process(rustix::process::getpid()).unwrap();
    assert!(own.named("an-id-that-is-nowhere").is_empty());
    assert!(Cgroup::at("relative").is_err());
    assert!(Cgroup::at("/a/../b").is_err());
    assert_eq!(
        Cgroup::at("/crioxide-not-there")
            .unwrap()
            .processes()
            .unwrap(),
        []
    );
    Cgroup::at("/crioxide-not-there").unwrap().remove().unwrap();
}

#[test]
fn a_named_cgroup_is_the_one_that_has_the_name() {
    for (path, named) in [
        ("/x/crio-abc.scope", Some("/x/crio-abc.scope")),
        ("/x/crio-abc.scope/container", Some("/x/crio-abc.scope")),
        ("/x/shared", None),
    ] {
        let cgroup = Cgroup {
            dirs: vec![Dir {
                path: path.into(),
                controllers: Vec::new(),
            }],
        };
        let found = cgroup.named("abc");
        assert_eq!(found.paths().next(), named.map(Path::new), "{path}");
    }
}

#[test]
fn the_parent_tells_of_kills_in_a_cgroup_that_is_gone() {
    let name = format!("crioxide-above-{}", std::process::id());
    let parent = std::env::temp_dir().join(name);
    fs::create_dir(&parent).unwrap();
    let cgroup = Cgroup {
        dirs: vec![Dir {
            path: parent.join("crio-abc.scope"),
            controllers: Vec::new(),
        }],
    };
    let events = "low 0\noom 1\noom_kill 2\n";
    fs::write(parent.join("memory.events"), events).unwrap();
    assert_eq!((cgroup.oom_kills(), cgroup.oom_kills_above()), (None, 2));
    fs::create_dir(parent.join("crio-abc.scope")).unwrap();
    fs::write(parent.join("crio-abc.scope/memory.events"), "oom_kill 1\n").unwrap();
    assert_eq!((cgroup.oom_kills(), cgroup.oom_kills_above()), (Some(1), 2));
    fs::remove_dir_all(parent).unwrap();
}

#[test]
fn what_is_frozen_beneath_goes_on_with_its_own() {
    let Some(made) = may_make("frozen") else {
        return;
    };
    // As crun has it: the init is in a cgroup beneath its scope, and that one is frozen.
    let mut beneath = made.0.clone();
    for dir in &mut beneath.dirs {
        dir.path.push("container");
    }
    beneath.make().unwrap();
    let v1 = beneath.v1("freezer");
    let (file, word) = match v1 {
        Some(dir) => (dir.join("freezer.state"), "FROZEN"),
        None => (beneath.v2().unwrap().join("cgroup.freeze"), "1"),
    };
    let name = format!("crioxide-frozen-{}", std::process::id());
    let go = std::env::temp_dir().join(name);
    let script = "while [ ! -e \"$0\" ]; do sleep 0.01; done; exit 7";
    let mut spec = Spec::new(Path::new("/bin/sh"));
    spec.args = vec!["-c".into(), script.into(), go.clone().into()];
    spec.env = vec![("PATH".into(), "/bin:/usr/bin".into())];
    let entry = beneath.entry().unwrap();
    spec.cgroup = Some(&entry);
    spec.session = Session::Own;
    let mut child = spawn(&spec).unwrap();
    fs::write(&file, word).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    // Version 1 says "FREEZING" until all of them are.
    while fs::read_to_string(&file).unwrap().trim() != word {
        assert!(Instant::now() < deadline, "{word}");
    }
    fs::write(&go, "").unwrap();
    made.0.thaw(None).unwrap();
    let still = child.wait(Some(Duration::from_millis(300))).unwrap();
    made.0.thaw(Some(child.pid())).unwrap();
    let status = child.wait(Some(Duration::from_secs(10))).unwrap();
    fs::remove_file(&go).unwrap();
    assert_eq!(still, None, "what is above does not thaw it");
    assert_eq!(status.map(Status::code), Some(7));
    made.0.thaw(None).unwrap();
    let gone = Cgroup::at("/crioxide-not-there").unwrap();
    gone.thaw(None).unwrap();
}
