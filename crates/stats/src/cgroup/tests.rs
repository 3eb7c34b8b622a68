//! Both versions, and the two side by side, as files of a made-up machine.

use std::fs;

use sys::cgroup::Hierarchy;
use tempfile::TempDir;

use super::*;
use crate::figures::{CpuDetail, Device, HugePages};

const PATH: &str = "/kubepods/pod1/crio-c";

/// Names and texts of files.
type Files = [(&'static str, &'static str)];

/// Name, controllers and files of each hierarchy.
const V1: &[(&str, &[&str], &Files)] = &[
    (
        "cpu",
        &["cpu"],
        &[(
            "cpu.stat",
            "nr_periods 10\nnr_throttled 3\nthrottled_time 5000000000\nnr_bursts 0\n",
        )],
    ),
    (
        "cpuacct",
        &["cpuacct"],
        &[
            ("cpuacct.usage", "123456789\n"),
            ("cpuacct.stat", "user 7\nsystem 4\n"),
            ("cpuacct.usage_percpu", "100000000 23456789 \n"),
        ],
    ),
    (
        "memory",
        &["memory"],
        &[
            ("memory.usage_in_bytes", "10000000\n"),
            ("memory.max_usage_in_bytes", "12000000\n"),
            ("memory.failcnt", "6\n"),
            ("memory.kmem.usage_in_bytes", "400000\n"),
            (
                "memory.oom_control",
                "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
            ),
            (
                "memory.stat",
                "cache 1\nrss 1\nswap 1\npgfault 11\npgmajfault 1\ninactive_file 1\n\
                 hierarchical_memory_limit 64000000\nhierarchical_memsw_limit 96000000\n\
                 total_cache 3000000\ntotal_rss 4000000\ntotal_mapped_file 500000\ntotal_swap 1000\n\
                 total_pgfault 77\ntotal_pgmajfault 5\ntotal_inactive_file 2000000\n",
            ),
        ],
    ),
    (
        "blkio",
        &["blkio"],
        &[
            (
                "blkio.throttle.io_service_bytes_recursive",
                "254:0 Read 4096\n254:0 Write 8192\nTotal 12288\n",
            ),
            (
                "blkio.throttle.io_serviced_recursive",
                "254:0 Read 1\n254:0 Write 2\nTotal 3\n",
            ),
        ],
    ),
    (
        "pids",
        &["pids"],
        &[
            ("pids.current", "9\n"),
            ("pids.max", "max\n"),
            ("cgroup.procs", "12\n30\n"),
        ],
    ),
];

const PRESSURE: &str = "some avg10=0.00 avg60=0.00 avg300=0.00 total=8\n\
                        full avg10=0.00 avg60=0.00 avg300=0.00 total=4\n";

const V2: &Files = &[
    (
        "cpu.stat",
        "usage_usec 123456\nuser_usec 70000\nsystem_usec 40000\nnr_periods 10\nnr_throttled 3\n\
         throttled_usec 5000000\n",
    ),
    ("memory.current", "10000000\n"),
    ("memory.peak", "12000000\n"),
    ("memory.max", "64000000\n"),
    ("memory.swap.current", "1000\n"),
    ("memory.swap.max", "32000000\n"),
    ("memory.events", "low 0\nhigh 0\nmax 6\noom 3\noom_kill 2\n"),
    (
        "memory.stat",
        "anon 4000000\nfile 3000000\nkernel 400000\nfile_mapped 500000\ninactive_file 2000000\n\
         pgfault 77\npgmajfault 5\n",
    ),
    (
        "io.stat",
        "254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n",
    ),
    ("pids.current", "9\n"),
    ("pids.max", "max\n"),
    ("cgroup.procs", "12\n30\n"),
    ("cpu.pressure", PRESSURE),
    ("memory.pressure", PRESSURE),
    ("io.pressure", PRESSURE),
    ("hugetlb.2MB.current", "4194304\n"),
    ("hugetlb.2MB.rsvd.current", "0\n"),
];

/// A machine with version 1, with version 2, or with both: then version 2 tells pressure only.
fn machine(v1: bool, v2: &[(&str, &str)]) -> (TempDir, Reader) {
    let dir = tempfile::tempdir().unwrap();
    let mut hierarchies = Vec::new();
    let mut mount = |name: &str, controllers: &[&str], files: &[(&str, &str)]| {
        let hierarchy = Hierarchy {
            mount: dir.path().join(name),
            root: "/".into(),
            controllers: controllers.iter().map(ToString::to_string).collect(),
        };
        let place = hierarchy.dir(PATH);
        fs::create_dir_all(&place).unwrap();
        for (file, text) in files {
            fs::write(place.join(file), text).unwrap();
        }
        hierarchies.push(hierarchy);
    };
    if v1 {
        for (name, controllers, files) in V1 {
            mount(name, controllers, files);
        }
    }
    if !v2.is_empty() {
        mount("unified", &[], v2);
    }
    let reader = Reader::over(hierarchies);
    (dir, reader)
}

fn pressure_only() -> Vec<(&'static str, &'static str)> {
    let pressure = |(name, _): &&(&str, &str)| name.ends_with(".pressure");
    V2.iter().filter(pressure).copied().collect()
}

#[test]
fn all_versions_tell_the_same_usage() {
    let both = pressure_only();
    for (v1, v2, version) in [
        (true, &[][..], "v1"),
        (false, V2, "v2"),
        (true, &both, "both"),
    ] {
        let (_dir, reader) = machine(v1, v2);
        let usage = reader.usage(PATH);
        let total = if v1 { 123_456_789 } else { 123_456_000 };
        assert_eq!(usage.cpu, Some(Cpu { total }), "{version}");
        let memory = Memory {
            usage: 10_000_000,
            working_set: 8_000_000,
            rss: 4_000_000,
            limit: Some(64_000_000),
            faults: 77,
            major_faults: 5,
            swap: 1000,
            swap_limit: Some(32_000_000),
        };
        assert_eq!(usage.memory, Some(memory), "{version}");
        let stalled = usage.pressure.io.map(|io| (io.some.total, io.full.total));
        assert_eq!(stalled, (!v2.is_empty()).then_some((8, 4)), "{version}");
        assert_eq!(reader.memory_usage(PATH), Some(10_000_000), "{version}");
        assert_eq!(reader.processes(PATH), [12, 30], "{version}");
        let threads = Threads {
            current: 9,
            limit: None,
        };
        assert_eq!(reader.threads(PATH), Some(threads), "{version}");
    }
}

#[test]
fn all_versions_tell_the_same_details() {
    for (v1, v2) in [(true, &[][..]), (false, V2)] {
        let (_dir, reader) = machine(v1, v2);
        let cpu = reader.cpu(PATH).unwrap();
        let wanted = CpuDetail {
            total: if v1 { 123_456_789 } else { 123_456_000 },
            user: 70_000_000,
            system: 40_000_000,
            per_cpu: if v1 {
                vec![100_000_000, 23_456_789]
            } else {
                Vec::new()
            },
            periods: 10,
            throttled_periods: 3,
            throttled: 5_000_000_000,
        };
        assert_eq!(cpu, wanted);
        let memory = reader.memory(PATH).unwrap();
        assert_eq!(
            (memory.cache, memory.kernel, memory.mapped, memory.peak),
            (3_000_000, 400_000, 500_000, 12_000_000)
        );
        assert_eq!((memory.limit_hits, memory.oom_kills), (6, 2));
        assert_eq!(memory.own_faults, if v1 { (11, 1) } else { (77, 5) });
        let device = Device {
            number: (254, 0),
            read_bytes: 4096,
            written_bytes: 8192,
            reads: 1,
            writes: 2,
        };
        assert_eq!(reader.io(PATH), Some(vec![device]));
    }
}

#[test]
fn huge_pages_are_found_by_their_files() {
    let (_dir, reader) = machine(false, V2);
    let wanted = HugePages {
        size: "2MB".into(),
        usage: 4_194_304,
        peak: None,
    };
    assert_eq!(reader.huge_pages(PATH), [wanted]);
}

#[test]
fn processes_are_found_in_cgroups_of_a_containers_own_and_not_in_any_number() {
    let (_dir, reader) = machine(false, V2);
    let place = reader.unified(PATH).unwrap().path().to_owned();
    fs::create_dir_all(place.join("a/b")).unwrap();
    fs::write(place.join("a/b/cgroup.procs"), "44\n").unwrap();
    assert_eq!(reader.processes(PATH), [12, 30, 44]);
    for number in 0..2 * crate::limits::CGROUPS {
        let one = place.join(format!("many/{number}"));
        fs::create_dir_all(&one).unwrap();
        fs::write(one.join("cgroup.procs"), format!("{}\n", 100 + number)).unwrap();
    }
    assert!(reader.processes(PATH).len() < crate::limits::CGROUPS + 3);
}

#[test]
fn a_cgroup_that_is_gone_tells_nothing() {
    let (_dir, reader) = machine(true, V2);
    assert_eq!(reader.usage("/gone"), Usage::default());
    assert_eq!((reader.cpu("/gone"), reader.io("/gone")), (None, None));
    assert!(reader.processes("/gone").is_empty());
}
