//! Processes and their clients.

use anyhow::Result;
use testkit::requests::container;
use testkit::streams::{Remote, Transport};

use super::{attach, exec, noise, sleeper};
use crate::fixture;

#[tokio::test(flavor = "multi_thread")]
async fn output_errors_and_exit_code_arrive_in_every_protocol() -> Result<()> {
    use Transport::{Spdy, WebSocket};
    let (f, id) = sleeper().await?;
    let script = ["sh", "-c", "echo out; echo err >&2; exit 7"];
    for (transport, json) in [
        (Spdy("v4.channel.k8s.io"), true),
        (Spdy("v3.channel.k8s.io"), false),
        (Spdy("v2.channel.k8s.io"), false),
        (Spdy("channel.k8s.io"), false),
        (Spdy(""), false),
        (WebSocket("v5.channel.k8s.io"), true),
        (WebSocket("v4.channel.k8s.io"), true),
        (WebSocket("v4.base64.channel.k8s.io"), true),
        (WebSocket("channel.k8s.io"), false),
        (WebSocket("base64.channel.k8s.io"), false),
        (WebSocket(""), false),
    ] {
        let url = exec(&f.node, &id, &script, &[1, 2]).await?;
        let remote = Remote::connect(&url, transport, &[1, 2]).await?;
        let outcome = remote.talk(None).await?;
        assert_eq!(outcome.stdout, b"out\n", "{transport:?}");
        assert_eq!(outcome.stderr, b"err\n", "{transport:?}");
        if json {
            assert_eq!(outcome.code()?, 7, "{transport:?}");
        } else {
            let text = b"command terminated with non-zero exit code: 7";
            assert_eq!(outcome.status, text, "{transport:?}");
        }
    }
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn five_megabytes_go_in_and_come_back() -> Result<()> {
    let (f, id) = sleeper().await?;
    let bytes = noise(5_000_000);
    for transport in Transport::BEST {
        let url = exec(&f.node, &id, &["cat"], &[0, 1]).await?;
        let remote = Remote::connect(&url, transport, &[0, 1]).await?;
        let outcome = remote.talk(Some(&bytes)).await?;
        assert!(outcome.stdout == bytes, "{transport:?}");
        assert_eq!(outcome.code()?, 0, "{transport:?}");
    }
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_just_before_the_end_arrives() -> Result<()> {
    let (f, id) = sleeper().await?;
    for transport in Transport::BEST {
        for _ in 0..10 {
            let script = [
                "sh",
                "-c",
                "head -c 200000 /dev/zero; head -c 50000 /dev/zero >&2",
            ];
            let url = exec(&f.node, &id, &script, &[1, 2]).await?;
            let outcome = Remote::connect(&url, transport, &[1, 2]).await?;
            let outcome = outcome.talk(None).await?;
            assert_eq!(outcome.stdout.len(), 200_000, "{transport:?}");
            assert_eq!(outcome.stderr.len(), 50_000, "{transport:?}");
        }
    }
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_the_size_that_it_is_given() -> Result<()> {
    let (f, id) = sleeper().await?;
    let script = "while [ \"$(stty size)\" != '33 101' ]; do :; done; echo; tty; echo TERM=$TERM; \
        echo to-stderr >&2; read line; echo got $line; exit 4";
    for transport in Transport::BEST {
        let channels = [0, 1, 4];
        let url = exec(&f.node, &id, &["sh", "-c", script], &channels).await?;
        let mut remote = Remote::connect(&url, transport, &channels).await?;
        let size = br#"{"Width":101,"Height":33}"#;
        remote.writer.send(4, size).await?;
        let output = remote.reader.until("to-stderr").await?;
        assert!(output.contains("/dev/pts/"), "{transport:?}: {output}");
        assert!(output.contains("TERM=xterm"), "{transport:?}: {output}");
        remote.writer.send(0, b"line\r").await?;
        let outcome = remote.reader.rest().await?;
        let output = String::from_utf8_lossy(&outcome.stdout);
        assert!(output.contains("got line"), "{transport:?}: {output}");
        assert_eq!(outcome.code()?, 4, "{transport:?}");
    }
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attached_clients_end_is_the_end_of_a_stdin_that_opens_once() -> Result<()> {
    let f = fixture::node().await?;
    let pod = f.node.run_pod("a").await?;
    let bytes = noise(3_000_000);
    for transport in Transport::BEST {
        let mut config = container("c", &f.image, &["sh", "-c", "cat; echo end >&2; exit 3"]);
        (config.stdin, config.stdin_once) = (true, true);
        config.metadata.as_mut().unwrap().name = format!("{transport:?}").to_lowercase();
        config
            .metadata
            .as_mut()
            .unwrap()
            .name
            .retain(char::is_alphanumeric);
        let id = f.node.run(&pod, config).await?;
        let url = attach(&f.node, &id, &[0, 1, 2]).await?;
        let remote = Remote::connect(&url, transport, &[0, 1, 2]).await?;
        let outcome = remote.talk(Some(&bytes)).await?;
        assert!(outcome.stdout == bytes, "{transport:?}");
        assert_eq!(outcome.stderr, b"end\n", "{transport:?}");
        assert_eq!(outcome.code()?, 0, "attaching went well: {transport:?}");
        assert_eq!(f.node.exited(&id).await?.exit_code, 3);
    }
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stdin_that_stays_open_outlives_its_clients() -> Result<()> {
    let f = fixture::node().await?;
    let pod = f.node.run_pod("a").await?;
    let script = "while read line; do echo got $line; done";
    let mut config = container("c", &f.image, &["sh", "-c", script]);
    config.stdin = true;
    let id = f.node.run(&pod, config).await?;
    for transport in Transport::BEST {
        for round in 0..3 {
            let url = attach(&f.node, &id, &[0, 1]).await?;
            let mut remote = Remote::connect(&url, transport, &[0, 1]).await?;
            // Output is copied from before the client may write: no answer is missed.
            remote.writer.send(0, b"first\n").await?;
            remote.reader.until("got first").await?;
            let line = format!("{round}\n");
            remote.writer.send(0, line.as_bytes()).await?;
            remote.reader.until(&format!("got {round}")).await?;
        }
    }
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_at_once() -> Result<()> {
    let (f, id) = sleeper().await?;
    let before = descriptors(&f);
    let sessions = (0..100).map(|number| {
        let (node, id) = (&f.node, &id);
        async move {
            let script = format!("cat; exit {number}");
            let url = exec(node, id, &["sh", "-c", &script], &[0, 1]).await?;
            let transport = Transport::BEST[number % 2];
            let remote = Remote::connect(&url, transport, &[0, 1]).await?;
            let outcome = remote.talk(Some(script.as_bytes())).await?;
            assert_eq!(outcome.stdout, script.as_bytes());
            anyhow::ensure!(usize::try_from(outcome.code()?)? == number);
            Ok(())
        }
    });
    for done in futures_util::future::join_all(sessions).await {
        done?;
    }
    while descriptors(&f) > before + 2 {
        tokio::task::yield_now().await;
    }
    f.node.finish().await
}

/// Open descriptors of the daemon.
fn descriptors(f: &fixture::Fixture) -> usize {
    let pid = f.node.daemon_pid().unwrap();
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_leaves_nothing() -> Result<()> {
    let (f, id) = sleeper().await?;
    let before = descriptors(&f);
    for transport in Transport::BEST {
        // In the middle of a download, of an upload, at a terminal, and with nothing going on.
        for (script, channels) in [
            ("cat /dev/zero", &[1][..]),
            ("cat > /dev/null", &[0]),
            ("cat /dev/zero", &[0, 1, 4]),
            ("cat", &[0, 1]),
        ] {
            let url = exec(&f.node, &id, &["sh", "-c", script], channels).await?;
            let mut remote = Remote::connect(&url, transport, channels).await?;
            if channels.contains(&4) {
                let size = br#"{"Width":101,"Height":33}"#;
                remote.writer.send(4, size).await?;
            }
            if script == "cat /dev/zero" {
                remote.reader.next().await?;
                remote.reader.next().await?;
            } else {
                remote.writer.send(0, &noise(100_000)).await?;
            }
        }
    }
    loop {
        let left = f.node.exec(&id, &["ps"]).await?;
        let left = String::from_utf8_lossy(&left.stdout).into_owned();
        if !left.contains("cat") && descriptors(&f) <= before + 2 {
            break;
        }
    }
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_stops_its_own_session_only() -> Result<()> {
    let (f, id) = sleeper().await?;
    for transport in Transport::BEST {
        let url = exec(&f.node, &id, &["cat", "/dev/zero"], &[1]).await?;
        let _idle = Remote::connect(&url, transport, &[1]).await?;
        let url = exec(&f.node, &id, &["echo", "x"], &[1]).await?;
        let outcome = Remote::connect(&url, transport, &[1]).await?;
        assert_eq!(outcome.talk(None).await?.stdout, b"x\n", "{transport:?}");
    }
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_not_there_is_told() -> Result<()> {
    let (f, id) = sleeper().await?;
    for transport in Transport::BEST {
        let url = exec(&f.node, &id, &["/no/such"], &[1]).await?;
        let outcome = Remote::connect(&url, transport, &[1]).await?;
        let status = outcome.talk(None).await?.status;
        let status = String::from_utf8_lossy(&status);
        assert!(status.contains("InternalError"), "{transport:?}: {status}");
        assert!(status.contains("/no/such"), "{transport:?}: {status}");
    }
    f.node.finish().await
}
