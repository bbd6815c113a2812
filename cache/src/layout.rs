//! Every path under the store root, and the version of the layout.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::boot::boot;
use crate::{Digest, here};

/// The first line of the version file. Bumped when a program that knows only the old layout would do harm.
pub(crate) const VERSION: &str = "dag-store 1";

/// Computes the path of everything in a store; touches nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
    shared: Arc<OnceLock<bool>>,
}

impl Layout {
    /// The layout of the store at `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), shared: Arc::default() }
    }

    /// Whether several machines may be at work on the store, so that kernel locks and boots tell nothing. Found out once.
    pub fn is_shared(&self) -> bool {
        *self.shared.get_or_init(|| here::is_shared(&self.root))
    }

    /// The machine's boot, where what is only visible may be told from what is durable by it: not where other machines
    /// look too.
    pub(crate) fn boot(&self) -> Option<&'static str> {
        if self.is_shared() { None } else { boot() }
    }

    /// The store itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// States the layout version in one line.
    pub fn version_file(&self) -> PathBuf {
        self.root.join("version")
    }

    /// Holds all blobs, in one directory per first byte of their digest.
    pub fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    /// The blob named `digest`.
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        shard(&self.root, "blobs", digest)
    }

    /// Holds all record files, in one directory per first byte of their action.
    pub fn records(&self) -> PathBuf {
        self.root.join("records")
    }

    /// The directory of the records whose action begins with `byte`.
    pub fn record_shard(&self, byte: u8) -> PathBuf {
        self.root.join(format!("records/{byte:02x}"))
    }

    /// The record of `action`.
    pub fn record(&self, action: &Digest) -> PathBuf {
        shard(&self.root, "records", action)
    }

    /// Records of the boot `boot` of some machine that are not durable yet.
    pub fn provisional(&self, boot: &str) -> PathBuf {
        self.all_provisional().join(boot)
    }

    /// Holds one directory of provisional records per boot of a machine.
    pub fn all_provisional(&self) -> PathBuf {
        self.root.join("provisional")
    }

    /// The disposable summary of all record files.
    pub fn summary(&self) -> PathBuf {
        self.root.join("summary")
    }

    /// Holds one directory per stream of records.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// The segments of one stream.
    pub fn log(&self, stream: &Digest) -> PathBuf {
        self.root.join(format!("logs/{stream}"))
    }

    /// The disposable sled index.
    pub fn index(&self) -> PathBuf {
        self.root.join("index")
    }

    /// Held by the process that has the index open.
    pub fn index_lock(&self) -> PathBuf {
        self.root.join("index.lock")
    }

    /// Holds the lock files of actions being executed.
    pub fn leases(&self) -> PathBuf {
        self.root.join("leases")
    }

    /// The lock file of `action`.
    pub fn lease(&self, action: &Digest) -> PathBuf {
        self.root.join(format!("leases/{action}"))
    }

    /// Holds what is kept of every run, as two files and no directory: a run that finds everything done should cost little.
    pub fn runs(&self) -> PathBuf {
        self.root.join("runs")
    }

    /// Says, on a shared file system, that a run is going on.
    pub(crate) fn presence_of_run(&self, run: &str) -> PathBuf {
        self.root.join(format!("leases/run-{run}"))
    }

    /// The events of one run.
    pub fn journal(&self, run: &str) -> PathBuf {
        self.root.join(format!("runs/{run}.jsonl"))
    }

    /// The folders of [`Self::work`], named after their runs.
    pub fn work_of_all(&self) -> PathBuf {
        self.root.join("work")
    }

    /// What the tasks of one run read and write while they run; removed with the run's end.
    pub fn work(&self, run: &str) -> PathBuf {
        self.work_of_all().join(run)
    }

    /// The actions of the nodes of one run, as [`Self::last`] was at its end.
    pub fn actions(&self, run: &str) -> PathBuf {
        self.root.join(format!("runs/{run}.actions"))
    }

    /// Holds one directory per action that was interrupted.
    pub fn all_scratch(&self) -> PathBuf {
        self.root.join("scratch")
    }

    /// What an interrupted action left for its next attempt.
    pub fn scratch(&self, action: &Digest) -> PathBuf {
        self.root.join(format!("scratch/{action}"))
    }

    /// Holds one directory per action that an executor was given.
    pub fn jobs(&self) -> PathBuf {
        self.root.join("jobs")
    }

    /// What an executor keeps of the jobs of an action.
    pub fn job(&self, action: &Digest) -> PathBuf {
        self.root.join(format!("jobs/{action}"))
    }

    /// Holds one directory per service that was started.
    pub fn services(&self) -> PathBuf {
        self.root.join("services")
    }

    /// The files of one service, named after all that it is.
    pub fn service(&self, instance: &Digest) -> PathBuf {
        self.root.join(format!("services/{instance}"))
    }

    /// Holds copies of this program for workers on other machines, each named after its digest.
    pub fn programs(&self) -> PathBuf {
        self.root.join("programs")
    }

    /// The last action of every node of one experiment: node name to action, for telling what changed. Disposable.
    pub fn last(&self, experiment: &Digest) -> PathBuf {
        self.root.join(format!("last/{experiment}"))
    }

    /// Files being written, on the same file system as where they go.
    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Lists of actions used by runs; a list's modification time is when.
    pub fn touched(&self) -> PathBuf {
        self.root.join("touched")
    }

    /// Where corrupt blobs are put aside.
    pub fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    /// The engine's memory of the digests of source files.
    pub fn stat_cache(&self) -> PathBuf {
        self.root.join("stat-cache")
    }
}

fn shard(root: &Path, kind: &str, digest: &Digest) -> PathBuf {
    // Built in one allocation: planning makes one of these per node.
    let mut path = String::with_capacity(kind.len() + 70);
    path.push_str(kind);
    let text = digest.to_string();
    path.push('/');
    path.push_str(&text[..2]);
    path.push('/');
    path.push_str(&text);
    root.join(path)
}

/// The digest a file in a store is named after.
pub(crate) fn named(name: &OsStr) -> Option<Digest> {
    name.to_str()?.parse().ok()
}
