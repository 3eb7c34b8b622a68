//! The seccomp notifier: calls that a profile forbids are counted, and end their container on wish.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cri::v1;
use rustix::process::{Signal, kill_process};
use tempfile::TempDir;
use testkit::node::Options;
use testkit::requests::{self, container};

use crate::fixture::{self, Fixture};
use crate::metrics::{get, sample};
use crate::restart::monitor;

const ANNOTATION: &str = "seccomp-notifier-action.crio.io";
const OLD_ANNOTATION: &str = "io.kubernetes.cri-o.seccompNotifierAction";
/// Code of a container that SIGKILL ended.
const KILLED: i32 = 137;

/// A node that allows the annotation, and its metrics.
struct Notifying {
    f: Fixture,
    socket: PathBuf,
    _directory: TempDir,
}

impl Notifying {
    async fn start(allowed: &[&str]) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("crixm-")
            .tempdir_in("/var/tmp")?;
        let socket = directory.path().join("metrics.sock");
        let runtime = std::env::var("CRIOXIDE_TEST_RUNTIME").unwrap_or_else(|_| "runc".to_owned());
        let config = format!(
            "[crio.runtime.runtimes.{runtime}]\nallowed_annotations = {allowed:?}\n\
             [crio.metrics]\nenable_metrics = true\nmetrics_port = 0\nmetrics_socket = {socket:?}\n"
        );
        let options = Options {
            config,
            ..Options::default()
        };
        Ok(Self {
            f: fixture::with(options).await?,
            socket,
            _directory: directory,
        })
    }

    async fn pod(&self, name: &str, annotation: &str, action: &str) -> Result<String> {
        let mut config = requests::pod(name, &self.f.node.logs());
        config.annotations.insert(annotation.into(), action.into());
        self.f.node.run_pod_config(config).await
    }

    /// A container with the default profile that runs a script.
    fn script(&self, name: &str, script: &str) -> v1::ContainerConfig {
        let mut config = container(name, &self.f.image, &["sh", "-c", script]);
        config.linux.get_or_insert_default().security_context =
            Some(v1::LinuxContainerSecurityContext {
                seccomp: Some(v1::SecurityProfile::default()),
                ..Default::default()
            });
        config
    }

    /// How often a container made a call.
    async fn count(&self, pod: &str, container: &str, syscall: &str) -> Result<Option<f64>> {
        let text = get(&self.socket, "/metrics").await?;
        let name = format!(
            "container_runtime_crio_containers_seccomp_notifier_count_total\
             {{name=\"k8s_{container}_{pod}_default_uid-{pod}_0\",syscall=\"{syscall}\"}}"
        );
        Ok(sample(&text, &name))
    }

    /// Waits until a container has made a call that often.
    async fn counted(&self, pod: &str, container: &str, syscall: &str, often: f64) -> Result<()> {
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        for _ in 0..600 {
            tick.tick().await;
            if self.count(pod, container, syscall).await? == Some(often) {
                return Ok(());
            }
        }
        let count = self.count(pod, container, syscall).await?;
        anyhow::bail!(
            "{container} made {syscall} {count:?} times, not {often}:\n{}",
            self.f.node.log_tail()
        )
    }

    async fn runs(&self, id: &str) -> Result<bool> {
        let status = self.f.node.status(id).await?;
        Ok(status.state == v1::ContainerState::ContainerRunning as i32)
    }

    /// The end of a container that was stopped for its calls.
    async fn stopped(&self, id: &str, calls: &str) -> Result<v1::ContainerStatus> {
        let status = self.f.node.exited(id).await?;
        ensure!(status.exit_code == KILLED, "{status:?}");
        ensure!(status.reason == "seccomp killed", "{status:?}");
        let message = format!("Used forbidden syscalls: {calls}");
        ensure!(status.message == message, "{status:?}");
        Ok(status)
    }

    /// Sockets where runtimes hand over listeners.
    fn sockets(&self) -> Result<usize> {
        let dir = self.f.node.run_dir.join("crio/seccomp");
        Ok(std::fs::read_dir(dir)?.count())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_stopped_five_seconds_after_its_last_forbidden_call() -> Result<()> {
    let mut n = Notifying::start(&[ANNOTATION]).await?;
    let pod = n.pod("stop", ANNOTATION, "stop").await?;
    let node = &n.f.node;
    let breaks = "chroot /; chroot /; sleep 3; hostname x; echo tried; sleep 1000";
    let breaks = node.run(&pod, n.script("breaks", breaks)).await?;
    let behaves = node.run(&pod, n.script("behaves", "sleep 1000")).await?;
    // Without a profile there is nothing forbidden: it just may not.
    let unconfined = container("free", &n.f.image, &["sh", "-c", "chroot /; sleep 1000"]);
    let unconfined = node.run(&pod, unconfined).await?;
    let ends = node.run(&pod, n.script("ends", "chroot /; exit 3")).await?;
    ensure!(n.sockets()? <= 3, "one for each with a profile");

    let calls = "chroot (2x), sethostname (1x)";
    let status = n.stopped(&breaks, calls).await?;
    let seconds = (status.finished_at - status.started_at) / 1_000_000_000;
    ensure!(seconds >= 8, "stopped after {seconds} s");
    let log = node.log("stop", "breaks")?;
    ensure!(log.contains("tried"), "{log}");
    ensure!(log.contains("Function not implemented"), "{log}");
    n.counted("stop", "breaks", "chroot", 2.0).await?;
    n.counted("stop", "breaks", "sethostname", 1.0).await?;
    for (id, log) in [(&behaves, "behaves"), (&unconfined, "free")] {
        ensure!(n.runs(id).await?, "{log} goes on");
    }
    let log = node.log("stop", "free")?;
    ensure!(log.contains("Operation not permitted"), "{log}");
    // One that ended before was stopped by nobody.
    let status = node.status(&ends).await?;
    ensure!(
        (status.exit_code, &*status.reason, &*status.message) == (3, "Error", ""),
        "{status:?}"
    );
    n.counted("stop", "ends", "chroot", 1.0).await?;
    ensure!(n.sockets()? == 1, "that of the one that runs");

    n.f.node.restart().await?;
    n.stopped(&breaks, calls).await?;
    // The monitor knows it still.
    n.counted("stop", "breaks", "chroot", 2.0).await?;
    n.f.node.remove_pod(&pod).await?;
    ensure!(n.count("stop", "breaks", "chroot").await?.is_none());
    n.f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn another_value_counts_all_calls_those_of_commands_too() -> Result<()> {
    let n = Notifying::start(&[OLD_ANNOTATION]).await?;
    let pod = n.pod("log", OLD_ANNOTATION, "log").await?;
    let script = "for i in 1 2 3; do chroot /; sleep 0.3; done; echo tried; \
                  until [ -e /end ]; do sleep 0.1; done; exit 4";
    let id = n.f.node.run(&pod, n.script("c", script)).await?;
    n.counted("log", "c", "chroot", 3.0).await?;
    let done = n.f.node.exec(&id, &["hostname", "x"]).await?;
    let words = String::from_utf8_lossy(&done.stderr).into_owned();
    ensure!(words.contains("Function not implemented"), "{words}");
    n.counted("log", "c", "sethostname", 1.0).await?;
    // Each brings a listener, which goes with it: the daemon has some of the last at most.
    let daemon = n.f.node.daemon_pid().context("a daemon")?;
    let descriptors =
        || Ok::<_, std::io::Error>(std::fs::read_dir(format!("/proc/{daemon}/fd"))?.count());
    let before = descriptors()?;
    for _ in 0..20 {
        n.f.node.exec(&id, &["true"]).await?;
    }
    let after = descriptors()?;
    ensure!(after < before + 10, "{before} descriptors became {after}");
    // As many at once as one likes, each with a filter of its own.
    let script = "for i in 1 2 3 4 5 6 7 8 9 10; do hostname x; done 2>/dev/null; true";
    let many = (0..8).map(|_| n.f.said(&id, script));
    for said in futures_util::future::join_all(many).await {
        said?;
    }
    n.counted("log", "c", "sethostname", 81.0).await?;
    // Beyond the time after which another one would be stopped.
    tokio::time::sleep(Duration::from_secs(6)).await;
    ensure!(n.runs(&id).await?);
    n.f.said(&id, "touch /end").await?;
    let status = n.f.node.exited(&id).await?;
    ensure!(
        (status.exit_code, &*status.reason) == (4, "Error"),
        "{status:?}"
    );
    ensure!(n.sockets()? == 0);
    let log = n.f.node.log_tail();
    ensure!(log.contains("seccomp blocked a syscall"), "{log}");
    n.f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn it_works_in_a_user_namespace_and_without_new_privileges() -> Result<()> {
    let n = Notifying::start(&[ANNOTATION]).await?;
    let mut config = requests::with_users(requests::pod("users", &n.f.node.logs()));
    config.annotations.insert(ANNOTATION.into(), "log".into());
    let pod = n.f.node.run_pod_config(config).await?;
    let mut config = n.script("c", "chroot /; sleep 1000");
    let linux = config.linux.get_or_insert_default();
    // Some runtimes load the filter later then.
    linux.security_context.get_or_insert_default().no_new_privs = true;
    let id = n.f.node.run(&pod, config).await?;
    n.counted("users", "c", "chroot", 1.0).await?;
    n.f.said(&id, "hostname x 2>/dev/null; true").await?;
    n.counted("users", "c", "sethostname", 1.0).await?;
    let said = n.f.said(&id, "grep NoNewPrivs /proc/1/status").await?;
    ensure!(said.ends_with('1'), "{said}");
    n.f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_leave_or_profile_the_annotation_says_nothing() -> Result<()> {
    let n = Notifying::start(&[OLD_ANNOTATION]).await?;
    let pod = n.pod("not", ANNOTATION, "stop").await?;
    let id =
        n.f.node
            .run(&pod, n.script("c", "chroot /; sleep 1000"))
            .await?;
    let said = n.f.said(&id, "hostname x 2>&1; true").await?;
    ensure!(said.contains("Operation not permitted"), "{said}");
    ensure!(n.sockets()? == 0);
    // A profile that forbids nothing by name leaves nothing to a listener.
    let pod = n.pod("nothing", OLD_ANNOTATION, "stop").await?;
    let profile = n.f.node.dir.join("profile.json");
    let allows = serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["write"], "action": "SCMP_ACT_ALLOW"}]});
    std::fs::write(&profile, allows.to_string())?;
    let mut config = n.script("c", "hostname x; sleep 1000");
    let security = config.linux.get_or_insert_default();
    security.security_context.get_or_insert_default().seccomp = Some(v1::SecurityProfile {
        profile_type: v1::security_profile::ProfileType::Localhost as i32,
        localhost_ref: profile.display().to_string(),
    });
    n.f.node.run(&pod, config.clone()).await?;
    ensure!(n.sockets()? == 0);
    // One that forbids the call that runtimes need of it.
    let forbids = serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["sethostname", "symlink", "symlinkat"], "action": "SCMP_ACT_KILL_PROCESS"},
        {"names": ["write"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 2, "value": 7777777, "op": "SCMP_CMP_EQ"}]}]});
    std::fs::write(&profile, forbids.to_string())?;
    config.metadata.as_mut().context("metadata")?.name = "forbids".into();
    config.command[2] = "ln -s a /b; echo lives; sleep 1000".into();
    let id = n.f.node.run(&pod, config).await?;
    let call = if cfg!(target_arch = "x86_64") {
        "symlink"
    } else {
        "symlinkat"
    };
    n.stopped(&id, &format!("{call} (1x)")).await?;
    ensure!(n.f.node.log("nothing", "c").is_ok());
    n.f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_missed_while_daemon_or_monitor_are_dead() -> Result<()> {
    let mut n = Notifying::start(&[ANNOTATION]).await?;
    let stopping = n.pod("stop", ANNOTATION, "stop").await?;
    let counting = n.pod("count", ANNOTATION, "log").await?;
    let shared = n.f.node.dir.join("shared");
    std::fs::create_dir(&shared)?;
    let waiting = |name: &str, script: &str| {
        let mut config = n.script(name, script);
        config.mounts = vec![requests::bind("/shared", &shared)];
        config
    };
    let before = waiting("before", "chroot /; sleep 1000");
    let before = n.f.node.run(&stopping, before).await?;
    let while_dead =
        "until [ -e /shared/go ]; do sleep 0.1; done; hostname x; touch /shared/did; sleep 1000";
    let while_dead = n.f.node.run(&stopping, waiting("dead", while_dead)).await?;
    let after = "until [ -e /shared/again ]; do sleep 0.1; done; chroot /; sleep 1000";
    let after = n.f.node.run(&stopping, waiting("after", after)).await?;
    let counted = n.f.node.run(&counting, n.script("c", "sleep 1000")).await?;
    n.f.said(&counted, "chroot / 2>/dev/null; true").await?;
    n.counted("stop", "before", "chroot", 1.0).await?;
    n.counted("count", "c", "chroot", 1.0).await?;

    // The daemon dies within the five seconds, and a container makes its call meanwhile, without waiting.
    n.f.node.kill_daemon()?;
    std::fs::write(shared.join("go"), "")?;
    while !shared.join("did").exists() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    n.f.node.start_daemon().await?;
    n.stopped(&before, "chroot (1x)").await?;
    n.stopped(&while_dead, "sethostname (1x)").await?;
    n.counted("count", "c", "chroot", 1.0).await?;

    // The monitors die: their successors get the listeners, and count on.
    for pod in [&stopping, &counting] {
        let last = monitor(&n.f.node, pod, None).await;
        kill_process(last, Signal::KILL)?;
        monitor(&n.f.node, pod, Some(last)).await;
    }
    n.f.said(&counted, "chroot / 2>/dev/null; true").await?;
    n.counted("count", "c", "chroot", 2.0).await?;
    std::fs::write(shared.join("again"), "")?;
    n.stopped(&after, "chroot (1x)").await?;
    n.f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_outlives_the_death_of_daemon_and_then_monitor() -> Result<()> {
    let mut n = Notifying::start(&[ANNOTATION]).await?;
    let pod = n.pod("both", ANNOTATION, "log").await?;
    let script =
        "while true; do [ -e /go ] && chroot / && exit 9; [ -e /go ] && rm /go; sleep 0.1; done";
    let id = n.f.node.run(&pod, n.script("c", script)).await?;
    // The new daemon gets the listener of the monitor, and gives it to its successor.
    n.f.node.kill_daemon()?;
    n.f.node.start_daemon().await?;
    n.f.said(&id, "true").await?;
    let last = monitor(&n.f.node, &pod, None).await;
    kill_process(last, Signal::KILL)?;
    monitor(&n.f.node, &pod, Some(last)).await;
    n.f.said(&id, "touch /go").await?;
    n.counted("both", "c", "chroot", 1.0).await?;
    ensure!(n.runs(&id).await?);
    n.f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn its_reason_is_kept_by_a_stop_whose_daemon_dies() -> Result<()> {
    let mut n = Notifying::start(&[ANNOTATION]).await?;
    let pod = n.pod("dies", ANNOTATION, "stop").await?;
    for when in ["before", "after"] {
        n.f.node
            .set_faults(&format!("stop-container.kill.{when}=kill"));
        n.f.node.restart().await?;
        let id =
            n.f.node
                .run(&pod, n.script(when, "chroot /; sleep 1000"))
                .await?;
        n.f.node.daemon_died()?;
        n.f.node.set_faults("");
        n.f.node.start_daemon().await?;
        n.stopped(&id, "chroot (1x)").await?;
    }
    n.f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_that_fails_or_dies_leaves_no_socket() -> Result<()> {
    let mut n = Notifying::start(&[ANNOTATION]).await?;
    let pod = n.pod("again", ANNOTATION, "stop").await?;
    for stage in ["bundle", "runtime", "state"] {
        for action in ["fail", "kill"] {
            n.f.node
                .set_faults(&format!("create-container.{stage}.after={action}"));
            n.f.node.restart().await?;
            let name = format!("{stage}{action}");
            let config = n.script(&name, "chroot /; sleep 1000");
            ensure!(n.f.node.create(&pod, config.clone()).await.is_err());
            n.f.node.set_faults("");
            if action == "kill" {
                n.f.node.daemon_died()?;
                n.f.node.start_daemon().await?;
            }
            let id = n.f.node.run(&pod, config.clone()).await?;
            ensure!(n.sockets()? == 1, "its own: {stage} {action}");
            n.counted("again", &name, "chroot", 1.0).await?;
            ensure!(n.f.node.create(&pod, config).await? == id, "a repeat");
            let request = v1::RemoveContainerRequest { container_id: id };
            n.f.node
                .client()
                .runtime()
                .remove_container(request)
                .await?;
            ensure!(n.sockets()? == 0, "{stage} {action}");
        }
    }
    n.f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_with_a_notifier_is_not_checkpointed() -> Result<()> {
    let n = Notifying::start(&[ANNOTATION]).await?;
    let pod = n.pod("kept", ANNOTATION, "log").await?;
    let id = n.f.node.run(&pod, n.script("c", "sleep 1000")).await?;
    let request = v1::CheckpointContainerRequest {
        container_id: id.clone(),
        location: n.f.node.dir.join("c.tar").display().to_string(),
        timeout: 0,
    };
    let mut runtime = n.f.node.client().runtime();
    let refused = runtime.checkpoint_container(request).await;
    let refused = refused.err().context("it is refused")?;
    ensure!(
        refused.code() == tonic::Code::FailedPrecondition,
        "{refused}"
    );
    ensure!(refused.message().contains("seccomp notifier"), "{refused}");
    ensure!(n.runs(&id).await?);
    n.f.node.finish().await
}
