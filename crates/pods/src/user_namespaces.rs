//! Whether pods may have user namespaces of their own here: the kernel has to let us make one, and to
//! show the store's files with other owners, also as layers of an overlay.

use std::os::fd::AsFd as _;
use std::time::Duration;

use sys::spawn::{Program, run};

use crate::node::{Node, blocking};

/// The first kernel whose overlay takes id-mapped layers.
const KERNEL: (u32, u32) = (5, 19);
/// How long `pinns` may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Whether they are possible. Asked of the kernel once.
pub(crate) async fn are_possible(node: &std::sync::Arc<Node>) -> bool {
    let look = || async {
        let looker = std::sync::Arc::clone(node);
        let tried = blocking(&node.pools.helpers, move || try_one(&looker)).await;
        tried.is_ok_and(|()| node.host.kernel >= KERNEL)
    };
    *node.user_namespaces.get_or_init(look).await
}

/// Makes one and maps the store's root by it, attached nowhere. Blocks.
fn try_one(node: &Node) -> std::io::Result<()> {
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
    let output = run(&program).map_err(std::io::Error::other)?;
    if !output.status.success() {
        return Err(std::io::Error::other("pinns failed"));
    }
    let namespace = sys::namespace::open(&pin);
    sys::namespace::unpin(&pin)?;
    std::fs::remove_dir_all(&dir)?;
    sys::mount::id_mapped(node.store.root(), namespace?.as_fd(), false).map(drop)
}
