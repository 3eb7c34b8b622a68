//! Whether pods may have user namespaces of their own here: the kernel has to let us make one, and to
//! show the store's files with other owners, also as layers of an overlay, and those of a tmpfs, which
//! the kubelet's volumes of secrets are.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use sys::spawn::{Program, run};

use crate::node::{Node, blocking};

/// The first kernel whose overlay takes id-mapped layers.
const KERNEL: (u32, u32) = (5, 19);
/// How long `pinns` may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Whether they are possible. That they are is found out once; while they are not, each question
/// tries again, since what is in the way may be a limit that somebody raises.
pub(crate) async fn are_possible(node: &Arc<Node>) -> bool {
    let look = || async {
        if node.host.kernel < KERNEL || !node.store.maps_users() {
            return Err(());
        }
        let looker = Arc::clone(node);
        let tried = blocking(&node.pools.helpers, move || try_one(&looker)).await;
        tried.map_err(|error| tracing::info!(%error, "no user namespaces for pods"))
    };
    node.user_namespaces.get_or_try_init(look).await.is_ok()
}

/// Makes one and maps the store's root and a tmpfs by it, attached nowhere. Blocks.
fn try_one(node: &Node) -> io::Result<()> {
    let dir = node.options.run_dir.join("probe");
    let pin = dir
        .join(sys::namespace::Kind::User.dir_name())
        .join("probe");
    // Of a daemon that was killed here.
    sys::namespace::unpin(&pin)?;
    let program = Program::new(&node.options.pinns, TIMEOUT)
        .arg("-d")
        .arg(&dir)
        .args(["-f", "probe", "--user"])
        .args(["--uid-mapping", "0-1-1", "--gid-mapping", "0-1-1"]);
    let output = run(&program).map_err(io::Error::other)?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("pinns: {}", text.trim())));
    }
    let namespace = sys::namespace::open(&pin);
    sys::namespace::unpin(&pin)?;
    sys::remove::tree(&dir)?;
    let namespace = namespace?;
    sys::mount::id_mapped(node.store.root(), namespace.as_fd(), false)?;
    sys::mount::try_tmpfs(namespace.as_fd())
}
