//! Bad input: a clear error with the right code, and nothing left behind.

use std::os::unix::fs::PermissionsExt as _;

use anyhow::Result;
use cri::v1;
use testkit::node::Options;
use testkit::requests::{container, pod};
use tonic::Code;

use crate::fixture;

fn code(error: anyhow::Error) -> (Code, String) {
    let status = error.downcast::<tonic::Status>().unwrap();
    (status.code(), status.message().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_can_not_be_meant() -> Result<()> {
    let f = fixture::node().await?;
    let id = f.node.run_pod("bad").await?;
    let config = |change: &dyn Fn(&mut v1::ContainerConfig)| {
        let mut config = container("c", &f.image, &["true"]);
        change(&mut config);
        config
    };
    for (name, config, wanted, words) in [
        (
            "image",
            config(&|c| c.image.as_mut().unwrap().image = "no/such:image".into()),
            Code::NotFound,
            "not present",
        ),
        (
            "command",
            config(&|c| c.command = vec!["/no/such/command".into()]),
            Code::Unknown,
            "no such file",
        ),
        (
            "log path",
            config(&|c| c.log_path = "../x".into()),
            Code::InvalidArgument,
            "log path",
        ),
        (
            "directory",
            config(&|c| c.working_dir = "/proc/self/fd/7".into()),
            Code::InvalidArgument,
            "descriptor",
        ),
        (
            "device",
            config(&|c| {
                c.devices = vec![v1::Device {
                    host_path: "/dev/none".into(),
                    container_path: "/x".into(),
                    ..Default::default()
                }]
            }),
            Code::Unknown,
            "/dev/none",
        ),
        (
            "metadata",
            config(&|c| c.metadata = None),
            Code::InvalidArgument,
            "metadata",
        ),
    ] {
        // runc tells a missing command at the creation, crun at the start.
        let failed = match f.node.create(&id, config).await {
            Ok(created) => f.node.start_container(&created).await.unwrap_err(),
            Err(error) => error,
        };
        let (code, text) = code(failed);
        assert_eq!(code, wanted, "{name}: {text}");
        assert!(text.to_lowercase().contains(words), "{name}: {text}");
    }
    let (unknown, text) = code(
        f.node
            .create("0000", container("c", &f.image, &["true"]))
            .await
            .unwrap_err(),
    );
    assert_eq!(unknown, Code::NotFound, "{text}");
    let handler = v1::RunPodSandboxRequest {
        config: Some(pod("h", &f.node.logs())),
        runtime_handler: "none".into(),
    };
    let refused = f
        .node
        .client()
        .runtime()
        .run_pod_sandbox(handler)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(
        refused
            .message()
            .contains("failed to find runtime handler none"),
        "{refused}"
    );
    let mut sysctl = pod("s", &f.node.logs());
    sysctl.linux.as_mut().unwrap().sysctls = [(
        "kernel.shm_rmid_forced".to_owned(),
        "1+kernel.core_pattern=x".to_owned(),
    )]
    .into();
    assert_eq!(
        code(f.node.run_pod_config(sysctl).await.unwrap_err()).0,
        Code::InvalidArgument
    );
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_plugin_that_fails() -> Result<()> {
    let plugins = tempfile::tempdir()?;
    let plugin = plugins.path().join("broken");
    std::fs::write(
        &plugin,
        "#!/bin/sh\n[ $CNI_COMMAND = DEL ] && exit 0\necho '{\"code\":7,\"msg\":\"no address left\"}'\nexit 1\n",
    )?;
    std::fs::set_permissions(&plugin, std::fs::Permissions::from_mode(0o755))?;
    let options = Options {
        plugins: Some(plugins.path().to_owned()),
        network: Some(
            r#"{"cniVersion":"0.4.0","name":"broken","plugins":[{"type":"broken"}]}"#.into(),
        ),
        ..Options::default()
    };
    let f = fixture::with(options).await?;
    let (_, text) = code(f.node.run_pod("net").await.unwrap_err());
    assert!(
        text.contains("no address left") && text.contains("broken"),
        "{text}"
    );
    let list = f
        .node
        .client()
        .runtime()
        .list_pod_sandbox(v1::ListPodSandboxRequest::default())
        .await?
        .into_inner();
    assert!(list.items.is_empty());
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_are_not_there() -> Result<()> {
    let f = fixture::without_image(Options::default()).await?;
    let request = v1::PullImageRequest {
        image: Some(v1::ImageSpec {
            image: f.image.clone(),
            runtime_handler: "no-such".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let refused = f
        .node
        .client()
        .images()
        .pull_image(request)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert!(refused.message().contains("no-such"), "{refused}");
    // A name that several registries may have is nobody's, also of what is there already.
    let search = "unqualified-search-registries = [\"a.test\", \"b.test\"]\n";
    let drop_ins = f.node.dir.join("registries.conf.d");
    std::fs::create_dir_all(&drop_ins)?;
    std::fs::write(drop_ins.join("10.conf"), search)?;
    for (name, ambiguous) in [("short", true), ("abc", false), ("a.test/short", false)] {
        let spec = v1::ImageSpec {
            image: name.into(),
            ..Default::default()
        };
        let request = v1::ImageStatusRequest {
            image: Some(spec),
            verbose: false,
        };
        let status = f.node.client().images().image_status(request).await;
        match status {
            Ok(found) => assert!(found.into_inner().image.is_none() && !ambiguous, "{name}"),
            Err(refused) => {
                assert!(
                    refused
                        .message()
                        .contains("a.test/short:latest or b.test/short"),
                    "{refused}"
                );
                assert!(
                    refused.code() == tonic::Code::InvalidArgument && ambiguous,
                    "{name}"
                );
            }
        }
    }
    let (unknown, text) = code(
        f.node
            .pull(&f.image.replace("latest", "none"))
            .await
            .unwrap_err(),
    );
    assert_eq!(unknown, Code::NotFound, "{text}");
    let (unavailable, text) = code(f.node.pull("127.0.0.1:1/x:y").await.unwrap_err());
    assert_eq!(unavailable, Code::Unavailable, "{text}");
    assert!(text.starts_with("RegistryUnavailable: "), "{text}");
    let (bad, text) = code(f.node.pull("UPPER/case:!").await.unwrap_err());
    assert_eq!(bad, Code::InvalidArgument, "{text}");
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_with_a_wrong_type_names_file_and_line() -> Result<()> {
    let options = Options {
        config: "[crio.stats]\ncollection_period = \"soon\"\n".into(),
        ..Options::default()
    };
    let error = testkit::node::Node::start(options)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("50-test.conf:2")
            && error.contains("crio.stats.collection_period wants an integer"),
        "{error}"
    );
    Ok(())
}
