//! Collection: blobs that no root needs and nobody used lately are removed; records and logs stay.
//!
//! A record without its blobs is still a hit, so collecting costs no money, only the time of making again what is
//! needed. Planning and applying are apart: what is going to be removed can be shown first. A blob is safe while
//! * a root's record names it, or that of an action used within the grace period, or
//! * it was made, or made again, within the grace period, or
//! * it was made since the oldest lease that is held: then a run may be about to name it in a record.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::summary::Snapshot;
use crate::view::check_version;
use crate::{
    CacheError, Digest, Layout, LeaseAttempt, OutputKind, View, atomic, crash, index, layout, lease, touch,
};

/// What could go.
#[derive(Debug, Clone, Serialize)]
pub struct GcPlan {
    /// The blobs to be removed, by path.
    pub blobs: Vec<Candidate>,
    /// Left-overs: temporary files, quarantined blobs, records a power cut undid, lease files of the dead, the scratch
    /// folders of actions that were interrupted and not taken up again, and what executors kept of jobs that are over.
    pub strays: Vec<Candidate>,
    /// How many blobs stay.
    pub kept_blobs: u64,
    /// Their size.
    pub kept_bytes: u64,
    #[serde(skip)]
    layout: Layout,
    /// What changed after this is kept.
    #[serde(skip)]
    cutoff: SystemTime,
}

/// A file, or a folder with all that is in it, that could go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
}

/// What went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GcDone {
    /// How many files were removed.
    pub removed: u64,
    /// Their size.
    pub bytes: u64,
    /// How many were used after all since the plan was made, and stay.
    pub kept: u64,
}

impl GcPlan {
    /// How many bytes would be free.
    pub fn bytes(&self) -> u64 {
        self.blobs.iter().chain(&self.strays).map(|candidate| candidate.bytes).sum()
    }
}

/// Finds what no root and no recent use protects. Nothing is removed.
pub fn plan(root: &Path, roots: &[Digest], grace: Duration) -> Result<GcPlan, CacheError> {
    let view = View::open(root);
    let layout = view.layout().clone();
    if !check_version(&layout)? {
        let (blobs, strays) = (Vec::new(), Vec::new());
        let cutoff = SystemTime::UNIX_EPOCH;
        return Ok(GcPlan { blobs, strays, kept_blobs: 0, kept_bytes: 0, layout, cutoff });
    }
    let now = atomic::file_system_time(&layout)?;
    let leases = lease::all(&layout)?;
    let oldest_lease = leases.iter().filter_map(|lease| lease.since).min();
    let past_grace = now.checked_sub(grace).unwrap_or(SystemTime::UNIX_EPOCH);
    let cutoff = oldest_lease.map_or(past_grace, |since| since.min(past_grace));

    let mut actions: BTreeSet<Digest> = roots.iter().copied().collect();
    actions.extend(used_since(&layout, cutoff)?);
    let needed = needed(&view, &actions)?;

    let mut plan = GcPlan {
        blobs: Vec::new(),
        strays: Vec::new(),
        kept_blobs: 0,
        kept_bytes: 0,
        layout: layout.clone(),
        cutoff,
    };
    for shard in atomic::list(&layout.blobs())? {
        for path in atomic::list(&shard)? {
            let Some((bytes, modified)) = inspect(&path)? else { continue };
            let digest = path.file_name().and_then(layout::named);
            if modified >= cutoff || digest.is_some_and(|digest| needed.contains(&digest)) {
                plan.kept_blobs += 1;
                plan.kept_bytes += bytes;
            } else {
                plan.blobs.push(Candidate { path, bytes });
            }
        }
    }
    let mut left_over = vec![layout.tmp(), layout.quarantine()];
    // Those of another boot count no more, unless it is that of another machine which is running.
    let mut provisional = atomic::list(&layout.all_provisional())?;
    provisional.retain(|directory| layout.boot().is_none_or(|boot| !directory.ends_with(boot)));
    left_over.extend(provisional);
    for directory in left_over {
        for path in atomic::list(&directory)? {
            if let Some((bytes, modified)) = inspect(&path)?
                && modified < cutoff
            {
                plan.strays.push(Candidate { path, bytes });
            }
        }
    }
    for path in atomic::list(&layout.all_scratch())? {
        let is_held =
            |lease: &lease::Found| lease.since.is_some() && lease.path.file_name() == path.file_name();
        let Some((bytes, modified)) = extent(&path)? else { continue };
        if modified < cutoff && !leases.iter().any(is_held) {
            plan.strays.push(Candidate { path, bytes });
        }
    }
    for path in atomic::list(&layout.services())? {
        // One that is wanted is touched every few seconds, by its lease.
        let Some((bytes, modified)) = extent(&path)? else { continue };
        if modified < cutoff {
            plan.strays.push(Candidate { path, bytes });
        }
    }
    for path in atomic::list(&layout.jobs())?.into_iter().chain(atomic::list(&layout.programs())?) {
        let is_held =
            |lease: &lease::Found| lease.since.is_some() && lease.path.file_name() == path.file_name();
        let Some((bytes, modified)) = extent(&path)? else { continue };
        if modified < cutoff && !leases.iter().any(is_held) {
            plan.strays.push(Candidate { path, bytes });
        }
    }
    for lease in leases.into_iter().filter(|lease| lease.since.is_none()) {
        plan.strays.push(Candidate { path: lease.path, bytes: 0 });
    }
    Ok(plan)
}

/// Removes what the plan says, but for what was used since.
pub fn apply(plan: &GcPlan) -> Result<GcDone, CacheError> {
    let mut done = GcDone::default();
    for candidate in &plan.blobs {
        if remove_blob(&plan.layout, &candidate.path, plan.cutoff)? {
            done.removed += 1;
            done.bytes += candidate.bytes;
        } else {
            done.kept += 1;
        }
    }
    let (leases, scratch) = (plan.layout.leases(), plan.layout.all_scratch());
    for candidate in &plan.strays {
        let path = &candidate.path;
        let went = match () {
            () if path.starts_with(&leases) => lease::remove_dead(&plan.layout, path)?,
            () if path.starts_with(&scratch) => remove_scratch(&plan.layout, path)?,
            () => atomic::remove(path).map(|()| true)?,
        };
        if went {
            done.removed += 1;
            done.bytes += candidate.bytes;
        } else {
            done.kept += 1;
        }
    }
    Ok(done)
}

/// Removes what an interrupted action left, unless it is being executed again.
fn remove_scratch(layout: &Layout, path: &Path) -> Result<bool, CacheError> {
    let Some(action) = path.file_name().and_then(layout::named) else { return Ok(false) };
    let LeaseAttempt::Held(_lease) = lease::take(layout, &action, "gc")? else { return Ok(false) };
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(CacheError::io("remove", path)(error)),
    }
}

/// Removes a blob unless it was renewed since the plan. It is moved aside first and looked at there: a writer that
/// renews it either does so before, which is seen, or finds it gone, and writes it again.
fn remove_blob(layout: &Layout, path: &Path, cutoff: SystemTime) -> Result<bool, CacheError> {
    let name = path.file_name().expect("a blob has a name").to_string_lossy();
    let aside = layout.tmp().join(format!("{name}.removed"));
    match fs::rename(path, &aside) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        other => other.map_err(CacheError::io("move", path))?,
    }
    crash::point("gc.moved");
    if inspect(&aside)?.is_some_and(|(_, modified)| modified >= cutoff) {
        fs::rename(&aside, path).map_err(CacheError::io("move", &aside))?;
        return Ok(false);
    }
    atomic::remove(&aside)?;
    crash::point("gc.removed");
    Ok(true)
}

/// The actions that were recorded or used at or after `since`, as far as index and files say. What another process has
/// folded into the index while it keeps us out of it counts as used when it was recorded: the roots are the caller's say.
fn used_since(layout: &Layout, since: SystemTime) -> Result<Vec<Digest>, CacheError> {
    let lists = touch::lists(layout)?.into_iter().filter(|list| list.used >= since);
    let mut actions: Vec<Digest> = lists.flat_map(|list| list.actions).collect();
    let indexed = index::with(layout, &mut Vec::new(), |index| index.used_since(since))?;
    actions.extend(indexed.unwrap_or_default());
    if let Ok(Some(snapshot)) = Snapshot::load(layout) {
        let recorded = snapshot.all().filter(|(_, modified, _)| *modified >= since);
        actions.extend(recorded.map(|(action, _, _)| action));
    }
    Ok(actions)
}

/// Every blob the records of `actions` name, down to the files of trees.
fn needed(view: &View, actions: &BTreeSet<Digest>) -> Result<BTreeSet<Digest>, CacheError> {
    let mut needed = BTreeSet::new();
    let mut trees = BTreeSet::new();
    for action in actions {
        let Some(summary) = view.summary(action)? else { continue };
        for output in summary.outputs.values() {
            needed.insert(output.digest);
            if output.kind == OutputKind::Tree {
                trees.insert(output.digest);
            }
        }
    }
    for tree in &trees {
        // A tree whose list is gone or damaged protects nothing: it has to be made again as a whole.
        if let Ok(files) = view.tree(tree) {
            needed.extend(files.into_iter().map(|file| file.digest));
        }
    }
    Ok(needed)
}

/// Size and last modification of a folder with all that is in it; `None` when it is gone.
fn extent(folder: &Path) -> Result<Option<(u64, SystemTime)>, CacheError> {
    let mut found: Option<(u64, SystemTime)> = None;
    let mut open = vec![folder.to_owned()];
    while let Some(path) = open.pop() {
        let Some(of) = metadata(&path)? else { continue };
        let modified = of.modified().map_err(CacheError::io("inspect", &path))?;
        let (bytes, newest) = found.unwrap_or((0, modified));
        let own = if of.is_dir() { 0 } else { of.len() };
        found = Some((bytes + own, newest.max(modified)));
        if of.is_dir() {
            open.extend(atomic::list(&path)?);
        }
    }
    Ok(found)
}

/// Size and modification time; `None` when it is gone.
fn inspect(path: &Path) -> Result<Option<(u64, SystemTime)>, CacheError> {
    let Some(of) = metadata(path)? else { return Ok(None) };
    Ok(Some((of.len(), of.modified().map_err(CacheError::io("inspect", path))?)))
}

/// What the file system says of a path, of a link itself and not of where it leads; `None` when it is gone.
fn metadata(path: &Path) -> Result<Option<fs::Metadata>, CacheError> {
    match fs::symlink_metadata(path) {
        Ok(of) => Ok(Some(of)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(CacheError::io("inspect", path)(error)),
    }
}
