//! The field's own conformance suite, `critest`, against a node of our own.
//!
//! The suite names images of public registries. They are made here (`images`), served from a
//! registry on loopback and found through mirrors in `registries.conf`, so that the names stay
//! those of the suite. One digest is compiled into it: a copy of the binary gets ours.

mod images;

use std::ffi::OsString;
use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use sys::spawn::{Spec, spawn};

use crate::node::{Node, Options};
use crate::registry::Registry;

/// Registries that the suite's names point to.
const REGISTRIES: &[&str] = &[
    "gcr.io/k8s-staging-cri-tools",
    "registry.k8s.io",
    "k8s.gcr.io",
];
/// What stands before the digest that is compiled into the suite.
const DIGEST_OF: &[u8] = b"test-image-digest@sha256:";
/// What the suite wants and is not the default: it asks for every metric.
const CONFIG: &str = "[crio.stats]\nincluded_pod_metrics = [\"all\"]\n";
/// Hexadecimal digits of a SHA-256 digest.
const DIGEST_DIGITS: usize = 64;

/// What to run.
#[derive(Debug)]
pub struct Suite {
    /// The suite's program.
    pub critest: PathBuf,
    /// Where Debian's nginx packages are unpacked.
    pub nginx: PathBuf,
    /// OCI runtime; as for every node if empty.
    pub runtime: String,
    /// Further lines of `crio.conf`.
    pub config: String,
    /// Further arguments of the suite.
    pub arguments: Vec<OsString>,
}

/// Runs the suite; its output is the caller's.
///
/// # Errors
/// A spec failed, or something is left afterwards.
pub async fn run(suite: Suite) -> Result<()> {
    let scratch = tempfile::Builder::new()
        .prefix("crixc-")
        .tempdir_in("/var/tmp")?;
    let registry = Registry::start(&scratch.path().join("registry"))?;
    let digest = images::push_all(&registry, &suite.nginx).context("make the suite's images")?;
    let program = scratch.path().join("critest");
    with_digest(&suite.critest, &program, &digest)?;
    let node = Node::start(Options {
        runtime: suite.runtime,
        config: format!("{CONFIG}{}", suite.config),
        registries: mirrors(&registry),
        ..Options::default()
    })
    .await?;
    let ran = run_against(&node, &program, suite.arguments).await;
    let ran = ran.with_context(|| node.log_tail());
    node.finish().await.and(ran)
}

async fn run_against(node: &Node, program: &Path, further: Vec<OsString>) -> Result<()> {
    let mut spec = Spec::new(program);
    let socket = node.socket();
    spec.args = vec![
        format!("--runtime-endpoint=unix://{}", socket.display()).into(),
        format!("--image-endpoint=unix://{}", socket.display()).into(),
        "--ginkgo.no-color".into(),
    ];
    spec.args.extend(further);
    spec.env = std::env::vars_os().collect();
    let (input, output, errors) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    spec.fds = vec![(input.as_fd(), 0), (output.as_fd(), 1), (errors.as_fd(), 2)];
    let mut child = spawn(&spec).context("start critest")?;
    let pool = sys::pool::Pool::new("critest", 1);
    let status = pool.run(move || child.wait(None)).await?;
    let code = status.map(sys::spawn::Status::code);
    ensure!(code == Some(0), "critest ended with {code:?}");
    Ok(())
}

/// `registries.conf` that sends the suite's names to the registry on loopback.
fn mirrors(registry: &Registry) -> String {
    let addr = registry.addr();
    REGISTRIES
        .iter()
        .map(|prefix| {
            let name = prefix.replace('.', "-");
            format!(
                "[[registry]]\nprefix = \"{prefix}\"\nlocation = \"{addr}/{name}\"\ninsecure = true\n"
            )
        })
        .collect()
}

/// Copies the suite with another digest in it.
fn with_digest(from: &Path, to: &Path, digest: &str) -> Result<()> {
    let mut program = fs::read(from).with_context(|| format!("read {}", from.display()))?;
    let hex = digest.trim_start_matches("sha256:").as_bytes();
    let mut found = 0;
    let mut at = 0;
    while let Some(next) = program.get(at..).and_then(|rest| {
        rest.windows(DIGEST_OF.len())
            .position(|one| one == DIGEST_OF)
    }) {
        at += next + DIGEST_OF.len();
        if let Some(place) = program.get_mut(at..at + DIGEST_DIGITS)
            && place.iter().all(u8::is_ascii_hexdigit)
        {
            place.copy_from_slice(hex);
            found += 1;
        }
    }
    if found == 0 {
        bail!(
            "{}: no digest of a test image in it: not critest 1.36?",
            from.display()
        );
    }
    fs::write(to, program)?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))?;
    Ok(())
}
