//! Pulling from a real registry into a real store, and from servers that cut, lie and hang.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

// Included, not depended on: the crate that they are in depends on this one.
#[allow(dead_code, unreachable_pub, reason = "other tests use the rest")]
#[path = "../../../testkit/src/cosign.rs"]
mod cosign;
#[allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "other tests use the rest"
)]
#[path = "../../../testkit/src/image_maker.rs"]
mod image_maker;
#[allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "other tests use the rest"
)]
#[path = "../../../testkit/src/registry.rs"]
mod registry;
#[allow(dead_code, unreachable_pub, reason = "other tests use the rest")]
#[path = "../../../testkit/src/signer.rs"]
mod signer;

mod artifacts;
mod authentication;
mod chunked;
mod content;
mod encrypted;
mod fake;
mod loading;
mod memory;
mod network;
mod offered;
mod pulling;
mod removing;
mod sharing;
mod signatures;
mod signatures_by_tools;
mod sources;
mod stored;
mod support;
