//! The CRI as Rust types, generated from `proto/runtime/v1`.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::large_futures,
    reason = "generated; the comments are in the .proto files"
)]

use std::fmt;

tonic::include_proto!("runtime.v1");

/// The compiled `.proto` files, as an encoded `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/runtime.v1.bin"));

impl fmt::Debug for AuthConfig {
    /// Says which kinds of credentials are there, never what they are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            ("username", &self.username),
            ("password", &self.password),
            ("auth", &self.auth),
            ("identity_token", &self.identity_token),
            ("registry_token", &self.registry_token),
        ];
        let given: Vec<_> = kinds
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(kind, _)| kind)
            .collect();
        f.debug_struct("AuthConfig")
            .field("server_address", &self.server_address)
            .field("given", &given)
            .finish()
    }
}
