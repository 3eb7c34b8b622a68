//! Death of the daemon, of the monitor, and of both: nothing is lost.

use std::path::Path;

use anyhow::Result;
use cri::v1;
use rustix::process::{Pid, Signal, kill_process};
use testkit::node::Node;
use testkit::requests::container;
use testkit::streams::{Remote, Transport};

use crate::{fixture, streaming};

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_during_a_dead_daemon_is_not_lost() -> Result<()> {
    let mut f = fixture::node().await?;
    let pod = f.node.run_pod("crash").await?;
    let go = f.node.dir.join("go");
    std::fs::create_dir(&go)?;
    let waits = |name: &str, script: &str| {
        let mut config = container(name, &f.image, &["sh", "-c", script]);
        let host_path = go.display().to_string();
        config.mounts = vec![v1::Mount {
            container_path: "/go".into(),
            host_path,
            ..Default::default()
        }];
        config
    };
    let ends = "while [ ! -e /go/now ]; do sleep 0.05; done; echo last words; exit 7";
    let ends = f.node.run(&pod, waits("ends", ends)).await?;
    let stays = f
        .node
        .run(&pod, waits("stays", "echo first; sleep 1000"))
        .await?;
    let created = f
        .node
        .create(
            &pod,
            container("created", &f.image, &["sh", "-c", "exit 5"]),
        )
        .await?;
    let before = f
        .node
        .exec(&stays, &["sh", "-c", "cat /proc/1/stat"])
        .await?
        .stdout;
    f.node.kill_daemon()?;
    std::fs::write(go.join("now"), "")?;
    let record = f.node.run_dir.join("exits").join(&ends);
    while !record.exists() {
        tokio::task::yield_now().await;
    }
    f.node.start_daemon().await?;
    assert_eq!(f.node.exited(&ends).await?.exit_code, 7);
    assert!(f.node.log("crash", "ends")?.contains("last words"));
    assert_eq!(
        f.node.status(&stays).await?.state,
        v1::ContainerState::ContainerRunning as i32
    );
    let after = f
        .node
        .exec(&stays, &["sh", "-c", "cat /proc/1/stat"])
        .await?
        .stdout;
    assert_eq!(start_time(&before), start_time(&after), "it never noticed");
    f.node.start_container(&created).await?;
    assert_eq!(f.node.exited(&created).await?.exit_code, 5);
    f.node.finish().await
}

fn start_time(stat: &[u8]) -> String {
    String::from_utf8_lossy(stat)
        .split(' ')
        .nth(21)
        .unwrap()
        .to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reboot_pods_are_there_not_ready_and_hold_nothing() -> Result<()> {
    let mut f = fixture::node().await?;
    let pod = f.node.run_pod("boot").await?;
    let script = "while [ ! -e /go/now ]; do sleep 0.05; done; exit 7";
    let mut config = container("ends", &f.image, &["sh", "-c", script]);
    let go = f.node.dir.join("go");
    std::fs::create_dir(&go)?;
    let host_path = go.display().to_string();
    config.mounts = vec![v1::Mount {
        container_path: "/go".into(),
        host_path,
        ..Default::default()
    }];
    let ends = f.node.run(&pod, config).await?;
    let runs = f
        .node
        .run(&pod, container("runs", &f.image, &["sleep", "1000"]))
        .await?;
    f.node.kill_daemon()?;
    std::fs::write(go.join("now"), "")?;
    let copy = f
        .node
        .storage()
        .join("overlay-containers")
        .join(&ends)
        .join("userdata/exit");
    while !copy.exists() {
        tokio::task::yield_now().await;
    }
    f.node.reboot().await?;
    assert_eq!(
        f.node.exited(&ends).await?.exit_code,
        7,
        "its exit was nobody's to see"
    );
    assert_eq!(f.node.exited(&runs).await?.reason, "Unknown");
    // The answer to any operation comes after the repairs.
    let again = f.node.run_pod("next").await?;
    let request = v1::PodSandboxStatusRequest {
        pod_sandbox_id: pod,
        verbose: false,
    };
    let mut runtime = f.node.client().runtime();
    let status = runtime
        .pod_sandbox_status(request)
        .await?
        .into_inner()
        .status
        .unwrap();
    assert_eq!(status.state, v1::PodSandboxState::SandboxNotready as i32);
    let next = f
        .node
        .run(&again, container("c", &f.image, &["true"]))
        .await?;
    assert_eq!(f.node.exited(&next).await?.exit_code, 0);
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_leaves_the_pods_running() -> Result<()> {
    let mut f = fixture::node().await?;
    let pod = f.node.run_pod("clean").await?;
    let id = f
        .node
        .run(&pod, container("c", &f.image, &["sleep", "1000"]))
        .await?;
    f.node.stop_daemon()?;
    assert!(f.node.dir.join("clean.shutdown").exists());
    f.node.start_daemon().await?;
    assert!(!f.node.dir.join("clean.shutdown").exists());
    assert_eq!(f.node.exec(&id, &["true"]).await?.exit_code, 0);
    f.node.finish().await
}

/// Process of a pod's monitor, as soon as it is another one than `last`.
pub(crate) async fn monitor(node: &Node, pod: &str, last: Option<Pid>) -> Pid {
    let mut tick = tokio::time::interval(std::time::Duration::from_millis(5));
    for _ in 0..4000 {
        tick.tick().await;
        let found = running(node, pod);
        if let Some(pid) = found.filter(|pid| Some(*pid) != last) {
            return pid;
        }
    }
    panic!("pod {pod} has no monitor:\n{}", node.log_tail());
}

fn running(node: &Node, pod: &str) -> Option<Pid> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.map(|entry| entry.path()).find_map(|path| {
        let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        let ours =
            line.contains("crioxide-monitor") && line.contains(pod) && line.contains(&node.name);
        ours.then(|| Pid::from_raw(path.file_name()?.to_str()?.parse().ok()?))?
    })
}

/// Writes numbered lines until it is told to end, then how many, and ends with a code of its own. A
/// moment later: when the leader of a terminal's session ends, the kernel drops what its worker has
/// not yet moved to the terminal's master (`pty_flush_buffer`).
fn writer(name: &str, image: &str, go: &std::path::Path, code: u32) -> v1::ContainerConfig {
    let script = format!(
        "i=0; while [ ! -e /go/now ]; do echo line $i; i=$((i+1)); \
         [ $((i%50)) = 0 ] && sleep 0.01; done; echo total $i; sleep 0.5; exit {code}"
    );
    let mut config = container(name, image, &["sh", "-c", &script]);
    let host_path = go.display().to_string();
    config.mounts = vec![v1::Mount {
        container_path: "/go".into(),
        host_path,
        ..Default::default()
    }];
    config
}

/// Kills the monitor again and again, and the daemon with it, while three containers write. One
/// writes to a terminal where the daemon lives: with both dead nobody has the terminal any more.
async fn deaths(kill_daemon: bool) -> Result<()> {
    let mut f = fixture::node().await?;
    let pod = f.node.run_pod("deaths").await?;
    let go = f.node.dir.join("go");
    std::fs::create_dir(&go)?;
    let mut ids = Vec::new();
    for (name, code) in [("a", 3), ("b", 4), ("c", 5)] {
        let mut config = writer(name, &f.image, &go, code);
        config.tty = name == "c" && !kill_daemon;
        ids.push((name, code, f.node.run(&pod, config).await?));
    }
    // Another daemon than the one that made the containers. It answers before it has the terminal from the
    // monitor, and nobody else has it then; a command waits until it has.
    f.node.restart().await?;
    f.node.exec(&ids[2].2, &["true"]).await?;
    let mut last = None;
    for _ in 0..5 {
        let pid = monitor(&f.node, &pod, last).await;
        last = Some(pid);
        kill_process(pid, Signal::KILL)?;
        if kill_daemon {
            f.node.restart().await?;
        }
    }
    // The last successor is there: whoever ends now is seen by somebody.
    monitor(&f.node, &pod, last).await;
    f.node.exec(&ids[0].2, &["true"]).await?;
    std::fs::write(go.join("now"), "")?;
    for (name, code, id) in &ids {
        let status = f.node.exited(id).await?;
        let lost = status.exit_code == 137 && status.message.contains("monitor lost");
        assert!(
            status.exit_code == i32::try_from(*code)? || lost,
            "{status:?}"
        );
        let log = f.node.log("deaths", name)?;
        let mut said: Vec<_> = log
            .lines()
            .map(|line| line.splitn(4, ' ').nth(3).unwrap().trim_end_matches('\r'))
            .collect();
        let total = said.pop().unwrap();
        let wanted: Vec<_> = (0..said.len())
            .map(|number| format!("line {number}"))
            .collect();
        assert!(said == wanted, "{name}: a line is lost or doubled");
        let wanted = format!("total {}", said.len());
        assert!(total == wanted, "{name}: {total}, not {wanted}; {status:?}");
    }
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_death_of_the_monitor_costs_no_line_and_no_exit_code() -> Result<()> {
    deaths(false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_death_of_both_costs_no_line_and_no_exit_code() -> Result<()> {
    deaths(true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_while_nobody_watches_is_forgotten_by_the_runtime_too() -> Result<()> {
    let mut f = fixture::node().await?;
    let pod = f.node.run_pod("alone").await?;
    let config = container("c", &f.image, &["sleep", "1000"]);
    let id = f.node.run(&pod, config).await?;
    let state = f.node.run_dir.join("runtime").join(&id);
    assert!(state.try_exists()?);
    let pid = Pid::from_raw(i32::try_from(f.pid(&id).await?)?).unwrap();
    let watcher = monitor(&f.node, &pod, None).await;
    f.node.kill_daemon()?;
    kill_process(watcher, Signal::KILL)?;
    kill_process(pid, Signal::KILL)?;
    f.node.start_daemon().await?;
    assert_eq!(f.node.exited(&id).await?.exit_code, 137);
    f.node.remove_pod(&pod).await?;
    assert!(!state.try_exists()?, "{}", state.display());
    f.node.finish().await
}

/// A pod in which a command runs that writes "done" and exits with 9 once the file `now` is in the
/// directory; its session, and the pod.
async fn waiting_command(f: &fixture::Fixture, go: &Path) -> Result<(Remote, String)> {
    let pod = f.node.run_pod("execs").await?;
    std::fs::create_dir(go)?;
    let mut config = container("main", &f.image, &["sleep", "1000"]);
    config.mounts = vec![v1::Mount {
        container_path: "/go".into(),
        host_path: go.display().to_string(),
        ..Default::default()
    }];
    let id = f.node.run(&pod, config).await?;
    let script = "echo there; while [ ! -e /go/now ]; do sleep 0.05; done; echo done; exit 9";
    let url = streaming::exec(&f.node, &id, &["sh", "-c", script], &[1]).await?;
    let mut command = Remote::connect(&url, Transport::BEST[0], &[1]).await?;
    // What it says comes once the daemon knows that it runs.
    command.reader.until("there").await?;
    Ok((command, pod))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_outlives_its_monitor_tells_its_exit_code() -> Result<()> {
    let f = fixture::node().await?;
    let go = f.node.dir.join("go");
    let (mut command, pod) = waiting_command(&f, &go).await?;
    let old = monitor(&f.node, &pod, None).await;
    kill_process(old, Signal::KILL)?;
    monitor(&f.node, &pod, Some(old)).await;
    std::fs::write(go.join("now"), "")?;
    let outcome = command.reader.rest().await?;
    assert_eq!((outcome.code()?, &*outcome.stdout), (9, &b"done\n"[..]));
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_monitor_that_is_behind_loses_no_exit_code() -> Result<()> {
    let f = fixture::node().await?;
    let go = f.node.dir.join("go");
    let (mut command, pod) = waiting_command(&f, &go).await?;
    let busy = monitor(&f.node, &pod, None).await;
    kill_process(busy, Signal::STOP)?;
    std::fs::write(go.join("now"), "")?;
    let again = async {
        // Longer than the daemon waits for the news of an end that it has seen.
        tokio::time::sleep(std::time::Duration::from_secs(8)).await;
        kill_process(busy, Signal::CONT)
    };
    let (outcome, again) = tokio::join!(command.reader.rest(), again);
    again?;
    let outcome = outcome?;
    assert_eq!((outcome.code()?, &*outcome.stdout), (9, &b"done\n"[..]));
    f.node.finish().await
}
