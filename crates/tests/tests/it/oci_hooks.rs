//! OCI hook files: programs that the node gives to containers that did not ask for them.

use std::fs;

use anyhow::Result;
use serde_json::json;
use tempfile::TempDir;
use testkit::node::Options;
use testkit::requests::container;

use crate::fixture;

fn directory() -> Result<TempDir> {
    Ok(tempfile::Builder::new()
        .prefix("crixh-")
        .tempdir_in("/var/tmp")?)
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_run_for_the_containers_that_they_are_for() -> Result<()> {
    let dir = directory()?;
    let program = fixture::hook_program(dir.path())?;
    let (low, high) = (dir.path().join("low"), dir.path().join("high"));
    fs::create_dir(&low)?;
    fs::create_dir(&high)?;
    let hook = |word: &str, when: serde_json::Value, stages: &[&str]| {
        json!({"version": "1.0.0", "when": when, "stages": stages,
            "hook": {"path": program, "args": ["hook", word], "env": ["SAYS=hello", "PATH=/bin:/usr/bin"]}})
        .to_string()
    };
    let always = json!({"always": true});
    fs::write(
        low.join("20-second.json"),
        hook("second", always.clone(), &["createRuntime"]),
    )?;
    fs::write(
        low.join("10-First.json"),
        hook("first", always.clone(), &["prestart", "poststop"]),
    )?;
    fs::write(
        low.join("30-replaced.json"),
        hook("low", always.clone(), &["createRuntime"]),
    )?;
    let annotated = json!({"annotations": {"^example\\.com/": "^yes$"}, "commands": ["sleep$"]});
    fs::write(
        high.join("30-replaced.json"),
        hook("high", annotated, &["poststart"]),
    )?;
    let options = Options {
        config: format!("[crio.runtime]\nhooks_dir = [{low:?}, {high:?}, \"/no/such/dir\"]\n"),
        ..Options::default()
    };
    let f = fixture::with(options).await?;
    let pod = f.node.run_pod("hooked").await?;
    let words = || -> Result<Vec<String>> {
        let log = fs::read_to_string(dir.path().join("hook.log"))?;
        let words = log.lines().map(|line| {
            let mut parts = line.splitn(3, ' ');
            let (word, says) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
            assert_eq!(says, "hello", "{line}");
            assert!(parts.next().unwrap_or("").starts_with('{'), "{line}");
            word.to_owned()
        });
        Ok(words.collect())
    };
    let plain = f
        .node
        .create(&pod, container("a", &f.image, &["sleep", "1000"]))
        .await?;
    assert_eq!(words()?, ["first", "second"]);
    let log = fs::read_to_string(dir.path().join("hook.log"))?;
    assert!(
        log.contains(&plain),
        "the hook is told of its container: {log}"
    );
    f.node.start_container(&plain).await?;
    assert_eq!(words()?.len(), 2, "not the annotated one's");

    let mut config = container("b", &f.image, &["sleep", "1000"]);
    config
        .annotations
        .insert("example.com/x".into(), "yes".into());
    f.node.run(&pod, config).await?;
    assert_eq!(words()?[2..], ["first", "second", "high"]);

    f.node.stop_pod(&pod).await?;
    f.node.remove_pod(&pod).await?;
    assert_eq!(
        words()?[5..],
        ["first", "first"],
        "after each container's end"
    );
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_hook_file_keeps_the_daemon_from_starting() -> Result<()> {
    let dir = directory()?;
    fs::write(dir.path().join("x.json"), r#"{"version": "1.0.0"}"#)?;
    let options = Options {
        config: format!("[crio.runtime]\nhooks_dir = [{:?}]\n", dir.path()),
        ..Options::default()
    };
    let started = fixture::without_image(options).await;
    let error = started.err().map(|error| format!("{error:#}"));
    let error = error.unwrap_or_default();
    assert!(
        error.contains("x.json") && error.contains("hooks_dir"),
        "{error}"
    );
    Ok(())
}
