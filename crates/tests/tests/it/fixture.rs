//! What tests start from: a registry with a small image, and a node that may pull it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
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

impl Fixture {
    /// What a shell in a container says to a script that ends well, without blanks around it.
    pub(crate) async fn said(&self, id: &str, script: &str) -> Result<String> {
        let done = self.node.exec(id, &["sh", "-c", script]).await?;
        let text = String::from_utf8_lossy(&done.stdout);
        // The kernel ends a process's label by a NUL.
        let text = text.trim_matches(['\0', '\n', ' ']).to_owned();
        let errors = String::from_utf8_lossy(&done.stderr);
        ensure!(done.exit_code == 0, "{script}: {text} {errors}");
        Ok(text)
    }

    /// Pid of a container's first process, from the verbose status.
    pub(crate) async fn pid(&self, id: &str) -> Result<i64> {
        let request = cri::v1::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: true,
        };
        let mut runtime = self.node.client().runtime();
        let status = runtime.container_status(request).await?.into_inner();
        let info = status.info.get("info").context("no verbose status")?;
        let info: serde_json::Value = serde_json::from_str(info)?;
        info["pid"].as_i64().context("no pid")
    }
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

/// A program for hooks in `dir`: it writes its argument, its variable and the state that it gets to
/// `hook.log` beside it.
pub(crate) fn hook_program(dir: &Path) -> Result<String> {
    let (path, log) = (dir.join("hook"), dir.join("hook.log"));
    let text = format!(
        "#!/bin/sh\necho \"$1 $SAYS $(cat | tr -d ' \\n\\t')\" >> {}\n",
        log.display()
    );
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path.display().to_string())
}

/// Directories of the machine that a test has to make, since their place is not its to choose. Those that
/// were not there before, and are empty, go with it.
pub(crate) struct Places(Vec<PathBuf>);

impl Places {
    pub(crate) fn make(dir: &Path) -> Result<Self> {
        let missing = dir.ancestors().take_while(|dir| !dir.is_dir());
        let missing = missing.map(Path::to_owned).collect();
        std::fs::create_dir_all(dir)?;
        Ok(Self(missing))
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        for dir in &self.0 {
            // Not empty: somebody else uses it.
            let _used = std::fs::remove_dir(dir);
        }
    }
}
