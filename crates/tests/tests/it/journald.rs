//! `log_to_journald`: what containers write is in systemd's journal, too.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use testkit::node::Options;
use testkit::requests::container;

use crate::fixture::{self, Places};
use crate::restart::monitor;

/// Where a journal is there: the node's, or one of the test's own that only takes.
enum Journal {
    OfTheNode,
    Own(
        UnixDatagram,
        #[allow(dead_code, reason = "dropped last")] Places,
    ),
}

const DIR: &str = "/run/systemd/journal";

impl Journal {
    fn find() -> Result<Self> {
        let path = Path::new(DIR).join("socket");
        if UnixDatagram::unbound()?.connect(&path).is_ok() {
            return Ok(Self::OfTheNode);
        }
        let places = Places::make(Path::new(DIR))?;
        // Of a run that was killed.
        let _dead = fs::remove_file(&path);
        let own = UnixDatagram::bind(path)?;
        own.set_read_timeout(Some(Duration::from_secs(20)))?;
        Ok(Self::Own(own, places))
    }

    /// Waits for an entry of this container with this text; what it is.
    async fn entry(&self, id: &str, text: &str) -> Result<String> {
        if let Self::Own(socket, _) = self {
            let mut buffer = vec![0; 65_536];
            loop {
                let length = socket.recv(&mut buffer)?;
                let entry = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
                if entry.contains(id) && entry.contains(text) {
                    return Ok(entry.into_owned());
                }
            }
        }
        let mut tick = tokio::time::interval(Duration::from_millis(200));
        for _ in 0..100 {
            tick.tick().await;
            let of = format!("CONTAINER_ID_FULL={id}");
            let told = Command::new("journalctl")
                .args(["--output=export", "--no-pager", &of])
                .output()?;
            let told = String::from_utf8_lossy(&told.stdout).into_owned();
            let mut entries = told.split("\n\n");
            if let Some(entry) = entries.find(|entry| entry.contains(text)) {
                return Ok(entry.to_owned());
            }
        }
        anyhow::bail!("no entry with {text:?}")
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if let Self::Own(..) = self {
            let _gone = fs::remove_file(Path::new(DIR).join("socket"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_containers_write_is_in_the_journal_too() -> Result<()> {
    let mut f = fixture::with(Options {
        config: "[crio.runtime]\nlog_to_journald = true\n".to_owned(),
        ..Options::default()
    })
    .await?;
    let journal = Journal::find()?;
    let pod = f.node.run_pod("journaled").await?;
    let script = "echo first; echo bad >&2; while ! [ -e /again ]; do sleep 0.1; done; \
                  echo '<4>second'; sleep 1000";
    let id = f
        .node
        .run(&pod, container("c", &f.image, &["sh", "-c", script]))
        .await?;
    let first = journal.entry(&id, "first").await?;
    let level = |entry: &str, level: u8| {
        // Of the journal's own form and of journalctl's.
        entry.contains(&format!("PRIORITY\n\u{1}\0\0\0\0\0\0\0{level}\n"))
            || entry.contains(&format!("PRIORITY={level}\n"))
    };
    ensure!(level(&first, 6), "{first:?}");
    ensure!(first.contains("k8s_c_journaled_default_"), "{first:?}");
    let bad = journal.entry(&id, "bad").await?;
    ensure!(level(&bad, 3), "{bad:?}");
    // A successor of the monitor does the same.
    let first = monitor(&f.node, &pod, None).await;
    rustix::process::kill_process(first, rustix::process::Signal::KILL)?;
    monitor(&f.node, &pod, Some(first)).await;
    f.node.restart().await?;
    f.node.exec(&id, &["touch", "/again"]).await?;
    let second = journal.entry(&id, "second").await?;
    ensure!(level(&second, 4), "{second:?}");
    let log = f.node.log("journaled", "c").context("the log")?;
    ensure!(
        log.contains("stdout F first") && log.contains("stdout F <4>second"),
        "{log}"
    );
    f.node.remove_pod(&pod).await?;
    f.node.finish().await
}
