//! Calls that a seccomp filter leaves to the monitor.

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use monitor_client::{Create, Event};
use monitor_protocol::{FromMonitor, Reply, Request, ToMonitor, limits};
use serde_json::json;

use crate::harness::{Pod, within};

/// A container whose `umask` is forbidden, which its shell calls.
async fn container(pod: &Pod, name: &str, script: &str) -> (Create, String) {
    let socket = pod.path(&format!("{name}.sock"));
    let socket = socket.to_str().unwrap().to_owned();
    let create = pod.container_with(name, script, |config| {
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": socket,
            "syscalls": [{ "names": ["umask"], "action": "SCMP_ACT_NOTIFY" }],
        });
    });
    within("notify", pod.monitor.notify(&create.id, &socket))
        .await
        .unwrap();
    (create, socket)
}

#[tokio::test]
async fn a_flood_of_calls_is_counted_to_the_last_and_told_now_and_then() {
    const ROUNDS: u64 = 1000;
    // busybox's reads the mask, which is setting and restoring it, and sets the new one.
    const CALLS: u64 = 3 * ROUNDS;
    let mut pod = Pod::start().await;
    let script = format!("i=0; while [ $i -lt {ROUNDS} ]; do umask 022; i=$((i+1)); done; exit 6");
    let (create, socket) = container(&pod, "flood", &script).await;
    // A daemon of an earlier version must not be told what it does not know.
    let earlier = sys::seqpacket::connect(&pod.monitor.socket()).unwrap();
    let request = Request::Hello { version: 3 };
    let hello = ToMonitor { number: 1, request }.encode().unwrap();
    sys::seqpacket::send(earlier.as_fd(), &hello, &[]).unwrap();
    let begun = std::time::Instant::now();
    pod.run(&create).await;
    let (mut listeners, mut told) = (0, Vec::new());
    let exit = loop {
        match pod.event().await {
            Event::Listening { id, .. } => {
                assert_eq!(id, create.id);
                listeners += 1;
            }
            Event::Forbidden { id, count, .. } => {
                assert_eq!(id, create.id);
                told.push(count);
            }
            Event::Exited(exit) => break exit,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(exit.code, 6);
    assert_eq!(listeners, 1);
    assert_eq!(told.last(), Some(&CALLS));
    assert!(told.is_sorted_by(|a, b| a < b), "{told:?}");
    let most = begun.elapsed().as_millis() / 200 + 2;
    assert!(told.len() as u128 <= most, "{most}: {told:?}");
    assert!(!std::path::Path::new(&socket).try_exists().unwrap());
    // It hears of the end, perhaps a little later, and of nothing before.
    let mut heard = Vec::new();
    let mut buffer = vec![0; limits::MESSAGE_BYTES];
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    within("both messages", async {
        while heard.len() < 2 {
            tick.tick().await;
            if let Ok((n, fds)) = sys::seqpacket::receive(earlier.as_fd(), &mut buffer) {
                assert!(fds.is_empty());
                heard.push(FromMonitor::decode(&buffer[..n]).unwrap());
            }
        }
    })
    .await;
    let [
        FromMonitor::Reply {
            reply: Reply::Hello { .. },
            ..
        },
        FromMonitor::Event {
            event: monitor_protocol::Event::Exited { .. },
        },
    ] = &heard[..]
    else {
        panic!("{heard:?}")
    };
    pod.finish().await;
}

#[tokio::test]
async fn what_is_no_listener_is_borne_and_a_container_counts_on() {
    let mut pod = Pod::start().await;
    let script = "umask 022; while [ ! -e /tmp/end ]; do sleep 0.05; done; umask 022";
    let (create, socket) = container(&pod, "borne", script).await;
    let created = pod.create(&create).await;
    let mut kept = Vec::new();
    for _ in 0..200 {
        kept.push(UnixStream::connect(&socket).unwrap());
    }
    let null = std::fs::File::open("/dev/null").unwrap();
    for stream in &kept {
        // Refused, where there are too many.
        let _refused = sys::seqpacket::send(stream.as_fd(), b"{}", &[null.as_fd()]);
    }
    let mut long = UnixStream::connect(&socket).unwrap();
    let written = long.write_all(&vec![b' '; 4 << 20]);
    assert!(written.is_err(), "nobody reads all that");
    drop(long);
    within("start", pod.monitor.start(&create.id))
        .await
        .unwrap();
    let first = loop {
        if let Event::Forbidden { count, .. } = pod.event().await {
            break count;
        }
    };
    assert_eq!(first, 1);
    let descriptors = || {
        let dir = format!("/proc/{}/fd", pod.monitor.pid());
        std::fs::read_dir(dir).unwrap().count()
    };
    drop(kept);
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    let before = loop {
        tick.tick().await;
        let now = descriptors();
        if now < 64 {
            break now;
        }
    };
    // Each command brings a listener, which goes with it.
    for number in 0..10 {
        let name = format!("e{number}");
        let exec = pod.exec(&create.id, &name, "umask 022", false);
        let stdio = [null.as_fd(), null.as_fd(), null.as_fd()];
        within("exec", pod.monitor.exec(exec, Some(stdio)))
            .await
            .unwrap();
        loop {
            if let Event::ExecExited { .. } = pod.event().await {
                break;
            }
        }
    }
    within("end of the listeners", async {
        while {
            let dir = format!("/proc/{}/fd", pod.monitor.pid());
            std::fs::read_dir(dir).unwrap().count() > before
        } {
            tick.tick().await;
        }
    })
    .await;
    let end = format!("/proc/{}/root/tmp/end", created.pid);
    std::fs::write(end, "").unwrap();
    let exit = pod.exit(&create.id).await;
    assert_eq!(exit.code, 0);
    pod.finish().await;
}
