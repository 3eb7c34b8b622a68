//! `kill -9` of the monitor: no line is lost or doubled, no exit code is wrong.

use std::fs;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use monitor_client::{Adopt, AdoptedDescriptors, ContainerInfo, Create, Created, Exit, State};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::harness::{Pod, lines, wait_for_line, within};

/// Orphans come to the whole process: one test at a time.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// How often a monitor is killed.
fn kills() -> u32 {
    std::env::var("CRIOXIDE_TEST_KILLS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(15)
}

async fn adopt(pod: &Pod, create: &Create, created: &Created) -> ContainerInfo {
    let adopt = Adopt {
        create: create.clone(),
        pid: created.pid,
        start_time: created.start_time,
        started: true,
        pidfd: false,
        terminal: false,
        stdin: false,
    };
    let descriptors = AdoptedDescriptors {
        pidfd: Some(created.pidfd.as_fd()),
        terminal: created.terminal.as_ref().map(AsFd::as_fd),
        stdin: created.stdin.as_ref().map(AsFd::as_fd),
    };
    within("adopt", pod.monitor.adopt(adopt, descriptors))
        .await
        .unwrap()
}

/// What the daemon does: reaps orphans, tells the monitor.
async fn tell_orphans(pod: &Pod) {
    for (pid, status) in sys::reap::orphans().unwrap() {
        let pid = pid.as_raw_nonzero().get().cast_unsigned();
        within("orphan", pod.monitor.orphan_reaped(pid, status))
            .await
            .unwrap();
    }
}

async fn exit(pod: &mut Pod, create: &Create, children: &mut Signal) -> Exit {
    loop {
        tell_orphans(pod).await;
        let ended = tokio::select! {
            event = pod.event() => Some(event),
            _ = children.recv() => None,
        };
        if let Some(monitor_client::Event::Exited(exit)) = ended
            && exit.id == create.id
        {
            return exit;
        }
    }
}

/// A walk of pseudo-random numbers, the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

async fn pause(microseconds: u64) {
    let at = tokio::time::Instant::now() + Duration::from_micros(microseconds);
    tokio::time::sleep_until(at).await;
}

const WRITER: &str = "trap 'stop=1' TERM; i=0; while [ -z \"$stop\" ]; do echo \"$W out $i\"; \
    echo \"$W err $i\" >&2; i=$((i+1)); done; echo \"end $i\"; exit 7";
/// Now and then a long line, now and then a pause, so that all paths are taken.
const BURSTS: &str = "trap 'stop=1' TERM; i=0; l=$(head -c 9000 /dev/zero | tr '\\0' x); \
    while [ -z \"$stop\" ]; do echo \"$W out $i\"; echo \"$W err $i\" >&2; i=$((i+1)); \
    case $i in *00) echo \"long $l$l$l\"; usleep 2000;; esac; done; echo \"end $i\"; exit 7";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_line_is_lost_or_doubled_however_often_the_monitor_dies() {
    let _alone = ALONE.lock().await;
    let mut pod = Pod::start().await;
    let mut children = signal(SignalKind::child()).unwrap();
    let mut containers = Vec::new();
    for (name, script, tty) in [
        ("fast", WRITER, false),
        ("bursts", BURSTS, false),
        ("tty", BURSTS, true),
    ] {
        let create = pod.container_with(name, &format!("W={name}; {script}"), |config| {
            config["process"]["terminal"] = tty.into();
        });
        let created = pod.run(&create).await;
        containers.push((name, create, created));
    }
    let mut dice = Dice(11);
    for _ in 0..kills() {
        pause(dice.roll(30_000)).await;
        pod.kill_monitor().await;
        pod.restart_monitor().await;
        for (_, create, created) in &containers {
            let info = adopt(&pod, create, created).await;
            assert_eq!(info.state, State::Running {}, "{}", info.id);
        }
        tell_orphans(&pod).await;
    }
    let mut total = 0;
    for (name, create, _) in &containers {
        within("signal", pod.monitor.signal(&create.id, 15))
            .await
            .unwrap();
        let exit = exit(&mut pod, create, &mut children).await;
        assert_eq!((exit.code, exit.reason.as_str()), (7, ""), "{name}");
        let log = fs::read_to_string(pod.log(name)).unwrap();
        total += check(name, &log);
    }
    eprintln!("{} kills, {total} lines, none lost, none doubled", kills());
    pod.finish().await;
}

/// All lines are there, once, in order; returns how many.
fn check(name: &str, log: &str) -> usize {
    let tty = name == "tty";
    let stdout = lines(log, "stdout");
    let text = |line: &str| line.trim_end_matches('\r').to_owned();
    let end = text(stdout.last().unwrap());
    let count: usize = end
        .strip_prefix("end ")
        .unwrap_or_else(|| panic!("{name}: no end: {end:?}"))
        .parse()
        .unwrap();
    let long = format!("long {}", "x".repeat(27_000));
    let expected = |stream: &str, i: usize| format!("{name} {stream} {i}");
    let mut numbers = [0, 0];
    for (at, line) in stdout.iter().take(stdout.len() - 1).enumerate() {
        let line = text(line);
        if line == long {
            continue;
        }
        if line == expected("out", numbers[0]) {
            numbers[0] += 1;
        } else if tty && line == expected("err", numbers[1]) {
            numbers[1] += 1;
        } else {
            let shown: String = line.chars().take(200).collect();
            panic!(
                "{name}: record {at}: {shown:?} where {} or {} was due",
                numbers[0], numbers[1]
            );
        }
    }
    if !tty {
        for line in lines(log, "stderr") {
            assert_eq!(line, expected("err", numbers[1]), "{name}");
            numbers[1] += 1;
        }
    }
    assert_eq!(numbers, [count, count], "{name}");
    stdout.len() + if tty { 0 } else { count }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exit_while_there_is_no_monitor_has_its_code() {
    let _alone = ALONE.lock().await;
    let mut pod = Pod::start().await;
    let mut children = signal(SignalKind::child()).unwrap();
    let mut dice = Dice(5);
    let (mut right, mut lost) = (0, 0);
    for round in 0..kills().div_ceil(2) {
        let name = format!("exit{round}");
        let script = "read x; echo last words; exit 23";
        let mut create = pod.container(&name, script);
        create.stdin = true;
        let created = pod.run(&create).await;
        let stdin = monitor_client::AttachTo {
            stdin: true,
            ..Default::default()
        };
        let stdin = within("attach", pod.monitor.attach(&create.id, stdin))
            .await
            .unwrap()
            .unwrap();
        rustix::io::write(&stdin, b"go\n").unwrap();
        pause(dice.roll(4_000)).await;
        pod.kill_monitor().await;
        // Sometimes after the successor is up, sometimes before.
        pause(dice.roll(4_000)).await;
        tell_or_keep(&mut pod, &create, &created).await;
        let info = within("list", pod.monitor.list()).await.unwrap();
        let info = info.into_iter().find(|info| info.id == create.id).unwrap();
        let exit = match info.state {
            State::Exited { exit } => exit,
            _ => exit(&mut pod, &create, &mut children).await,
        };
        match (exit.code, exit.reason.as_str()) {
            (23, "") => right += 1,
            (137, "monitor lost") => lost += 1,
            other => panic!("{other:?}"),
        }
        let log = fs::read_to_string(pod.log(&name)).unwrap();
        assert_eq!(lines(&log, "stdout"), ["last words"]);
    }
    eprintln!("{right} exit codes right, {lost} lost");
    assert_eq!(lost, 0);
    pod.finish().await;
}

async fn tell_or_keep(pod: &mut Pod, create: &Create, created: &Created) {
    let reaped = sys::reap::orphans().unwrap();
    pod.restart_monitor().await;
    for (pid, status) in reaped {
        let pid = pid.as_raw_nonzero().get().cast_unsigned();
        within("orphan", pod.monitor.orphan_reaped(pid, status))
            .await
            .unwrap();
    }
    adopt(pod, create, created).await;
    tell_orphans(pod).await;
}

#[tokio::test]
async fn a_stdin_and_a_terminal_work_on_after_the_loss() {
    let _alone = ALONE.lock().await;
    let mut pod = Pod::start().await;
    let mut children = signal(SignalKind::child()).unwrap();
    let mut create = pod.container("stdin", "echo up; cat; echo end; exit 5");
    create.stdin = true;
    create.stdin_once = true;
    let mut created = pod.run(&create).await;
    wait_for_line(&pod.log("stdin"), "up").await;
    pod.kill_monitor().await;
    pod.restart_monitor().await;
    adopt(&pod, &create, &created).await;
    let attach = monitor_client::AttachTo {
        stdin: true,
        ..Default::default()
    };
    let stdin = within("attach", pod.monitor.attach(&create.id, attach))
        .await
        .unwrap()
        .unwrap();
    rustix::io::write(&stdin, b"again\n").unwrap();
    wait_for_line(&pod.log("stdin"), "again").await;
    drop((stdin, created.stdin.take()));
    within("close", pod.monitor.close_stdin(&create.id))
        .await
        .unwrap();
    assert_eq!(exit(&mut pod, &create, &mut children).await.code, 5);
    pod.finish().await;
}

#[tokio::test]
async fn a_container_whose_creation_was_cut_short_can_be_removed() {
    let _alone = ALONE.lock().await;
    let mut pod = Pod::start().await;
    let create = pod.container("cut", "sleep 1000");
    let monitor = pod.monitor.clone();
    let cut = Arc::new(create.clone());
    let creating = tokio::spawn(async move { monitor.create((*cut).clone(), None).await });
    wait_for_dir(&pod, &create).await;
    pod.kill_monitor().await;
    assert!(within("create", creating).await.unwrap().is_err());
    pod.restart_monitor().await;
    let adopt = Adopt {
        create: create.clone(),
        pid: 0,
        start_time: 0,
        started: false,
        pidfd: false,
        terminal: false,
        stdin: false,
    };
    let info = within(
        "adopt",
        pod.monitor.adopt(adopt, AdoptedDescriptors::default()),
    )
    .await
    .unwrap();
    assert!(matches!(info.state, State::Exited { .. }), "{info:?}");
    within("delete", pod.monitor.delete(&create.id, true))
        .await
        .unwrap();
    within("forget", pod.monitor.forget(&create.id))
        .await
        .unwrap();
    tell_orphans(&pod).await;
    pod.finish().await;
}

async fn wait_for_dir(pod: &Pod, create: &Create) {
    let dir = pod.path("run/containers").join(create.id.as_str());
    crate::harness::until("stdio", || dir.join("stderr.journal").is_file()).await;
}

#[tokio::test]
async fn what_the_kernel_killed_without_a_monitor_is_told_as_oom() {
    let _alone = ALONE.lock().await;
    let mut pod = Pod::start().await;
    let mut children = signal(SignalKind::child()).unwrap();
    let script = "read x; x=$(head -c 100000000 /dev/zero | tr '\\0' x); exit 1";
    let mut create = pod.container_with("oom", script, |config| {
        let memory = serde_json::json!({ "limit": 16_000_000, "swap": 16_000_000 });
        config["linux"]["resources"] = serde_json::json!({ "memory": memory });
    });
    create.stdin = true;
    let created = pod.run(&create).await;
    let attach = monitor_client::AttachTo {
        stdin: true,
        ..Default::default()
    };
    let stdin = within("attach", pod.monitor.attach(&create.id, attach))
        .await
        .unwrap()
        .unwrap();
    pod.kill_monitor().await;
    rustix::io::write(&stdin, b"go\n").unwrap();
    let ended = || sys::pidfd::wait_ended(created.pidfd.as_fd(), Some(Duration::ZERO)).unwrap();
    crate::harness::until("the kernel's kill", ended).await;
    pod.restart_monitor().await;
    adopt(&pod, &create, &created).await;
    assert!(exit(&mut pod, &create, &mut children).await.oom_killed);
    pod.finish().await;
}

#[tokio::test]
async fn a_status_that_nobody_can_tell_is_137_with_its_reason() {
    let _alone = ALONE.lock().await;
    let mut pod = Pod::start().await;
    let mut create = pod.container("lost", "read x; exit 3");
    create.stdin = true;
    let created = pod.run(&create).await;
    let attach = monitor_client::AttachTo {
        stdin: true,
        ..Default::default()
    };
    let stdin = within("attach", pod.monitor.attach(&create.id, attach))
        .await
        .unwrap()
        .unwrap();
    pod.kill_monitor().await;
    rustix::io::write(&stdin, b"go\n").unwrap();
    let ended = || sys::pidfd::wait_ended(created.pidfd.as_fd(), Some(Duration::ZERO)).unwrap();
    crate::harness::until("the end", ended).await;
    // Reaped, told to nobody, and no descriptor from before: all three sources are gone.
    assert!(!sys::reap::orphans().unwrap().is_empty());
    pod.restart_monitor().await;
    let adopt = Adopt {
        create: create.clone(),
        pid: created.pid,
        start_time: created.start_time,
        started: true,
        pidfd: false,
        terminal: false,
        stdin: false,
    };
    let descriptors = AdoptedDescriptors::default();
    within("adopt", pod.monitor.adopt(adopt, descriptors))
        .await
        .unwrap();
    let exit = pod.exit(&create.id).await;
    assert_eq!(
        (exit.code, exit.signal, exit.reason.as_str()),
        (137, 9, "monitor lost")
    );
    let record = fs::read_to_string(pod.path("exits").join(create.id.as_str())).unwrap();
    assert!(
        record.starts_with("137\n") && record.contains("reason=monitor lost\n"),
        "{record:?}"
    );
    pod.finish().await;
}
