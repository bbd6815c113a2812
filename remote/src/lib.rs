//! A shared cache in an object store: `s3://`, `gs://`, `az://`, or a folder as `file://`.
//!
//! The store knows only [`dag_cache::Objects`], which waits; here is the asynchronous client behind it, and the one place
//! where a runtime runs for it. Credentials come from the environment, by the names each provider gives them. The reasons
//! are in `docs/decisions/0007-remote.md`.

mod address;
mod bucket;

use std::io;

use dag_cache::Objects;

pub use address::{Address, AddressError};
use bucket::Bucket;

/// Why a shared cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The client cannot be made from the address and the environment.
    #[error("`{url}` cannot be used: {what}")]
    Client {
        /// The address.
        url: String,
        /// Why.
        what: String,
    },
    /// The threads that serve it cannot be started.
    #[error("the threads that ask the shared cache cannot be started: {0}")]
    Threads(#[source] io::Error),
}

/// The place at an address. Nothing is asked yet.
pub fn open(address: &Address) -> Result<Box<dyn Objects>, OpenError> {
    Ok(Box::new(Bucket::open(address)?))
}
