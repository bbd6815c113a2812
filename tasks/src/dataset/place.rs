//! Where the files of a source are: on this machine, on a hub, or at an address of the web.

use std::path::PathBuf;

use dag_engine::task::{Fault, FileKind, FileRef, TaskCx, TaskError};

use super::source::Source;
use crate::hub::{self, Address, Hub, Kind, PlainDigest, Remote};

const PATH: &str = "/source/path";

impl Source {
    /// The path or address of the files, and the param that names it.
    fn place(&self) -> Option<(&str, &'static str)> {
        match (&self.path, self.benchmark) {
            (Some(path), _) => Some((path, PATH)),
            (None, Some(benchmark)) => Some((benchmark.address(), "/source/benchmark")),
            (None, None) => None,
        }
    }

    pub(super) fn files(&self) -> Vec<FileRef> {
        let Some((path, pointer)) = self.place() else { return Vec::new() };
        let (pattern, kind) = if Address::is_meant(path) {
            // One that cannot be read is a fault, and nothing is asked for it.
            match Address::parse(path, Kind::Dataset, self.revision.as_deref()) {
                Ok(address) => (Remote::pattern(&address), FileKind::Remote),
                Err(_) => return Vec::new(),
            }
        } else if hub::is_plain(path) {
            (Remote::plain_pattern(path, self.digest.as_deref().unwrap_or_default()), FileKind::Remote)
        } else if path.contains(['*', '?', '[']) {
            (path.to_owned(), FileKind::Glob)
        } else {
            (path.to_owned(), FileKind::File)
        };
        vec![FileRef { pointer: pointer.into(), pattern, kind }]
    }

    /// Faults of the place, and of what belongs to some places only.
    pub(super) fn check_place(&self) -> Vec<Fault> {
        let (path, pointer) = self.place().unwrap_or(("", PATH));
        let (is_on_hub, is_plain) = (Address::is_meant(path), hub::is_plain(path));
        let mut faults = Vec::new();
        let has_split = self.split.is_some() && self.benchmark.is_none();
        let hub =
            [("config", self.config.is_some()), ("split", has_split), ("revision", self.revision.is_some())];
        for (field, _) in hub.into_iter().filter(|(_, is_given)| *is_given && !is_on_hub) {
            let what = "this is for a path that begins with `hf://`";
            faults.push(Fault::new(format!("/source/{field}"), what));
        }
        if let (Some(benchmark), Some(split)) = (self.benchmark, self.split.as_deref())
            && !benchmark.splits().contains(&split)
        {
            let (name, splits) = (benchmark.name(), benchmark.splits().join("`, `"));
            faults
                .push(Fault::new("/source/split", format!("{name} has no split `{split}`, but `{splits}`")));
        }
        if is_on_hub {
            match Address::parse(path, Kind::Dataset, self.revision.as_deref()) {
                Err(what) => faults.push(Fault::new(pointer, what)),
                Ok(address) if address.path().is_some() && (self.config.is_some() || has_split) => {
                    let what =
                        "the path names files, and `config` and `split` choose them: give one or the other";
                    faults.push(Fault::new(pointer, what));
                }
                Ok(_) => {}
            }
        }
        match (&self.digest, is_plain) {
            (None, true) => {
                let fault = Fault::new("/source", "a file at an address of the web needs its `digest`");
                faults.push(fault.help("`sha256sum FILE` tells it: `digest: sha256:…`"));
            }
            (Some(_), false) => {
                faults.push(Fault::new("/source/digest", "this is for a path that begins with `https://`"));
            }
            (Some(digest), true) => {
                faults
                    .extend(PlainDigest::parse(digest).err().map(|what| Fault::new("/source/digest", what)));
                faults.extend(hub::check_address(path).err().map(|what| Fault::new(pointer, what)));
            }
            (None, false) => {}
        }
        faults
    }

    /// The files to read, fetched where they lie elsewhere.
    pub(super) fn fetch(&self, cx: &TaskCx) -> Result<Vec<PathBuf>, TaskError> {
        let Some((_, pointer)) = self.place() else { return Ok(Vec::new()) };
        let told = cx.files(pointer);
        let address = told.first().and_then(|path| path.to_str()).unwrap_or_default();
        if Address::is_meant(address) {
            let benchmark = self.benchmark;
            // A copy elsewhere on a hub may be laid out in another way.
            let config = benchmark.filter(|_| self.path.is_none()).and_then(super::Benchmark::config);
            let split = benchmark.map(|benchmark| benchmark.splits()[0]);
            let (config, split) = (self.config.as_deref().or(config), self.split.as_deref().or(split));
            return hub::files_of_split(address, config, split, cx);
        }
        if hub::is_plain(address) {
            let digest = PlainDigest::parse(self.digest.as_deref().unwrap_or_default());
            let hub = Hub::open(&|name| cx.env(name))?;
            return Ok(vec![hub.fetch_plain(address, digest.map_err(TaskError::failed)?, cx)?]);
        }
        Ok(told.to_vec())
    }
}
