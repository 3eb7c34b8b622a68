//! What a container is given beside its process: devices, a log.

use anyhow::Result;
use cri::v1;
use testkit::node::Options;
use testkit::requests::container;

use crate::fixture;

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_given_to_all_and_belong_to_whom_the_request_names() -> Result<()> {
    let options = Options {
        config: "[crio.runtime]\ndevice_ownership_from_security_context = true\n\
                 additional_devices = [\"/dev/kmsg:/dev/given:r\", \"/dev/zero:/dev/mine\"]\n"
            .into(),
        ..Options::default()
    };
    let f = fixture::with(options).await?;
    let pod = f.node.run_pod("p").await?;
    let mut config = container("c", &f.image, &["sleep", "1000"]);
    config.devices = vec![v1::Device {
        container_path: "/dev/mine".into(),
        host_path: "/dev/full".into(),
        permissions: "rw".into(),
    }];
    let linux = config.linux.get_or_insert_default();
    linux.security_context = Some(v1::LinuxContainerSecurityContext {
        run_as_user: Some(v1::Int64Value { value: 1234 }),
        run_as_group: Some(v1::Int64Value { value: 77 }),
        ..Default::default()
    });
    let id = f.node.run(&pod, config).await?;
    let said = f
        .said(&id, "stat -c '%n %u %g %t,%T' /dev/given /dev/mine")
        .await?;
    assert_eq!(said, "/dev/given 0 0 1,b\n/dev/mine 1234 77 1,7");
    // Root may write to the node, and the cgroup says no.
    let root = container("root", &f.image, &["sleep", "1000"]);
    let root = f.node.run(&pod, root).await?;
    let write =
        "test -w /dev/given && echo writable; echo x 2>/dev/null > /dev/given || echo refused";
    assert_eq!(f.said(&root, write).await?, "writable\nrefused");
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_without_a_name_has_the_containers() -> Result<()> {
    let f = fixture::node().await?;
    let pod = f.node.run_pod("p").await?;
    let mut config = container("c", &f.image, &["echo", "said"]);
    config.log_path.clear();
    let id = f.node.run(&pod, config).await?;
    let status = f.node.exited(&id).await?;
    let log = f.node.logs().join(format!("p/{id}.log"));
    assert_eq!(status.log_path, log.display().to_string());
    let line = std::fs::read_to_string(log)?;
    assert!(line.ends_with(" stdout F said\n"), "{line}");
    f.node.finish().await
}
