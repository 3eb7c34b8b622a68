//! Images whose layers skopeo of a Debian 13 tree encrypted.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use testkit::image_maker::{Compression, Entry, ImageMaker};
use testkit::node::Options;
use testkit::requests::container;

use crate::fixture;
use crate::peers::{peer, tree};
use crate::reload::{DONE, reload};

/// Makes a key pair, `NAME.key` and `NAME.pub`, by openssl, and its certificate, `NAME.crt`.
fn make_key(dir: &Path, name: &str, generate: &str) -> Result<()> {
    let (command, options) = generate.split_once(' ').unwrap_or((generate, ""));
    let script = format!(
        "openssl {command} -out {name}.key {options} && openssl pkey -in {name}.key -pubout -out {name}.pub \
         && openssl req -x509 -key {name}.key -days 2 -subj /CN={name} -out {name}.crt"
    );
    #[allow(clippy::disallowed_methods, reason = "a test's own child")]
    let made = Command::new("sh")
        .args(["-c", &script])
        .current_dir(dir)
        .output()?;
    ensure!(
        made.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&made.stderr)
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_skopeo_encrypted_run_where_their_key_is() -> Result<()> {
    if tree().is_none() {
        eprintln!(
            "skipped: CRIOXIDE_DEBIAN13 names no Debian 13 tree (scripts/in-debian13 makes one)"
        );
        return Ok(());
    }
    let keys = tempfile::tempdir()?;
    let mut f = fixture::with(Options {
        config: format!(
            "[crio.runtime]\ndecryption_keys_path = \"{}\"\n",
            keys.path().join("installed").display()
        ),
        ..Options::default()
    })
    .await?;
    let dir = f.node.dir.join("keys");
    std::fs::create_dir(&dir)?;
    make_key(&dir, "rsa", "genrsa -traditional 2048")?;
    make_key(&dir, "p256", "ecparam -genkey -noout -name prime256v1")?;
    make_key(
        &dir,
        "p384",
        "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384",
    )?;
    make_key(
        &dir,
        "p521",
        "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-521",
    )?;
    make_key(&dir, "other", "genrsa 3072")?;

    let kinds: [(&str, &[&str], Compression); 7] = [
        ("rsa", &["jwe:rsa.pub"], Compression::Gzip),
        ("p256", &["jwe:p256.pub"], Compression::Zstd),
        ("p384", &["jwe:p384.pub"], Compression::None),
        ("p521", &["jwe:p521.pub"], Compression::Gzip),
        (
            "many",
            &["jwe:other.pub", "jwe:p256.pub", "jwe:rsa.pub"],
            Compression::Gzip,
        ),
        ("certificate", &["pkcs7:rsa.crt"], Compression::Gzip),
        (
            "certificates",
            &["pkcs7:other.crt", "pkcs7:rsa.crt"],
            Compression::Zstd,
        ),
    ];
    let mut script = format!("cd {}\n", dir.display());
    for (name, recipients, compression) in kinds {
        let mark = Entry::file("mark", 0o644, format!("mark of {name}\n"));
        let image = ImageMaker::busybox()
            .layer(&[mark])
            .compression(compression)
            .build();
        f.registry.push("plain", name, &image)?;
        let recipients: Vec<_> = recipients
            .iter()
            .map(|key| format!("--encryption-key {key}"))
            .collect();
        script.push_str(&format!(
            "skopeo copy --src-tls-verify=false --dest-tls-verify=false {} docker://{} docker://{}\n",
            recipients.join(" "),
            f.registry.reference("plain", name),
            f.registry.reference("secret", name),
        ));
    }
    peer(&f.node, &script).await?;

    // Without a key, and with another's.
    let reference = f.registry.reference("secret", "rsa");
    let certificate = f.registry.reference("secret", "certificate");
    let denied = async |reference: &str, expected: &str| -> Result<()> {
        let denied = f.node.pull(reference).await.unwrap_err();
        let denied = format!("{denied:#}");
        ensure!(
            denied.contains("is encrypted") && denied.contains(expected),
            "{denied}"
        );
        Ok(())
    };
    let installed = keys.path().join("installed");
    denied(&reference, "no key in").await?;
    std::fs::create_dir(&installed)?;
    std::fs::copy(dir.join("p521.key"), installed.join("first"))?;
    for reference in [&reference, &certificate] {
        denied(reference, "no key fits").await?;
    }
    // Its content is in the store, from the image that was not encrypted: no key, no image.
    f.node.pull(&f.registry.reference("plain", "rsa")).await?;
    denied(&reference, "no key fits").await?;

    for key in ["rsa", "p256", "p384"] {
        std::fs::copy(dir.join(format!("{key}.key")), installed.join(key))?;
    }
    let pod = f.node.run_pod("secrets").await?;
    let mut digests = Vec::new();
    for (name, ..) in kinds {
        let reference = f.registry.reference("secret", name);
        f.node.pull(&reference).await?;
        let main = container(name, &reference, &["cat", "/mark"]);
        let main = f.node.run(&pod, main).await?;
        ensure!(f.node.exited(&main).await?.exit_code == 0, "{name}");
        let log = f.node.log("secrets", name)?;
        ensure!(log.contains(&format!("mark of {name}")), "{name}: {log}");
        digests.push(reference);
    }
    // It is found by the digest that it has in the registry, and peers read it.
    let inspect = format!(
        "skopeo inspect --raw --tls-verify=false docker://{} | sha256sum",
        digests[1]
    );
    let digest = peer(&f.node, &inspect).await?;
    let digest = digest
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned();
    let name = format!("{}/secret@sha256:{digest}", f.registry.addr());
    let found = f.node.image_status(&name, false).await?;
    ensure!(found.image.is_some(), "{name}");
    f.node.remove_pod(&pod).await?;
    let mut check = String::from("podman system check\n");
    for reference in &digests {
        check.push_str(&format!(
            "skopeo copy $(store {reference}) dir:/tmp/out && rm -r /tmp/out\n\
             podman run --rm --network none --cgroups disabled --security-opt seccomp=unconfined {reference} cat /mark\n"
        ));
    }
    let said = peer(&f.node, &check).await?;
    ensure!(said.contains("mark of many"), "{said}");
    // Other keys count from a reload on.
    let elsewhere = "[crio.runtime]\ndecryption_keys_path = \"/no/such\"\n";
    reload(&f, elsewhere, DONE).await?;
    denied(&reference, "no key in").await?;
    reload(&f, "", DONE).await?;
    f.node.pull(&reference).await?;
    f.node.kill_daemon()?;
    f.node.start_daemon().await?;
    f.node.finish().await
}
