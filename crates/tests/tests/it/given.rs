//! What a container is given beside its process: a log.

use anyhow::Result;
use testkit::requests::container;

use crate::fixture;

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
