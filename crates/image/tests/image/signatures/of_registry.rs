//! Signatures that the registry itself keeps, as OpenShift's does; and a user's own `registries.d`.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crioxide_image::{Error, Images, PullRequest};
use serde_json::{Value, json};

use super::{OTHER, SIGNER, Signing, image};
use crate::fake::{self, Fake, Reply};
use crate::support::basic;

const KEEPS: (&str, &str) = ("X-Registry-Supports-Signatures", "1");

fn listed(signature: &[u8]) -> Value {
    json!({"schemaVersion": 2, "name": "sha256:0@x", "type": "atomic",
        "content": STANDARD.encode(signature)})
}

/// A registry that wants a password, has `made` as `team/app`, and answers for signatures with what is
/// in a file; with or without the word that it keeps any.
fn registry(signing: &Signing, says: bool) -> Fake {
    let (made, list) = (image("one"), signing.node.path("list"));
    let signatures = format!("/extensions/v2/team/app/signatures/{}", made.digest());
    Fake::start(move |asked| {
        let keeps = says.then(|| (KEEPS.0, KEEPS.1.to_owned()));
        if asked.header("authorization").is_none() {
            let challenge = ("WWW-Authenticate", "Basic realm=x".to_owned());
            let headers = keeps.into_iter().chain([challenge]).collect();
            return Reply::Full(401, headers, Vec::new());
        }
        let reply = match asked.path == signatures {
            true => fs::read(&list).map_or(Reply::status(404), Reply::ok),
            false => fake::image(&made, asked),
        };
        match reply {
            Reply::Full(status, mut headers, body) => {
                headers.extend(keeps);
                Reply::Full(status, headers, body)
            }
            other => other,
        }
    })
}

#[tokio::test]
async fn a_registry_that_keeps_signatures_is_asked_for_them_in_place_of_the_lookaside() {
    let signing = Signing::new();
    let (node, gpg, made) = (&signing.node, &signing.gpg, image("one"));
    let silent = registry(&signing, false);
    let keeping = registry(&signing, true);
    let conf = [silent.conf(), keeping.conf()].concat();
    fs::write(&node.options.registries_conf, conf).unwrap();
    let list = |signatures: &[Value]| {
        let text = json!({"signatures": signatures}).to_string();
        fs::write(node.path("list"), text).unwrap();
    };
    let reference = keeping.reference("team/app:v1");
    let sign = |user: &str| gpg.sign_image(user, &reference, &made.digest()).unwrap();
    let (good, other) = (sign(SIGNER), sign(OTHER));
    let joe = || basic("joe", "sesame");
    // A lookaside would do, were it asked.
    signing.put("team/app", &made.digest(), 1, &good);
    for (signatures, words) in [
        (vec![], "no signature exists"),
        (vec![listed(&other)], "which the policy does not name"),
        (
            vec![json!({"schemaVersion": 1, "type": "atomic", "content": STANDARD.encode(&good)})],
            "no signature exists",
        ),
    ] {
        list(&signatures);
        let error = node.pull_with(&reference, joe()).await.unwrap_err();
        assert!(matches!(error.root(), Error::Refused(_)), "{error}");
        assert!(error.to_string().contains(words), "{words}: {error}");
    }
    list(&[listed(&other), listed(b"<html>"), listed(&good)]);
    let id = node.pull_with(&reference, joe()).await.unwrap();
    assert_eq!(id.as_str(), made.id());
    assert!(keeping.count("/extensions/v2/") >= 4);
    let found = node.images.find(&reference).await.unwrap().unwrap();
    node.images.allowed(&found, &reference, "").await.unwrap();

    // One that does not say so is not asked, and its lookaside is.
    let reference = silent.reference("team/app:v1");
    let good = gpg.sign_image(SIGNER, &reference, &made.digest()).unwrap();
    signing.put("team/app", &made.digest(), 1, &good);
    node.pull_with(&reference, joe()).await.unwrap();
    assert_eq!(silent.count("/extensions/v2/"), 0);
}

#[tokio::test]
async fn a_registrys_list_that_fails_refuses_only_what_needs_it() {
    let signing = Signing::new();
    let node = &signing.node;
    let registry = registry(&signing, true);
    fs::write(&node.options.registries_conf, registry.conf()).unwrap();
    let reference = registry.reference("team/app:v1");
    let large = format!(r#"{{"x":"{}"}}"#, "x".repeat(4 << 20));
    for (content, words) in [
        (None, "the registry's list: 404"),
        (Some("<html>"), "the registry's list"),
        (Some(large.as_str()), "more than 4194304 bytes"),
    ] {
        if let Some(content) = content {
            fs::write(node.path("list"), content).unwrap();
        }
        node.set_policy(json!([signing.signed_by(SIGNER)]));
        let pulled = node.pull_with(&reference, basic("joe", "sesame")).await;
        let error = pulled.unwrap_err().to_string();
        assert!(error.contains(words), "{words}: {error}");
        node.set_policy(json!([{"type": "insecureAcceptAnything"}]));
        let pulled = node.pull_with(&reference, basic("joe", "sesame")).await;
        pulled.unwrap();
    }
}

#[tokio::test]
async fn a_users_own_registries_d_takes_the_place_of_the_nodes() {
    let signing = Signing::new();
    let options = crioxide_image::Options {
        user_registries_d: Some(signing.node.path("home/registries.d")),
        ..signing.node.options.clone()
    };
    let images = Images::new(options, signing.node.store.clone());
    let made = image("one");
    signing.registry.push("app", "v1", &made).unwrap();
    signing.sign("app", &made);
    let request = PullRequest {
        reference: signing.registry.reference("app", "v1"),
        ..PullRequest::default()
    };
    images.pull(request.clone()).await.unwrap();
    // Also where it says nothing.
    fs::create_dir_all(signing.node.path("home/registries.d")).unwrap();
    let error = images.pull(request.clone()).await.unwrap_err();
    assert!(error.to_string().contains("no signature exists"), "{error}");
    let lookaside = signing.node.path("lookaside");
    let text = format!(
        "default-docker: {{lookaside: 'file://{}'}}\n",
        lookaside.display()
    );
    fs::write(signing.node.path("home/registries.d/own.yaml"), text).unwrap();
    images.pull(request).await.unwrap();
}
