//! `crioctl`: a small CRI client for tests and the demo. No promise of compatibility: people use
//! `crictl`.
#![allow(
    clippy::print_stdout,
    reason = "a command line program talks to its user"
)]

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use testkit::client::Client;
use testkit::{bench, critest, demo, kubelet, load, polls, power_cut, progress, pulls, soak};

use crioxide_testkit as testkit;

/// A small CRI client for tests and the demo.
#[derive(Debug, Parser)]
struct Arguments {
    /// The CRI socket.
    #[arg(long, default_value = "/var/run/crio/crio.sock")]
    socket: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tells name and version of the runtime.
    Version,
    /// Pulls an image, with a progress bar.
    Pull {
        /// The image.
        image: String,
    },
    /// Loads an image from files or another store of the node, by the program crioxide beside this.
    Load {
        /// As `crioxide load` takes it.
        source: String,
        /// A name to give it, for each.
        #[arg(long)]
        name: Vec<String>,
    },
    /// Shows an inspect endpoint such as /pulls or /operations.
    Inspect {
        /// The path.
        path: String,
    },
    /// Times the calls of a pod's life, of several sockets in turns.
    Bench {
        /// `SOCKET=IMAGE`, for each.
        #[arg(required = true)]
        peers: Vec<String>,
        /// Pods of each.
        #[arg(long, default_value_t = 20)]
        rounds: u32,
        /// Pods in the host's network.
        #[arg(long)]
        host_network: bool,
    },
    /// Starts a daemon under a root of its own and shows a pod from image to exit code.
    Demo {
        /// An image in place of the one that is made here.
        #[arg(long)]
        image: Option<String>,
        /// Leaves everything running and says how to look at it.
        #[arg(long)]
        keep: bool,
    },
    /// Runs the field's conformance suite against a daemon of its own.
    Critest {
        /// The suite's program, of version 1.36.
        #[arg(long)]
        critest: PathBuf,
        /// Where Debian's nginx packages are unpacked.
        #[arg(long)]
        nginx: PathBuf,
        /// The OCI runtime.
        #[arg(long, default_value = "")]
        runtime: String,
        /// Further lines of crio.conf.
        #[arg(long, default_value = "")]
        config: String,
        /// Further arguments of the suite.
        #[arg(last = true)]
        arguments: Vec<std::ffi::OsString>,
    },
    /// Runs a static pod by a real kubelet under a daemon of its own.
    KubeletSmoke {
        /// The kubelet's program, of version 1.36.
        #[arg(long)]
        kubelet: PathBuf,
    },
    /// Times polls of statistics with many pods under a daemon of its own.
    Polls {
        /// Pods, each with one container.
        #[arg(long, default_value_t = 100)]
        pods: u32,
        /// Further containers, that have exited.
        #[arg(long, default_value_t = 0)]
        exited: u32,
        /// Polls of each kind.
        #[arg(long, default_value_t = 100)]
        rounds: u32,
    },
    /// Leaves a node as it is when the power is cut, or looks at what is left (scripts/power-cut).
    PowerCut {
        /// The second half.
        #[arg(long)]
        after: bool,
    },
    /// Runs many commands in a container, and says what is left of them.
    Execs {
        /// Commands one after another.
        #[arg(long, default_value_t = 10_000)]
        in_turn: u32,
        /// Commands at once.
        #[arg(long, default_value_t = 100)]
        at_once: u32,
    },
    /// Pulls a large image in turns with podman and containerd, where they are installed, and a floor.
    BenchPulls {
        /// Bytes of the image in 2^20, uncompressed.
        #[arg(long, default_value_t = 1000)]
        megabytes: u64,
        /// Pulls by each of each compression.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
    /// Runs many pods under a daemon of its own, and says what is left and what they cost.
    Soak {
        /// Pods one after another.
        #[arg(long, default_value_t = 200)]
        one_by_one: u32,
        /// Pods at once.
        #[arg(long, default_value_t = 50)]
        at_once: u32,
    },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let result = runtime.block_on(run(arguments));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn run(arguments: Arguments) -> Result<()> {
    match arguments.command {
        Command::Version => {
            let client = Client::connect(&arguments.socket).await?;
            let version = client
                .runtime()
                .version(cri::v1::VersionRequest::default())
                .await?
                .into_inner();
            println!(
                "{} {} (CRI {})",
                version.runtime_name, version.runtime_version, version.runtime_api_version
            );
        }
        Command::Pull { image } => {
            let client = Client::connect(&arguments.socket).await?;
            println!("{}", progress::pull(&client, &image).await?);
        }
        Command::Load { source, name } => {
            let client = Client::connect(&arguments.socket).await?;
            let crioxide = testkit::node::binary("crioxide")?;
            let (id, names) = load::load(&client, &crioxide, &source, &name).await?;
            println!("{id} {}", names.join(" "));
        }
        Command::Inspect { path } => {
            let client = Client::connect(&arguments.socket).await?;
            println!("{}", client.inspect(&path).await?);
        }
        Command::Bench {
            peers,
            rounds,
            host_network,
        } => {
            Box::pin(bench::run(&peers, rounds, host_network)).await?;
        }
        Command::Critest {
            critest: program,
            nginx,
            runtime,
            config,
            arguments,
        } => {
            let suite = critest::Suite {
                critest: program,
                nginx,
                runtime,
                config,
                arguments,
            };
            Box::pin(critest::run(suite)).await?;
        }
        Command::KubeletSmoke { kubelet: program } => {
            Box::pin(kubelet::smoke(&program)).await?;
        }
        Command::Polls {
            pods,
            exited,
            rounds,
        } => Box::pin(polls::run(pods, exited, rounds)).await?,
        Command::PowerCut { after: false } => Box::pin(power_cut::before()).await?,
        Command::PowerCut { after: true } => Box::pin(power_cut::after()).await?,
        Command::Execs { in_turn, at_once } => Box::pin(soak::execs(in_turn, at_once)).await?,
        Command::BenchPulls { megabytes, rounds } => {
            Box::pin(pulls::run(megabytes, rounds)).await?;
        }
        Command::Soak {
            one_by_one,
            at_once,
        } => Box::pin(soak::run(one_by_one, at_once)).await?,
        Command::Demo { image, keep } => Box::pin(demo::run(image, keep)).await?,
    }
    Ok(())
}
