//! Who is shown credentials, and who is not.

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crioxide_image::{Credentials, Error};
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
    let registry = Fake::start(
        move |asked| match asked.header("authorization") == Some(&joe()) {
            true => fake::image(&made, asked),
            false => Reply::Full(
                401,
                vec![("WWW-Authenticate", "Basic realm=\"r\"".into())],
                vec![],
            ),
        },
    );
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
