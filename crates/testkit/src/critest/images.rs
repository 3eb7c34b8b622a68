//! The images that `critest` 1.36 asks for, made from this distribution's programs.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::image_maker::{Entry, ImageMaker, MadeImage, programs};
use crate::node::binary;
use crate::registry::Registry;

/// Users and groups that the suite looks up by name.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/:/bin/false\n\
    default-user:x:1000:1000:user:/home:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
const GROUP: &str = "root:x:0:\nwww-data:x:33:\ndefault-user:x:1000:\nnogroup:x:65534:\n\
    group-defined-in-image:x:50000:default-user\n";
/// The port that the suite's web server listens at in the host's network.
const HOST_NETWORK_PORT: u16 = 12003;

/// Makes and pushes all of them; returns the digest of the one that is pulled by digest.
///
/// # Errors
/// A program is missing, or the registry refuses.
pub(super) fn push_all(registry: &Registry, nginx: &Path) -> Result<String> {
    let base = base();
    let push = |name: &str, tag: &str, image: &MadeImage| {
        registry
            .push(name, tag, image)
            .with_context(|| format!("push {name}:{tag}"))
    };
    let tools = |name: &str| format!("gcr-io/k8s-staging-cri-tools/{name}");
    let e2e = |name: &str| format!("registry-k8s-io/e2e-test-images/{name}");

    for user in [
        ("test-image-user-uid", "1002"),
        ("test-image-user-username", "www-data"),
        ("test-image-user-uid-group", "1003:users"),
        ("test-image-user-username-group", "www-data:100"),
        ("test-image-predefined-group", "1000"),
    ] {
        push(&tools(user.0), "latest", &base.clone().user(user.1).build())?;
    }
    let marked = |mark: &str| {
        let file = Entry::file(mark, 0o644, mark);
        base.clone().layer(&[file]).build()
    };
    for (name, tag) in [
        ("test-image-latest", "latest"),
        ("test-image-tag", "test"),
        ("test-image-tag", "all"),
        ("test-image-1", "latest"),
        ("test-image-2", "latest"),
        ("test-image-3", "latest"),
    ] {
        push(&tools(name), tag, &marked(&format!("{name}-{tag}")))?;
    }
    for tag in ["1", "2", "3"] {
        push(&tools("test-image-tags"), tag, &marked("test-image-tags"))?;
    }
    let by_digest = marked("test-image-digest");
    push(&tools("test-image-digest"), "latest", &by_digest)?;

    push(&e2e("busybox"), "1.29-2", &base.build())?;
    push(&e2e("nginx"), "1.14-2", &web_server(nginx, 80)?)?;
    let architecture = crate::image_maker::go_architecture();
    push(
        &tools(&format!("hostnet-nginx-{architecture}")),
        "latest",
        &web_server(nginx, HOST_NETWORK_PORT)?,
    )?;
    let httpd = base
        .clone()
        .layer(&[Entry::directory("srv", 0o755), page()])
        .cmd(&["sh", "-c", "echo httpd; exec httpd -f -p 80 -h /srv"]);
    push(&e2e("httpd"), "2.4.39-4", &httpd.build())?;
    push(&e2e("nonewprivs"), "1.3", &setuid()?)?;
    // An image of its own, with an ID of its own, under both names.
    let pause = base.clone().layer(&[Entry::file("pause", 0o644, "pause")]);
    for registry in ["registry-k8s-io", "k8s-gcr-io"] {
        push(&format!("{registry}/pause"), "3.9", &pause.build())?;
    }
    Ok(by_digest.digest())
}

/// Busybox with what the suite runs beside it.
fn base() -> ImageMaker {
    let mut entries = programs(&[Path::new("/usr/bin/pgrep"), Path::new("/usr/bin/ipcs")]);
    entries.push(Entry::file("etc/passwd", 0o644, PASSWD));
    entries.push(Entry::file("etc/group", 0o644, GROUP));
    ImageMaker::busybox().layer(&entries)
}

/// nginx from its packages, which are unpacked at `packages`, listening at `port`.
fn web_server(packages: &Path, port: u16) -> Result<MadeImage> {
    let program = packages.join("usr/sbin/nginx");
    let content = std::fs::read(&program).with_context(|| {
        format!(
            "read {}: unpack Debian's package nginx there",
            program.display()
        )
    })?;
    let mut entries = crate::image_maker::libraries(&program);
    for directory in [
        "usr/sbin",
        "etc/nginx",
        "var/lib",
        "var/lib/nginx",
        "var/run",
        "srv",
    ] {
        entries.push(Entry::directory(directory, 0o755));
    }
    entries.push(Entry::file("usr/sbin/nginx", 0o755, content));
    entries.push(page());
    let config = format!(
        "daemon off;\nmaster_process on;\nuser nobody nogroup;\npid /var/run/nginx.pid;\n\
         error_log stderr;\nevents {{}}\nhttp {{\n  access_log /dev/stdout;\n  \
         server {{ listen {port}; root /srv; }}\n}}\n"
    );
    entries.push(Entry::file("etc/nginx/nginx.conf", 0o644, config));
    let command = ["nginx", "-e", "stderr"];
    let image = base().layer(&entries).cmd(&command);
    Ok(image.env("PATH", "/usr/sbin:/bin:/usr/bin").build())
}

fn page() -> Entry {
    Entry::file("srv/index.html", 0o644, "<h1>it works</h1>\n")
}

/// A program that tells its effective user, and has the set-user-ID bit.
fn setuid() -> Result<MadeImage> {
    let program = binary("effective-uid")?;
    let content = std::fs::read(&program).with_context(|| format!("read {}", program.display()))?;
    let mut entries = crate::image_maker::libraries(&program);
    entries.push(Entry::file("nnp", 0o4755, content));
    Ok(base().layer(&entries).cmd(&["/nnp"]).build())
}
