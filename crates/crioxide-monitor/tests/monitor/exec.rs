//! Exec: descriptors, exit codes, terminals, killing.

use std::os::fd::AsFd;

use monitor_client::{Error, ErrorKind, Event, Id};
use sys::spawn::Status;

use crate::harness::{Pod, id, pipe, read_all, within};

async fn exec_exit(pod: &mut Pod, name: &Id) -> Status {
    loop {
        if let Event::ExecExited { exec, status, .. } = pod.event().await
            && exec == *name
        {
            return status;
        }
    }
}

#[tokio::test]
async fn bytes_go_past_the_monitor_and_the_code_comes_back() {
    let mut pod = Pod::start().await;
    let create = pod.container("main", "sleep 1000");
    pod.run(&create).await;
    for round in 0..5 {
        let name = format!("e{round}");
        let exec = pod.exec(&create.id, &name, "cat; echo err >&2; exit 9", false);
        let ((stdin, to_stdin), (from_stdout, stdout), (from_stderr, stderr)) =
            (pipe(), pipe(), pipe());
        let started = within(
            "exec",
            pod.monitor
                .exec(exec, Some([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])),
        )
        .await
        .unwrap();
        assert!(started.pid > 0 && started.terminal.is_none());
        drop((stdin, stdout, stderr));
        rustix::io::write(&to_stdin, b"through").unwrap();
        drop(to_stdin);
        assert_eq!(read_all(from_stdout).await, "through");
        assert_eq!(read_all(from_stderr).await, "err\n");
        assert_eq!(exec_exit(&mut pod, &id(&name)).await, Status::Exited(9));
        assert!(
            sys::pidfd::wait_ended(started.pidfd.as_fd(), Some(crate::harness::PATIENCE)).unwrap()
        );
    }
    pod.finish().await;
}

#[tokio::test]
async fn many_short_execs_at_once_all_end_with_their_codes() {
    let mut pod = Pod::start().await;
    let create = pod.container("main", "sleep 1000");
    pod.run(&create).await;
    let null = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .unwrap();
    let monitor = pod.monitor.clone();
    let mut running = tokio::task::JoinSet::new();
    for n in 0..12 {
        let exec = pod.exec(&create.id, &format!("e{n}"), &format!("exit {n}"), false);
        let (monitor, null) = (monitor.clone(), null.try_clone().unwrap());
        running.spawn(async move {
            let fds = [null.as_fd(), null.as_fd(), null.as_fd()];
            within("exec", monitor.exec(exec, Some(fds)))
                .await
                .unwrap()
                .pid
        });
    }
    let pids = running.join_all().await;
    assert_eq!(pids.len(), 12);
    let mut ended = std::collections::BTreeMap::new();
    while ended.len() < 12 {
        if let Event::ExecExited { exec, status, .. } = pod.event().await {
            ended.insert(exec.as_str().to_owned(), status);
        }
    }
    for n in 0..12 {
        assert_eq!(ended[&format!("e{n}")], Status::Exited(n));
    }
    pod.finish().await;
}

#[tokio::test]
async fn a_terminal_is_handed_over() {
    let mut pod = Pod::start().await;
    let create = pod.container("main", "sleep 1000");
    pod.run(&create).await;
    let exec = pod.exec(
        &create.id,
        "tty",
        "read x; stty size; echo got $x; exit 2",
        true,
    );
    let started = within("exec", pod.monitor.exec(exec, None)).await.unwrap();
    let terminal = started.terminal.unwrap();
    sys::pty::resize(terminal.as_fd(), 33, 77).unwrap();
    rustix::io::write(&terminal, b"typed\n").unwrap();
    let said = read_all(terminal).await;
    assert!(
        said.contains("33 77\r\n") && said.contains("got typed\r\n"),
        "{said:?}"
    );
    assert_eq!(exec_exit(&mut pod, &id("tty")).await, Status::Exited(2));
    pod.finish().await;
}

#[tokio::test]
async fn an_exec_is_killed_with_its_group_and_failures_say_why() {
    let mut pod = Pod::start().await;
    let create = pod.container("main", "sleep 1000");
    let null = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .unwrap();
    let fds = [null.as_fd(), null.as_fd(), null.as_fd()];
    pod.create(&create).await;
    let early = pod.exec(&create.id, "early", "true", false);
    let refused = within("exec", pod.monitor.exec(early, Some(fds)))
        .await
        .unwrap_err();
    assert!(
        matches!(
            refused,
            Error::Refused {
                kind: ErrorKind::WrongState {},
                ..
            }
        ),
        "{refused:?}"
    );
    within("start", pod.monitor.start(&create.id))
        .await
        .unwrap();
    let long = pod.exec(&create.id, "long", "sleep 1000 & sleep 1000", false);
    within("exec", pod.monitor.exec(long, Some(fds)))
        .await
        .unwrap();
    within("kill", pod.monitor.kill_exec(&create.id, &id("long")))
        .await
        .unwrap();
    assert_eq!(exec_exit(&mut pod, &id("long")).await, Status::Signaled(9));
    let gone = within("kill", pod.monitor.kill_exec(&create.id, &id("long")))
        .await
        .unwrap_err();
    assert!(matches!(
        gone,
        Error::Refused {
            kind: ErrorKind::NotFound {},
            ..
        }
    ));

    let missing = pod.exec(&create.id, "missing", "", false);
    let process = std::fs::read_to_string(&missing.process).unwrap();
    let mut process: serde_json::Value = serde_json::from_str(&process).unwrap();
    process["args"] = serde_json::json!(["/no/such/program"]);
    std::fs::write(&missing.process, process.to_string()).unwrap();
    let failed = within("exec", pod.monitor.exec(missing, Some(fds)))
        .await
        .unwrap_err();
    let Error::Refused {
        kind: ErrorKind::Runtime {},
        text,
    } = &failed
    else {
        panic!("{failed:?}")
    };
    assert!(text.contains("/no/such/program"), "{text}");
    pod.finish().await;
}
