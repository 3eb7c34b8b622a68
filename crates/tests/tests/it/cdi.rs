//! CDI devices: what a spec file says is in the container.

use std::fs;

use anyhow::Result;
use cri::v1;
use tempfile::TempDir;
use testkit::node::Options;
use testkit::requests::container;
use tonic::Code;

use crate::fixture::{self, Fixture};

/// A node with two directories of spec files, the second of which goes before.
async fn fixture() -> Result<(Fixture, TempDir)> {
    let dir = tempfile::Builder::new()
        .prefix("crixc-")
        .tempdir_in("/var/tmp")?;
    for name in ["low", "high"] {
        fs::create_dir(dir.path().join(name))?;
    }
    let config = format!(
        "[crio.runtime]\ncdi_spec_dirs = [{0:?}, {1:?}]\n",
        dir.path().join("low"),
        dir.path().join("high")
    );
    let options = Options {
        config,
        ..Options::default()
    };
    Ok((fixture::with(options).await?, dir))
}

fn asking(f: &Fixture, name: &str, fields: &[&str], annotation: &str) -> v1::ContainerConfig {
    let mut config = container(name, &f.image, &["sleep", "1000"]);
    config.cdi_devices = fields
        .iter()
        .map(|name| v1::CdiDevice {
            name: (*name).to_owned(),
        })
        .collect();
    if !annotation.is_empty() {
        let key = "cdi.k8s.io/plugin".to_owned();
        config.annotations.insert(key, annotation.to_owned());
    }
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_brings_its_variables_nodes_mounts_hooks_and_groups() -> Result<()> {
    let (f, dir) = fixture().await?;
    let (low, high) = (dir.path().join("low"), dir.path().join("high"));
    let hook = fixture::hook_program(dir.path())?;
    let library = dir.path().join("library");
    fs::create_dir(&library)?;
    fs::write(library.join("driver"), "of the vendor")?;
    let spec = serde_json::json!({
        "cdiVersion": "0.7.0", "kind": "vendor.com/net",
        "containerEdits": {"env": ["SHARED=yes"]},
        "devices": [
            {"name": "0", "containerEdits": {
                "env": ["DEVICE=zero"],
                "deviceNodes": [{"path": "/dev/vendor0", "hostPath": "/dev/null", "permissions": "rw"}],
                "mounts": [{"hostPath": library, "containerPath": "/opt/vendor", "options": ["ro", "bind", "nosuid"]}],
                "hooks": [
                    {"hookName": "createRuntime", "path": hook, "args": ["hook", "made"], "env": ["SAYS=a", "PATH=/bin:/usr/bin"]},
                    {"hookName": "poststop", "path": hook, "args": ["hook", "gone"], "env": ["SAYS=b", "PATH=/bin:/usr/bin"]}],
                "additionalGids": [4711]}},
            {"name": "1", "containerEdits": {"env": ["SECOND=one"],
                "deviceNodes": [{"path": "/dev/zero1", "hostPath": "/dev/zero", "permissions": "none"}]}}]});
    fs::write(low.join("vendor.json"), spec.to_string())?;
    // What nobody asks for is nobody's concern, however it looks.
    fs::write(low.join("broken.json"), "{")?;
    fs::write(high.join("broken.yaml"), "devices: [")?;
    let pod = f.node.run_pod("cdi").await?;
    let both = "vendor.com/net=0,vendor.com/net=1";
    let id = f
        .node
        .run(&pod, asking(&f, "both", &["vendor.com/net=0"], both))
        .await?;
    assert_eq!(
        f.said(&id, "echo $SHARED $DEVICE $SECOND").await?,
        "yes zero one"
    );
    assert_eq!(
        f.said(
            &id,
            "cat /opt/vendor/driver; echo x > /opt/vendor/x || echo read-only"
        )
        .await?,
        "of the vendorread-only"
    );
    let node = f.said(
        &id,
        "stat -c '%F %t:%T' /dev/vendor0; echo x > /dev/vendor0 && echo written",
    );
    assert_eq!(node.await?, "character special file 1:3\nwritten");
    assert!(f.said(&id, "id -G").await?.contains("4711"));
    let log = fs::read_to_string(dir.path().join("hook.log"))?;
    assert_eq!(
        log.lines().count(),
        1,
        "a device that is asked for twice comes once: {log}"
    );
    assert!(log.starts_with("made a {"), "{log}");
    assert!(log.contains(&id), "{log}");

    // A container that asks for nothing has nothing of it.
    let plain = f.node.run(&pod, asking(&f, "plain", &[], "")).await?;
    assert_eq!(
        f.said(&plain, "echo $SHARED; test ! -e /dev/vendor0")
            .await?,
        ""
    );

    f.node.stop_pod(&pod).await?;
    f.node.remove_pod(&pod).await?;
    let log = fs::read_to_string(dir.path().join("hook.log"))?;
    assert!(
        log.lines()
            .last()
            .unwrap_or_default()
            .starts_with("gone b {"),
        "{log}"
    );
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_those_of_the_files_that_are_there() -> Result<()> {
    let (f, dir) = fixture().await?;
    let (low, high) = (dir.path().join("low"), dir.path().join("high"));
    let spec = |says: &str| {
        format!(
            "cdiVersion: 0.5.0\nkind: v.com/c\ndevices:\n- name: d\n  containerEdits:\n    env: [\"SAYS={says}\"]\n"
        )
    };
    let pod = f.node.run_pod("cdi").await?;
    let asked = |name: &str| asking(&f, name, &["v.com/c=d"], "");
    let refused = async |name: &str| {
        let error = f.node.create(&pod, asked(name)).await.unwrap_err();
        let status = error.downcast::<tonic::Status>().unwrap();
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        let text = status.message().to_owned();
        let words = "CDI device injection failed: unresolvable CDI devices v.com/c=d";
        assert!(text.starts_with(words), "{text}");
        text
    };
    let says = async |name: &str| {
        let id = f.node.run(&pod, asked(name)).await?;
        f.said(&id, "echo $SAYS").await
    };
    refused("none").await;
    fs::write(low.join("a.yaml"), spec("low"))?;
    assert_eq!(says("one").await?, "low", "a file that is new is found");
    fs::write(high.join("a.yaml"), spec("high"))?;
    assert_eq!(
        says("two").await?,
        "high",
        "the later directory goes before"
    );
    fs::write(high.join("b.yaml"), spec("other"))?;
    let text = refused("three").await;
    assert!(text.contains("b.yaml"), "a conflict is named: {text}");
    fs::remove_file(high.join("b.yaml"))?;
    fs::write(high.join("a.yaml"), spec("high").replace("0.5.0", "9.9.9"))?;
    assert_eq!(
        says("four").await?,
        "low",
        "a file that can't be used hides none"
    );
    fs::remove_file(low.join("a.yaml"))?;
    let text = refused("five").await;
    assert!(text.contains("a.yaml"), "what is broken is named: {text}");

    let error = f.node.create(&pod, asking(&f, "six", &[], "v.com/c")).await;
    let status = error.unwrap_err().downcast::<tonic::Status>().unwrap();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(
        status
            .message()
            .starts_with("failed to parse CDI device annotations"),
        "{status}"
    );
    f.node.finish().await
}
