//! The daemon: command line, start-up order, signals. How anything is done is elsewhere.

mod commands;
mod diagnostics;
mod home;
mod inspect;
mod logging;
mod markers;
mod options;
mod programs;
mod pull_worker;
mod reload;
mod serve;
mod streams;
mod telemetry;
mod upkeep;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use clap::{Arg, ArgMatches, Command};
use config::{Settings, Sources};
use tokio::signal::unix::{SignalKind, signal};

/// Threads of the async runtime: two keep lists answering while one is busy.
const WORKERS: usize = 2;

/// How often layers are looked for that no pull came back to.
const PRUNE_INTERVAL: Duration = Duration::from_secs(6 * 3600);

fn main() -> ExitCode {
    let matches = command().get_matches();
    let result = match matches.subcommand() {
        Some((pull_worker::NAME, own)) => pull_worker::run(own, argument(&matches, "log-format")),
        Some((name, own)) => sub_command(name, own, &matches),
        None => start(matches).map(|()| ExitCode::SUCCESS),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            // Logging may not be there yet: a start that fails is told where it was started.
            #[expect(
                clippy::print_stderr,
                reason = "a failed start is for whoever started it"
            )]
            {
                eprintln!("crioxide: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

fn command() -> Command {
    Command::new("crioxide")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Kubernetes container runtime: the CRI over OCI runtimes, configured as CRI-O is")
        .arg(
            Arg::new("config")
                .long("config")
                .short('c')
                .value_name("FILE")
                .help(
                    "configuration file; empty for none [default: /etc/crio/crio.conf, if there]",
                ),
        )
        .arg(
            Arg::new("config-dir")
                .long("config-dir")
                .short('d')
                .value_name("DIR")
                .help(
                    "directory of drop-in files; empty for none [default: /etc/crio/crio.conf.d]",
                ),
        )
        .arg(
            Arg::new("log-format")
                .long("log-format")
                .value_name("text|json")
                .default_value("text")
                .value_parser(["text", "json"])
                .help("form of log lines"),
        )
        .arg(
            Arg::new("registries-conf")
                .long("registries-conf")
                .value_name("FILE")
                .default_value("/etc/containers/registries.conf")
                .hide(true)
                .help("registries.conf to read"),
        )
        .arg(
            Arg::new("registries-conf-dir")
                .long("registries-conf-dir")
                .value_name("DIR")
                .default_value("/etc/containers/registries.conf.d")
                .hide(true)
                .help("directory of registries.conf drop-ins"),
        )
        .arg(
            Arg::new("registries-d")
                .long("registries-d")
                .value_name("DIR")
                .default_value("/etc/containers/registries.d")
                .hide(true)
                .help("directory of files that say where signatures are"),
        )
        .arg(
            Arg::new("runtime-name")
                .long("runtime-name")
                .value_name("NAME")
                .default_value("cri-o")
                .help("what Version says: scripts match on it"),
        )
        .arg(
            Arg::new("run-dir")
                .long("run-dir")
                .value_name("DIR")
                .default_value("/run/crio")
                .help("directory on tmpfs for monitors and unfinished operations"),
        )
        .arg(
            Arg::new("cni-cache-dir")
                .long("cni-cache-dir")
                .value_name("DIR")
                .default_value("/var/lib/cni")
                .help("where results of network plugins are kept"),
        )
        .arg(
            Arg::new("cgroup-root")
                .long("cgroup-root")
                .value_name("PATH")
                .default_value("/crio")
                .help("parent of the cgroups of monitors, and of pods that name none"),
        )
        .arg(
            Arg::new("host-ports")
                .long("host-ports")
                .value_name("auto|nftables|iptables")
                .default_value("auto")
                .value_parser(["auto", "nftables", "iptables"])
                .help("what sets the rules of host ports; auto: nftables where it works"),
        )
        .args(config::flags())
        .subcommands(commands::all())
        .subcommand(pull_worker::command())
}

fn sub_command(name: &str, own: &ArgMatches, daemon: &ArgMatches) -> Result<ExitCode> {
    let (settings, _) = configure(daemon)?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let invocation = commands::Invocation {
        settings: &settings,
        daemon,
        own,
    };
    commands::run(name, &invocation)
}

/// Reads the configuration, and starts the log that it asks for.
fn configure(matches: &ArgMatches) -> Result<(Settings, logging::Log)> {
    let settings = Settings::load(sources(matches)?).context("configuration")?;
    let log = logging::start(
        logging::Choice::of(&settings)?,
        argument(matches, "log-format"),
    );
    report(&settings);
    Ok((settings, log))
}

fn start(matches: ArgMatches) -> Result<()> {
    let (settings, log) = configure(&matches)?;
    let runtime = lean_runtime()?;
    sys::reap::become_subreaper().context("become a subreaper")?;
    let result = runtime.block_on(run(settings, log, matches));
    // Operations that are stuck must not keep a daemon that was told to end.
    runtime.shutdown_background();
    result
}

/// The async runtime of what pulls: for few threads, few arenas. Before there are threads: it sets the mode
/// of what is made, too.
fn lean_runtime() -> Result<tokio::runtime::Runtime> {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    sys::memory::limit_arenas(2);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(2)
        .enable_all()
        .build()
        .context("start the async runtime")
}

fn argument<'a>(matches: &'a ArgMatches, name: &str) -> &'a str {
    matches.get_one::<String>(name).map_or("", String::as_str)
}

fn sources(matches: &ArgMatches) -> Result<Sources> {
    let path = |name: &str, default: &str| match matches.get_one::<String>(name) {
        None => Some(PathBuf::from(default)),
        Some(empty) if empty.is_empty() => None,
        Some(path) => Some(PathBuf::from(path)),
    };
    Ok(Sources {
        file: path("config", "/etc/crio/crio.conf"),
        file_must_exist: matches.contains_id("config"),
        directory: path("config-dir", "/etc/crio/crio.conf.d"),
        storage: config::StorageSources::system(|name| std::env::var_os(name)),
        given: config::given(matches, |name| std::env::var_os(name)).context("configuration")?,
    })
}

/// Says once what the configuration holds that does nothing.
fn report(settings: &Settings) {
    for (key, origin) in settings.unknown() {
        tracing::warn!(key, at = %origin, "unknown option in the configuration");
    }
    for (key, origin, why) in settings.without_effect() {
        tracing::warn!(key, at = %origin, why, "option has no effect");
    }
}

async fn run(settings: Settings, log: logging::Log, matches: ArgMatches) -> Result<()> {
    let (settings, matches) = (&Arc::new(settings), &Arc::new(matches));
    let mut terminate = signal(SignalKind::terminate()).context("watch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch SIGINT")?;
    let mut child = signal(SignalKind::child()).context("watch SIGCHLD")?;
    let hangup = signal(SignalKind::hangup()).context("watch SIGHUP")?;
    let mut ask = signal(SignalKind::user_defined1()).context("watch SIGUSR1")?;
    let mut trim = signal(SignalKind::user_defined2()).context("watch SIGUSR2")?;
    let listen = settings.path("crio.api", "listen");
    let socket = serve::bind(&listen)?;
    let markers = markers::Markers::starting(settings)?;
    let streams = streams::bind(settings).await?;
    let shown = reload::Shown::of(settings);
    let metrics = telemetry::options(settings, shown.default_runtime.subscribe())?;
    let pods_options = options::pods(settings, matches)?;
    let keeper = pods_options.keeper.check().await;
    keeper.context("cgroup_manager is \"systemd\"; without systemd it has to be \"cgroupfs\", and the kubelet's cgroupDriver too")?;
    upkeep::salvage(settings, &markers)?;
    let rooms = options::rooms(settings, matches)?;
    upkeep::repair(settings, &markers, &rooms.store)?;
    let (store, images) = (rooms.store.clone(), Arc::clone(&rooms.images));
    let driver = store.driver();
    let changing = options::changing(settings)?;
    let pods = pods::Pods::start(pods_options, changing, rooms)
        .await
        .context("read the records")?;
    upkeep::wipe(settings, &markers, &pods, &images).await;
    let pruner = Arc::clone(&images);
    tokio::spawn(async move {
        let mut again = tokio::time::interval(PRUNE_INTERVAL);
        loop {
            again.tick().await;
            pruner.prune().await;
        }
    });
    let identity = cri::Identity {
        name: argument(matches, "runtime-name").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let metrics_socket = metrics.as_ref().and_then(|metrics| metrics.socket.clone());
    let calls = match metrics {
        Some(metrics) => Some(telemetry::start(metrics, pods.clone(), Arc::clone(&images)).await?),
        None => None,
    };
    let services = serve::Services {
        runtime: cri::RuntimeService::new(
            pods.clone(),
            identity,
            shown.runtime_fields.subscribe(),
            streams.promises(),
        )
        .with_pod_events(settings.bool("crio.runtime", "enable_pod_events")),
        images: cri::ImageService::new(Arc::clone(&images), store, pods.clone()),
        inspect: inspect::Inspect {
            pods: pods.clone(),
            images: Arc::clone(&images),
            config: shown.config.subscribe(),
            root: settings.path("crio", "root"),
            driver: driver.name(),
        },
        calls,
        max_receive: message_size(settings, "grpc_max_recv_msg_size"),
        max_send: message_size(settings, "grpc_max_send_msg_size"),
    };
    let reloader = reload::Reloader {
        matches: Arc::clone(matches),
        settings: Arc::clone(settings),
        log,
        pods: pods.clone(),
        images,
        shown,
    };
    tokio::spawn(reloader.run(hangup));
    markers.started()?;
    tracing::info!(socket = %listen.display(), version = env!("CARGO_PKG_VERSION"), "crioxide serves");
    let server = serve::serve(socket, services);
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "systemd not told that the daemon is ready");
    }
    let streams = streams.serve(Arc::new(cri::StreamingBackend(pods.clone())));
    let helpers = sys::pool::Pool::new("signals", 1);
    tokio::pin!(server, streams);
    loop {
        tokio::select! {
            ended = &mut server => return ended,
            () = &mut streams => return Err(anyhow!("the streaming server has ended")),
            _ = child.recv() => pods.reap().await,
            _ = ask.recv() => drop(tokio::spawn(tell_tasks(pods.clone(), helpers.clone()))),
            _ = trim.recv() => drop(helpers.run(sys::memory::trim)),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    tracing::info!("told to end: pods stay");
    remove_socket(&listen);
    if let Some(socket) = metrics_socket {
        remove_socket(&socket);
    }
    markers.clean_end()
}

/// SIGUSR1.
async fn tell_tasks(pods: pods::Pods, pool: sys::pool::Pool) {
    let operations = pods.operations();
    match pool.run(move || diagnostics::write(&operations)).await {
        Ok(path) => tracing::info!(path = %path.display(), "tasks and threads are written down"),
        Err(error) => tracing::error!(%error, "tasks and threads not written down"),
    }
}

fn message_size(settings: &Settings, key: &str) -> usize {
    const DEFAULT: usize = 80 * 1024 * 1024;
    usize::try_from(settings.integer("crio.api", key))
        .ok()
        .filter(|size| *size > 0)
        .unwrap_or(DEFAULT)
}

fn remove_socket(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::warn!(%error, path = %path.display(), "socket not removed");
    }
}

/// For modules that look for a program.
fn missing(what: &str, looked: &[PathBuf]) -> anyhow::Error {
    let looked: Vec<_> = looked
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    anyhow!("no program {what}; looked for {}", looked.join(", "))
}
