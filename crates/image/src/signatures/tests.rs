use std::collections::BTreeMap;
use std::convert::Infallible;

use super::*;

fn simple(byte: u8, length: usize) -> Signature {
    Signature::Simple([&[0xa3][..], &vec![byte; length]].concat())
}

/// Found by who has no use for them.
fn found(signatures: &[Signature]) -> Found<'_> {
    Found {
        signatures,
        accepted: false,
    }
}

fn accepted(signatures: &[Signature]) -> Found<'_> {
    Found {
        signatures,
        accepted: true,
    }
}

/// An image as it is kept.
#[derive(Default)]
struct Kept {
    items: BTreeMap<String, Vec<u8>>,
    metadata: String,
}

impl Kept {
    /// A pull of `manifest`, which is kept as the last one.
    fn pull(&mut self, manifest: &[u8], found: Found<'_>) {
        let item = |key: &str| Ok::<_, Infallible>(self.items.get(key).cloned());
        let digest = Digest::of(manifest);
        let record = add(&self.metadata, item, &digest, found).unwrap();
        self.items.extend(record.items);
        let last = ("manifest".to_owned(), manifest.to_vec());
        self.items.extend([last]);
        self.metadata = record.metadata;
    }

    fn of(&self, manifest: &[u8]) -> Vec<Signature> {
        let metadata = Metadata::parse(&self.metadata);
        let digest = Digest::of(manifest);
        let sizes = metadata.by_manifest.get(digest.as_str());
        sizes.map_or_else(Vec::new, |sizes| {
            split(&self.items[&key_of(&digest)], sizes)
        })
    }

    fn last(&self) -> Vec<Signature> {
        let sizes = Metadata::parse(&self.metadata).last;
        match sizes.is_empty() {
            true => Vec::new(),
            false => split(&self.items[LAST], &sizes),
        }
    }
}

#[test]
fn a_pull_adds_to_what_is_kept_and_takes_nothing_away() {
    let mut kept = Kept::default();
    let all = [simple(1, 2), simple(2, 3), simple(3, 4)];
    let one = Digest::of(b"1");
    kept.pull(b"1", found(&all[..2]));
    assert_eq!(kept.items[&key_of(&one)], [0xa3, 1, 1, 0xa3, 2, 2, 2]);
    assert_eq!(kept.items[LAST], kept.items[&key_of(&one)]);
    let expected = format!(r#"{{"signature-sizes":[3,4],"signatures-sizes":{{"{one}":[3,4]}}}}"#);
    assert_eq!(kept.metadata, expected);
    // By somebody whose source has none, and by one whose source has another.
    kept.pull(b"1", found(&[]));
    assert_eq!(kept.metadata, expected);
    kept.pull(b"1", found(&all[1..]));
    assert_eq!(kept.of(b"1"), all);
    assert_eq!(kept.last(), all);
    // Another manifest, without and then with one.
    kept.pull(b"2", found(&[]));
    assert_eq!((kept.of(b"1"), kept.last()), (all.to_vec(), vec![]));
    kept.pull(b"2", found(&all[..1]));
    assert_eq!(
        (kept.of(b"2"), kept.last()),
        (all[..1].into(), all[..1].into())
    );
    // The last ones are those of the manifest that is last.
    kept.pull(b"1", found(&[]));
    assert_eq!((kept.of(b"1"), kept.last()), (all.to_vec(), all.to_vec()));
    for metadata in ["", "{}", "not JSON"] {
        let mut none = Kept {
            metadata: metadata.to_owned(),
            ..Kept::default()
        };
        none.pull(b"1", found(&[]));
        assert_eq!(none.metadata, "{}");
    }
}

#[test]
fn what_is_kept_as_the_last_manifests_only_stays_that_manifests() {
    for last in [b"1", b"2"] {
        let mut kept = Kept {
            metadata: r#"{"signature-sizes":[3]}"#.to_owned(),
            items: BTreeMap::from([
                (LAST.to_owned(), vec![0xa3, 1, 1]),
                ("manifest".to_owned(), last.to_vec()),
            ]),
        };
        kept.pull(b"2", found(&[simple(2, 3)]));
        assert!(kept.of(last).contains(&simple(1, 2)));
        assert!(kept.of(b"2").contains(&simple(2, 3)));
        assert_eq!(kept.last(), kept.of(b"2"));
    }
}

#[test]
fn what_can_not_be_read_is_kept_as_it_is_and_what_fails_is_an_error() {
    let manifest = Digest::of(b"1");
    let mut kept = Kept {
        metadata: format!(r#"{{"signatures-sizes":{{"{manifest}":[2]}}}}"#),
        items: BTreeMap::from([(key_of(&manifest), b"?!".to_vec())]),
    };
    kept.pull(b"1", found(&[simple(1, 2)]));
    assert_eq!(kept.items[&key_of(&manifest)], b"?!\xa3\x01\x01");
    let failed = add(&kept.metadata, |_| Err("I/O"), &manifest, found(&[]));
    assert_eq!(failed, Err("I/O"));
}

#[test]
fn too_many_or_too_large_ones_take_no_accepted_ones_place() {
    const MOST: usize = trust::limits::SIGNATURES;
    let good = [simple(9, 9)];
    let junk = |begin: usize, length: usize| -> Vec<Signature> {
        let one = |n: usize| {
            Signature::Simple([&[0xa3][..], &n.to_le_bytes(), &vec![0; length]].concat())
        };
        (begin..begin + MOST).map(one).collect()
    };
    for length in [0, limits::SIGNATURES_BYTES / MOST] {
        let mut kept = Kept::default();
        // Who comes first doesn't keep out what is accepted, and who comes last doesn't drive it out.
        kept.pull(b"1", found(&junk(0, length)));
        kept.pull(b"1", accepted(&good));
        kept.pull(b"1", found(&junk(MOST, length)));
        let all = kept.of(b"1");
        assert_eq!(all[0], good[0]);
        assert_eq!(all[1], junk(0, length)[0]);
        assert!(all.len() > MOST / 2 && all.len() <= MOST, "{}", all.len());
        let bytes: usize = all.iter().map(|one| one.encode().len()).sum();
        assert!(bytes <= limits::SIGNATURES_BYTES);
        assert!(!all.contains(&junk(MOST, length)[0]));
        let artifact = keep_for_artifact(b"", found(&junk(0, length)));
        let artifact = keep_for_artifact(&artifact, accepted(&good));
        let artifact = keep_for_artifact(&artifact, found(&junk(MOST, length)));
        assert_eq!(decode(&artifact), all);
        assert!(artifact.len() as u64 <= limits::KEPT_SIGNATURES_BYTES);
    }
}

#[test]
fn a_pull_adds_to_what_is_kept_with_an_artifact() {
    let all = [simple(1, 2), simple(2, 3)];
    let kept = keep_for_artifact(b"", found(&all[..1]));
    assert_eq!(keep_for_artifact(&kept, found(&[])), kept);
    assert_eq!(keep_for_artifact(&kept, found(&all[..1])), kept);
    assert_eq!(decode(&keep_for_artifact(&kept, found(&all[1..]))), all);
}

#[test]
fn an_artifacts_signatures_are_read_again_and_what_is_damaged_is_none() {
    let all = [simple(1, 2), simple(2, 3)];
    let kept = keep_for_artifact(b"", found(&all));
    assert_eq!(kept, b"[3,4]\n\xa3\x01\x01\xa3\x02\x02\x02");
    assert_eq!(decode(&kept), all);
    assert_eq!(keep_for_artifact(b"", found(&[])), b"");
    for (bytes, expected) in [
        (&b""[..], &all[..0]),
        (b"[3,4]", &[]),
        (b"[3,4]\n", &[]),
        (b"[3,9]\n\xa3\x01\x01\xa3", &all[..1]),
        (b"{}\n\xa3\x01\x01", &[]),
        (b"[-1]\n\xa3", &[]),
    ] {
        assert_eq!(decode(bytes), expected, "{bytes:?}");
    }
}

#[test]
fn sizes_that_lie_end_the_list() {
    let bytes = [0xa3, 1, 0xa3, 2, 0x00];
    assert_eq!(split(&bytes, &[2, 2]), [simple(1, 1), simple(2, 1)]);
    assert_eq!(split(&bytes, &[2, 9]), [simple(1, 1)]);
    assert_eq!(split(&bytes, &[2, 2, 1]), [simple(1, 1), simple(2, 1)]);
    assert_eq!(split(&bytes, &[0]), []);
    assert_eq!(split(&bytes, &[usize::MAX]), []);
}

#[test]
fn a_manifest_is_of_an_image_with_offered_layers_only_if_it_names_them() {
    let (config, toc) = (Digest::of(b"config"), Digest::of(b"toc"));
    let manifest = |named: &Digest| {
        let layer = |annotations: serde_json::Value| {
            serde_json::json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": config, "size": 1, "annotations": annotations})
        };
        let named = serde_json::json!({"containerd.io/snapshot/stargz/toc.digest": named});
        serde_json::json!({"schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config, "size": 1},
            "layers": [layer(serde_json::json!({})), layer(named)]})
        .to_string()
        .into_bytes()
    };
    let (good, other) = (manifest(&toc), manifest(&Digest::of(b"other")));
    let unpacked: ImageId = config.hex().parse().unwrap();
    let tocs = [None, Some(toc)];
    let offered = storage::image_id(&config, &tocs).unwrap();
    assert!(is_of(&good, &offered, &tocs));
    assert!(
        !is_of(&other, &offered, &tocs),
        "the one that was signed names another"
    );
    assert!(!is_of(&good, &unpacked, &tocs) && !is_of(&good, &offered, &[]));
    assert!(!is_of(&good, &offered, &tocs[1..]) && !is_of(&good, &offered, &[None, None]));
    assert!(is_of(&good, &unpacked, &[None, None]) && is_of(&other, &unpacked, &[]));
}
