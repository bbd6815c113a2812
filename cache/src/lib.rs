//! The store of `dag`: blobs, records, record logs, leases, and a disposable index over them.
//!
//! Files are the truth and every path is computed from a digest, so that any number of processes can read
//! and write one store at once without asking each other. The invariants, stated where they are kept:
//!
//! * **C1** a blob's name is the blake3 of its bytes ([`Writer::put_bytes`], checked again by [`View::materialize`]).
//! * **C2** a record gets its name after every blob it names is on disk ([`Writer::commit`]).
//! * **C3** the index and the summary name only what files say; either may be deleted at any time
//!   without a wrong result ([`verify`], [`View::summary`]).
//! * **C4** a [`View`] never blocks; a hit needs the record, and a missing blob means running again only when
//!   its bytes are needed.
//! * **C5** an action is executed under its [`Lease`]; a commit is atomic and idempotent, so a duplicate is harmless.
//!
//! Bytes on disk and their versions are described in `docs/cache-format.md`.

mod atomic;
mod batch;
mod blob;
mod boot;
mod crash;
mod digest;
mod error;
pub mod gc;
mod guard;
mod here;
mod index;
mod layout;
mod lease;
mod log;
mod presence;
mod record;
mod remote;
mod summary;
mod touch;
mod tree;
pub mod verify;
mod view;
mod writer;

pub use crash::POINTS as CRASH_POINTS;
pub use digest::{Digest, ParseDigestError};
pub use error::{CacheError, Fault};
pub use here::process_started;
pub use layout::Layout;
pub use lease::{Lease, LeaseAttempt};
pub use log::RecordLog;
pub use presence::Presence;
pub use record::{Output, OutputKind, Record};
pub use remote::{
    Body, KeyError, Objects, Piece, Remote, RemoteError, RemoteOptions, RemoteReport, SigningKey, Trouble,
    TroubleKind,
};
pub use summary::Summary;
pub use tree::TreeFile;
pub use view::{Logged, Moment, View};
pub use writer::Writer;
