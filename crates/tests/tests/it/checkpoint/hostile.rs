//! Archives that want more than the request gives.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use cri::v1;
use testkit::image_maker::{Entry, archive};
use testkit::requests::container;

use super::{archives, available, refused_without_criu, restored};
use crate::fixture;

/// An image file of criu's with these entries.
fn criu(kind: u32, entries: &[&[u8]]) -> Vec<u8> {
    let mut file = [0x5456_4319_u32.to_le_bytes(), kind.to_le_bytes()].concat();
    for entry in entries {
        file.extend(u32::try_from(entry.len()).unwrap().to_le_bytes());
        file.extend(*entry);
    }
    file
}

/// The image of a process with these fields of its credentials.
fn process(creds: &[u8]) -> Vec<u8> {
    let length = u8::try_from(creds.len()).unwrap();
    let entry = [&[0x2a, length + 2, 0x52, length], creds].concat();
    criu(0x5505_3847, &[&entry])
}

const MOUNTS: u32 = 0x5556_3928;
const CGROUPS: u32 = 0x5938_3330;
/// A set of cgroups with the root of version 2, and that hierarchy.
const IN_ROOT: &[u8] = b"\x0a\x09\x08\x02\x12\x05\x0a\x00\x12\x01/\x12\x02\x0a\x00";
const ROOT: &[u8] = b"\x3a\x01/";

/// Members of an archive that is whole, with criu's images that criu itself would refuse.
fn hostile(id: &str, more: Vec<Entry>) -> Vec<u8> {
    let config = serde_json::json!({
        "id": "evil", "rootfsImageRef": id, "rootfsImage": "evil.example/image:latest",
        "rootfsImageName": "evil.example/image:latest", "checkpointedTime": "2026-01-01T00:00:00Z",
    });
    let spec = serde_json::json!({
        "process": {"user": {"uid": 1234, "gid": 1234}, "args": ["evil"]},
        "annotations": {"evil": "yes", "cdi.k8s.io/x": "vendor.com/device=0"},
        "mounts": [{"destination": "/host", "type": "bind", "source": "/etc", "options": ["rbind"]}],
        "linux": {"devices": [{"path": "/dev/evil", "type": "b", "major": 254, "minor": 0}]},
    });
    let mut entries = vec![
        Entry::file("config.dump", 0o600, config.to_string()),
        Entry::file("spec.dump", 0o600, spec.to_string()),
        Entry::directory("checkpoint", 0o700),
        Entry::file("checkpoint/inventory.img", 0o600, b"none"),
        Entry::file(
            "checkpoint/descriptors.json",
            0o600,
            br#"["/etc/shadow","pipe:x","pipe:[1]"]"#,
        ),
    ];
    let replaced: Vec<_> = more.iter().map(|entry| entry.name.clone()).collect();
    for (name, bytes) in [
        ("checkpoint/core-1.img", process(&[])),
        ("checkpoint/mountpoints-12.img", criu(MOUNTS, &[ROOT])),
    ] {
        if !replaced.contains(&name.to_owned()) {
            entries.push(Entry::file(name, 0o600, bytes));
        }
    }
    entries.extend(more);
    archive(&entries)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_hostile_archive_is_taken() -> Result<()> {
    let f = fixture::node().await?;
    if !available(&f.node) {
        return refused_without_criu(f).await;
    }
    let dir = archives(&f.node)?;
    let pod = f.node.run_pod("p").await?;
    let plain = f
        .node
        .create(&pod, container("plain", &f.image, &["true"]))
        .await?;
    let image = f.node.status(&plain).await?.image_id;
    let write = |name: &str, bytes: Vec<u8>| -> Result<PathBuf> {
        let path = dir.join(name);
        fs::write(&path, bytes)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(path)
    };
    let outside = f.node.dir.join("outside");
    let twice = Entry::file("config.dump", 0o600, "{}");
    let cases = [
        ("climbs", vec![Entry::file("../../../outside", 0o600, "x")]),
        (
            "climbs in images",
            vec![Entry::file("checkpoint/../../outside", 0o600, "x")],
        ),
        (
            "image is a link",
            vec![Entry::symlink("checkpoint/core-1.img", "/etc/shadow")],
        ),
        (
            "image is a hard link",
            vec![Entry::hardlink("checkpoint/core-1.img", "config.dump")],
        ),
        (
            "image in a directory",
            vec![Entry::file("checkpoint/a/b", 0o600, "x")],
        ),
        (
            "hidden image",
            vec![Entry::file("checkpoint/.x", 0o600, "x")],
        ),
        (
            "image twice",
            vec![Entry::file("checkpoint/inventory.img", 0o600, "x")],
        ),
        (
            "log is a link",
            vec![Entry::symlink("io.kubernetes.cri-o.LogPath", "/etc/shadow")],
        ),
        (
            "deleted is a link",
            vec![Entry::symlink("deleted.files", "/etc/shadow")],
        ),
        ("config twice", vec![twice]),
        (
            "CAP_SYS_ADMIN",
            vec![Entry::file(
                "checkpoint/core-1.img",
                0o600,
                process(b"\x50\x80\x80\x80\x01"),
            )],
        ),
        (
            "debugfs",
            vec![Entry::file(
                "checkpoint/mountpoints-12.img",
                0o600,
                criu(MOUNTS, &[ROOT, b"\x08\x0b\x3a\x04/mnt"]),
            )],
        ),
        (
            "the root's cgroup",
            vec![Entry::file(
                "checkpoint/cgroup.img",
                0o600,
                criu(CGROUPS, &[IN_ROOT]),
            )],
        ),
        (
            "deleted climbs",
            vec![Entry::file("deleted.files", 0o600, r#"["/../../x"]"#)],
        ),
        (
            "deleted is no list",
            vec![Entry::file("deleted.files", 0o600, "{}")],
        ),
        (
            "changes climb",
            vec![Entry::file(
                "rootfs-diff.tar",
                0o600,
                archive(&[Entry::file("../../../../outside", 0o600, "x")]),
            )],
        ),
    ];
    for (what, more) in cases {
        let archive = write("bad.tar", hostile(&image, more))?;
        let refused = f.node.create(&pod, restored(&archive, &f.image)).await;
        ensure!(refused.is_err(), "{what}: accepted");
        ensure!(!outside.exists(), "{what}");
    }
    // The image is that of the request, and it is the one that the archive was made on.
    let other = write("other.tar", hostile(&"0".repeat(64), vec![]))?;
    let refused = f
        .node
        .create(&pod, restored(&other, &f.image))
        .await
        .unwrap_err();
    ensure!(
        format!("{refused:#}").contains("the request names"),
        "{refused:#}"
    );
    let archive = write(
        "evil.tar",
        hostile(
            &image,
            vec![Entry::file(
                "rootfs-diff.tar",
                0o600,
                // A directory that is a link to the host's: what follows stays in the container.
                archive(&[
                    Entry::directory("tmp", 0o1777),
                    Entry::symlink("up", "/../../../../../../../../tmp"),
                    Entry::file("up/outside", 0o600, "x"),
                ]),
            )],
        ),
    )?;
    let unnamed = f
        .node
        .create(&pod, restored(&archive, ""))
        .await
        .unwrap_err();
    ensure!(
        format!("{unnamed:#}").contains("user_specified_image"),
        "{unnamed:#}"
    );
    fs::set_permissions(&archive, fs::Permissions::from_mode(0o666))?;
    let open = f
        .node
        .create(&pod, restored(&archive, &f.image))
        .await
        .unwrap_err();
    ensure!(
        format!("{open:#}").contains("written to by others"),
        "{open:#}"
    );
    fs::set_permissions(&archive, fs::Permissions::from_mode(0o600))?;
    let link = dir.join("link.tar");
    std::os::unix::fs::symlink(&archive, &link)?;
    ensure!(
        f.node
            .create(&pod, restored(&link, &f.image))
            .await
            .is_err(),
        "a link is followed"
    );

    // Whole, but for criu: what was made of it is the request's.
    let id = f.node.create(&pod, restored(&archive, &f.image)).await?;
    ensure!(!Path::new("/tmp/outside").exists());
    let status = f.node.status(&id).await?;
    let user = status.user.and_then(|user| user.linux).context("a user")?;
    ensure!(
        status.mounts.is_empty() && user.uid == 0 && status.image_id == image,
        "{user:?}"
    );
    let spec = f
        .node
        .storage()
        .join("overlay-containers")
        .join(&id)
        .join("userdata/config.json");
    let spec = fs::read_to_string(spec)?;
    for word in [
        "evil.example",
        "\"/host\"",
        "/dev/evil",
        "1234",
        "cdi.k8s.io",
        "\"evil\"",
    ] {
        ensure!(!spec.contains(word), "{word} was taken");
    }
    let images = f.node.images().await?;
    ensure!(
        images.len() == 1 && !format!("{images:?}").contains("evil"),
        "{images:?}"
    );
    let refused = f.node.start_container(&id).await.unwrap_err();
    ensure!(format!("{refused:#}").contains("restore"), "{refused:#}");
    let ended = f.node.exited(&id).await?;
    assert_eq!(
        (ended.exit_code, ended.reason.as_str()),
        (128, "StartError")
    );

    // One that never ran can be stopped and removed.
    let mut config = restored(&archive, &f.image);
    config.metadata.as_mut().unwrap().attempt = 1;
    let id = f.node.create(&pod, config).await?;
    let request = v1::StopContainerRequest {
        container_id: id.clone(),
        timeout: 1,
    };
    f.node.client().runtime().stop_container(request).await?;
    assert_eq!(f.node.exited(&id).await?.exit_code, 137);
    f.node.finish().await
}
