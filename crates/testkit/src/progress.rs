//! A pull with a progress bar, fed from the daemon's `/pulls`.

use std::time::Duration;

use anyhow::Result;
use cri::v1;
use indicatif::{ProgressBar, ProgressStyle};

use crate::client::Client;

/// How often the bar is drawn.
const TICK: Duration = Duration::from_millis(100);

/// Pulls `image` and returns its id.
///
/// # Errors
/// Those of the call.
pub async fn pull(client: &Client, image: &str) -> Result<String> {
    let bar = ProgressBar::new(0);
    let style = "{msg} [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec}";
    bar.set_style(ProgressStyle::with_template(style)?);
    bar.set_message(image.to_owned());
    let request = v1::PullImageRequest {
        image: Some(v1::ImageSpec {
            image: image.to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut images = client.images();
    let pull = images.pull_image(request);
    tokio::pin!(pull);
    let mut tick = tokio::time::interval(TICK);
    let pulled = loop {
        tokio::select! {
            pulled = &mut pull => break pulled?,
            _ = tick.tick() => draw(client, &bar, image).await?,
        }
    };
    bar.set_position(bar.length().unwrap_or(0));
    bar.finish();
    Ok(pulled.into_inner().image_ref)
}

async fn draw(client: &Client, bar: &ProgressBar, image: &str) -> Result<()> {
    let pulls: serde_json::Value = serde_json::from_str(&client.inspect("/pulls").await?)?;
    let pull = pulls
        .as_array()
        .into_iter()
        .flatten()
        .find(|pull| pull["reference"] == image);
    if let Some(pull) = pull {
        bar.set_length(pull["total"].as_u64().unwrap_or(0));
        bar.set_position(pull["bytes"].as_u64().unwrap_or(0));
    }
    Ok(())
}
