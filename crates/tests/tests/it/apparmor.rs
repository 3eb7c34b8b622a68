//! AppArmor: which profile a container's processes have, and what it keeps them from.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cri::v1;
use cri::v1::security_profile::ProfileType;
use sys::spawn::Program;
use testkit::node::{Node, Options};
use testkit::requests::{container, pod};
use tonic::Code;

use crate::fixture::{self, Fixture};

/// What this machine has not that a test of AppArmor needs.
fn missing() -> Option<&'static str> {
    if !sys::apparmor::is_enabled() {
        return Some("no AppArmor in this kernel, or it is switched off");
    }
    let parser = sys::apparmor::parser();
    parser
        .is_none()
        .then_some("no apparmor_parser (Debian's package apparmor)")
}

/// A profile of a test's own: everything but writing `/tmp/denied`.
struct Profile(String);

impl Profile {
    fn load(node: &Node) -> Result<Self> {
        let name = format!("{}-own", node.name);
        let text = format!(
            "profile {name} flags=(attach_disconnected) {{\n  file,\n  capability,\n  network,\n  \
             signal,\n  ptrace,\n  deny /tmp/denied w,\n}}\n"
        );
        parser("--replace", &text)?;
        Ok(Self(name))
    }

    fn unload(&self) -> Result<()> {
        parser("--remove", &format!("profile {} {{}}\n", self.0))
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        // A test may have unloaded it.
        self.unload().ok();
    }
}

fn parser(verb: &str, text: &str) -> Result<()> {
    let parser = sys::apparmor::parser().context("apparmor_parser")?;
    let program = Program::new(parser, Duration::from_secs(120)).arg(verb);
    let output = sys::spawn::run(&program.stdin(text.as_bytes()));
    let output = output.map_err(|error| anyhow::anyhow!("{error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "apparmor_parser {verb}: {said}");
    Ok(())
}

type Security = v1::LinuxContainerSecurityContext;

fn new(kind: ProfileType, name: &str) -> Security {
    Security {
        apparmor: Some(v1::SecurityProfile {
            profile_type: kind as i32,
            localhost_ref: name.to_owned(),
        }),
        ..Default::default()
    }
}

fn old(profile: &str) -> Security {
    Security {
        apparmor_profile: profile.to_owned(),
        ..Default::default()
    }
}

fn sleeper(f: &Fixture, name: &str, security: Security) -> v1::ContainerConfig {
    let mut config = container(name, &f.image, &["sleep", "1000"]);
    config.linux.as_mut().unwrap().security_context = Some(security);
    config
}

/// What the kernel says that a container's first process, and a command in it, are confined by.
async fn labels(node: &Node, id: &str) -> Result<[String; 2]> {
    let read = async |process: &str| {
        let file = format!("/proc/{process}/attr/current");
        let done = node.exec(id, &["cat", &file]).await?;
        anyhow::Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
    };
    Ok([read("1").await?, read("self").await?])
}

fn is_unconfined(label: &str) -> bool {
    // Debian 13 gives runtimes, and what they start, a name and no rules.
    label == "unconfined" || label.ends_with(" (unconfined)")
}

async fn succeeds(node: &Node, id: &str, script: &str) -> Result<bool> {
    let done = node.exec(id, &["sh", "-c", script]).await?;
    Ok(done.exit_code == 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_have_the_default_profile_unless_they_say_otherwise() -> Result<()> {
    if let Some(missing) = missing() {
        println!("skipped: {missing}");
        return Ok(());
    }
    let f = fixture::node().await?;
    let mut config = pod("d", &f.node.logs());
    let security = &mut config.linux.as_mut().unwrap().security_context;
    security.as_mut().unwrap().privileged = true;
    let sandbox = f.node.run_pod_config(config).await?;
    let privileged = Security {
        privileged: true,
        ..new(ProfileType::RuntimeDefault, "")
    };
    for (name, security, confined) in [
        ("unset", Security::default(), true),
        ("new", new(ProfileType::RuntimeDefault, ""), true),
        ("old", old("runtime/default"), true),
        ("named", old("localhost/crio-default"), true),
        ("free", new(ProfileType::Unconfined, ""), false),
        ("old-free", old("unconfined"), false),
        ("privileged", privileged, false),
    ] {
        let id = f.node.run(&sandbox, sleeper(&f, name, security)).await?;
        for label in labels(&f.node, &id).await? {
            if confined {
                assert_eq!(label, "crio-default (enforce)", "{name}");
            } else {
                assert!(is_unconfined(&label), "{name}: {label}");
            }
        }
    }
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_profile_denies_what_capabilities_would_allow() -> Result<()> {
    if let Some(missing) = missing() {
        println!("skipped: {missing}");
        return Ok(());
    }
    let f = fixture::node().await?;
    let sandbox = f.node.run_pod("d").await?;
    // With this capability and nothing read-only or masked, it is the profile alone that denies.
    let open = |profile: ProfileType| Security {
        capabilities: Some(v1::Capability {
            add_capabilities: vec!["SYS_ADMIN".to_owned(), "SYS_PTRACE".to_owned()],
            ..Default::default()
        }),
        ..new(profile, "")
    };
    let confined = sleeper(&f, "confined", open(ProfileType::RuntimeDefault));
    let confined = f.node.run(&sandbox, confined).await?;
    let free = sleeper(&f, "free", open(ProfileType::Unconfined));
    let free = f.node.run(&sandbox, free).await?;
    // Each writes what is there already, so that nothing changes where it is allowed.
    let again = |file: &str| format!("x=$(cat {file}) && echo $x > {file}");
    for script in [
        "mount -t tmpfs none /tmp && umount /tmp".to_owned(),
        again("/proc/sys/kernel/panic"),
        again("/proc/sys/kernel/msgmax"),
        again("/proc/sys/net/ipv4/ip_forward"),
        "cat /proc/sys/kernel/random/boot_id".to_owned(),
    ] {
        let allowed = succeeds(&f.node, &free, &script).await?;
        let msgmax = script.contains("msgmax");
        let reads = script.starts_with("cat");
        let wanted = (msgmax || reads) && allowed;
        let confined = succeeds(&f.node, &confined, &script).await?;
        assert_eq!(confined, wanted, "{script}: without a profile {allowed}");
        if !script.contains(">") {
            assert!(allowed, "{script}: nothing but the profile denies it");
        }
    }
    // What every container does goes on.
    for script in [
        "echo x > /tmp/x && chmod 600 /tmp/x && rm /tmp/x",
        "echo 500 > /proc/self/oom_score_adj",
        "sleep 100 & kill -KILL $!",
        "cat /proc/1/environ > /dev/null",
    ] {
        assert!(succeeds(&f.node, &confined, script).await?, "{script}");
    }
    // The node may still signal it.
    let request = v1::StopContainerRequest {
        container_id: confined.clone(),
        timeout: 0,
    };
    f.node.client().runtime().stop_container(request).await?;
    assert_eq!(f.node.status(&confined).await?.exit_code, 137);
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loaded_profile_is_found_by_all_its_spellings() -> Result<()> {
    if let Some(missing) = missing() {
        println!("skipped: {missing}");
        return Ok(());
    }
    let f = fixture::node().await?;
    let profile = Profile::load(&f.node)?;
    let name = &profile.0;
    let sandbox = f.node.run_pod("l").await?;
    let prefixed = format!("localhost/{name}");
    for (container, security) in [
        ("new", new(ProfileType::Localhost, name)),
        ("prefixed", new(ProfileType::Localhost, &prefixed)),
        ("old", old(&prefixed)),
        ("bare", old(name)),
    ] {
        let id = f.node.run(&sandbox, sleeper(&f, container, security));
        let id = id.await?;
        let label = format!("{name} (enforce)");
        assert_eq!(labels(&f.node, &id).await?, [label.clone(), label]);
        assert!(!succeeds(&f.node, &id, "touch /tmp/denied").await?);
        assert!(succeeds(&f.node, &id, "touch /tmp/allowed").await?);
    }
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_that_is_not_loaded_is_a_clear_error() -> Result<()> {
    let f = fixture::node().await?;
    let sandbox = f.node.run_pod("m").await?;
    let words = if sys::apparmor::is_enabled() {
        "AppArmor profile \"no-such\" is not loaded"
    } else {
        "AppArmor profile \"no-such\": AppArmor is not enabled"
    };
    let both = Security {
        apparmor_profile: "unconfined".to_owned(),
        ..new(ProfileType::Localhost, "no-such")
    };
    for (security, words) in [
        (new(ProfileType::Localhost, "no-such"), words),
        (both, words),
        (old("localhost/no-such"), words),
        (old("no-such"), words),
        (old("localhost/"), "apparmor"),
        (new(ProfileType::Localhost, ""), "apparmor.localhost_ref"),
    ] {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.clone(),
            config: Some(sleeper(&f, "c", security.clone())),
            sandbox_config: None,
        };
        let mut client = f.node.client().runtime();
        let refused = client.create_container(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(words), "{refused}");
    }
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_of_the_administrators_is_the_default_and_has_to_be_loaded() -> Result<()> {
    if let Some(missing) = missing() {
        println!("skipped: {missing}");
        return Ok(());
    }
    let config = |name: &str| Options {
        config: format!("[crio.runtime]\napparmor_profile = \"{name}\"\n"),
        ..Options::default()
    };
    let refused = Node::start(config("no-such")).await.unwrap_err();
    let refused = format!("{refused:#}");
    let words = "apparmor_profile: AppArmor profile \"no-such\" is not loaded";
    assert!(refused.contains(words), "{refused}");

    let other = fixture::node().await?;
    let profile = Profile::load(&other.node)?;
    let f = fixture::with(config(&profile.0)).await?;
    let sandbox = f.node.run_pod("a").await?;
    let id = f
        .node
        .run(&sandbox, container("c", &f.image, &["sleep", "1000"]))
        .await?;
    let label = format!("{} (enforce)", profile.0);
    assert_eq!(labels(&f.node, &id).await?, [label.clone(), label]);
    profile.unload()?;
    let security = new(ProfileType::RuntimeDefault, "");
    let gone = f.node.create(&sandbox, sleeper(&f, "d", security)).await;
    let gone = format!("{:#}", gone.unwrap_err());
    assert!(gone.contains("is not loaded"), "{gone}");
    f.node.finish().await?;

    let f = fixture::with(config("unconfined")).await?;
    let sandbox = f.node.run_pod("u").await?;
    let id = f
        .node
        .run(&sandbox, container("c", &f.image, &["sleep", "1000"]))
        .await?;
    assert!(
        labels(&f.node, &id)
            .await?
            .iter()
            .all(|one| is_unconfined(one))
    );
    f.node.finish().await?;
    other.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "unloads the profile that containers of all tests have: run it alone"]
async fn a_default_profile_that_was_unloaded_is_loaded_again_and_a_loaded_one_is_kept() -> Result<()>
{
    if let Some(missing) = missing() {
        println!("skipped: {missing}");
        return Ok(());
    }
    let mut f = fixture::node().await?;
    let sandbox = f.node.run_pod("r").await?;
    parser("--remove", "profile crio-default {}\n")?;
    let security = Security::default;
    let id = f.node.run(&sandbox, sleeper(&f, "a", security())).await?;
    let label = "crio-default (enforce)".to_owned();
    assert_eq!(labels(&f.node, &id).await?, [label.clone(), label]);

    // Somebody's own of that name, told by its mode.
    let own = "profile crio-default flags=(attach_disconnected,complain) {\n  file,\n}\n";
    parser("--replace", own)?;
    f.node.restart().await?;
    let id = f.node.run(&sandbox, sleeper(&f, "b", security())).await?;
    let label = "crio-default (complain)".to_owned();
    let kept = labels(&f.node, &id).await?;
    parser("--replace", spec_default())?;
    assert_eq!(kept, [label.clone(), label]);
    f.node.finish().await
}

fn spec_default() -> &'static str {
    include_str!("../../../spec/src/apparmor/crio-default")
}
