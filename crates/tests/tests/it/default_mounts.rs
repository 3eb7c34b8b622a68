//! `mounts.conf`: what the node mounts in containers that did not ask for it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::Result;
use testkit::node::Options;
use testkit::requests::container;

use crate::fixture;

#[tokio::test(flavor = "multi_thread")]
async fn default_mounts_are_copies_that_a_request_may_replace() -> Result<()> {
    let dir = tempfile::Builder::new()
        .prefix("crixd-")
        .tempdir_in("/var/tmp")?;
    let secrets = dir.path().join("secrets");
    fs::create_dir_all(secrets.join("sub"))?;
    fs::write(secrets.join("sub/key"), "of the host")?;
    let only = dir.path().join("only");
    fs::write(&only, "one file")?;
    fs::set_permissions(secrets.join("sub/key"), fs::Permissions::from_mode(0o640))?;
    fs::set_permissions(secrets.join("sub"), fs::Permissions::from_mode(0o751))?;
    let conf = dir.path().join("mounts.conf");
    let text = format!(
        "# comment\n{0}:/run/secrets\n{1}:/etc/only\n/no/such:/gone\n{0}:relative\n{0}:/replaced\n",
        secrets.display(),
        only.display()
    );
    fs::write(&conf, text)?;
    let options = Options {
        config: format!("[crio.runtime]\ndefault_mounts_file = {conf:?}\n"),
        ..Options::default()
    };
    let f = fixture::with(options).await?;
    let pod = f.node.run_pod("mounts").await?;
    let own = dir.path().join("own");
    fs::create_dir(&own)?;
    fs::write(own.join("mine"), "of the pod")?;
    let mut config = container("c", &f.image, &["sleep", "1000"]);
    config.mounts.push(cri::v1::Mount {
        container_path: "/replaced/".into(),
        host_path: own.display().to_string(),
        ..Default::default()
    });
    let id = f.node.run(&pod, config).await?;
    let script = "cat /run/secrets/sub/key; echo; stat -c %a:%u /run/secrets/sub /run/secrets/sub/key; \
                  cat /etc/only; echo; ls /replaced; ls -d /gone 2>&1; echo x > /run/secrets/sub/key; \
                  rm /run/secrets/sub/key; cat /run/.containerenv && echo there";
    let done = f.node.exec(&id, &["sh", "-c", script]).await?;
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert_eq!(
        text,
        "of the host\n751:0\n640:0\none file\nmine\nls: /gone: No such file or directory\nthere\n"
    );
    let left = fs::read_to_string(secrets.join("sub/key"))?;
    assert_eq!(left, "of the host", "a container changes its copy");

    // The file counts at each creation.
    fs::write(&conf, "")?;
    let second = f
        .node
        .run(&pod, container("d", &f.image, &["sleep", "1000"]))
        .await?;
    let done = f.node.exec(&second, &["ls", "/run/secrets"]).await?;
    assert_ne!(done.exit_code, 0);
    f.node.finish().await
}
