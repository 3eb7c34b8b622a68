//! How much memory a pull takes: a figure of the pipeline, not of the image's size.

use crate::fake::{self, Fake};
use crate::image_maker::{Entry, ImageMaker};
use crate::support::Node;

/// Run by itself (`--ignored`), since the figure is the process's: peak RSS in kB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
#[ignore = "its figure is the whole process's: run it alone"]
async fn a_pull_of_600_megabytes_takes_less_than_100() {
    let mut maker = ImageMaker::new();
    for number in 0..6_u8 {
        let content: Vec<u8> = (0..100_u32 << 20)
            .map(|n| ((n >> 9) % 251) as u8 ^ number)
            .collect();
        maker = maker.layer(&[Entry::file("file", 0o644, content)]);
    }
    let made = maker.build();
    drop(maker);
    let served = made.clone();
    let registry = Fake::start(move |asked| fake::image(&served, asked));
    let node = Node::new(&registry.conf());
    // Forgets what making the image took.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = peak();
    node.pull(&registry.reference("app:1")).await.unwrap();
    let taken = peak().saturating_sub(before);
    println!("{taken} kB");
    assert!(taken < 100 << 10, "{taken} kB");
}
