//! Pulls at the same time.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crioxide_image::{LayerState, PullRequest};

use crate::fake::{self, Fake, Reply};
use crate::image_maker::{Entry, ImageMaker};
use crate::registry::Registry;
use crate::support::{Node, basic};

fn request(reference: &str) -> PullRequest {
    PullRequest {
        reference: reference.to_owned(),
        ..PullRequest::default()
    }
}

/// A door that a server's thread waits at.
#[derive(Default)]
struct Gate(Mutex<bool>, Condvar);

impl Gate {
    fn open(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }

    fn pass(&self) {
        let open = self.0.lock().unwrap();
        let _open = self
            .1
            .wait_timeout_while(open, Duration::from_secs(20), |open| !*open)
            .unwrap();
    }
}

#[tokio::test]
async fn equal_pulls_share_one_download_even_if_the_first_caller_leaves() {
    let made = ImageMaker::new()
        .layer(&[Entry::file("a", 0o644, "a")])
        .layer(&[Entry::file("b", 0o644, vec![b'b'; 1000])])
        .build();
    let gate = Arc::new(Gate::default());
    let (served, closed) = (made.clone(), Arc::clone(&gate));
    let registry = Fake::start(move |asked| {
        if asked.path.ends_with(served.layers()[1].digest()) {
            closed.pass();
        }
        fake::image(&served, asked)
    });
    let node = Node::new(&registry.conf());
    let reference = registry.reference("app:1");
    let pull = || {
        let (images, request) = (node.images.clone(), request(&reference));
        tokio::spawn(async move { images.pull(request).await })
    };
    let leader = pull();
    while registry.count(made.layers()[1].digest()) == 0 {
        tokio::task::yield_now().await;
    }
    let followers: Vec<_> = (0..5).map(|_| pull()).collect();
    tokio::task::yield_now().await;
    leader.abort();
    let seen = loop {
        let mut running = node.images.pulls();
        let pull = running.pop().unwrap();
        assert!(running.is_empty(), "one pull for all");
        if pull
            .layers
            .iter()
            .any(|layer| layer.state == LayerState::Committed)
        {
            break pull;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(
        (seen.reference.as_str(), seen.layers.len()),
        (reference.as_str(), 2)
    );
    assert_eq!(seen.layers[1].state, LayerState::Fetching);
    assert!(seen.bytes < seen.total && seen.mirror.is_none());
    gate.open();
    for follower in followers {
        assert_eq!(follower.await.unwrap().unwrap().as_str(), made.id());
    }
    assert_eq!(registry.count("/manifests/"), 1);
    assert_eq!(registry.count(made.layers()[1].digest()), 1);
    assert!(node.images.pulls().is_empty());
}

#[tokio::test]
async fn other_credentials_or_namespaces_make_another_pull() {
    let made = ImageMaker::new()
        .layer(&[Entry::file("a", 0o644, "a")])
        .build();
    let gate = Arc::new(Gate::default());
    let (served, closed) = (made.clone(), Arc::clone(&gate));
    let registry = Fake::start(move |asked| {
        closed.pass();
        match asked.path.contains("nothing") {
            true => Reply::status(404),
            false => fake::image(&served, asked),
        }
    });
    let node = Node::new(&registry.conf());
    let plain = request(&registry.reference("app:1"));
    let with_password = PullRequest {
        credentials: basic("joe", "sesame"),
        ..plain.clone()
    };
    let elsewhere = PullRequest {
        namespace: "other".to_owned(),
        ..plain.clone()
    };
    let pulls: Vec<_> = [plain, with_password, elsewhere]
        .into_iter()
        .map(|request| {
            let images = node.images.clone();
            tokio::spawn(async move { images.pull(request).await })
        })
        .collect();
    while node.images.pulls().len() < 3 {
        tokio::task::yield_now().await;
    }
    gate.open();
    for pull in pulls {
        assert_eq!(pull.await.unwrap().unwrap().as_str(), made.id());
    }
    assert_eq!(node.images.list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn many_images_with_common_layers_are_pulled_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path()).unwrap();
    let node = Node::new(&registry.registries_conf());
    let mut pulls = Vec::new();
    for number in 0..8 {
        let name = format!("app{number}");
        let image = ImageMaker::busybox()
            .layer(&[Entry::file("number", 0o644, number.to_string())])
            .layer(&[Entry::file("common", 0o644, "common")])
            .build();
        registry.push(&name, "1", &image).unwrap();
        let (images, request) = (
            node.images.clone(),
            request(&registry.reference(&name, "1")),
        );
        pulls.push((
            image,
            tokio::spawn(async move { images.pull(request).await }),
        ));
    }
    for (image, pull) in pulls {
        assert_eq!(pull.await.unwrap().unwrap().as_str(), image.id());
    }
    assert_eq!(node.images.list().await.unwrap().len(), 8);
    assert!(node.leftovers().is_empty());
}
