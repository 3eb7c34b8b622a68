//! The runtime handlers.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use config::{Handler, Settings};

use super::default_runtime;

/// Smallest and largest `container_create_timeout`, in seconds.
const CREATE_TIMEOUT: (i64, i64) = (30, 24 * 60 * 60);

/// The runtime handlers that can be used. Blocks.
pub(crate) fn handlers(settings: &Settings) -> Result<runtime::Handlers> {
    let default = default_runtime(settings);
    let base = settings.handlers().find(|handler| handler.name == default);
    let all = settings
        .handlers()
        .map(|handler| one_handler(settings, handler, base));
    let all = all.collect::<Result<_>>()?;
    let (handlers, unusable) = runtime::Handlers::find(all, default)?;
    for error in unusable {
        tracing::warn!(%error, "runtime handler left out");
    }
    Ok(handlers)
}

fn one_handler(
    settings: &Settings,
    handler: Handler<'_>,
    default: Option<Handler<'_>>,
) -> Result<runtime::Config> {
    // What is inherited from the default handler, if it says so.
    let from = match default {
        Some(default) if handler.bool("inherit_default_runtime") => default,
        _ => handler,
    };
    let timeout = match handler.integer("container_create_timeout") {
        0 => 240,
        seconds => seconds.clamp(CREATE_TIMEOUT.0, CREATE_TIMEOUT.1),
    };
    let root = match from.text("runtime_root") {
        empty if empty.is_empty() && from.name == "crun" => "/run/crun".to_owned(),
        root => root,
    };
    let minimum = handler.text("container_min_memory");
    let minimum = if minimum.is_empty() && from.name == "crun" {
        "500KiB".to_owned()
    } else {
        minimum
    };
    let path = from.text("runtime_path");
    let path = if path.is_empty() && from.name != handler.name {
        from.name.into()
    } else {
        PathBuf::from(path)
    };
    Ok(runtime::Config {
        name: handler.name.to_owned(),
        path,
        kind: from.text("runtime_type"),
        root: root.into(),
        seccomp_profile: handler.text("seccomp_profile").into(),
        create_timeout: Duration::from_secs(u64::try_from(timeout).unwrap_or(240)),
        minimum_memory: size(&minimum)
            .with_context(|| format!("container_min_memory of handler {}", handler.name))?,
        allowed_annotations: handler.list("allowed_annotations"),
        privileged_without_host_devices: handler.bool("privileged_without_host_devices"),
        monitor_cgroup: handler.text("monitor_cgroup"),
        exec_on_first_cpu: match handler.text("exec_cpu_affinity").as_str() {
            "" => false,
            "first" => true,
            other => {
                let name = handler.name;
                return Err(anyhow!(
                    "exec_cpu_affinity of handler {name}: {other:?} is neither \"first\" nor empty"
                ));
            }
        },
        no_pivot: settings.bool("crio.runtime", "no_pivot"),
        systemd_cgroup: settings.text("crio.runtime", "cgroup_manager") == "systemd",
    })
}

/// A size such as `12MiB`; 12 MiB where none is given.
fn size(text: &str) -> Result<i64> {
    const DEFAULT: i64 = 12 << 20;
    let text = text.trim();
    if text.is_empty() {
        return Ok(DEFAULT);
    }
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => return Err(anyhow!("{text:?} is no size")),
    };
    number
        .parse::<i64>()
        .ok()
        .and_then(|n| n.checked_mul(factor))
        .ok_or_else(|| anyhow!("{text:?} is no size"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, wanted) in [
            ("", Some(12 << 20)),
            ("500KiB", Some(500 << 10)),
            ("12 MiB", Some(12 << 20)),
            ("7", Some(7)),
            ("x", None),
            ("1TB", None),
        ] {
            assert_eq!(size(text).ok(), wanted, "{text:?}");
        }
    }
}
