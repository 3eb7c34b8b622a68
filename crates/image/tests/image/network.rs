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
async fn a_registry_that_trickles_is_left_for_the_next_or_given_up() {
    let made = image();
    let served = made.clone();
    let slow = Fake::start(move |asked| match is_layer(asked, &served) {
        true => Reply::Trickle(served.layers()[0].bytes().to_vec()),
        false => fake::image(&served, asked),
    });
    let served = made.clone();
    let good = Fake::start(move |asked| fake::image(&served, asked));
    let hurry = |options: &mut crioxide_image::Options| {
        options.pull_progress_timeout = Duration::from_secs(1);
        options.minimum_rate = 10_000;
    };
    let started = Instant::now();
    let alone = Node::with(&slow.conf(), hurry);
    let error = alone.pull(&slow.reference("app:1")).await.unwrap_err();
    assert!(error.to_string().contains("bytes per second"), "{error}");
    assert!(alone.leftovers().is_empty());
    let conf = format!(
        "[[registry]]\nlocation = \"{}\"\ninsecure = true\n[[registry.mirror]]\nlocation = \"{}\"\ninsecure = true\n",
        good.host(),
        slow.host()
    );
    let node = Node::with(&conf, hurry);
    node.pull(&good.reference("app:1")).await.unwrap();
    assert_eq!(good.count(made.layers()[0].digest()), 1);
    let took = started.elapsed();
    assert!(took < Duration::from_secs(60), "{took:?}");
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

/// 24 MB that no compression makes smaller.
fn large() -> MadeImage {
    let mut state = 88_172_645_463_325_252_u64;
    let content: Vec<u8> = (0..3 << 20)
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .collect();
    let maker = ImageMaker::new().layer(&[Entry::file("a", 0o644, content)]);
    maker.compression(Compression::None).build()
}

/// First and last byte that are asked for.
fn range(asked: &Asked) -> Option<(usize, Option<usize>)> {
    let (first, last) = asked
        .header("range")?
        .strip_prefix("bytes=")?
        .split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()))
}

/// Pulls the large image over a slow network from a registry that answers ranges by `answer`;
/// returns the requests for its layer.
async fn pull_slowly(
    answer: impl Fn(&[u8], usize, usize) -> Reply + Send + Sync + 'static,
) -> Vec<Asked> {
    let made = large();
    let served = made.clone();
    let registry = Fake::start(move |asked| {
        if !is_layer(asked, &served) {
            return fake::image(&served, asked);
        }
        let bytes = served.layers()[0].bytes();
        match range(asked) {
            None => Reply::Slow(200, vec![], bytes.to_vec()),
            Some((first, last)) => answer(bytes, first, last.map_or(bytes.len(), |last| last + 1)),
        }
    });
    let node = Node::new(&registry.conf());
    let id = node.pull(&registry.reference("app:1")).await.unwrap();
    assert_eq!(id.as_str(), made.id());
    let stored = node.store.images().unwrap();
    let layer = stored[0].top_layer.clone().unwrap();
    assert!(node.store.check_layer(&layer).unwrap().is_none());
    let asked = registry.asked().into_iter();
    asked.filter(|asked| is_layer(asked, &made)).collect()
}

fn part(bytes: &[u8], first: usize, end: usize) -> Reply {
    let range = format!("bytes {first}-{}/{}", end - 1, bytes.len());
    Reply::Slow(
        206,
        vec![("Content-Range", range)],
        bytes[first..end].to_vec(),
    )
}

#[tokio::test]
async fn a_large_blob_comes_over_several_connections_where_one_is_slow() {
    let asked = pull_slowly(part).await;
    let mut ranges: Vec<_> = asked.iter().filter_map(range).collect();
    assert!(ranges.len() >= 3, "{ranges:?}");
    ranges.sort_unstable();
    // None twice, and none over another.
    for pair in ranges.windows(2) {
        assert!(pair[0].1.is_none_or(|last| last < pair[1].0), "{ranges:?}");
    }
}

#[tokio::test]
async fn ranges_that_a_registry_ignores_or_refuses_cost_little() {
    let ignored = pull_slowly(|bytes, _, _| Reply::Slow(200, vec![], bytes.to_vec())).await;
    assert!(ignored.len() <= 5, "{} requests", ignored.len());
    // What failed ahead is asked for in its turn.
    let refused = AtomicUsize::new(0);
    let asked = pull_slowly(move |bytes, first, end| {
        if refused.fetch_add(1, Ordering::SeqCst) < 3 {
            return Reply::status(404);
        }
        part(bytes, first, end)
    })
    .await;
    assert!(asked.len() > 4, "{} requests", asked.len());
    // One that ends too early is as good as none.
    pull_slowly(|bytes, first, end| match end - first {
        many if many > 1 << 20 && first > 20 << 20 => {
            let range = format!("bytes {first}-{}/{}", end - 1, bytes.len());
            let half = bytes[first..first + many / 2].to_vec();
            Reply::Cut(206, vec![("Content-Range", range)], half, many)
        }
        _ => part(bytes, first, end),
    })
    .await;
}
