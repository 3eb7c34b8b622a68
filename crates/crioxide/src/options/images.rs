//! Options of images.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use clap::ArgMatches;
use clap::parser::ValueSource;
use config::Settings;

use crate::argument;
use crate::home::home;

/// A switch of `pull_options` in `storage.conf`.
fn pull_option(settings: &Settings, name: &str, default: bool) -> bool {
    match settings.pull_options().get(name) {
        // What Go takes for true (strconv.ParseBool).
        Some(value) => matches!(value.as_str(), "1" | "t" | "T" | "TRUE" | "true" | "True"),
        None => default,
    }
}

/// Options of images.
pub(crate) fn images(settings: &Settings, matches: &ArgMatches) -> Result<image::Options> {
    let section = "crio.image";
    let given =
        |key: &str| Some(settings.path(section, key)).filter(|path| !path.as_os_str().is_empty());
    let default = image::Options::default();
    if pull_option(settings, "convert_images", false) {
        tracing::warn!("convert_images is without effect: layers are stored as they come");
    }
    let mut pinned = settings.list(section, "pinned_images").to_vec();
    pinned.push(settings.text(section, "pause_image").to_owned());
    let (of_runtime, stores) = ("crio.runtime", "additional_artifact_stores");
    let additional_artifact_stores: Vec<PathBuf> = settings
        .list(of_runtime, stores)
        .iter()
        .map(PathBuf::from)
        .collect();
    if additional_artifact_stores
        .iter()
        .any(|path| !path.is_absolute())
    {
        let wrong = settings.wrong(of_runtime, stores, "has a path that is not absolute");
        return Err(wrong.into());
    }
    Ok(image::Options {
        registries_conf: argument(matches, "registries-conf").into(),
        registries_conf_dir: argument(matches, "registries-conf-dir").into(),
        registries_d: argument(matches, "registries-d").into(),
        user_registries_d: match matches.value_source("registries-d") {
            Some(ValueSource::CommandLine) => None,
            _ => home().map(|home| home.join(".config/containers/registries.d")),
        },
        policy: given("signature_policy").unwrap_or(default.policy),
        policy_dir: given("signature_policy_dir"),
        namespaced_auth_dir: given("namespaced_auth_dir"),
        global_auth_file: given("global_auth_file"),
        auth_files: auth_files(),
        partial_pulls: pull_option(settings, "enable_partial_images", true),
        decryption_keys: settings.path(of_runtime, "decryption_keys_path"),
        user_agent: format!(
            "cri-o/{} crioxide/{}",
            crate::markers::COMPATIBLE,
            env!("CARGO_PKG_VERSION")
        ),
        short_names: Some(short_names(settings)?),
        pinned,
        additional_artifact_stores,
        pull_progress_timeout: match settings.duration(section, "pull_progress_timeout") {
            Duration::ZERO => default.pull_progress_timeout,
            set => set,
        },
        temporary: given("big_files_temporary_dir").unwrap_or(default.temporary),
        worker: crate::pull_worker::arguments(settings, argument(matches, "log-format")),
        ..image::Options::default()
    })
}

/// As with CRI-O this goes before the mode in registries.conf.
fn short_names(settings: &Settings) -> Result<image::ShortNames> {
    let (section, key) = ("crio.image", "short_name_mode");
    match settings.text(section, key) {
        "" | "enforcing" => Ok(image::ShortNames::Enforcing),
        "disabled" => Ok(image::ShortNames::Disabled),
        other => {
            let text = format!("{other:?} is neither enforcing nor disabled");
            Err(settings.wrong(section, key, text).into())
        }
    }
}

/// Where containers-auth.json(5) looks for credentials.
fn auth_files() -> Vec<PathBuf> {
    let runtime =
        std::env::var_os("XDG_RUNTIME_DIR").map(|dir| Path::new(&dir).join("containers/auth.json"));
    let home = home();
    let of_home = home.iter().flat_map(|home| {
        [
            home.join(".config/containers/auth.json"),
            home.join(".docker/config.json"),
        ]
    });
    runtime
        .into_iter()
        .chain([PathBuf::from("/run/containers/0/auth.json")])
        .chain(of_home)
        .collect()
}
