//! Images that real tools make, in each format and compression, at registries of each kind and in
//! files: we pull or load them, run them, and podman and skopeo use what is then in our store.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cri::v1;
use sys::spawn::{Program, run};
use testkit::node::{self, Node, Options};
use testkit::registry::Registry;
use testkit::requests::container;
use testkit::signer::openssl;
use testkit::token_server::TokenServer;

use crate::fixture;
use crate::peers::{peer, tree};

pub(crate) const USER: &str = "user";
pub(crate) const PASSWORD: &str = "secret";
/// The same as htpasswd has it.
pub(crate) const BCRYPT: &str = "$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a";

/// What the script made.
struct Made {
    name: String,
    reference: String,
    digest: String,
}

async fn pull(node: &Node, reference: &str) -> Result<String> {
    let request = v1::PullImageRequest {
        image: Some(v1::ImageSpec {
            image: reference.to_owned(),
            ..Default::default()
        }),
        auth: Some(v1::AuthConfig {
            username: USER.to_owned(),
            password: PASSWORD.to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let pulled = node.client().images().pull_image(request).await?;
    Ok(pulled.into_inner().image_ref)
}

/// Runs the image as it says; its log.
async fn output(node: &Node, pod: &str, name: &str, image: &str) -> Result<String> {
    let mut config = container(name, image, &[]);
    config.command.clear();
    let id = node.run(pod, config).await?;
    let ended = node.exited(&id).await?;
    ensure!(ended.exit_code == 0, "{image}: {ended:?}");
    node.log("matrix", name)
}

fn load(node: &Node, arguments: &[&str]) -> Result<String> {
    let program = Program::new(node::binary("crioxide")?, Duration::from_secs(120));
    let mut given = node.arguments();
    given.push("load".to_owned());
    given.extend(arguments.iter().map(|&argument| argument.to_owned()));
    let output = run(&program
        .args(given)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"))?;
    ensure!(
        output.status.success(),
        "load {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_real_tools_make_is_pulled_run_and_given_back() -> Result<()> {
    if tree().is_none() {
        return Ok(());
    }
    let directory = tempfile::Builder::new()
        .prefix("crixr-")
        .tempdir_in("/var/tmp")?;
    let dir = |name: &str| directory.path().join(name);
    let certificate = "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -subj /CN=tls \
                       -addext subjectAltName=IP:127.0.0.1 -days 2";
    openssl(directory.path(), certificate, b"")?;
    let tls = Registry::start_tls(&dir("tls"), &dir("cert.pem"), &dir("key.pem"), None)?;
    let basic = Registry::start_basic(&dir("basic"), USER, BCRYPT)?;
    let tokens = TokenServer::start(&dir("tokens"), USER, PASSWORD)?;
    let token = Registry::start_token(&dir("token"), &tokens.realm(), &tokens.certificate())?;
    let f = fixture::without_image(Options {
        insecure: [&tls, &basic, &token]
            .map(|one| one.addr().to_string())
            .into(),
        ..Options::default()
    })
    .await?;
    let work = f.node.dir.join("matrix");
    std::fs::create_dir_all(work.join("files"))?;
    let script = format!(
        "work={} base={} plain={} tls={} basic={} token={}\n{}",
        work.display(),
        f.image,
        f.registry.addr(),
        tls.addr(),
        basic.addr(),
        token.addr(),
        include_str!("image_matrix.sh")
    );
    let text = peer(&f.node, &script).await?;
    let made: Vec<Made> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.strip_prefix("image ")?.split(' ').map(str::to_owned);
            Some(Made {
                name: words.next()?,
                reference: words.next()?,
                digest: words.next()?,
            })
        })
        .collect();
    ensure!(made.len() == 13, "{text}");
    let asked = tokens.given();

    let pod = f.node.run_pod("matrix").await?;
    let mut ids = Vec::new();
    for Made {
        name,
        reference,
        digest,
    } in &made
    {
        let id = pull(&f.node, reference).await.context(name.clone())?;
        let request = v1::ImageStatusRequest {
            image: Some(v1::ImageSpec {
                image: id.clone(),
                ..Default::default()
            }),
            verbose: false,
        };
        let status = f.node.client().images().image_status(request).await?;
        let image = status.into_inner().image.context("it was pulled")?;
        // By the digest that was pushed: that of the index, where it is one.
        let known = image
            .repo_digests
            .iter()
            .any(|known| known.ends_with(digest));
        ensure!(known, "{name}: {digest} is not in {:?}", image.repo_digests);
        let log = output(&f.node, &pod, name, reference).await?;
        let mark = match name.as_str() {
            "podman-index" | "podman-list" => "podman-build",
            "buildah-docker" | "umoci" => name,
            _ => "buildah-oci",
        };
        ensure!(log.contains(&format!(" {mark}")), "{name}: {log}");
        ids.push((name, id));
    }
    ensure!(tokens.given() > asked, "the token service was asked by us");
    let id_of = |name: &str| {
        let found = ids.iter().find(|(known, _)| *known == name);
        found.map(|(_, id)| id.trim_start_matches("sha256:").to_owned())
    };
    let oci = id_of("buildah-oci").context("pulled")?;

    // Files: the same image as the registry's, which is there already; then without it.
    let files = work.join("files").display().to_string();
    let source = |transport: &str, name: &str| format!("{transport}:{files}/{name}");
    for (source, given, id, name) in [
        (
            source("oci", "layout"),
            None,
            Some(&oci),
            "localhost/files/layout:1",
        ),
        (
            source("oci-archive", "oci.tar"),
            None,
            Some(&oci),
            "localhost/files/oci:1",
        ),
        (
            source("dir", "dir"),
            Some("localhost/files/dir:1"),
            Some(&oci),
            "localhost/files/dir:1",
        ),
        // What docker's format can't say of OCI's is lost: another ID.
        (
            source("docker-archive", "saved.tar"),
            None,
            None,
            "localhost/files/saved:1",
        ),
        (
            source(
                "docker-archive",
                "several.tar.gz:localhost/buildah-docker:latest",
            ),
            None,
            None,
            "localhost/buildah-docker:latest",
        ),
        (
            source("oci-archive", "podman.tar"),
            None,
            None,
            "localhost/podman-build:latest",
        ),
    ] {
        let named: Vec<&str> = given.map_or(vec![], |name| vec!["--name", name]);
        let loaded = load(&f.node, &[&named[..], &[&source]].concat())?;
        let (found, names) = loaded.trim().split_once(' ').context("an ID and a name")?;
        ensure!(names == name, "{source}: {loaded}");
        ensure!(
            id.is_none_or(|id| id == found),
            "{source}: {loaded}, not {id:?}"
        );
        let container = name.replace(['/', ':'], "-");
        let log = output(&f.node, &pod, &container, name).await?;
        ensure!(log.contains("build"), "{source}: {log}");
    }

    // The peers, on our store.
    let given_back = format!(
        r#"for image in {images}; do
    podman run --rm --network none --cgroups disabled --security-opt seccomp=unconfined $image
    rm -rf {work}/back
    skopeo copy -q $(store $image) dir:{work}/back
    (cd {work}/back && for layer in $(skopeo inspect --config --raw dir:. | tr -d ' ' | grep -o '"diff_ids":\[[^]]*' | grep -o '[0-9a-f]\{{64\}}'); do
        zcat -f $layer 2>/dev/null | sha256sum | grep -q $layer || cat $layer | sha256sum | grep -q $layer || echo "changed: $image $layer"
    done)
done
podman system check && echo whole"#,
        images = made
            .iter()
            .map(|one| one.reference.as_str())
            .chain(["localhost/files/saved:1", "localhost/podman-build:latest"])
            .collect::<Vec<_>>()
            .join(" "),
        work = work.display(),
    );
    let text = peer(&f.node, &given_back).await?;
    ensure!(
        !text.contains("changed:") && text.contains("whole"),
        "{text}"
    );
    let ran = text
        .lines()
        .filter(|line| line.contains("build") || *line == "umoci");
    ensure!(ran.count() == made.len() + 2, "{text}");
    f.node.remove_pod(&pod).await?;
    f.node.finish().await
}
