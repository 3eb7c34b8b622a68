//! What tests start from: a registry with a small image, and a node that may pull it.

use anyhow::Result;
use tempfile::TempDir;
use testkit::image_maker::ImageMaker;
use testkit::node::{Node, Options};
use testkit::registry::Registry;

/// A registry with an image, and a node.
pub(crate) struct Fixture {
    pub(crate) node: Node,
    pub(crate) registry: Registry,
    /// Reference of the image.
    pub(crate) image: String,
    _directory: TempDir,
}

/// A node with the default options; the image is pulled.
pub(crate) async fn node() -> Result<Fixture> {
    with(Options::default()).await
}

/// A node with these options; the image is pulled.
pub(crate) async fn with(options: Options) -> Result<Fixture> {
    let fixture = without_image(options).await?;
    fixture.node.pull(&fixture.image).await?;
    Ok(fixture)
}

/// A node with these options, and nothing pulled.
pub(crate) async fn without_image(mut options: Options) -> Result<Fixture> {
    let directory = tempfile::Builder::new()
        .prefix("crixr-")
        .tempdir_in("/var/tmp")?;
    let registry = Registry::start(directory.path())?;
    registry.push("test/busybox", "latest", &ImageMaker::busybox().build())?;
    options.insecure.push(registry.addr().to_string());
    let image = format!("{}/test/busybox:latest", registry.addr());
    let node = Node::start(options).await?;
    Ok(Fixture {
        node,
        registry,
        image,
        _directory: directory,
    })
}
