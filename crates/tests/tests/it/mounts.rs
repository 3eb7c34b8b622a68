//! Mounts of a request: how what is mounted later travels, and what of the kernel's files shows.

use std::path::{Path, PathBuf};

use anyhow::Result;
use cri::v1::{self, MountPropagation};
use sys::mount::{Flags, Propagation};
use testkit::requests::container;

use crate::fixture;

/// A directory of a node that is a mount of its own.
struct Own(PathBuf);

impl Own {
    fn new(path: PathBuf, how: Propagation) -> Result<Self> {
        std::fs::create_dir(&path)?;
        let own = Self(path);
        sys::mount::bind(&own.0, &own.0, false)?;
        sys::mount::set_propagation(&own.0, how, false)?;
        Ok(own)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        sys::mount::unmount_all(&self.0).unwrap();
    }
}

fn mount(host: &Path, how: MountPropagation) -> v1::Mount {
    v1::Mount {
        container_path: "/m".into(),
        host_path: host.display().to_string(),
        propagation: how as i32,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_travel_as_asked_or_are_refused() -> Result<()> {
    use MountPropagation::{
        PropagationBidirectional, PropagationHostToContainer, PropagationPrivate,
    };
    let f = fixture::node().await?;
    let pod = f.node.run_pod("p").await?;
    let private = Own::new(f.node.dir.join("private"), Propagation::Private)?;
    let shared = Own::new(f.node.dir.join("shared"), Propagation::Shared)?;
    let with = |name: &str, host: &Path, how| {
        let mut config = container(name, &f.image, &["sleep", "1000"]);
        config.mounts = vec![mount(host, how)];
        config
    };
    for (how, lacks) in [
        (PropagationBidirectional, "is not a shared mount"),
        (PropagationHostToContainer, "is not a shared or slave mount"),
    ] {
        let refused = f.node.create(&pod, with("no", &private.0, how)).await;
        let refused = refused.unwrap_err().downcast::<tonic::Status>()?;
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        assert!(refused.message().contains(lacks), "{refused}");
    }
    let late = shared.0.join("late");
    std::fs::create_dir(&late)?;
    let mut seen = Vec::new();
    for (name, how) in [
        ("two-ways", PropagationBidirectional),
        ("one-way", PropagationHostToContainer),
        ("none", PropagationPrivate),
    ] {
        seen.push(f.node.run(&pod, with(name, &shared.0, how)).await?);
    }
    sys::mount::tmpfs(&late, 1 << 20, 0o755, Flags::default(), "")?;
    std::fs::write(late.join("file"), "there")?;
    for (id, text) in seen.iter().zip(["there", "there", "none"]) {
        let said = f
            .said(id, "cat /m/late/file 2>/dev/null || echo none")
            .await?;
        assert_eq!(said, text);
    }
    sys::mount::unmount_all(&late)?;
    drop((private, shared));
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callers_list_of_masked_paths_is_beside_ours_and_an_empty_one_masks_nothing() -> Result<()>
{
    let f = fixture::node().await?;
    let pod = f.node.run_pod("p").await?;
    // The first is in a caller's list only, the second in ours only.
    let script = "for file in /proc/loadavg /proc/interrupts; do head -c 1 $file | wc -c; done";
    for (name, paths, shown) in [
        ("listed", vec!["/proc/loadavg".to_owned()], "0\n0"),
        ("empty", vec![], "1\n1"),
    ] {
        let mut config = container(name, &f.image, &["sleep", "1000"]);
        let linux = config.linux.get_or_insert_default();
        linux.security_context = Some(v1::LinuxContainerSecurityContext {
            masked_paths: paths,
            ..Default::default()
        });
        let id = f.node.run(&pod, config).await?;
        assert_eq!(f.said(&id, script).await?, shown, "{name}");
    }
    f.node.finish().await
}
