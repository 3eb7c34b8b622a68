//! Signatures that skopeo of a Debian 13 tree makes, puts into our store, and takes out of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use sys::spawn::{Program, run};

use crate::image_maker::{Compression, Entry, ImageMaker, MadeImage};
use crate::registry::Registry;
use crate::signer::Gpg;
use crate::support::Node;

const SIGNER: &str = "signer@x.io";

#[allow(clippy::print_stderr, reason = "a skipped test says why")]
/// The tree's place, or `None` with a word why these tests can't run.
pub(crate) fn tree() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let tree = std::env::var_os("CRIOXIDE_DEBIAN13")
        .map_or_else(|| root.join(".build/debian13"), PathBuf::from);
    if tree.join("usr/bin/skopeo").is_file() {
        return Some(tree);
    }
    eprintln!("skipped: no Debian 13 tree (scripts/in-debian13 -- true makes one)");
    None
}

/// Runs a shell script in the tree: `$D` is the node's directory, `$R` the registry, `$GNUPGHOME`
/// the signer's keys, `store REF` a name in the node's store.
#[track_caller]
pub(crate) fn in_tree(node: &Node, registry: &Registry, gpg: &Gpg, script: &str) -> (bool, String) {
    let in_debian13 = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/in-debian13");
    let (dir, home) = (node.dir.path().display(), gpg.home().display());
    let prelude = format!(
        "set -eu; D={dir}; R={}; export GNUPGHOME={home} TMPDIR=/tmp
skopeo() {{ command skopeo --registries.d $D/registries.d --policy $D/peer.json \"$@\"; }}
store() {{ echo \"containers-storage:[overlay@$D/root+$D/run]$1\"; }}
{script}",
        registry.addr()
    );
    let program = Program::new(in_debian13, Duration::from_secs(300))
        .args(["--no-make", "--bind"])
        .arg(dir.to_string())
        .arg("--bind")
        .arg(home.to_string())
        .args(["--", "bash", "-c", &prelude]);
    let program = Program {
        env: std::env::vars_os().collect(),
        ..program
    };
    let output = run(&program).unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

struct Tools {
    registry: Registry,
    node: Node,
    gpg: Gpg,
    made: MadeImage,
    _dir: tempfile::TempDir,
}

impl Tools {
    /// A registry with an unsigned image `plain:v1`; skopeo and we look for signatures in the same
    /// places.
    fn new() -> Option<Self> {
        tree()?;
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::start(dir.path()).unwrap();
        let gpg = Gpg::new().unwrap();
        gpg.key(SIGNER, "rsa3072", "never").unwrap();
        let node = Node::new(&registry.registries_conf());
        // The store has layers as they are unpacked: of others skopeo could not give away the bytes
        // that were signed.
        let made = ImageMaker::new()
            .compression(Compression::None)
            .layer(&[Entry::file("a", 0o644, "a")])
            .build();
        registry.push("plain", "v1", &made).unwrap();
        let lookaside = node.path("lookaside");
        node.set_sources(&format!(
            "lookaside: file://{}\n  use-sigstore-attachments: true",
            lookaside.display()
        ));
        fs::write(node.path("key.gpg"), gpg.export(SIGNER).unwrap()).unwrap();
        let accept = json!({"default": [{"type": "insecureAcceptAnything"}]});
        fs::write(node.path("peer.json"), accept.to_string()).unwrap();
        Some(Self {
            registry,
            node,
            gpg,
            made,
            _dir: dir,
        })
    }

    #[track_caller]
    fn run(&self, script: &str) -> String {
        let (fine, text) = in_tree(&self.node, &self.registry, &self.gpg, script);
        assert!(fine, "{script}: {text}");
        text
    }

    fn reference(&self, name: &str) -> String {
        self.registry.reference(name, "v1")
    }

    /// `signedBy` with the signer's key.
    fn signed_by(&self) -> serde_json::Value {
        json!({"type": "signedBy", "keyType": "GPGKeys", "keyPath": self.node.path("key.gpg")})
    }
}

#[tokio::test]
async fn what_skopeo_signs_with_gpg_is_trusted_and_goes_through_the_store_both_ways() {
    let Some(tools) = Tools::new() else { return };
    let node = &tools.node;
    let print = tools.gpg.fingerprint(SIGNER).unwrap();
    tools.run(&format!(
        "skopeo copy --preserve-digests --sign-by {print} --src-tls-verify=false --dest-tls-verify=false \
         docker://$R/plain:v1 docker://$R/signed:v1"
    ));
    node.set_policy(json!([tools.signed_by()]));
    let error = node.pull(&tools.reference("plain")).await.unwrap_err();
    assert!(error.to_string().contains("no signature exists"), "{error}");
    let signed = tools.reference("signed");
    node.pull(&signed).await.unwrap();
    let found = node.images.find(&signed).await.unwrap().unwrap();
    node.images.allowed(&found, &signed, "").await.unwrap();

    // skopeo verifies, by its policy, what we stored; and gives it away with its signature.
    let peer = json!({"default": [{"type": "reject"}], "transports": {"containers-storage":
        {"": [tools.signed_by()]}}});
    fs::write(node.path("peer.json"), peer.to_string()).unwrap();
    tools.run(&format!("skopeo copy $(store {signed}) dir:$D/out"));
    let kept = fs::read(node.path("out/signature-1")).unwrap();
    let digest = tools.made.digest().replace(':', "=");
    let sent = node.path(&format!("lookaside/signed@{digest}/signature-1"));
    assert_eq!(kept, fs::read(sent).unwrap());

    // What it wrote beside files is trusted where it is loaded.
    let loading = Node::new("");
    let mut wanted = tools.signed_by();
    wanted["signedIdentity"] = json!({"type": "exactReference", "dockerReference": signed});
    loading.set_policy(json!([wanted]));
    let out = format!("dir:{}", node.path("out").display());
    crate::loading::load(&loading, &out, &[&signed])
        .await
        .unwrap();
    loading.set_policy(json!([tools.signed_by()]));
    let found = loading.images.find(&signed).await.unwrap().unwrap();
    loading.images.allowed(&found, &signed, "").await.unwrap();
    fs::remove_file(node.path("out/signature-1")).unwrap();
    loading.set_policy(json!([wanted]));
    let error = crate::loading::load(&loading, &out, &[&signed])
        .await
        .unwrap_err();
    assert!(error.to_string().contains("no signature exists"), "{error}");

    // What skopeo puts into a store we trust in turn.
    let other = Node::new(&tools.registry.registries_conf());
    other.set_policy(json!([tools.signed_by()]));
    let accept = json!({"default": [{"type": "insecureAcceptAnything"}]});
    fs::write(other.path("peer.json"), accept.to_string()).unwrap();
    let lookaside = format!(
        "default-docker: {{lookaside: 'file://{}'}}\n",
        other.path("lookaside").display()
    );
    fs::create_dir(other.path("registries.d")).unwrap();
    fs::write(other.path("registries.d/a.yaml"), lookaside).unwrap();
    for (name, copied) in [("signed", true), ("plain", false)] {
        if copied {
            let to = other.path("lookaside");
            fs::create_dir_all(&to).unwrap();
            let from = node.path(&format!("lookaside/signed@{digest}"));
            let dir = to.join(from.file_name().unwrap());
            fs::create_dir(&dir).unwrap();
            fs::copy(from.join("signature-1"), dir.join("signature-1")).unwrap();
        }
        let reference = tools.reference(name);
        let script =
            format!("skopeo copy --src-tls-verify=false docker://{reference} $(store {reference})");
        let (fine, text) = in_tree(&other, &tools.registry, &tools.gpg, &script);
        assert!(fine, "{text}");
        let found = other.images.find(&reference).await.unwrap().unwrap();
        let allowed = other.images.allowed(&found, &reference, "").await;
        assert_eq!(allowed.is_ok(), copied, "{name}: {allowed:?}");
    }
}

#[tokio::test]
async fn what_skopeo_signs_with_a_sigstore_key_is_trusted_and_goes_through_the_store() {
    let Some(tools) = Tools::new() else { return };
    let node = &tools.node;
    tools.run(
        "echo -n secret > $D/passphrase
for key in ours theirs; do
    command skopeo generate-sigstore-key --output-prefix $D/$key --passphrase-file $D/passphrase
done
skopeo copy --preserve-digests --sign-by-sigstore-private-key $D/ours.private \
    --sign-passphrase-file $D/passphrase --src-tls-verify=false --dest-tls-verify=false \
    docker://$R/plain:v1 docker://$R/signed:v1",
    );
    let by =
        |key: &str| json!({"type": "sigstoreSigned", "keyPath": node.path(&format!("{key}.pub"))});
    let signed = tools.reference("signed");
    node.set_policy(json!([by("theirs")]));
    let error = node.pull(&signed).await.unwrap_err();
    assert!(
        error.to_string().contains("wrong, or by another key"),
        "{error}"
    );
    node.set_policy(json!([by("ours")]));
    let error = node.pull(&tools.reference("plain")).await.unwrap_err();
    assert!(error.to_string().contains("no signature exists"), "{error}");
    node.pull(&signed).await.unwrap();
    let found = node.images.find(&signed).await.unwrap().unwrap();
    node.images.allowed(&found, &signed, "").await.unwrap();
    let peer = |key: &str| {
        json!({"default": [{"type": "reject"}], "transports": {"containers-storage":
        {"": [by(key)]}}})
    };
    fs::write(node.path("peer.json"), peer("ours").to_string()).unwrap();
    tools.run(&format!(
        "skopeo copy $(store {signed}) dir:$D/out && test -s $D/out/signature-1"
    ));
    fs::write(node.path("peer.json"), peer("theirs").to_string()).unwrap();
    let script = format!("skopeo copy $(store {signed}) dir:$D/other");
    let (fine, text) = in_tree(node, &tools.registry, &tools.gpg, &script);
    assert!(
        !fine && text.contains("cryptographic signature verification failed"),
        "{text}"
    );
}
