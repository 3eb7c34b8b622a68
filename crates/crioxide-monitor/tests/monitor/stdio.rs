//! Terminals, stdin, attach, users.

use std::os::fd::AsFd;

use monitor_client::AttachTo;

use crate::harness::{Pod, lines, pipe, read_all, wait_for_line, within};

#[tokio::test]
async fn a_user_that_is_not_root_can_open_dev_stdout() {
    let mut pod = Pod::start().await;
    let script = "id -u; echo out >/dev/stdout; echo err >/dev/stderr; echo both >/proc/self/fd/1";
    let create = pod.container_with("user", script, |config| {
        config["process"]["user"] = serde_json::json!({ "uid": 1234, "gid": 1234 });
    });
    pod.run(&create).await;
    assert_eq!(pod.exit(&create.id).await.code, 0);
    let log = std::fs::read_to_string(pod.log("user")).unwrap();
    assert_eq!(lines(&log, "stdout"), ["1234", "out", "both"]);
    assert_eq!(lines(&log, "stderr"), ["err"]);
    pod.finish().await;
}

#[tokio::test]
async fn a_terminal_is_logged_resized_and_typed_into() {
    let mut pod = Pod::start().await;
    let create = pod.container_with(
        "tty",
        "echo ready; read x; stty size; echo got $x; exit 8",
        |config| {
            config["process"]["terminal"] = true.into();
        },
    );
    let created = pod.run(&create).await;
    let terminal = created.terminal.unwrap();
    wait_for_line(&pod.log("tty"), "ready").await;
    within("resize", pod.monitor.resize(&create.id, 31, 99))
        .await
        .unwrap();
    let (from, to) = pipe();
    let attach = AttachTo {
        stdin: true,
        stdout: Some(to),
        stderr: None,
    };
    let stdin = within("attach", pod.monitor.attach(&create.id, attach))
        .await
        .unwrap()
        .unwrap();
    rustix::io::write(&stdin, b"typed\n").unwrap();
    assert_eq!(pod.exit(&create.id).await.code, 8);
    let seen = read_all(from).await;
    assert!(
        seen.contains("31 99\r\n") && seen.contains("got typed\r\n"),
        "{seen:?}"
    );
    let log = std::fs::read_to_string(pod.log("tty")).unwrap();
    assert_eq!(
        lines(&log, "stdout"),
        ["ready\r", "typed\r", "31 99\r", "got typed\r"]
    );
    drop(terminal);
    pod.finish().await;
}

#[tokio::test]
async fn a_stdin_that_ends_once_ends_with_its_first_attach() {
    let mut pod = Pod::start().await;
    let mut create = pod.container("once", "cat; echo end");
    create.stdin = true;
    create.stdin_once = true;
    let created = pod.run(&create).await;
    let (from, to) = pipe();
    let attach = AttachTo {
        stdin: true,
        stdout: Some(to),
        stderr: None,
    };
    let stdin = within("attach", pod.monitor.attach(&create.id, attach))
        .await
        .unwrap()
        .unwrap();
    rustix::io::write(&stdin, b"hello\n").unwrap();
    wait_for_line(&pod.log("once"), "hello").await;
    drop((stdin, created.stdin.unwrap()));
    within("close", pod.monitor.close_stdin(&create.id))
        .await
        .unwrap();
    assert_eq!(pod.exit(&create.id).await.code, 0);
    assert_eq!(read_all(from).await, "hello\nend\n");
    pod.finish().await;
}

#[tokio::test]
async fn a_stdin_that_stays_open_outlives_its_clients() {
    let mut pod = Pod::start().await;
    let mut create = pod.container("stays", "read x; echo 1 $x; read y; echo 2 $y; exit 4");
    create.stdin = true;
    let created = pod.run(&create).await;
    assert!(created.stdin.is_none());
    for word in ["first\n", "second\n"] {
        let attach = AttachTo {
            stdin: true,
            ..AttachTo::default()
        };
        let stdin = within("attach", pod.monitor.attach(&create.id, attach))
            .await
            .unwrap()
            .unwrap();
        rustix::io::write(&stdin, word.as_bytes()).unwrap();
        wait_for_line(&pod.log("stays"), word.trim()).await;
    }
    assert_eq!(pod.exit(&create.id).await.code, 4);
    let log = std::fs::read_to_string(pod.log("stays")).unwrap();
    assert_eq!(lines(&log, "stdout"), ["1 first", "2 second"]);
    pod.finish().await;
}

#[tokio::test]
async fn clients_see_their_stream_and_one_that_leaves_hurts_nobody() {
    let mut pod = Pod::start().await;
    let mut create = pod.container(
        "fan",
        "read x; i=0; while [ $i -lt 3000 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done",
    );
    create.stdin = true;
    pod.run(&create).await;
    let ((from_a, a), (from_b, b), (from_c, c)) = (pipe(), pipe(), pipe());
    let both = AttachTo {
        stdin: true,
        stdout: Some(a),
        stderr: Some(b),
    };
    let stdin = within("attach", pod.monitor.attach(&create.id, both))
        .await
        .unwrap()
        .unwrap();
    let leaver = AttachTo {
        stdin: false,
        stdout: Some(c),
        stderr: None,
    };
    within("attach", pod.monitor.attach(&create.id, leaver))
        .await
        .unwrap();
    drop(from_c);
    rustix::io::write(stdin.as_fd(), b"\n").unwrap();
    let (out, err) = tokio::join!(read_all(from_a), read_all(from_b));
    let expected = |name: &str| {
        (0..3000)
            .map(|i| format!("{name} {i}\n"))
            .collect::<String>()
    };
    assert!(out == expected("out") && err == expected("err"));
    assert_eq!(pod.exit(&create.id).await.code, 0);
    pod.finish().await;
}
