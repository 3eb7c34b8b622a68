//! Logs: their format, their rotation, their bounds.

use std::fs;

use crate::harness::{Pod, lines, records, wait_for_line, within};

#[tokio::test]
async fn streams_long_lines_and_unfinished_ones_are_in_the_cri_format() {
    let mut pod = Pod::start().await;
    let script =
        "echo out; echo err >&2; head -c 40000 /dev/zero | tr '\\0' x; echo; printf 'no end'";
    let create = pod.container("format", script);
    pod.run(&create).await;
    pod.exit(&create.id).await;
    let log = fs::read_to_string(pod.log("format")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(pod.log("format")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o640);
    let all = records(&log);
    let stdout: Vec<(&str, usize)> = all
        .iter()
        .filter(|r| r.0 == "stdout")
        .map(|r| (r.1.as_str(), r.2.len()))
        .collect();
    assert_eq!(
        stdout,
        [("F", 3), ("P", 16384), ("P", 16384), ("F", 7232), ("P", 6)]
    );
    assert_eq!(lines(&log, "stderr"), ["err"]);
    pod.finish().await;
}

#[tokio::test]
async fn a_prompt_is_seen_while_its_line_is_not_finished() {
    let mut pod = Pod::start().await;
    let mut create = pod.container("prompt", "printf 'name? '; read x; echo hello $x");
    create.stdin = true;
    pod.run(&create).await;
    wait_for_line(&pod.log("prompt"), "stdout P name? ").await;
    let attach = monitor_client::AttachTo {
        stdin: true,
        ..Default::default()
    };
    let stdin = within("attach", pod.monitor.attach(&create.id, attach))
        .await
        .unwrap()
        .unwrap();
    rustix::io::write(&stdin, b"you\n").unwrap();
    pod.exit(&create.id).await;
    let log = fs::read_to_string(pod.log("prompt")).unwrap();
    assert_eq!(lines(&log, "stdout"), ["name? hello you"]);
    pod.finish().await;
}

#[tokio::test]
async fn rotation_under_load_loses_and_doubles_nothing() {
    let mut pod = Pod::start().await;
    let script =
        "i=0; while [ $i -lt 60000 ]; do echo line $i; echo other $i >&2; i=$((i+1)); done";
    let create = pod.container("rotate", script);
    pod.run(&create).await;
    let path = pod.log("rotate");
    let mut rotated = Vec::new();
    for n in 0..20 {
        wait_for_line(&path, "stdout F line").await;
        let to = pod.path(&format!("rotate.log.{n:02}"));
        rustix::fs::rename(&path, &to).unwrap();
        within("reopen", pod.monitor.reopen_log(&create.id))
            .await
            .unwrap();
        rotated.push(to);
        if pod.path("exits").join(create.id.as_str()).is_file() {
            break;
        }
    }
    pod.exit(&create.id).await;
    rotated.push(path);
    let log: String = rotated
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    for (stream, name) in [("stdout", "line"), ("stderr", "other")] {
        let found = lines(&log, stream);
        assert_eq!(found.len(), 60000);
        assert!(
            found
                .iter()
                .enumerate()
                .all(|(i, line)| *line == format!("{name} {i}")),
            "{stream}"
        );
    }
    pod.finish().await;
}

#[tokio::test]
async fn a_log_with_a_bound_starts_again() {
    let mut pod = Pod::start().await;
    let mut create = pod.container(
        "bound",
        "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done",
    );
    create.log_size_max = 100_000;
    pod.run(&create).await;
    pod.exit(&create.id).await;
    let log = fs::read_to_string(pod.log("bound")).unwrap();
    assert!(
        log.len() <= 100_000 && log.ends_with("stdout F line 19999\n"),
        "{}",
        log.len()
    );
    pod.finish().await;
}

#[tokio::test]
async fn a_full_disk_holds_the_container_back_and_loses_nothing() {
    let mut pod = Pod::start().await;
    let disk = pod.path("disk");
    fs::create_dir(&disk).unwrap();
    // A file system of 256 KiB of its own, for the log alone.
    let mounted = Mounted::new(&disk, "size=256k");
    let mut create = pod.container(
        "full",
        "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; exit 3",
    );
    create.log_path = disk.join("0.log").to_str().unwrap().into();
    fs::write(disk.join("ballast"), vec![0; 100_000]).unwrap();
    let quick = pod.container("quick", "exit 1");
    pod.run(&create).await;
    crate::harness::until("full", || {
        fs::metadata(disk.join("0.log")).is_ok_and(|log| log.len() > 120_000)
    })
    .await;
    // Nobody else is held up.
    pod.run(&quick).await;
    assert_eq!(pod.exit(&quick.id).await.code, 1);
    fs::remove_file(disk.join("ballast")).unwrap();
    let mut log = String::new();
    // Rotation frees the disk, as the kubelet does it.
    while !log.contains("line 19999\n") {
        let to = disk.join("0.log.1");
        rustix::fs::rename(disk.join("0.log"), &to).unwrap();
        within("reopen", pod.monitor.reopen_log(&create.id))
            .await
            .unwrap();
        log += &fs::read_to_string(&to).unwrap();
        fs::remove_file(to).unwrap();
        crate::harness::until("more", || {
            fs::metadata(disk.join("0.log")).is_ok_and(|log| log.len() > 1000)
                || pod.path("exits").join(create.id.as_str()).is_file()
        })
        .await;
        if pod.path("exits").join(create.id.as_str()).is_file() {
            log += &fs::read_to_string(disk.join("0.log")).unwrap();
            break;
        }
    }
    assert_eq!(pod.exit(&create.id).await.code, 3);
    let found = lines(&log, "stdout");
    let wrong = found
        .iter()
        .enumerate()
        .find(|(i, line)| **line != format!("line {i}"));
    assert_eq!((wrong, found.len()), (None, 20000));
    // Before the directory that it is in.
    drop(mounted);
    pod.finish().await;
}

/// By hand: `cargo test … -- --ignored --nocapture throughput`. Only prints.
#[tokio::test]
#[ignore = "a measurement"]
async fn throughput_of_200_mb() {
    let mut pod = Pod::start().await;
    let line = "x".repeat(99);
    let script = format!("yes {line} | head -c 200000000");
    let create = pod.container("much", &script);
    let start = std::time::Instant::now();
    pod.run(&create).await;
    pod.exit(&create.id).await;
    let wall = start.elapsed();
    let stat = fs::read_to_string(format!("/proc/{}/stat", pod.monitor.pid())).unwrap();
    let stat: Vec<&str> = stat.split_whitespace().collect();
    let [user, system] = [13, 14].map(|at| stat[at].parse::<u64>().unwrap() * 10);
    let size = fs::metadata(pod.log("much")).unwrap().len();
    eprintln!("wall {wall:?}, monitor CPU {user} + {system} ms, log {size} bytes");
    pod.finish().await;
}

struct Mounted(std::path::PathBuf);

impl Mounted {
    fn new(path: &std::path::Path, options: &str) -> Self {
        let program = sys::spawn::Program::new("/bin/mount", crate::harness::PATIENCE).args([
            "-t",
            "tmpfs",
            "-o",
            options,
            "tmpfs",
            path.to_str().unwrap(),
        ]);
        let mounted = sys::spawn::run(&program).unwrap();
        assert!(mounted.status.success(), "{mounted:?}");
        Self(path.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let program = sys::spawn::Program::new("/bin/umount", crate::harness::PATIENCE)
            .args(["-l", self.0.to_str().unwrap()]);
        let _gone = sys::spawn::run(&program);
    }
}
