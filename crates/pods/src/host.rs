//! What this node's kernel grants us: capabilities, cgroup controllers, OOM scores.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use spec::capabilities::Set;
use spec::resources::Controllers;

use crate::Error;

/// What the kernel grants us.
#[derive(Debug)]
pub(crate) struct Host {
    /// Capabilities that we can hand on.
    pub(crate) grantable: Set,
    /// Cgroup controllers.
    pub(crate) controllers: Controllers,
    /// Kernel version, major and minor.
    pub(crate) kernel: (u32, u32),
    /// Paths that containers don't see, and whose names depend on the node's processors.
    pub(crate) masked: Vec<String>,
    /// Smallest `oom_score_adj` that we may set.
    lowest_oom_score: i64,
    warned: AtomicBool,
}

impl Host {
    /// Looks at the running kernel.
    pub(crate) fn look() -> Result<Self, Error> {
        let read = |path: &str| fs::read_to_string(path).map_err(Error::io("read", path));
        let status = read("/proc/self/status")?;
        let grantable = Set::from_bits(hexadecimal(&status, "CapBnd:").unwrap_or(0));
        let privileged = grantable.has("CAP_SYS_RESOURCE");
        let own = read("/proc/self/oom_score_adj")?
            .trim()
            .parse()
            .unwrap_or(0);
        Ok(Self {
            grantable,
            controllers: controllers(&read("/proc/self/mountinfo")?),
            kernel: kernel(),
            masked: masked(Path::new("/sys/devices/system/cpu")),
            // Without CAP_SYS_RESOURCE a score can be raised only.
            lowest_oom_score: if privileged { -1000 } else { own },
            warned: AtomicBool::new(false),
        })
    }

    /// `wanted`, or the nearest score that the kernel lets us set.
    pub(crate) fn oom_score(&self, wanted: i64) -> i64 {
        let granted = wanted.clamp(self.lowest_oom_score, 1000);
        if granted != wanted {
            self.warn_once("oom_score_adj", &wanted.to_string());
        }
        granted
    }

    /// Says once that the kernel grants us less than was asked for.
    pub(crate) fn warn_once(&self, what: &str, wanted: &str) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                what,
                wanted,
                "this kernel grants less than is asked for; containers get what there is"
            );
        }
    }
}

fn hexadecimal(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Looks at what is mounted: `/proc/cgroups` also lists controllers of the other hierarchy.
fn controllers(mountinfo: &str) -> Controllers {
    let v1 = |controller: &str| {
        let options = mountinfo
            .lines()
            .filter(|line| line.contains(" - cgroup "))
            .filter_map(|line| line.rsplit(' ').next());
        options
            .into_iter()
            .any(|options| options.split(',').any(|option| option == controller))
    };
    let unified = !mountinfo.contains(" - cgroup ") && mountinfo.contains(" - cgroup2 ");
    let root = Path::new("/sys/fs/cgroup");
    let v2 = |controller: &str| {
        let all = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        all.split_whitespace().any(|name| name == controller)
    };
    if unified {
        return Controllers {
            unified,
            hugetlb: v2("hugetlb"),
            swap: v2("memory"),
            pids: v2("pids"),
        };
    }
    let swap = root
        .join("memory/memory.memsw.limit_in_bytes")
        .try_exists()
        .unwrap_or(false);
    Controllers {
        unified,
        hugetlb: v1("hugetlb"),
        swap,
        pids: v1("pids"),
    }
}

/// How often each processor was throttled tells of the neighbours' load.
fn masked(processors: &Path) -> Vec<String> {
    let entries = fs::read_dir(processors).into_iter().flatten().flatten();
    let numbered = entries.filter(|entry| {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("cpu"));
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    });
    let throttle = numbered.map(|entry| entry.path().join("thermal_throttle"));
    let there = throttle.filter(|path| path.is_dir());
    let mut paths: Vec<_> = there.map(|path| path.display().to_string()).collect();
    paths.sort_unstable();
    paths
}

fn kernel() -> (u32, u32) {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throttling_is_masked_where_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        for made in [
            "cpu0/thermal_throttle",
            "cpu10/thermal_throttle",
            "cpu2",
            "cpuidle/thermal_throttle",
        ] {
            fs::create_dir_all(dir.path().join(made)).unwrap();
        }
        let at = |name: &str| dir.path().join(name).display().to_string();
        let wanted = [at("cpu0/thermal_throttle"), at("cpu10/thermal_throttle")];
        assert_eq!(masked(dir.path()), wanted);
    }

    #[test]
    fn a_hybrid_has_the_controllers_of_v1() {
        let hybrid = "30 29 0:26 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n31 29 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found = controllers(hybrid);
        assert!(found.pids && !found.unified && !found.hugetlb);
    }

    #[test]
    fn scores_are_clamped() {
        let host = Host {
            lowest_oom_score: 0,
            ..Host::look().unwrap()
        };
        assert_eq!(
            [-999, 0, 500, 2000].map(|score| host.oom_score(score)),
            [0, 0, 500, 1000]
        );
    }
}
