//! Containers: from creation to exit code, logs, exec.

use std::time::Duration;

use anyhow::Result;
use cri::v1;
use sys::spawn::Program;
use testkit::requests::container;

use crate::fixture;

#[tokio::test(flavor = "multi_thread")]
async fn a_container_runs_logs_and_exits() -> Result<()> {
    let f = fixture::node().await?;
    let pod = f.node.run_pod("a").await?;
    let id = f
        .node
        .run(
            &pod,
            container(
                "c",
                &f.image,
                &["sh", "-c", "echo out; echo err >&2; exit 7"],
            ),
        )
        .await?;
    let status = f.node.exited(&id).await?;
    assert_eq!((status.exit_code, status.reason.as_str()), (7, "Error"));
    assert!(
        status.created_at > 0
            && status.started_at >= status.created_at
            && status.finished_at >= status.started_at
    );
    assert_eq!(
        lines(&f.node.log("a", "c")?),
        ["stderr F err", "stdout F out"]
    );
    f.node.finish().await
}

/// Log lines without their times, sorted: two streams have no order between them.
fn lines(log: &str) -> Vec<String> {
    let mut lines: Vec<_> = log
        .lines()
        .map(|line| line.split_once(' ').unwrap().1.to_owned())
        .collect();
    lines.sort();
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_sync_tells_output_and_exit_code() -> Result<()> {
    let f = fixture::node().await?;
    let pod = f.node.run_pod("e").await?;
    let id = f
        .node
        .run(&pod, container("c", &f.image, &["sleep", "1000"]))
        .await?;
    let done = f
        .node
        .exec(&id, &["sh", "-c", "echo out; echo err >&2; exit 3"])
        .await?;
    assert_eq!(
        (done.exit_code, &done.stdout[..], &done.stderr[..]),
        (3, &b"out\n"[..], &b"err\n"[..])
    );
    let big = f
        .node
        .exec(&id, &["sh", "-c", "head -c 3000000 /dev/zero"])
        .await?;
    assert_eq!((big.exit_code, big.stdout.len()), (0, 3_000_000));
    // What is beyond the bound is read, or the command would wait for ever, and dropped.
    let flood = "head -c 20000000 /dev/zero; echo end >&2; exit 5";
    let flood = f.node.exec(&id, &["sh", "-c", flood]).await?;
    let lengths = (flood.exit_code, flood.stdout.len(), &flood.stderr[..]);
    assert_eq!(lengths, (5, 16 << 20, &b"end\n"[..]));
    let missing = f.node.exec(&id, &["no-such-command"]).await;
    assert!(missing.is_err());
    let request = v1::ExecSyncRequest {
        container_id: id.clone(),
        cmd: vec!["sleep".into(), "100".into()],
        timeout: 1,
    };
    let late = f
        .node
        .client()
        .runtime()
        .exec_sync(request)
        .await
        .unwrap_err();
    assert_eq!(late.code(), tonic::Code::DeadlineExceeded);
    // Killed, also where the runtime took longer than that to start it.
    let gone =
        "for n in $(seq 300); do ps | grep -q '[s]leep 100$' || exit 0; sleep 0.1; done; exit 1";
    let gone = f.node.exec(&id, &["sh", "-c", gone]).await?;
    assert_eq!(gone.exit_code, 0, "the command was killed");
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_right_after_the_start_is_heard() -> Result<()> {
    let f = fixture::node().await?;
    let pod = f.node.run_pod("stops").await?;
    // As the first of its namespace the shell hears nothing that it has no handler for yet.
    for (name, script) in [
        (
            "at-once",
            "trap 'exit 7' TERM; while :; do sleep 0.01; done",
        ),
        (
            "late",
            "sleep 1; trap 'exit 7' TERM; while :; do sleep 0.01; done",
        ),
    ] {
        for round in 0..5 {
            let config = container(&format!("{name}-{round}"), &f.image, &["sh", "-c", script]);
            let id = f.node.run(&pod, config).await?;
            let request = v1::StopContainerRequest {
                container_id: id.clone(),
                timeout: 30,
            };
            f.node.client().runtime().stop_container(request).await?;
            assert_eq!(f.node.status(&id).await?.exit_code, 7, "{name}");
        }
    }
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_sends_the_signal_and_kills_after_the_time_out() -> Result<()> {
    let f = fixture::node().await?;
    let pod = f.node.run_pod("s").await?;
    let polite = [
        "sh",
        "-c",
        "trap 'exit 4' TERM; echo ready; while true; do sleep 0.1; done",
    ];
    let polite = f
        .node
        .run(&pod, container("polite", &f.image, &polite))
        .await?;
    let stubborn = f
        .node
        .run(&pod, container("stubborn", &f.image, &["sleep", "1000"]))
        .await?;
    // The shell has to set its trap first.
    while !f.node.log("s", "polite")?.contains("ready") {
        tokio::task::yield_now().await;
    }
    for (id, code) in [(&polite, 4), (&stubborn, 137)] {
        let request = v1::StopContainerRequest {
            container_id: id.clone(),
            timeout: 2,
        };
        f.node
            .client()
            .runtime()
            .stop_container(request.clone())
            .await?;
        assert_eq!(f.node.status(id).await?.exit_code, code, "{id}");
        f.node.client().runtime().stop_container(request).await?;
    }
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_container_hears_its_stop_signal_and_can_be_removed() -> Result<()> {
    let f = fixture::node().await?;
    let pod = f.node.run_pod("p").await?;
    let script = "trap 'exit 4' TERM; echo ready; while true; do sleep 0.1; done";
    let mut ids = Vec::new();
    for name in ["stopped", "killed", "removed"] {
        let id = f
            .node
            .run(&pod, container(name, &f.image, &["sh", "-c", script]))
            .await?;
        while !f.node.log("p", name)?.contains("ready") {
            tokio::task::yield_now().await;
        }
        let program = Program::new(which(&f.node.runtime()), Duration::from_secs(10));
        let root = f.node.run_dir.join("runtime");
        let program = program.arg("--root").arg(root).arg("pause").arg(&id);
        assert!(sys::spawn::run(&program)?.status.success());
        ids.push(id);
    }
    for (id, timeout, code) in [(&ids[0], 10, 4), (&ids[1], 0, 137)] {
        let request = v1::StopContainerRequest {
            container_id: id.clone(),
            timeout,
        };
        f.node.client().runtime().stop_container(request).await?;
        assert_eq!(f.node.status(id).await?.exit_code, code);
    }
    let request = v1::RemoveContainerRequest {
        container_id: ids[2].clone(),
    };
    f.node.client().runtime().remove_container(request).await?;
    assert!(f.node.status(&ids[2]).await.is_err());
    f.node.finish().await
}

/// A program of the usual directories.
fn which(name: &str) -> std::path::PathBuf {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    sys::spawn::which(name, path).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shorter_stop_shortens_a_longer_one() -> Result<()> {
    let f = fixture::node().await?;
    let pod = f.node.run_pod("short").await?;
    let id = f
        .node
        .run(&pod, container("c", &f.image, &["sleep", "1000"]))
        .await?;
    let stop = |timeout| {
        let (client, id) = (f.node.client(), id.clone());
        async move {
            client
                .runtime()
                .stop_container(v1::StopContainerRequest {
                    container_id: id,
                    timeout,
                })
                .await
        }
    };
    // A day, and a second: both are answered by the second's end.
    let (long, short) = tokio::join!(stop(24 * 60 * 60), stop(1));
    long?;
    short?;
    assert_eq!(f.node.status(&id).await?.exit_code, 137);
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn users_groups_environment_and_directory_are_as_asked() -> Result<()> {
    let f = fixture::node().await?;
    let pod = f.node.run_pod("u").await?;
    let script = "id -u; id -g; id -G; echo $A; pwd; echo to-stdout > /dev/stdout";
    let mut config = container("c", &f.image, &["sh", "-c", script]);
    config.envs = vec![v1::KeyValue {
        key: "A".into(),
        value: b"b c".to_vec(),
    }];
    config.working_dir = "/new/dir".into();
    let security = &mut config.linux.as_mut().unwrap().security_context;
    *security = Some(v1::LinuxContainerSecurityContext {
        run_as_user: Some(v1::Int64Value { value: 1234 }),
        run_as_group: Some(v1::Int64Value { value: 77 }),
        supplemental_groups: vec![99],
        ..Default::default()
    });
    let id = f.node.run(&pod, config).await?;
    let status = f.node.exited(&id).await?;
    let log = f.node.log("u", "c")?;
    let said: Vec<_> = log
        .lines()
        .map(|line| line.splitn(4, ' ').nth(3).unwrap())
        .collect();
    assert_eq!(
        said,
        ["1234", "77", "77 99", "b c", "/new/dir", "to-stdout"],
        "{status:?}"
    );
    let user = status.user.unwrap().linux.unwrap();
    assert_eq!((user.uid, user.gid), (1234, 77));
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn isolation_is_what_the_kernel_shows() -> Result<()> {
    let f = fixture::node().await?;
    let pod = f.node.run_pod("i").await?;
    let script = "grep -E 'CapInh|CapEff|Seccomp:|NoNewPrivs' /proc/self/status; ls -A /proc/scsi /sys/firmware | wc -l; \
        touch /x 2>&1; ls /proc/self/fd | tr '\\n' ' '; cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null";
    let mut config = container("c", &f.image, &["sh", "-c", script]);
    let linux = config.linux.as_mut().unwrap();
    linux.resources = Some(v1::LinuxContainerResources {
        memory_limit_in_bytes: 64 << 20,
        ..Default::default()
    });
    linux.security_context = Some(v1::LinuxContainerSecurityContext {
        readonly_rootfs: true,
        no_new_privs: true,
        seccomp: Some(v1::SecurityProfile::default()),
        masked_paths: vec!["/proc/scsi".into(), "/sys/firmware".into()],
        capabilities: Some(v1::Capability {
            drop_capabilities: vec!["ALL".into()],
            add_capabilities: vec!["CHOWN".into()],
            ..Default::default()
        }),
        ..Default::default()
    });
    let id = f.node.run(&pod, config).await?;
    f.node.exited(&id).await?;
    let log = f.node.log("i", "c")?;
    for wanted in [
        "CapInh:\t0000000000000000",
        "CapEff:\t0000000000000001",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "Read-only file system",
        "67108864",
        "0 1 2 3",
    ] {
        assert!(log.contains(wanted), "{wanted:?} is not in\n{log}");
    }
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_devices_and_terminals() -> Result<()> {
    let f = fixture::node().await?;
    let pod = f.node.run_pod("m").await?;
    let shared = f.node.dir.join("shared");
    let mut config = container(
        "c",
        &f.image,
        &[
            "sh",
            "-c",
            "echo seen > /in/file; echo no > /ro/file; tty; ls -l /dev/again",
        ],
    );
    config.tty = true;
    let mount = |to: &str, readonly| v1::Mount {
        container_path: to.into(),
        host_path: shared.display().to_string(),
        readonly,
        ..Default::default()
    };
    config.mounts = vec![mount("/in", false), mount("/ro", true)];
    config.devices = vec![v1::Device {
        container_path: "/dev/again".into(),
        host_path: "/dev/null".into(),
        permissions: "rw".into(),
    }];
    let id = f.node.run(&pod, config).await?;
    f.node.exited(&id).await?;
    assert_eq!(std::fs::read_to_string(shared.join("file"))?, "seen\n");
    let log = f.node.log("m", "c")?;
    for wanted in ["Read-only file system", "/dev/pts/0", "1,   3"] {
        assert!(log.contains(wanted), "{wanted:?} is not in\n{log}");
    }
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_log_is_opened_again() -> Result<()> {
    let f = fixture::node().await?;
    let pod = f.node.run_pod("r").await?;
    let script = "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; sleep 1000";
    let id = f
        .node
        .run(&pod, container("c", &f.image, &["sh", "-c", script]))
        .await?;
    let log = f.node.logs().join("r/c.log");
    for round in 0..5 {
        std::fs::rename(&log, log.with_extension(round.to_string()))?;
        f.node
            .client()
            .runtime()
            .reopen_container_log(v1::ReopenContainerLogRequest {
                container_id: id.clone(),
            })
            .await?;
        assert!(log.exists(), "the new file is there when the call returns");
    }
    // The shell takes its time to say all of it.
    let all_said = |log: &std::path::Path| {
        std::fs::read_to_string(log)
            .unwrap_or_default()
            .contains("line 1999\n")
    };
    let rotated = |round: i32| log.with_extension(round.to_string());
    while !(0..5)
        .map(rotated)
        .chain([log.clone()])
        .any(|log| all_said(&log))
    {
        tokio::task::yield_now().await;
    }
    f.node
        .client()
        .runtime()
        .stop_container(v1::StopContainerRequest {
            container_id: id.clone(),
            timeout: 0,
        })
        .await?;
    let mut all = Vec::new();
    for path in (0..5)
        .map(|round| log.with_extension(round.to_string()))
        .chain([log.clone()])
    {
        all.extend(
            std::fs::read_to_string(path)?
                .lines()
                .map(|line| line.splitn(4, ' ').nth(3).unwrap().to_owned()),
        );
    }
    let wanted: Vec<_> = (0..2000).map(|number| format!("line {number}")).collect();
    assert_eq!(all, wanted);
    f.node.finish().await
}
