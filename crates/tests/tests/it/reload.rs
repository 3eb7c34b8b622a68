//! SIGHUP: what changes while the daemon runs, and what a broken file does; and its other signals.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use cri::v1;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use testkit::image_maker::{Entry, ImageMaker};
use testkit::requests::{container, pod};
use tonic::Code;

use crate::fixture::{self, Fixture};

/// What the daemon says of a reload that went well.
pub(crate) const DONE: &str = "Configuration reload completed";
const FAILED: &str = "configuration reload failed";

fn directory() -> Result<TempDir> {
    Ok(tempfile::Builder::new()
        .prefix("crixs-")
        .tempdir_in("/var/tmp")?)
}

pub(crate) fn log(f: &Fixture) -> Result<String> {
    Ok(fs::read_to_string(f.node.dir.join("crioxide.log"))?)
}

fn signal(f: &Fixture, signal: Signal) -> Result<()> {
    let pid = f.node.daemon_pid().and_then(Pid::from_raw);
    Ok(kill_process(pid.context("a daemon")?, signal)?)
}

/// Waits until the log has more than `before` of these words.
async fn said(f: &Fixture, words: &str, before: usize) -> Result<()> {
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    for _ in 0..1500 {
        tick.tick().await;
        if log(f)?.matches(words).count() > before {
            return Ok(());
        }
    }
    bail!("{words:?} was not said:\n{}", f.node.log_tail())
}

/// Writes a drop-in that goes before the test's others, and has it read.
pub(crate) async fn reload(f: &Fixture, text: &str, answer: &str) -> Result<()> {
    let before = log(f)?.matches(answer).count();
    fs::write(f.node.dir.join("crio.conf.d/90-reload.conf"), text)?;
    signal(f, Signal::HUP)?;
    said(f, answer, before).await
}

/// A profile with which no directory can be made.
fn profile(dir: &Path) -> Result<PathBuf> {
    let path = dir.join("profile.json");
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}"#;
    fs::write(&path, text)?;
    Ok(path)
}

pub(crate) async fn with_handler(f: &Fixture, name: &str, handler: &str) -> Result<String> {
    let request = v1::RunPodSandboxRequest {
        config: Some(pod(name, &f.node.logs())),
        runtime_handler: handler.to_owned(),
    };
    let answer = f.node.client().runtime().run_pod_sandbox(request).await?;
    Ok(answer.into_inner().pod_sandbox_id)
}

async fn makes_directories(f: &Fixture, pod: &str, name: &str) -> Result<bool> {
    let mut config = container(name, &f.image, &["sleep", "1000"]);
    config.linux.as_mut().unwrap().security_context = Some(v1::LinuxContainerSecurityContext {
        seccomp: Some(v1::SecurityProfile::default()),
        ..Default::default()
    });
    let id = f.node.run(pod, config).await?;
    Ok(f.node.exec(&id, &["mkdir", "/made"]).await?.exit_code == 0)
}

async fn is_pinned(f: &Fixture) -> Result<bool> {
    let images = f.node.images().await?;
    Ok(images.iter().any(|image| image.pinned))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_change_does_so_without_a_restart() -> Result<()> {
    let f = fixture::node().await?;
    let dir = directory()?;
    let pid = f.node.daemon_pid();
    let id = f.node.run_pod("reload").await?;
    assert!(makes_directories(&f, &id, "before").await?);
    assert!(!is_pinned(&f).await?);
    let refused = with_handler(&f, "early", "second").await.unwrap_err();
    let refused = refused.downcast::<tonic::Status>().unwrap();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");

    let cdi = dir.path().join("cdi");
    fs::create_dir(&cdi)?;
    let device = "cdiVersion: 0.5.0\nkind: v.com/c\ndevices:\n- name: d\n  containerEdits:\n    env: [\"SAYS=found\"]\n";
    fs::write(cdi.join("device.yaml"), device)?;
    let profile = profile(dir.path())?;
    let base = format!(
        "[crio]\nroot = \"/elsewhere\"\n[crio.image]\npinned_images = [\"*busybox*\"]\n\
         [crio.runtime]\nseccomp_profile = {profile:?}\ncdi_spec_dirs = [{cdi:?}]\nlog_level = \"info\"\n"
    );
    let handler = format!(
        "[crio.runtime.runtimes.second]\nruntime_path = {:?}\nruntime_root = {:?}\n",
        sys::spawn::which(&f.node.runtime(), &std::env::var("PATH")?).context("the runtime")?,
        f.node.run_dir.join("second")
    );
    reload(&f, &format!("{base}{handler}"), DONE).await?;
    let text = log(&f)?;
    for words in [
        "Set config log_level to \"info\"".to_owned(),
        format!("Set config seccomp_profile to {profile:?}"),
        "option has changed and counts from the next start on option=\"root\"".to_owned(),
    ] {
        assert!(text.contains(&words), "{words}:\n{}", f.node.log_tail());
    }
    assert!(
        !makes_directories(&f, &id, "after").await?,
        "the profile counts"
    );
    assert!(is_pinned(&f).await?);
    let mut config = container("cdi", &f.image, &["sleep", "1000"]);
    config.cdi_devices.push(v1::CdiDevice {
        name: "v.com/c=d".into(),
    });
    let asking = f.node.run(&id, config).await?;
    let found = f.node.exec(&asking, &["sh", "-c", "echo $SAYS"]).await?;
    assert_eq!(found.stdout, b"found\n");
    let request = v1::StatusRequest { verbose: true };
    let status = f
        .node
        .client()
        .runtime()
        .status(request)
        .await?
        .into_inner();
    let config = &status.info["config"];
    assert!(
        config.contains("profile.json") && !config.contains("/elsewhere"),
        "{config}"
    );
    assert!(
        status
            .runtime_handlers
            .iter()
            .any(|one| one.name == "second")
    );

    // Only what matches is in the log, until there is no filter any more.
    let quiet = "log_level = \"debug\"\nlog_filter = \"reload|Reload\"";
    let quiet = base.replace("log_level = \"info\"", quiet);
    reload(&f, &format!("{quiet}{handler}"), DONE).await?;
    let before = log(&f)?.len();
    let filtered = f.node.run_pod("filtered").await?;
    f.node.remove_pod(&filtered).await?;
    assert_eq!(log(&f)?.len(), before, "{}", f.node.log_tail());

    // A handler that is not configured any more stays for its pods.
    let second = with_handler(&f, "second", "second").await?;
    reload(&f, &base, DONE).await?;
    let own = container("late", &f.image, &["sleep", "1000"]);
    f.node.run(&second, own).await?;
    f.node.remove_pod(&second).await?;
    reload(&f, &base, DONE).await?;
    let refused = with_handler(&f, "late", "second").await.unwrap_err();
    let refused = refused.downcast::<tonic::Status>().unwrap();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert_eq!(f.node.daemon_pid(), pid);
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_pod_is_held_by_the_pause_image_of_a_reload() -> Result<()> {
    let f = fixture::node().await?;
    let hold = "#!/bin/sh\nexec sleep 100000\n";
    let image = ImageMaker::busybox().layer(&[Entry::file("hold", 0o755, hold)]);
    f.registry.push("test/pause", "1", &image.build())?;
    let reference = f.registry.reference("test/pause", "1");
    let options = v1::NamespaceOption {
        pid: v1::NamespaceMode::Pod as i32,
        ..Default::default()
    };
    let holder = async |name: &str| -> Result<String> {
        let mut config = pod(name, &f.node.logs());
        config.linux.as_mut().unwrap().security_context = Some(v1::LinuxSandboxSecurityContext {
            namespace_options: Some(options.clone()),
            ..Default::default()
        });
        let pod = f.node.run_pod_config(config).await?;
        let mut main = container("main", &f.image, &["sleep", "1000"]);
        main.linux.as_mut().unwrap().security_context = Some(v1::LinuxContainerSecurityContext {
            namespace_options: Some(options.clone()),
            ..Default::default()
        });
        let id = f.node.run(&pod, main).await?;
        let said = f.node.exec(&id, &["cat", "/proc/1/cmdline"]).await?;
        Ok(String::from_utf8_lossy(&said.stdout).into_owned())
    };
    assert!(holder("before").await?.contains("pause"));
    let text = format!("[crio.image]\npause_image = {reference:?}\npause_command = \"/hold\"\n");
    reload(&f, &text, DONE).await?;
    assert!(holder("after").await?.contains("sleep\x00100000"));
    reload(&f, "", DONE).await?;
    assert!(holder("again").await?.contains("pause"));
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_changes_nothing_and_is_told() -> Result<()> {
    let f = fixture::node().await?;
    let dir = directory()?;
    reload(&f, "[crio.image]\npinned_images = [\"*busybox*\"]\n", DONE).await?;
    assert!(is_pinned(&f).await?);
    let broken = dir.path().join("broken.json");
    fs::write(&broken, "{")?;
    for (text, words) in [
        (
            "[crio.image]\npinned_images = 7\n".to_owned(),
            "90-reload.conf:2",
        ),
        ("[crio.image".to_owned(), "90-reload.conf:1"),
        ("[crio.runtime]\nlog_level = \"loud\"\n".to_owned(), "loud"),
        (
            "[crio.runtime]\nlog_filter = \"(\"\n".to_owned(),
            "log_filter",
        ),
        (
            format!("[crio.runtime]\nseccomp_profile = {broken:?}\n"),
            "broken.json",
        ),
        (
            "[crio.runtime]\ndefault_runtime = \"none\"\n".to_owned(),
            "none",
        ),
        (
            "[crio.image]\npause_image_auth_file = \"/no/such\"\n".to_owned(),
            "pause_image_auth_file",
        ),
    ] {
        reload(&f, &text, FAILED).await?;
        let log = log(&f)?;
        let line = log.lines().rfind(|line| line.contains(FAILED));
        assert!(
            line.is_some_and(|line| line.contains(words)),
            "{words}: {line:?}"
        );
        assert!(is_pinned(&f).await?, "the old state stays: {text}");
    }
    let registries = f.node.dir.join("registries.conf");
    let good = fs::read(&registries)?;
    fs::write(&registries, "[[registry")?;
    reload(&f, "", FAILED).await?;
    assert!(log(&f)?.contains("system registries reload failed"));
    assert!(is_pinned(&f).await?);
    fs::write(&registries, good)?;
    reload(&f, "", DONE).await?;
    assert!(!is_pinned(&f).await?, "what is mended counts");
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_signals_do_not_end_it() -> Result<()> {
    let f = fixture::node().await?;
    let words = "tasks and threads are written down path=";
    signal(&f, Signal::USR1)?;
    said(&f, words, 0).await?;
    let log = log(&f)?;
    let path = log.lines().find_map(|line| line.split_once(words));
    let path = PathBuf::from(path.context("a path")?.1.trim_matches('"'));
    let text = fs::read_to_string(&path)?;
    fs::remove_file(&path)?;
    assert!(
        text.contains("operations that run: 0") && text.contains("tokio"),
        "{text}"
    );
    signal(&f, Signal::USR2)?;
    f.node.run_pod("still").await?;
    f.node.finish().await
}
