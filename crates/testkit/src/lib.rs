//! What tests and the demo share: a CRI client, nodes in private places, the leak audit, a real
//! registry and images for it. For testing only: nothing here is promised to stay.
#![allow(clippy::large_futures, reason = "a client of tests holds few of them")]

pub mod audit;
pub mod bench;
pub mod client;
pub mod cosign;
pub mod critest;
pub mod demo;
pub mod image_maker;
pub mod kubelet;
pub mod load;
pub mod node;
pub mod polls;
pub mod power_cut;
pub mod progress;
pub mod pulls;
pub mod registry;
pub mod requests;
pub mod signer;
pub mod soak;
pub mod streams;
pub mod token_server;
