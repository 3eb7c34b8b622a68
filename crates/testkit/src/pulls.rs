//! Times pulls of a large image: ours beside podman's and containerd's, where they are installed,
//! and beside a floor, in turns; what is written is synced within the time.
#![allow(clippy::print_stdout, reason = "a benchmark's result is its output")]
#![allow(
    clippy::disallowed_methods,
    reason = "peers tell nobody that they are ready, and nothing else runs meanwhile"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cri::v1;
use sys::spawn::{Child, Session, Spec, spawn, which};

use crate::client::Client;
use crate::image_maker::{Compression, Entry, ImageMaker};
use crate::node::{Node, Options};
use crate::registry::Registry;

mod floor;

const LAYERS: u64 = 8;
/// Of all bytes, those of the largest layer.
const LARGEST: (u64, u64) = (6, 10);

/// One who pulls.
enum Puller {
    Ours(Box<Node>),
    Containerd { client: Client, daemon: Child },
    Podman { program: PathBuf, root: PathBuf },
    Floor { root: PathBuf },
}

impl Puller {
    fn name(&self) -> &'static str {
        match self {
            Self::Ours(_) => "crioxide",
            Self::Containerd { .. } => "containerd",
            Self::Podman { .. } => "podman",
            Self::Floor { .. } => "floor",
        }
    }
}

/// Seconds, and the peak of memory in MB.
type Sample = (f64, u64);

/// Pulls an image of so many megabytes (uncompressed, eight layers, one of them six tenths of it)
/// `rounds` times with everyone, once as gzip and once as zstd, and prints medians, their ratio to
/// ours and the peak of each one's memory.
///
/// # Errors
/// Any pull that failed.
pub async fn run(megabytes: u64, rounds: usize) -> Result<()> {
    ensure!(rounds > 0, "no rounds");
    let directory = tempfile::Builder::new()
        .prefix("crixp-")
        .tempdir_in("/var/tmp")?;
    let registry = Registry::start(&directory.path().join("registry"))?;
    let compressions = [("gzip", Compression::Gzip), ("zstd", Compression::Zstd)];
    for (name, compression) in compressions {
        let made = image(megabytes << 20)?.compression(compression).build();
        let bytes: usize = made.layers().iter().map(|layer| layer.bytes().len()).sum();
        println!("{name}: {megabytes} MB, {} MB compressed", bytes >> 20);
        registry.push(name, "1", &made)?;
    }
    let mut pullers = start(directory.path(), &registry).await?;
    for (compression, _) in compressions {
        let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); pullers.len()];
        for _ in 0..rounds {
            for (puller, samples) in pullers.iter_mut().zip(&mut samples) {
                let pulled = pull(puller, &registry, compression).await;
                samples.push(pulled.with_context(|| puller.name())?);
            }
        }
        table(compression, &pullers, samples);
    }
    for puller in pullers {
        match puller {
            Puller::Ours(node) => node.finish().await?,
            Puller::Containerd { mut daemon, .. } => {
                daemon.signal(rustix::process::Signal::TERM)?;
                daemon.wait(Some(Duration::from_secs(20)))?;
            }
            Puller::Podman { .. } | Puller::Floor { .. } => {}
        }
    }
    Ok(())
}

/// Layers of this machine's own programs and libraries, as often as it takes.
fn image(bytes: u64) -> Result<ImageMaker> {
    let mut found = files(Path::new("/usr/lib"))?;
    found.extend(files(Path::new("/usr/bin"))?);
    found.sort();
    let mut next = found.iter().cycle();
    let mut maker = ImageMaker::new();
    let largest = bytes * LARGEST.0 / LARGEST.1;
    for layer in 0..LAYERS {
        let wanted = match layer {
            3 => largest,
            _ => (bytes - largest) / (LAYERS - 1),
        };
        let (mut entries, mut have, mut number) = (Vec::new(), 0, 0);
        while have < wanted {
            if number % 1000 == 0 {
                let name = format!("l{layer}d{}", number / 1000);
                entries.push(Entry::directory(&name, 0o755));
            }
            let path = next.next().context("no files in /usr")?;
            let content = fs::read(path)?;
            have += content.len() as u64;
            let name = format!("l{layer}d{}/{number}", number / 1000);
            entries.push(Entry::file(&name, 0o644, content));
            number += 1;
        }
        maker = maker.layer(&entries);
    }
    Ok(maker)
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            found.extend(files(&entry.path())?);
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

async fn start(directory: &Path, registry: &Registry) -> Result<Vec<Puller>> {
    let node = Node::start(Options {
        insecure: vec![registry.addr().to_string()],
        log_level: "info".to_owned(),
        ..Options::default()
    })
    .await?;
    let mut pullers = vec![Puller::Ours(Box::new(node))];
    let path = std::env::var("PATH").unwrap_or_default();
    if let Some(program) = which("podman", &path) {
        let root = directory.join("podman");
        pullers.push(Puller::Podman { program, root });
    }
    if let Some(program) = which("containerd", &path) {
        pullers.push(containerd(&program, &directory.join("containerd")).await?);
    }
    let root = directory.join("floor");
    pullers.push(Puller::Floor { root });
    Ok(pullers)
}

async fn containerd(program: &Path, directory: &Path) -> Result<Puller> {
    fs::create_dir_all(directory)?;
    let config = directory.join("config.toml");
    let here = directory.display();
    fs::write(
        &config,
        format!(
            "version = 2\nroot = \"{here}/root\"\nstate = \"{here}/state\"\n[grpc]\n  \
             address = \"{here}/sock\"\n[ttrpc]\n  address = \"{here}/ttrpc\"\n"
        ),
    )?;
    let log = fs::File::create(directory.join("log"))?;
    let mut spec = Spec::new(program);
    spec.args = vec!["--config".into(), config.into()];
    spec.session = Session::Group;
    spec.env = std::env::vars_os().collect();
    let log = std::os::fd::AsFd::as_fd(&log);
    spec.fds = vec![(log, 1), (log, 2)];
    let daemon = spawn(&spec)?;
    let socket = directory.join("sock");
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if let Ok(client) = Client::connect(&socket).await
            && client
                .runtime()
                .version(v1::VersionRequest::default())
                .await
                .is_ok()
        {
            return Ok(Puller::Containerd { client, daemon });
        }
        ensure!(Instant::now() < end, "containerd does not answer");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn pull(puller: &mut Puller, registry: &Registry, name: &str) -> Result<Sample> {
    let reference = registry.reference(name, "1");
    let sync = || {
        let written = fs::File::open("/var/tmp")?;
        rustix::fs::syncfs(&written).context("sync")
    };
    sync()?;
    let begun = Instant::now();
    let peak = match puller {
        Puller::Ours(node) => {
            let pid = node.daemon_pid().context("no daemon")?;
            forget_peak(pid)?;
            cri_pull(&node.client(), &reference).await?;
            peak(pid)?
        }
        Puller::Containerd { client, daemon } => {
            let pid = daemon.pid().as_raw_nonzero().get();
            forget_peak(pid)?;
            cri_pull(client, &reference).await?;
            peak(pid)?
        }
        Puller::Podman { program, root } => {
            podman(
                program,
                root,
                &["pull", "-q", "--tls-verify=false", &reference],
            )
            .await?
        }
        Puller::Floor { root } => {
            let (addr, name, root) = (registry.addr(), name.to_owned(), root.clone());
            tokio::task::spawn_blocking(move || floor::pull(addr, &name, &root)).await??;
            0
        }
    };
    sync()?;
    let seconds = begun.elapsed().as_secs_f64();
    match puller {
        Puller::Ours(node) => cri_remove(&node.client(), &reference).await?,
        Puller::Containerd { client, .. } => cri_remove(client, &reference).await?,
        Puller::Podman { program, root } => {
            podman(program, root, &["rmi", "-f", &reference]).await?;
        }
        Puller::Floor { root } => fs::remove_dir_all(root)?,
    }
    Ok((seconds, peak))
}

fn spec(image: &str) -> Option<v1::ImageSpec> {
    Some(v1::ImageSpec {
        image: image.to_owned(),
        ..Default::default()
    })
}

async fn cri_pull(client: &Client, image: &str) -> Result<()> {
    let request = v1::PullImageRequest {
        image: spec(image),
        ..Default::default()
    };
    client.images().pull_image(request).await?;
    Ok(())
}

async fn cri_remove(client: &Client, image: &str) -> Result<()> {
    let image = spec(image);
    client
        .images()
        .remove_image(v1::RemoveImageRequest { image })
        .await?;
    Ok(())
}

/// Runs podman on a store of its own; the peak of its memory, in MB.
async fn podman(program: &Path, root: &Path, arguments: &[&str]) -> Result<u64> {
    let mut spec = Spec::new(program);
    let own = [
        ("--root", "root"),
        ("--runroot", "run"),
        ("--tmpdir", "tmp"),
    ];
    for (option, name) in own {
        spec.args.extend([option.into(), root.join(name).into()]);
    }
    spec.args
        .extend(["--storage-driver", "overlay", "--events-backend", "none"].map(Into::into));
    spec.args
        .extend(arguments.iter().map(|&argument| argument.into()));
    spec.env = std::env::vars_os().collect();
    spec.session = Session::Group;
    let mut child = spawn(&spec)?;
    let pid = child.pid().as_raw_nonzero().get();
    let mut highest = 0;
    let end = Instant::now() + Duration::from_secs(600);
    loop {
        if let Some(status) = child.try_wait()? {
            ensure!(status.success(), "podman {arguments:?}: {status:?}");
            return Ok(highest);
        }
        highest = peak(pid).unwrap_or(highest).max(highest);
        ensure!(Instant::now() < end, "podman does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// `proc_pid_clear_refs(5)`.
fn forget_peak(pid: i32) -> Result<()> {
    Ok(fs::write(format!("/proc/{pid}/clear_refs"), "5")?)
}

/// The most memory that a process had, in MB.
fn peak(pid: i32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    let kilobytes: u64 = number.context("no VmHWM")?.parse()?;
    Ok(kilobytes >> 10)
}

fn table(compression: &str, pullers: &[Puller], samples: Vec<Vec<Sample>>) {
    println!("\n{compression}, {} rounds in turns", samples[0].len());
    println!(
        "{:12} {:>8} {:>8} {:>8} {:>10} {:>8}",
        "", "median s", "least", "most", "to ours", "peak MB"
    );
    let mut ours = None;
    for (puller, samples) in pullers.iter().zip(samples) {
        let mut seconds: Vec<f64> = samples.iter().map(|(seconds, _)| *seconds).collect();
        seconds.sort_by(f64::total_cmp);
        let median = seconds[seconds.len() / 2];
        let ours = *ours.get_or_insert(median);
        let peak = samples.iter().map(|(_, peak)| *peak).max().unwrap_or(0);
        println!(
            "{:12} {median:8.2} {:8.2} {:8.2} {:9.2}x {peak:8}",
            puller.name(),
            seconds[0],
            seconds[seconds.len() - 1],
            median / ours,
        );
    }
}
