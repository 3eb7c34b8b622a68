//! Connections that are cut, slow, busy or silent.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crioxide_image::Error;

use crate::fake::{self, Asked, Fake, Reply};
use crate::image_maker::{Compression, Entry, ImageMaker, MadeImage};
use crate::support::Node;

fn image() -> MadeImage {
    let content: Vec<u8> = (0..400_000_u32).map(|n| (n % 251) as u8).collect();
    let maker = ImageMaker::new().layer(&[Entry::file("a", 0o644, content)]);
    maker.compression(Compression::None).build()
}

fn is_layer(asked: &Asked, made: &MadeImage) -> bool {
    asked.path.ends_with(made.layers()[0].digest())
}

/// Where a range begins.
fn from(asked: &Asked) -> Option<usize> {
    asked
        .header("range")?
        .strip_prefix("bytes=")?
        .strip_suffix('-')?
        .parse()
        .ok()
}

#[tokio::test]
async fn a_cut_download_is_resumed_where_it_was() {
    let made = image();
    let served = made.clone();
    let registry = Fake::start(move |asked| {
        if !is_layer(asked, &served) {
            return fake::image(&served, asked);
        }
        let bytes = served.layers()[0].bytes();
        let start = from(asked).unwrap_or(0);
        let end = bytes.len().min(start + 100_000);
        let rest = bytes.len() - start;
        let part = bytes[start..end].to_vec();
        match start {
            0 => Reply::Cut(200, vec![], part, rest),
            _ => {
                let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
                Reply::Cut(206, vec![("Content-Range", range)], part, rest)
            }
        }
    });
    let node = Node::new(&registry.conf());
    node.pull(&registry.reference("app:1")).await.unwrap();
    assert_eq!(registry.count(made.layers()[0].digest()), 5);
}

#[tokio::test]
async fn a_registry_without_ranges_is_asked_for_all_again() {
    let made = image();
    let (served, times) = (made.clone(), AtomicUsize::new(0));
    let registry = Fake::start(move |asked| {
        if !is_layer(asked, &served) || times.fetch_add(1, Ordering::SeqCst) > 1 {
            return fake::image(&served, asked);
        }
        let bytes = served.layers()[0].bytes();
        Reply::Cut(200, vec![], bytes[..150_000].to_vec(), bytes.len())
    });
    let node = Node::new(&registry.conf());
    node.pull(&registry.reference("app:1")).await.unwrap();
    assert_eq!(registry.count(made.layers()[0].digest()), 3);
}

#[tokio::test]
async fn a_download_that_never_gets_on_ends() {
    let made = image();
    let served = made.clone();
    let registry = Fake::start(move |asked| match is_layer(asked, &served) {
        true => Reply::Cut(
            200,
            vec![],
            served.layers()[0].bytes()[..1000].to_vec(),
            400_000,
        ),
        false => fake::image(&served, asked),
    });
    let node = Node::new(&registry.conf());
    let error = node.pull(&registry.reference("app:1")).await.unwrap_err();
    assert!(
        error.to_string().contains(made.layers()[0].digest()),
        "{error}"
    );
    assert!(registry.count(made.layers()[0].digest()) <= 6);
    assert!(node.images.list().await.unwrap().is_empty());
    assert!(node.leftovers().is_empty());
}

#[tokio::test]
async fn a_stalled_layer_goes_on_at_the_next_source() {
    let made = image();
    let (slow, good) = (made.clone(), made.clone());
    let mirror = Fake::start(move |asked| match is_layer(asked, &slow) {
        true => Reply::Stall(
            slow.layers()[0].bytes()[..200_000].to_vec(),
            slow.layers()[0].bytes().len(),
        ),
        false => fake::image(&slow, asked),
    });
    let registry = Fake::start(move |asked| {
        let start = from(asked);
        match start.filter(|_| is_layer(asked, &good)) {
            Some(start) => {
                let bytes = good.layers()[0].bytes();
                let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
                Reply::Full(206, vec![("Content-Range", range)], bytes[start..].to_vec())
            }
            None => fake::image(&good, asked),
        }
    });
    let conf = format!(
        "{}[[registry.mirror]]\nlocation = \"{}\"\ninsecure = true\n",
        registry.conf(),
        mirror.host()
    );
    let node = Node::with(&conf, |options| {
        options.pull_progress_timeout = Duration::from_millis(500);
    });
    node.pull(&registry.reference("app:1")).await.unwrap();
    let last = registry.asked().pop().unwrap();
    assert_eq!(from(&last), Some(200_000), "{last:?}");
    assert_eq!(registry.asked().len(), 1);
}

#[tokio::test]
async fn silence_is_bounded() {
    let registry = Fake::start(|_| Reply::Hang);
    let node = Node::with(&registry.conf(), |options| {
        options.connect_timeout = Duration::from_millis(300);
        options.header_timeout = Duration::from_millis(300);
    });
    let started = Instant::now();
    let error = node.pull(&registry.reference("app:1")).await.unwrap_err();
    assert!(
        matches!(*error, Error::RegistryUnavailable { .. }),
        "{error}"
    );
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn a_busy_registry_is_asked_again_later_but_not_for_ever() {
    let made = image();
    let (served, times) = (made.clone(), AtomicUsize::new(0));
    let registry = Fake::start(move |asked| match times.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::Full(429, vec![("Retry-After", "0".into())], vec![]),
        1 => Reply::Full(503, vec![("Retry-After", "100000".into())], vec![]),
        _ => fake::image(&served, asked),
    });
    let node = Node::with(&registry.conf(), |options| {
        options.retry_wait = Duration::from_millis(20)
    });
    node.pull(&registry.reference("app:1")).await.unwrap();

    let words = br#"{"errors":[{"code":"TOOMANYREQUESTS","message":"pull rate limit"}]}"#;
    let registry = Fake::start(|_| Reply::Full(429, vec![], words.to_vec()));
    let node = Node::with(&registry.conf(), |options| {
        options.retry_wait = Duration::from_millis(20)
    });
    let error = node.pull(&registry.reference("app:1")).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("TOOMANYREQUESTS: pull rate limit"),
        "{error}"
    );
    assert_eq!(registry.asked().len(), 5);
}
