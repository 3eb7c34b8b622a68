//! Where an image comes from, and whether it may: mirrors, blocks, the policy, certificates.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use crioxide_image::Error;
use serde_json::json;
use sys::spawn::{Program, run};

use crate::fake::{self, Fake, Reply};
use crate::image_maker::{Entry, ImageMaker, MadeImage};
use crate::registry::Registry;
use crate::support::{Node, basic};

fn image() -> MadeImage {
    ImageMaker::new()
        .layer(&[Entry::file("a", 0o644, "a")])
        .build()
}

/// An address that refuses connections.
fn nobody() -> String {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string()
}

#[tokio::test]
async fn mirrors_are_tried_in_order_and_get_no_foreign_credentials() {
    let made = image();
    let (good, bad) = (made.clone(), made.clone());
    let broken = Fake::start(move |asked| match asked.path.contains("manifests") {
        true => Reply::status(404),
        false => fake::image(&bad, asked),
    });
    let mirror = Fake::start(move |asked| fake::image(&good, asked));
    let conf = format!(
        "[[registry]]\nlocation = \"{primary}\"\ninsecure = true\n\
         [[registry.mirror]]\nlocation = \"{}\"\ninsecure = true\n\
         [[registry.mirror]]\nlocation = \"{}/hub\"\ninsecure = true\n",
        broken.host(),
        mirror.host(),
        primary = nobody(),
    );
    let primary = conf.split('"').nth(1).unwrap().to_owned();
    let node = Node::new(&conf);
    let reference = format!("{primary}/app:1");
    let id = node
        .pull_with(&reference, basic("joe", "sesame"))
        .await
        .unwrap();
    assert_eq!(id.as_str(), made.id());
    let found = node.images.find(&reference).await.unwrap().unwrap();
    assert_eq!(found.repo_tags, [reference]);
    assert_eq!(mirror.count("/v2/hub/app/manifests/1"), 1);
    for asked in broken.asked().iter().chain(&mirror.asked()) {
        assert_eq!(asked.header("authorization"), None, "{}", asked.path);
    }
}

#[tokio::test]
async fn when_all_sources_fail_the_registrys_error_counts_and_all_are_named() {
    let (primary, mirror) = (nobody(), nobody());
    let node = Node::new(&format!(
        "[[registry]]\nlocation = \"{primary}\"\ninsecure = true\n\
         [[registry.mirror]]\nlocation = \"{mirror}\"\n"
    ));
    let error = node.pull(&format!("{primary}/app:1")).await.unwrap_err();
    assert!(
        matches!(error.root(), Error::RegistryUnavailable { .. }),
        "{error}"
    );
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("RegistryUnavailable: {primary}")),
        "{text}"
    );
    assert!(
        text.contains("Connection refused") || text.contains("connection refused"),
        "{text}"
    );
    assert!(
        text.contains(&format!("(Mirrors also failed: [{mirror}/app:1: ")),
        "{text}"
    );
}

#[tokio::test]
async fn blocks_and_policies_refuse_before_anything_is_fetched() {
    let made = image();
    let served = made.clone();
    let registry = Fake::start(move |asked| fake::image(&served, asked));
    let node = Node::new(&format!("{}blocked = true\n", registry.conf()));
    let reference = registry.reference("app:1");
    let blocked = node.pull(&reference).await.unwrap_err();
    assert!(matches!(*blocked, Error::Blocked { .. }), "{blocked}");
    assert!(
        blocked
            .to_string()
            .contains(&format!("registry {} is blocked in ", registry.host()))
    );

    let node = Node::new(&registry.conf());
    let policy = json!({"default": [{"type": "insecureAcceptAnything"}], "transports":
        {"docker": {registry.reference("app"): [{"type": "reject"}]}}});
    std::fs::write(&node.options.policy, policy.to_string()).unwrap();
    let refused = node.pull(&reference).await.unwrap_err();
    assert!(matches!(*refused, Error::Refused(_)), "{refused}");
    assert!(
        refused
            .to_string()
            .starts_with("SignatureValidationFailed: "),
        "{refused}"
    );
    std::fs::remove_file(&node.options.policy).unwrap();
    let missing = node.pull(&reference).await.unwrap_err();
    assert!(
        missing
            .to_string()
            .starts_with("SignatureValidationFailed: "),
        "{missing}"
    );
    assert!(registry.asked().is_empty());
}

#[tokio::test]
async fn the_policy_is_asked_again_before_an_image_runs() {
    let made = image();
    let served = made.clone();
    let registry = Fake::start(move |asked| fake::image(&served, asked));
    let node = Node::new(&registry.conf());
    let reference = registry.reference("app:1");
    node.pull(&reference).await.unwrap();
    let found = node.images.find(&reference).await.unwrap().unwrap();
    for name in [reference.as_str(), made.id(), "other.io/app:1"] {
        node.images.allowed(&found, name, "").await.unwrap();
    }
    let policy = json!({"default": [{"type": "insecureAcceptAnything"}], "transports":
        {"docker": {registry.host(): [{"type": "reject"}]}}});
    std::fs::write(&node.options.policy, policy.to_string()).unwrap();
    for name in [reference.as_str(), made.id()] {
        let error = node.images.allowed(&found, name, "").await.unwrap_err();
        assert!(matches!(error, Error::Refused(_)), "{name}: {error}");
    }
}

#[tokio::test]
async fn a_namespace_may_have_a_policy_of_its_own() {
    let made = image();
    let registry = Fake::start(move |asked| fake::image(&made, asked));
    let node = Node::with(&registry.conf(), |options| {
        options.policy_dir = options.policy.parent().map(|dir| dir.join("policies"));
    });
    let own = node.path("policies");
    std::fs::create_dir(&own).unwrap();
    let write = |name: &str, text: &str| std::fs::write(own.join(name), text).unwrap();
    write("strict.json", r#"{"default": [{"type": "reject"}]}"#);
    write("broken.json", "{");
    let reference = registry.reference("app:1");
    let pull = |namespace: &str| {
        node.images.pull(crioxide_image::PullRequest {
            reference: reference.clone(),
            namespace: namespace.to_owned(),
            ..Default::default()
        })
    };
    for refused in ["strict", "broken"] {
        let error = pull(refused).await.unwrap_err().to_string();
        assert!(error.starts_with("SignatureValidationFailed: "), "{error}");
    }
    assert!(registry.asked().is_empty());
    for fine in ["", "lax", "../policies/strict"] {
        pull(fine).await.unwrap();
    }
    let found = node.images.find(&reference).await.unwrap().unwrap();
    let allowed = |namespace: &'static str| node.images.allowed(&found, &reference, namespace);
    allowed("lax").await.unwrap();
    let error = allowed("strict").await.unwrap_err();
    assert!(matches!(error, Error::Refused(_)), "{error}");
}

#[tokio::test]
async fn certs_d_has_authorities_and_client_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let made = image();
    let plain = Registry::start(dir.path()).unwrap();
    plain.push("app", "1", &made).unwrap();
    let certs = tempfile::tempdir().unwrap();
    make_certificates(certs.path());
    let file = |name: &str| certs.path().join(name);
    let tls = Registry::start_tls(
        dir.path(),
        &file("server.cert"),
        &file("server.key"),
        Some(&file("ca.crt")),
    )
    .unwrap();
    let node = Node::new("");
    let reference = tls.reference("app", "1");
    let unknown = node.pull(&reference).await.unwrap_err();
    assert!(unknown.to_string().contains("certificate"), "{unknown}");

    let own = node.path("certs.d").join(tls.addr().to_string());
    std::fs::create_dir_all(&own).unwrap();
    for name in ["ca.crt", "client.cert", "client.key"] {
        std::fs::copy(file(name), own.join(name)).unwrap();
    }
    // A node reads them when it first meets a host.
    let images = crioxide_image::Images::new(node.options.clone(), node.store.clone());
    let request = crioxide_image::PullRequest {
        reference,
        ..Default::default()
    };
    assert_eq!(images.pull(request).await.unwrap().as_str(), made.id());
}

fn make_certificates(dir: &Path) {
    let openssl = |args: &str| {
        let program = Program {
            cwd: Some(dir.to_owned()),
            ..Program::new("/usr/bin/openssl", Duration::from_secs(60))
        };
        let output = run(&program.args(args.split(' ')).env("PATH", "/usr/bin")).unwrap();
        assert!(
            output.status.success(),
            "{args}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    std::fs::write(dir.join("san"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!(
        "req -x509 {key} -keyout ca.key -out ca.crt -subj /CN=ca -days 2"
    ));
    for name in ["server", "client"] {
        openssl(&format!(
            "req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"
        ));
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile san \
             -out {name}.cert"
        ));
    }
}
