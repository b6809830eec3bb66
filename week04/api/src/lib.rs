//! The contracts of week 4, compiled from the `.proto` files beside this crate.

#![allow(
    missing_docs,
    clippy::allow_attributes_without_reason,
    clippy::needless_pass_by_value,
    reason = "generated: the comments of the .proto files become the docs"
)]

use std::sync::LazyLock;

use prost_reflect::DescriptorPool;

pub mod codec;

/// The contract of the comment service.
pub mod comments {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("comments.v1");
    }
}

/// The settings of the comment service.
pub mod conf {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("conf.v1");
    }
}

/// A message with a field of every kind, for exercises and notes.
pub mod profile {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("profile.v1");
    }
}

/// An encoded `FileDescriptorSet` with all files, their imports, options and
/// comments.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.binpb"));

/// The descriptors of all messages and services.
pub static DESCRIPTORS: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(FILE_DESCRIPTOR_SET)
        .expect("the build script has compiled these files")
});
