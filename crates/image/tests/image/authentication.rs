//! Who is shown credentials, and who is not.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crioxide_image::{Credentials, Error, PullRequest};
use serde_json::json;

use crate::fake::{self, Fake, Reply};
use crate::image_maker::{Entry, ImageMaker, MadeImage};
use crate::support::{Node, basic};

fn image() -> MadeImage {
    ImageMaker::new()
        .layer(&[Entry::file("a", 0o644, "a")])
        .build()
}

fn joe() -> String {
    format!("Basic {}", STANDARD.encode("joe:sesame"))
}

/// A registry that wants a token of that service.
fn token_registry(realm: String, made: &MadeImage) -> Fake {
    let made = made.clone();
    Fake::start(move |asked| {
        if asked.header("authorization") == Some("Bearer good") {
            return fake::image(&made, asked);
        }
        let challenge = format!("Bearer realm=\"{realm}/token\",service=\"reg\",scope=\"ignored\"");
        Reply::Full(401, vec![("WWW-Authenticate", challenge)], b"{}".to_vec())
    })
}

#[tokio::test]
async fn a_token_is_fetched_with_the_password_and_used() {
    let made = image();
    let service = Fake::start(
        |asked| match asked.header("authorization") == Some(&joe()) {
            true => Reply::ok(r#"{"token":"good"}"#),
            false => Reply::status(401),
        },
    );
    let registry = token_registry(format!("http://{}", service.host()), &made);
    let node = Node::new(&registry.conf());
    let reference = registry.reference("team/app:1");
    let denied = node.pull(&reference).await.unwrap_err();
    assert!(matches!(*denied, Error::Unauthorized { .. }), "{denied}");
    node.pull_with(&reference, basic("joe", "sesame"))
        .await
        .unwrap();
    let asked = service.asked().pop().unwrap().path;
    assert_eq!(
        asked,
        "/token?account=joe&service=reg&scope=repository%3Ateam%2Fapp%3Apull"
    );
    assert!(
        registry
            .asked()
            .iter()
            .all(|asked| asked.header("authorization") != Some(&joe()))
    );
    let agents = registry
        .asked()
        .iter()
        .all(|asked| asked.header("user-agent") == Some("crioxide-test/1"));
    assert!(agents);
}

#[tokio::test]
async fn an_identity_token_is_exchanged_and_a_registry_token_is_shown() {
    let made = image();
    let service = Fake::start(|asked| {
        let form = asked.method == "POST" && asked.body.contains("refresh_token=refresh");
        if form {
            Reply::ok(r#"{"access_token":"good"}"#)
        } else {
            Reply::status(400)
        }
    });
    let registry = token_registry(format!("http://{}", service.host()), &made);
    let node = Node::new(&registry.conf());
    let token = Credentials::from_request("", "", "", "refresh", "").unwrap();
    node.pull_with(&registry.reference("app:1"), token)
        .await
        .unwrap();
    let token = Credentials::from_request("", "", "", "", "good").unwrap();
    node.pull_with(&registry.reference("app:2"), token)
        .await
        .unwrap();
    assert_eq!(service.asked().len(), 1);
    let token = Credentials::from_request("", "", "", "", "bad").unwrap();
    let denied = node
        .pull_with(&registry.reference("app:3"), token)
        .await
        .unwrap_err();
    assert!(matches!(*denied, Error::Unauthorized { .. }), "{denied}");
}

#[tokio::test]
async fn credentials_come_from_files_for_their_repository_only() {
    let made = image();
    let registry = joes(&made);
    let node = Node::new(&registry.conf());
    let auth =
        json!({"auths": {registry.reference("team"): {"auth": STANDARD.encode("joe:sesame")}}});
    std::fs::write(node.path("auth.json"), auth.to_string()).unwrap();
    node.pull(&registry.reference("team/app:1")).await.unwrap();
    let other = node
        .pull(&registry.reference("other/app:1"))
        .await
        .unwrap_err();
    assert!(matches!(*other, Error::Unauthorized { .. }), "{other}");
}

/// A registry that wants joe's password.
fn joes(made: &MadeImage) -> Fake {
    let made = made.clone();
    Fake::start(
        move |asked| match asked.header("authorization") == Some(&joe()) {
            true => fake::image(&made, asked),
            false => Reply::Full(
                401,
                vec![("WWW-Authenticate", "Basic realm=\"r\"".into())],
                vec![],
            ),
        },
    )
}

#[tokio::test]
async fn a_file_that_was_left_for_one_pull_of_a_namespace_is_good_once() {
    let made = image();
    let registry = joes(&made);
    let mut auth = PathBuf::new();
    let node = Node::with(&registry.conf(), |options| {
        auth = options.policy.with_file_name("auth");
        options.namespaced_auth_dir = Some(auth.clone());
    });
    std::fs::create_dir(&auth).unwrap();
    let reference = registry.reference("app:1");
    let hex: String = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, reference.as_bytes())
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let file = auth.join(format!("team-{hex}.json"));
    let content = json!({"auths": {registry.host(): {"auth": STANDARD.encode("joe:sesame")}}});
    std::fs::write(&file, content.to_string()).unwrap();
    let pull = |namespace: &str| PullRequest {
        reference: reference.clone(),
        namespace: namespace.to_owned(),
        ..PullRequest::default()
    };
    for stranger in ["", "other", "../auth/team"] {
        let denied = node.images.pull(pull(stranger)).await.unwrap_err();
        assert!(matches!(*denied, Error::Unauthorized { .. }), "{denied}");
    }
    node.images.pull(pull("team")).await.unwrap();
    assert!(!file.try_exists().unwrap());
    let again = node.images.pull(pull("team")).await.unwrap_err();
    assert!(matches!(*again, Error::Unauthorized { .. }), "{again}");
}

#[tokio::test]
async fn helpers_are_asked_for_the_host() {
    let made = image();
    let registry = joes(&made);
    let node = Node::with(&registry.conf(), |options| {
        let dir = options.policy.parent().unwrap();
        options.helper_path = dir.display().to_string();
    });
    let helper = |name: &str, script: &str| {
        let path = node.path(&format!("docker-credential-{name}"));
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    };
    let host = registry.host();
    helper(
        "vault",
        &format!(
            "[ \"$1 $(cat)\" = 'get {host}' ] && echo '{{\"Username\":\"joe\",\"Secret\":\"sesame\"}}'"
        ),
    );
    helper(
        "none",
        "echo credentials not found in native keychain; exit 1",
    );
    helper("broken", "echo the vault is sealed >&2; exit 2");
    let say = |name: &str| {
        let content = json!({"credHelpers": {&host: name}});
        std::fs::write(node.path("auth.json"), content.to_string()).unwrap();
    };
    say("vault");
    node.pull(&registry.reference("a:1")).await.unwrap();
    say("none");
    let denied = node.pull(&registry.reference("a:2")).await.unwrap_err();
    assert!(matches!(*denied, Error::Unauthorized { .. }), "{denied}");
    for (name, words) in [
        ("broken", "the vault is sealed"),
        ("missing", "no program docker-credential-missing"),
        ("../vault", "invalid name of a credential helper"),
    ] {
        say(name);
        let failed = node.pull(&registry.reference("a:3")).await.unwrap_err();
        assert!(failed.to_string().contains(words), "{failed}");
    }
    // One that registries.conf names is for every host, in its place in the order.
    std::fs::remove_file(node.path("auth.json")).unwrap();
    let conf = format!(
        "credential-helpers = [\"none\", \"containers-auth.json\", \"vault\"]\n{}",
        registry.conf()
    );
    std::fs::write(node.path("registries.conf"), conf).unwrap();
    node.pull(&registry.reference("a:4")).await.unwrap();
}

#[tokio::test]
async fn a_redirect_takes_no_credentials_along_and_its_challenge_is_not_answered() {
    let made = image();
    let curious = Arc::new(Mutex::new(false));
    let (served, asks) = (made.clone(), Arc::clone(&curious));
    let elsewhere = Fake::start(move |asked| match *asks.lock().unwrap() {
        true => Reply::Full(
            401,
            vec![("WWW-Authenticate", "Basic realm=\"r\"".into())],
            vec![],
        ),
        false => fake::image(&served, asked),
    });
    let (served, host) = (made.clone(), elsewhere.host());
    let registry = Fake::start(move |asked| {
        if asked.header("authorization") != Some(&joe()) {
            return Reply::Full(
                401,
                vec![("WWW-Authenticate", "Basic realm=\"r\"".into())],
                vec![],
            );
        }
        match asked.path.contains("/blobs/") {
            true => {
                let location = format!("http://{host}{}?signature=s", asked.path);
                Reply::Full(
                    307,
                    vec![("Location", location.replace("?signature=s", ""))],
                    vec![],
                )
            }
            false => fake::image(&served, asked),
        }
    });
    let node = Node::new(&registry.conf());
    node.pull_with(&registry.reference("app:1"), basic("joe", "sesame"))
        .await
        .unwrap();
    *curious.lock().unwrap() = true;
    let node = Node::new(&registry.conf());
    let error = node
        .pull_with(&registry.reference("app:1"), basic("joe", "sesame"))
        .await
        .unwrap_err();
    assert!(matches!(*error, Error::Registry { .. }), "{error}");
    assert!(elsewhere.asked().len() >= 3);
    assert!(
        elsewhere
            .asked()
            .iter()
            .all(|asked| asked.header("authorization").is_none())
    );
}

#[tokio::test]
async fn endless_and_circular_answers_end() {
    let made = image();
    let service = Fake::start(|_| Reply::Endless);
    let registry = token_registry(format!("http://{}", service.host()), &made);
    let node = Node::new(&registry.conf());
    let error = node.pull(&registry.reference("app:1")).await.unwrap_err();
    assert!(
        error.to_string().contains("more than 4194304 bytes"),
        "{error}"
    );

    let endless = Fake::start(|_| Reply::Endless);
    let node = Node::new(&endless.conf());
    let error = node.pull(&endless.reference("app:1")).await.unwrap_err();
    assert!(
        error.to_string().contains("more than 4194304 bytes"),
        "{error}"
    );

    let circle =
        Fake::start(|asked| Reply::Full(302, vec![("Location", asked.path.clone())], vec![]));
    let node = Node::new(&circle.conf());
    let error = node.pull(&circle.reference("app:1")).await.unwrap_err();
    assert!(error.to_string().contains("redirects too often"), "{error}");
    assert_eq!(circle.asked().len(), 11);
}
