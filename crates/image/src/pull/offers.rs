//! Layers that additional layer stores of the node offer, and the program that tells such stores what a
//! registry wants to be shown (`additional-layer-store-auth-helper` of containers-registries.conf(5)).

use std::collections::BTreeMap;
use std::env;
use std::time::Duration;

use serde::Serialize;
use storage::OfferedLayer;
use sys::spawn::{Program, run, which};

use super::Puller;
use super::layers::{Blobs, Wanted};
use crate::credentials::Credentials;
use crate::options::Options;
use crate::registries::Source;

/// How long the program may take (ours: as a store's answer).
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of its words that are kept.
const WORDS: usize = 2048;

/// What the program is told of a registry.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    username: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    password: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    identity_token: &'a str,
}

impl Puller {
    /// What additional layer stores offer of these layers of an image of that name.
    pub(super) async fn offered(
        &self,
        wanted: &[Wanted],
        name: String,
        blobs: &Blobs,
    ) -> Vec<Option<OfferedLayer>> {
        let tocs: Vec<_> = wanted.iter().map(|it| it.toc.clone()).collect();
        if tocs.iter().all(Option::is_none) {
            return tocs.into_iter().map(|_| None).collect();
        }
        // The one that the manifest came from.
        let registry = match blobs {
            Blobs::Registry(sessions) => sessions.first().cloned(),
            Blobs::Local(_) => None,
        };
        let (store, options) = (self.store.clone(), self.options.clone());
        let ask = move || {
            if let Some(session) = registry
                && let Err(error) = tell(&options, session.source(), session.credentials())
            {
                tracing::warn!(error, "additional layer stores are not told of credentials");
            }
            let tocs = tocs.iter().map(Option::as_ref);
            tocs.map(|toc| store.offered_layer(toc?, &name)).collect()
        };
        self.offers.run(ask).await
    }
}

/// Runs the program, if there is one, with what this one source is shown. A token for the registry itself
/// it can't be told, as with containers/image. It gets the daemon's own environment. Blocks.
///
/// # Errors
/// What is wrong with the program, with its words.
fn tell(
    options: &Options,
    source: &Source,
    credentials: Option<&Credentials>,
) -> Result<(), String> {
    // Read again: most pulls ask no store.
    let registries = options.registries().map_err(|error| error.to_string())?;
    let Some(name) = registries.layer_store_helper() else {
        return Ok(());
    };
    let file = which(name, &options.helper_path);
    let file = file.ok_or_else(|| format!("no program {name} in PATH"))?;
    let shown = match credentials {
        Some(Credentials::Basic { username, password }) => Shown {
            username,
            password,
            ..Shown::default()
        },
        Some(Credentials::IdentityToken { username, token }) => Shown {
            username,
            identity_token: token,
            ..Shown::default()
        },
        Some(Credentials::RegistryToken(_)) | None => Shown::default(),
    };
    let told = BTreeMap::from([(source.reference.stored_name(), shown)]);
    let told = serde_json::to_vec(&told).map_err(|error| error.to_string())?;
    let mut program = Program::new(file, PATIENCE).stdin(told);
    program.env = env::vars_os().collect();
    program.output_limit = WORDS;
    let output = run(&program).map_err(|error| format!("{name}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let words = String::from_utf8_lossy(&output.stderr);
            Err(format!("{name}: {}: {}", output.status, words.trim()))
        }
    }
}
