//! From the configuration to each room's own options: the only place that knows both.

mod devices;
mod handlers;
mod images;
mod storage;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use clap::ArgMatches;
use config::Settings;
use pods::apparmor::AppArmor;
use pods::cgroups::Keeper;
use pods::selinux::SeLinux;

pub(crate) use self::handlers::handlers;
pub(crate) use self::images::images;
pub(crate) use self::storage::storage;
use crate::{argument, programs};

/// How long to wait for a lock of the store that podman or skopeo holds while it unpacks.
const LOCK_TIMEOUT: Duration = Duration::from_secs(120);
/// Smallest `ctr_stop_timeout`, in seconds.
const STOP_TIMEOUT: i64 = 30;

/// Options of pods and containers.
pub(crate) fn pods(settings: &Settings, matches: &ArgMatches) -> Result<pods::Options> {
    let section = "crio.runtime";
    let path =
        |key: &str| Some(settings.path(section, key)).filter(|path| !path.as_os_str().is_empty());
    let paths = |key: &str| {
        settings
            .list(section, key)
            .iter()
            .map(PathBuf::from)
            .collect()
    };
    let seconds = |key: &str, least: i64| {
        Duration::from_secs(u64::try_from(settings.integer(section, key).max(least)).unwrap_or(0))
    };
    let at_least = |key: &str| settings.integer(section, key).max(0);
    let keeper = keeper(settings, matches)?;
    Ok(pods::Options {
        run_dir: argument(matches, "run-dir").into(),
        exits_dir: settings.path(section, "container_exits_dir"),
        namespaces_dir: settings.path(section, "namespaces_dir"),
        log_dir: settings.path("crio", "log_dir"),
        pinns: path("pinns_path").map_or_else(|| programs::find("pinns"), Ok)?,
        monitor: programs::find("crioxide-monitor")?,
        pause: programs::find("pause").ok(),
        decode_env: programs::find("decode-env").ok(),
        pull_parent: pull_parent(settings, &keeper)?,
        keeper,
        default_capabilities: capabilities(settings)?,
        inheritable_capabilities: settings.bool(section, "add_inheritable_capabilities"),
        default_env: settings.list(section, "default_env").to_vec(),
        default_sysctls: sysctls(settings)?,
        ulimits: ulimits(settings)?,
        pids_limit: at_least("pids_limit"),
        checkpoints: settings.bool(section, "enable_criu_support"),
        log_size_max: log_size(settings)?,
        log_to_journald: settings.bool("crio.runtime", "log_to_journald"),
        read_only: settings.bool(section, "read_only"),
        default_mounts_file: settings.path(section, "default_mounts_file"),
        absent_sources_rejected: paths("absent_mount_sources_to_reject"),
        device_ownership: settings.bool(section, "device_ownership_from_security_context"),
        additional_devices: devices::additional(settings)?,
        bind_mount_prefix: settings.path(section, "bind_mount_prefix"),
        stop_timeout: seconds("ctr_stop_timeout", STOP_TIMEOUT),
        statistics: statistics(settings)?,
        host_ports: !settings.bool(section, "disable_hostport_mapping"),
        image_volumes: image_volumes(settings)?,
        artifact_mounts: settings.bool("crio.image", "oci_artifact_mount_support"),
        timezone: timezone(settings)?,
    })
}

/// Options that a reload changes. Blocks.
pub(crate) fn changing(settings: &Settings) -> Result<pods::Changing> {
    let dirs = settings.list("crio.runtime", "cdi_spec_dirs");
    Ok(pods::Changing {
        pause_image: pause_image(settings)?,
        seccomp_profile: seccomp_profile(settings, "seccomp_profile")?,
        privileged_seccomp_profile: seccomp_profile(settings, "privileged_seccomp_profile")?,
        cdi_spec_dirs: dirs.iter().map(PathBuf::from).collect(),
        apparmor: apparmor(settings)?,
    })
}

/// The path of a seccomp profile, which each container reads again; one that is there has to be one.
fn seccomp_profile(settings: &Settings, key: &str) -> Result<Option<PathBuf>> {
    let section = "crio.runtime";
    let path = settings.path(section, key);
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let wrong = |text: String| settings.wrong(section, key, format!("{}: {text}", path.display()));
    match std::fs::read(&path) {
        Ok(text) => {
            spec::seccomp::Profile::parse(&text).map_err(|error| wrong(error.to_string()))?;
        }
        Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => {
            tracing::warn!(option = key, path = %path.display(), "seccomp profile is not there");
        }
        Err(error) => return Err(wrong(error.to_string()).into()),
    }
    Ok(Some(path))
}

/// `stats_collection_period` is the old name; it has no say in metrics.
fn statistics(settings: &Settings) -> Result<pods::statistics::Options> {
    let section = "crio.stats";
    let seconds = |key: &str| match u64::try_from(settings.integer(section, key)) {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => Err(settings.wrong(section, key, "is negative")),
    };
    let both = seconds("collection_period")?;
    let selection =
        stats::metrics::Selection::parse(settings.list(section, "included_pod_metrics"))
            .map_err(|wrong| settings.wrong(section, "included_pod_metrics", wrong))?;
    Ok(pods::statistics::Options {
        period: match seconds("stats_collection_period")? {
            Duration::ZERO => both,
            old => old,
        },
        metrics_period: both,
        selection,
    })
}

fn image_volumes(settings: &Settings) -> Result<pods::ImageVolumes> {
    let (section, key) = ("crio.image", "image_volumes");
    match settings.text(section, key) {
        "mkdir" => Ok(pods::ImageVolumes::Mkdir),
        "bind" => Ok(pods::ImageVolumes::Bind),
        "ignore" => Ok(pods::ImageVolumes::Ignore),
        other => {
            let text = format!("{other:?} is none of mkdir, bind and ignore");
            Err(settings.wrong(section, key, text).into())
        }
    }
}

/// The file of the zone that is named; `Local` is the node's own.
fn timezone(settings: &Settings) -> Result<Option<PathBuf>> {
    use std::path::Component;
    let (section, key) = ("crio.runtime", "timezone");
    let name = settings.text(section, key);
    if name.is_empty() {
        return Ok(None);
    }
    let path = if name.eq_ignore_ascii_case("local") {
        let local = Path::new("/etc/localtime");
        // The name is the link's (localtime(5)); a file has none.
        let target = std::fs::read_link(local).unwrap_or_else(|_| local.to_owned());
        match target.strip_prefix("..") {
            Ok(from_root) => Path::new("/").join(from_root),
            Err(_) => Path::new("/etc").join(target),
        }
    } else {
        let mut parts = Path::new(name).components();
        if !parts.all(|part| matches!(part, Component::Normal(_))) {
            let text = format!("{name:?} is no name of a time zone");
            return Err(settings.wrong(section, key, text).into());
        }
        let zones = std::env::var_os("TZDIR").unwrap_or_else(|| "/usr/share/zoneinfo".into());
        Path::new(&zones).join(name)
    };
    match std::fs::metadata(&path) {
        Ok(found) if found.is_file() => Ok(Some(path)),
        _ => {
            let text = format!("invalid timezone: {name}");
            Err(settings.wrong(section, key, text).into())
        }
    }
}

/// Who keeps the cgroups.
fn keeper(settings: &Settings, matches: &ArgMatches) -> Result<Keeper> {
    let section = "crio.runtime";
    match settings.text(section, "cgroup_manager") {
        "cgroupfs" => Ok(Keeper::Cgroupfs {
            root: argument(matches, "cgroup-root").to_owned(),
        }),
        "systemd" => Ok(Keeper::Systemd {
            systemd: Arc::default(),
            monitors: monitors_slice(settings)?,
        }),
        other => {
            let text = format!("{other:?} is no cgroup manager");
            Err(settings.wrong(section, "cgroup_manager", text).into())
        }
    }
}

/// Beneath what pulls get their cgroups.
fn pull_parent(settings: &Settings, keeper: &Keeper) -> Result<Option<pods::PullParent>> {
    let (section, key) = ("crio.runtime", "separate_pull_cgroup");
    let parsed = pods::PullParent::parse(settings.text(section, key), keeper);
    Ok(parsed.map_err(|wrong| settings.wrong(section, key, wrong.to_string()))?)
}

/// Slice of the monitors: that of the default handler. `pod` is none: a monitor must not end with the
/// memory of its pod.
fn monitors_slice(settings: &Settings) -> Result<systemd::Slice> {
    let (section, key) = ("crio.runtime", "conmon_cgroup");
    let default = default_runtime(settings);
    let handler = settings.handlers().find(|handler| handler.name == default);
    let of_handler = handler.map(|handler| handler.text("monitor_cgroup"));
    let named = [settings.text(section, key).to_owned()]
        .into_iter()
        .chain(of_handler)
        .find(|name| !name.is_empty())
        .unwrap_or_default();
    match named.as_str() {
        "" => Ok("system.slice".parse()?),
        "pod" => {
            tracing::warn!("monitors are kept in system.slice, not in their pods' slices");
            Ok("system.slice".parse()?)
        }
        slice => slice
            .parse()
            .map_err(|wrong| anyhow!("monitor_cgroup: {wrong}")),
    }
}

/// The store, open.
pub(crate) fn store(settings: &Settings) -> Result<::storage::Store> {
    ::storage::Store::open(storage(settings)?).context("open the store")
}

/// The rooms below the pods.
pub(crate) fn rooms(settings: &Settings, matches: &ArgMatches) -> Result<pods::Rooms> {
    let store = store(settings)?;
    let images = image::Images::new(images(settings, matches)?, store.clone());
    Ok(pods::Rooms {
        store,
        images: Arc::new(images),
        network: network(settings, matches),
        host_ports: host_ports(matches),
        handlers: handlers(settings)?,
        hooks: hooks(settings)?,
        selinux: selinux(settings),
    })
}

/// On where the kernel has it, unless it is switched off.
fn selinux(settings: &Settings) -> SeLinux {
    let section = "crio.runtime";
    let wanted = !settings.is_set(section, "selinux") || settings.bool(section, "selinux");
    SeLinux::start(
        wanted,
        settings.bool(section, "hostnetwork_disable_selinux"),
    )
}

/// The hooks of `hooks_dir`.
fn hooks(settings: &Settings) -> Result<pods::OciHooks> {
    let (section, key) = ("crio.runtime", "hooks_dir");
    let dirs: Vec<PathBuf> = settings
        .list(section, key)
        .iter()
        .map(PathBuf::from)
        .collect();
    let wrong = |error| settings.wrong(section, key, format!("{:#}", anyhow::Error::from(error)));
    Ok(pods::OciHooks::read(&dirs).map_err(wrong)?)
}

/// Loads the default profile, where it is the built-in one.
fn apparmor(settings: &Settings) -> Result<AppArmor> {
    let (section, key) = ("crio.runtime", "apparmor_profile");
    let profile = settings.text(section, key);
    let wrong = |error| settings.wrong(section, key, format!("{:#}", anyhow::Error::from(error)));
    Ok(AppArmor::start(profile).map_err(wrong)?)
}

/// The configuration in force, as TOML, for `/config` and for Status.
pub(crate) fn shown(settings: &Settings) -> String {
    settings.to_toml()
}

pub(crate) fn default_runtime(settings: &Settings) -> &str {
    match settings.text("crio.runtime", "default_runtime") {
        "" => "crun",
        name => name,
    }
}

/// The pause image, where somebody set one: the default needs none.
fn pause_image(settings: &Settings) -> Result<Option<pods::PauseImage>> {
    let (section, key, auth) = ("crio.image", "pause_image", "pause_image_auth_file");
    let auth_file = Some(settings.path(section, auth)).filter(|path| !path.as_os_str().is_empty());
    if let Some(Err(error)) = auth_file.as_ref().map(std::fs::metadata) {
        return Err(settings.wrong(section, auth, error.to_string()).into());
    }
    let image = settings.text(section, key);
    Ok(
        (settings.is_set(section, key) && !image.is_empty()).then(|| pods::PauseImage {
            reference: image.to_owned(),
            command: settings.text(section, "pause_command").to_owned(),
            auth_file,
        }),
    )
}

fn network(settings: &Settings, matches: &ArgMatches) -> network::Network {
    let section = "crio.network";
    let mut plugin_dirs: Vec<PathBuf> = settings
        .list(section, "plugin_dirs")
        .iter()
        .map(PathBuf::from)
        .collect();
    let old = settings.path(section, "plugin_dir");
    if !old.as_os_str().is_empty() {
        plugin_dirs.push(old);
    }
    network::Network::new(network::Options {
        conf_dir: settings.path(section, "network_dir"),
        plugin_dirs,
        default_network: settings.text(section, "cni_default_network").to_owned(),
        cache_dir: argument(matches, "cni-cache-dir").into(),
        ..network::Options::default()
    })
}

fn host_ports(matches: &ArgMatches) -> network::HostPorts {
    let dir = Path::new(argument(matches, "run-dir")).join("host-ports");
    let backend = match argument(matches, "host-ports") {
        "nftables" => Some(network::Backend::Nftables),
        "iptables" => Some(network::Backend::Iptables),
        _ => None,
    };
    network::HostPorts::new(dir, backend)
}

fn capabilities(settings: &Settings) -> Result<Vec<String>> {
    let names = settings
        .list("crio.runtime", "default_capabilities")
        .to_vec();
    match spec::capabilities::Set::parse(&names) {
        Ok(_) => Ok(names),
        Err(wrong) => Err(settings
            .wrong("crio.runtime", "default_capabilities", wrong.to_string())
            .into()),
    }
}

fn sysctls(settings: &Settings) -> Result<BTreeMap<String, String>> {
    let (section, key) = ("crio.runtime", "default_sysctls");
    let pairs = settings
        .list(section, key)
        .iter()
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').ok_or_else(|| {
                settings.wrong(section, key, format!("{pair:?} is not key=value"))
            })?;
            Ok::<_, config::Error>((name.to_owned(), value.to_owned()))
        });
    let pairs: BTreeMap<_, _> = pairs.collect::<Result<_, _>>()?;
    let checked = spec::sysctl::check(&pairs, spec::sysctl::HostNamespaces::default());
    Ok(checked
        .map_err(|wrong| settings.wrong(section, key, wrong.to_string()))?
        .set)
}

/// `nofile=1024:2048` and the like.
fn ulimits(settings: &Settings) -> Result<Vec<spec::oci::Rlimit>> {
    let (section, key) = ("crio.runtime", "default_ulimits");
    let parse = |text: &String| {
        let (name, limits) = text.split_once('=')?;
        let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
        let number = |text: &str| {
            if text == "-1" {
                Some(u64::MAX)
            } else {
                text.parse().ok()
            }
        };
        let kind = format!("RLIMIT_{}", name.to_ascii_uppercase());
        Some(spec::oci::Rlimit {
            kind,
            hard: number(hard)?,
            soft: number(soft)?,
        })
    };
    let list = settings
        .list(section, key)
        .iter()
        .filter(|text| !text.is_empty());
    let list = list.map(|text| {
        parse(text)
            .ok_or_else(|| settings.wrong(section, key, format!("{text:?} is not name=soft:hard")))
    });
    Ok(list.collect::<Result<_, _>>()?)
}

fn log_size(settings: &Settings) -> Result<u64> {
    const LEAST: i64 = 8192;
    let (section, key) = ("crio.runtime", "log_size_max");
    match settings.integer(section, key) {
        size if size < 0 => Ok(0),
        size if size < LEAST => Err(settings
            .wrong(section, key, format!("{size} is smaller than {LEAST}"))
            .into()),
        size => Ok(u64::try_from(size).unwrap_or(0)),
    }
}
