//! Create, start, signals, exit codes, deletion, failures.

use monitor_client::{Error, ErrorKind, Event, State};

use crate::harness::{Pod, id, wait_for_file, wait_for_line, within};

#[tokio::test]
async fn exit_codes_and_signals_are_told_and_recorded() {
    let mut pod = Pod::start().await;
    for (name, script, signal, code) in [
        ("seven", "exit 7", 0, 7),
        ("zero", "true", 0, 0),
        ("killed", "kill -9 $$; sleep 100", 15, 143),
    ] {
        let create = pod.container(name, script);
        let created = pod.create(&create).await;
        assert!(created.pid > 0 && created.start_time > 0 && created.terminal.is_none());
        let info = within("list", pod.monitor.list()).await.unwrap();
        assert!(
            info.iter()
                .any(|info| info.id == create.id && info.state == State::Created {})
        );
        within("start", pod.monitor.start(&create.id))
            .await
            .unwrap();
        if signal != 0 {
            // A namespace's init is immune to its own SIGKILL, and to SIGTERM without a handler.
            within("signal", pod.monitor.signal(&create.id, 9))
                .await
                .unwrap();
        }
        let exit = pod.exit(&create.id).await;
        let expected = if signal == 0 { (code, 0) } else { (137, 9) };
        assert_eq!((exit.code, exit.signal), expected, "{name}");
        assert_eq!(
            (exit.pid, exit.oom_killed, exit.reason.as_str()),
            (created.pid, false, "")
        );
        let record = std::fs::read_to_string(pod.path("exits").join(create.id.as_str())).unwrap();
        assert_eq!(record.lines().next().unwrap(), exit.code.to_string());
        let late = within("signal", pod.monitor.signal(&create.id, 15))
            .await
            .unwrap_err();
        assert!(
            matches!(
                late,
                Error::Refused {
                    kind: ErrorKind::WrongState {},
                    ..
                }
            ),
            "{late:?}"
        );
        within("delete", pod.monitor.delete(&create.id, false))
            .await
            .unwrap();
        within("delete again", pod.monitor.delete(&create.id, false))
            .await
            .unwrap();
        within("forget", pod.monitor.forget(&create.id))
            .await
            .unwrap();
        within("forget again", pod.monitor.forget(&create.id))
            .await
            .unwrap();
    }
    assert!(within("list", pod.monitor.list()).await.unwrap().is_empty());
    within("quit", pod.monitor.quit()).await.unwrap();
    let Event::Lost {
        status: Some(status),
    } = pod.event().await
    else {
        panic!("not lost")
    };
    assert!(status.success());
}

#[tokio::test]
async fn a_handler_hears_its_signal_and_auto_delete_follows_the_exit() {
    let mut pod = Pod::start().await;
    let mut create = pod.container(
        "trap",
        "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done",
    );
    create.auto_delete = true;
    pod.run(&create).await;
    wait_for_line(&pod.log("trap"), "ready").await;
    within("signal", pod.monitor.signal(&create.id, 15))
        .await
        .unwrap();
    assert_eq!(pod.exit(&create.id).await.code, 3);
    within("delete", pod.monitor.delete(&create.id, false))
        .await
        .unwrap();
    assert!(
        !pod.path("runtime")
            .join(create.id.as_str())
            .try_exists()
            .unwrap()
    );
    pod.finish().await;
}

#[tokio::test]
async fn a_slow_create_holds_up_nothing() {
    let mut pod = Pod::start().await;
    let quick = pod.container("quick", "sleep 100");
    pod.run(&quick).await;
    let mut slow = pod.container("slow", "true");
    let script = pod.path("slow-runtime");
    std::fs::write(
        &script,
        "#!/bin/sh\ncase \"$*\" in *create*) sleep 100;; esac\n",
    )
    .unwrap();
    rustix::fs::chmod(&script, rustix::fs::Mode::RWXU).unwrap();
    slow.runtime = script.to_str().unwrap().into();
    slow.timeout_ms = 2_000;
    let monitor = pod.monitor.clone();
    let creating = async { within("create", monitor.create(slow.clone(), None)).await };
    let killing = async {
        within("signal", pod.monitor.signal(&quick.id, 9))
            .await
            .unwrap();
        pod.exit(&quick.id).await
    };
    let (created, exit) = tokio::join!(creating, killing);
    assert_eq!(exit.code, 137);
    let Err(Error::Refused {
        kind: ErrorKind::TimedOut {},
        ..
    }) = created
    else {
        panic!("{created:?}")
    };
    pod.finish().await;
}

#[tokio::test]
async fn a_create_that_fails_says_why_and_leaves_nothing() {
    let pod = Pod::start().await;
    let missing = pod.container_with("missing", "", |config| {
        config["process"]["args"] = serde_json::json!(["/no/such/program"]);
    });
    // runc says it at create, crun at create or start.
    let created = within("create", pod.monitor.create(missing.clone(), None)).await;
    let failed = match created {
        Ok(_) => within("start", pod.monitor.start(&missing.id))
            .await
            .unwrap_err(),
        Err(err) => err,
    };
    let Error::Refused {
        kind: ErrorKind::Runtime {},
        text,
    } = &failed
    else {
        panic!("{failed:?}")
    };
    assert!(
        text.contains("/no/such/program") && text.to_lowercase().contains("no such file"),
        "{text:?}"
    );

    let broken = pod.container_with("broken", "true", |config| {
        config["root"]["path"] = "/no/root".into()
    });
    let failed = within("create", pod.monitor.create(broken.clone(), None))
        .await
        .unwrap_err();
    assert!(failed.to_string().contains("/no/root"), "{failed}");
    assert!(
        !pod.path("run/containers")
            .join(broken.id.as_str())
            .try_exists()
            .unwrap()
    );
    // The same id again, now a good one.
    let good = pod.container("broken", "true");
    pod.create(&good).await;
    let again = within("create", pod.monitor.create(good.clone(), None))
        .await
        .unwrap_err();
    assert!(matches!(
        again,
        Error::Refused {
            kind: ErrorKind::Exists {},
            ..
        }
    ));
    let mut nowhere = pod.container("nowhere", "true");
    nowhere.log_path = pod.path("no/such/directory/0.log").to_str().unwrap().into();
    let failed = within("create", pod.monitor.create(nowhere, None))
        .await
        .unwrap_err();
    assert!(failed.to_string().contains("open log"), "{failed}");
    let unknown = within("start", pod.monitor.start(&id("nobody")))
        .await
        .unwrap_err();
    assert!(matches!(
        unknown,
        Error::Refused {
            kind: ErrorKind::NotFound {},
            ..
        }
    ));
    pod.finish().await;
}

#[tokio::test]
async fn what_survives_an_init_without_a_pid_namespace_is_killed() {
    let mut pod = Pod::start().await;
    let create = pod.container_with("hostpid", "sleep 1000 & sleep 1000 & exit 5", |config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "pid");
    });
    pod.run(&create).await;
    assert_eq!(pod.exit(&create.id).await.code, 5);
    let cgroup = sys::cgroup::Cgroup::at(&format!("/{}", pod.name)).unwrap();
    assert_eq!(cgroup.processes().unwrap(), []);
    pod.finish().await;
}

#[tokio::test]
async fn memory_beyond_the_limit_is_told_as_oom() {
    let mut pod = Pod::start().await;
    let create = pod.container_with("oom", "head -c 200000000 /dev/zero | tail -c 190000000 >/dev/null; x=$(head -c 100000000 /dev/zero | tr '\\0' x); exit 1", |config| {
        config["linux"]["resources"] = serde_json::json!({ "memory": { "limit": 16_000_000, "swap": 16_000_000 } });
    });
    pod.run(&create).await;
    let exit = pod.exit(&create.id).await;
    assert!(exit.oom_killed, "{exit:?}");
    pod.finish().await;
}

#[tokio::test]
async fn a_second_monitor_is_refused_while_the_first_lives() {
    let mut pod = Pod::start().await;
    let first = pod.monitor.clone();
    let options = monitor_client::SpawnOptions {
        program: env!("CARGO_BIN_EXE_crioxide-monitor").into(),
        pod: id("x"),
        dir: pod.path("run"),
        exits_dir: pod.path("exits"),
        cgroup: None,
        oom_score_adj: 0,
        timeout: crate::harness::PATIENCE,
    };
    let pool = sys::pool::Pool::new("spawn", 1);
    let err = within("second", monitor_client::Monitor::spawn(options, &pool))
        .await
        .unwrap_err();
    let Error::NotReady { text, .. } = &err else {
        panic!("{err:?}")
    };
    assert!(text.contains("a monitor (pid"), "{text:?}");
    within("list", first.list()).await.unwrap();
    // A second connection hears the events too, and outlives the first.
    let create = pod.container("both", "exit 4");
    let (second, mut events) = monitor_client::Monitor::connect(&pod.path("run"))
        .await
        .unwrap();
    pod.run(&create).await;
    assert_eq!(pod.exit(&create.id).await.code, 4);
    let Some(Event::Exited(exit)) = within("event", events.recv()).await else {
        panic!("no event")
    };
    assert_eq!(exit.code, 4);
    within("list", second.list()).await.unwrap();
    pod.finish().await;
}

#[tokio::test]
async fn without_a_daemon_the_record_is_also_kept_persistently() {
    let pod = Pod::start().await;
    let create = pod.container(
        "alone",
        "trap 'exit 6' TERM; echo up; while :; do sleep 0.05; done",
    );
    let created = pod.run(&create).await;
    wait_for_line(&pod.log("alone"), "up").await;
    let pid = rustix::process::Pid::from_raw(created.pid.cast_signed()).unwrap();
    // The last handle closes the connection.
    let dir = pod.path("run");
    let exits = pod.path("exits").join(create.id.as_str());
    let persistent = std::path::Path::new(&create.persist_dir).join("exit");
    let pod = pod.disconnect();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    wait_for_file(&exits).await;
    wait_for_file(&persistent).await;
    assert!(
        std::fs::read_to_string(&persistent)
            .unwrap()
            .starts_with("6\n")
    );
    let (monitor, _events) = monitor_client::Monitor::connect(&dir).await.unwrap();
    let list = within("list", monitor.list()).await.unwrap();
    assert!(
        matches!(&list[0].state, State::Exited { exit } if exit.code == 6),
        "{list:?}"
    );
    within("delete", monitor.delete(&create.id, false))
        .await
        .unwrap();
    drop(pod);
}

#[tokio::test]
async fn its_memory_is_a_small_one() {
    const PODS: u64 = 10;
    let mut pods = Vec::new();
    for _ in 0..PODS {
        let pod = Pod::start().await;
        let create = pod.container("one", "echo up; sleep 1000");
        pod.run(&create).await;
        wait_for_line(&pod.log("one"), "up").await;
        pods.push(pod);
    }
    let average = |name: &str| -> u64 {
        let of = |pod: &Pod| -> u64 {
            let rollup = format!("/proc/{}/smaps_rollup", pod.monitor.pid());
            let rollup = std::fs::read_to_string(rollup).unwrap();
            let line = rollup.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        pods.iter().map(of).sum::<u64>() / PODS
    };
    let (pss, dirty, journals) = (
        average("Pss:"),
        average("Private_Dirty:"),
        average("Pss_Shmem:"),
    );
    eprintln!(
        "{PODS} monitors, one container each: PSS {pss} kB, private dirty {dirty} kB, journals \
         {journals} kB"
    );
    // Of the debug build, which is several times as large as the static one.
    assert!(dirty < 1024);
    for pod in pods {
        pod.finish().await;
    }
}
