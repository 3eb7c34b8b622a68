//! Loading an image from files or another store of the node. The CRI has no call for that: `crioxide load`
//! does it, with the configuration of the daemon at the socket, which then has the image.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cri::v1;
use sys::pool::Pool;
use sys::spawn::{Program, run};

use crate::client::Client;

/// Longer than any image takes.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Loads `source` by the program `crioxide` into the store of the daemon that `client` talks to, under
/// these names or its own; returns its ID and names as the daemon lists them.
///
/// # Errors
/// The program's words; the daemon does not list it.
pub async fn load(
    client: &Client,
    crioxide: &Path,
    source: &str,
    names: &[String],
) -> Result<(String, Vec<String>)> {
    let config = tempfile::NamedTempFile::new()?;
    std::fs::write(config.path(), client.inspect("/config").await?)?;
    let program = Program::new(crioxide, PATIENCE)
        .arg("--config")
        .arg(config.path())
        .args(["--config-dir", "", "load"])
        .args(names.iter().map(|name| format!("--name={name}")))
        .arg(source);
    let program = Program {
        env: std::env::vars_os().collect(),
        ..program
    };
    let output = Pool::new("load", 1).run(move || run(&program)).await?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", words.trim());
    let said = String::from_utf8(output.stdout)?;
    let id = said.split_whitespace().next().context("no ID was said")?;
    let request = v1::ImageStatusRequest {
        image: Some(v1::ImageSpec {
            image: id.to_owned(),
            ..Default::default()
        }),
        verbose: false,
    };
    let status = client.images().image_status(request).await?.into_inner();
    let image = status.image.context("the daemon does not list it")?;
    Ok((image.id, image.repo_tags))
}
