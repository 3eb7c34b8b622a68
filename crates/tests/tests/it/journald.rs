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

/// The fields of an entry.
type Entry = serde_json::Map<String, serde_json::Value>;

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

    /// Waits for an entry of this container with this text.
    async fn entry(&self, id: &str, text: &str) -> Result<Entry> {
        if let Self::Own(socket, _) = self {
            let mut buffer = vec![0; 65_536];
            loop {
                let length = socket.recv(&mut buffer)?;
                let entry = sent(buffer.get(..length).unwrap_or_default())?;
                if is(&entry, "CONTAINER_ID_FULL", id) && is(&entry, "MESSAGE", text) {
                    return Ok(entry);
                }
            }
        }
        let mut tick = tokio::time::interval(Duration::from_millis(200));
        for _ in 0..100 {
            tick.tick().await;
            let of = format!("CONTAINER_ID_FULL={id}");
            let told = Command::new("journalctl")
                .args(["--output=json", "--all", "--no-pager", &of])
                .output()?;
            for line in told.stdout.split(|byte| *byte == b'\n') {
                if line.is_empty() {
                    continue;
                }
                let entry: Entry = serde_json::from_slice(line)?;
                if is(&entry, "MESSAGE", text) {
                    return Ok(entry);
                }
            }
        }
        anyhow::bail!("no entry with {text:?}")
    }
}

/// The fields of an entry as it is sent: each a name, the length of its value, and that.
fn sent(mut bytes: &[u8]) -> Result<Entry> {
    let mut fields = Entry::new();
    while !bytes.is_empty() {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let (name, rest) = bytes.split_at(end.context("a name")?);
        let rest = rest.get(1..).context("a length")?;
        let (length, rest) = rest.split_first_chunk().context("a length")?;
        let length = usize::try_from(u64::from_le_bytes(*length))?;
        let value = rest.get(..length).context("a value")?;
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        fields.insert(text(name), text(value).into());
        bytes = rest.get(length + 1..).context("an end")?;
    }
    Ok(fields)
}

/// Whether a field has this value. Of the node's some are no text: AppArmor's label ends a line.
fn is(entry: &Entry, field: &str, value: &str) -> bool {
    entry.get(field).and_then(serde_json::Value::as_str) == Some(value)
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
    let name = "k8s_c_journaled_default_uid-journaled_0";
    for (field, value) in [
        ("PRIORITY", "6"),
        ("CONTAINER_ID", &id[..12]),
        ("CONTAINER_NAME", name),
        ("SYSLOG_IDENTIFIER", name),
    ] {
        ensure!(is(&first, field, value), "{field}: {first:?}");
    }
    let bad = journal.entry(&id, "bad").await?;
    ensure!(is(&bad, "PRIORITY", "3"), "{bad:?}");
    ensure!(is(&bad, "CONTAINER_NAME", name), "{bad:?}");
    // A successor of the monitor does the same.
    let first = monitor(&f.node, &pod, None).await;
    rustix::process::kill_process(first, rustix::process::Signal::KILL)?;
    monitor(&f.node, &pod, Some(first)).await;
    f.node.restart().await?;
    f.node.exec(&id, &["touch", "/again"]).await?;
    let second = journal.entry(&id, "second").await?;
    ensure!(is(&second, "PRIORITY", "4"), "{second:?}");
    let log = f.node.log("journaled", "c").context("the log")?;
    ensure!(
        log.contains("stdout F first") && log.contains("stdout F <4>second"),
        "{log}"
    );
    f.node.remove_pod(&pod).await?;
    f.node.finish().await
}
