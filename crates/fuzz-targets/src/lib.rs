//! What is fuzzed: for each decoder of bytes from outside a function that takes any bytes and fails
//! where the decoder breaks a promise.
//!
//! `fuzz/` has a libFuzzer target per row of [`TARGETS`]; the test of this crate feeds every row its
//! seeds (`fuzz/seeds`) and mutations of them, with any compiler. Decoders that their crates keep to
//! themselves are reached by those crates' `fuzzing` modules, which no release has.

mod accounts;
mod cdi;
mod hooks;
mod kernel;
mod monitor;
mod seccomp;
mod streams;
mod tar;

/// Takes any bytes; panics where a decoder breaks a promise.
pub type Target = fn(&[u8]);

/// Name and function of every target; `fuzz/seeds/<name>` has its seeds.
pub const TARGETS: &[(&str, Target)] = &[
    ("accounts", accounts::accounts),
    ("artifact_index", storage::fuzzing::artifact_index),
    ("attachments", image::fuzzing::attachments),
    ("bundle", image::fuzzing::bundle),
    ("cdi", cdi::file),
    ("checkpoint_json", runtime::fuzzing::checkpoint_json),
    ("chunked", image::fuzzing::chunked),
    ("cni_config", network::fuzzing::config),
    ("cni_result", network::fuzzing::result),
    ("config_file", config::fuzzing::file),
    ("credentials", image::fuzzing::credentials),
    ("criu_images", runtime::fuzzing::criu_images),
    ("encrypted", image::fuzzing::encrypted),
    ("entry_path", storage::fuzzing::entry_path),
    ("exit_record", monitor::exit_record),
    ("features", runtime::fuzzing::features),
    ("hook_file", hooks::file),
    ("image_config", image::fuzzing::config),
    ("inflate", image::fuzzing::inflate),
    ("journal", crioxide_monitor::fuzzing::journal),
    ("kernel_text", kernel::kernel_text),
    ("kept_signatures", image::fuzzing::kept_signatures),
    ("manifest", image::fuzzing::manifest),
    ("monitor_message", monitor::message),
    ("offered_layer", storage::fuzzing::offered_layer),
    ("openpgp_keys", trust::fuzzing::openpgp_keys),
    ("openpgp_message", trust::fuzzing::openpgp_message),
    ("policy", trust::fuzzing::policy),
    ("provider_answer", image::fuzzing::provider_answer),
    ("pull_message", image::fuzzing::pull_message),
    ("reference", image::fuzzing::reference),
    ("registries", image::fuzzing::registries),
    ("seccomp", seccomp::profile),
    ("signature_list", image::fuzzing::signature_list),
    ("signature_payload", trust::fuzzing::payload),
    ("signature_sources", trust::fuzzing::sources),
    ("sigstore_signature", trust::fuzzing::sigstore),
    ("spdy_frame", streams::spdy_frame),
    ("spdy_headers", streams::spdy_headers),
    ("storage_conf", config::fuzzing::storage_conf),
    ("storage_table", storage::fuzzing::tables),
    ("tar", storage::fuzzing::tar),
    ("tar_gnu", tar::with_gnu),
    ("tar_split", storage::fuzzing::tar_split),
    ("terminal_size", streaming::fuzzing::sizes),
    ("websocket_message", streams::websocket_message),
];

/// Runs the target `name` on `bytes`.
///
/// # Panics
/// The decoder breaks a promise, or there is no such target.
pub fn run(name: &str, bytes: &[u8]) {
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    let (_, target) = found.expect("a target of the table");
    target(bytes);
}
