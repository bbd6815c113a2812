//! Data on the Hugging Face hub: what an address means now, which files there are, and fetching each of them once.
//!
//! Files lie where Hugging Face's own tools keep them (`$HF_HUB_CACHE`), in their layout, so that what one of them has
//! fetched no other fetches again. An address that names a commit means the same for ever: where its files are there
//! already, nothing is asked. The token goes to the hub's own address and to no other, not even where the hub redirects.

mod address;
mod cache;
mod download;
mod error;
mod http;
mod plain;
mod resolver;
mod settings;
mod splits;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod weights;

use std::fs;
use std::path::PathBuf;

use dag_engine::context::Cancel;
use dag_engine::task::{TaskCx, TaskError};
use serde::Deserialize;
use tokio::runtime::Runtime;

pub use address::{Address, Kind};
pub use error::HubError;
pub(crate) use plain::check_address;
pub use plain::{PlainDigest, is_plain};
pub use resolver::Remote;
pub use settings::Settings;
use splits::choose;

use cache::Folder;
use download::{Fetcher, Job};
use http::{Client, Facts};

/// So many files are fetched at a time.
const AT_ONCE: usize = 8;

/// A hub, ready to be asked; nothing is sent before that.
pub struct Hub {
    settings: Settings,
    client: Client,
    runtime: Runtime,
}

/// The names of the files of a repository at a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Below the root of the repository, sorted.
    pub names: Vec<String>,
    /// Whether these are all: without a connection only those are known that are on this machine.
    pub is_whole: bool,
}

/// What the hub says of a repository at a revision; the rest of it is not read.
#[derive(Deserialize)]
struct Description {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Hub {
    /// The hub that the environment names.
    pub fn open(env: &dyn Fn(&str) -> Option<String>) -> Result<Self, HubError> {
        let settings = Settings::from(env)?;
        let client = Client::new(&settings)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| HubError::Client(error.to_string()))?;
        Ok(Self { settings, client, runtime })
    }

    /// What the environment says.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The commit that the address means now, by the hub.
    pub fn commit(&self, address: &Address) -> Result<String, HubError> {
        if let Some(commit) = address.commit() {
            return Ok(commit.to_owned());
        }
        Ok(self.describe(address)?.sha)
    }

    /// The commit that the address was last fetched at on this machine, if it ever was.
    pub fn last_commit(&self, address: &Address) -> Option<String> {
        Folder::of(&self.settings, address).reference(address.revision())
    }

    /// The files at the commit that the address names.
    pub fn list(&self, address: &Address) -> Result<Listing, HubError> {
        let folder = Folder::of(&self.settings, address);
        let commit = address.commit().ok_or_else(|| HubError::Unpinned(address.clone()))?;
        if let Some(names) = folder.listing(commit) {
            return Ok(Listing { names, is_whole: true });
        }
        match self.describe(address) {
            Ok(description) => {
                let mut names: Vec<String> =
                    description.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
                names.sort_unstable();
                folder.keep_listing(commit, &names)?;
                Ok(Listing { names, is_whole: true })
            }
            Err(error) if error.is_passing() => match folder.present(commit) {
                names if names.is_empty() => Err(error),
                names => Ok(Listing { names, is_whole: false }),
            },
            Err(error) => Err(error),
        }
    }

    /// The files called `names`, fetched if they are not there.
    pub fn fetch(&self, address: &Address, names: &[String], cx: &TaskCx) -> Result<Vec<PathBuf>, HubError> {
        let folder = Folder::of(&self.settings, address);
        let commit = address.commit().ok_or_else(|| HubError::Unpinned(address.clone()))?;
        let places = names.iter().map(|name| folder.place(commit, name)).collect::<Result<Vec<_>, _>>()?;
        let absent: Vec<&String> =
            names.iter().zip(&places).filter(|(_, place)| !place.exists()).map(|(name, _)| name).collect();
        if !absent.is_empty() {
            self.online(address)?;
            let cancel = cx.cancel_token();
            let facts = self.runtime.block_on(self.facts(address, &absent, &cancel))?;
            let mut jobs = Vec::new();
            for (name, facts) in absent.iter().zip(&facts) {
                let blob = folder.blob(&facts.tag)?;
                if !blob.exists() {
                    jobs.push(Job {
                        url: self.client.file(address, name),
                        part: folder.part(&facts.tag)?,
                        lock: folder.lock(&facts.tag)?,
                        to: blob,
                        size: facts.size,
                        digest: facts.sha256.map(PlainDigest::Sha256),
                        is_secret: true,
                        what: format!("`{name}` of {}", HubError::named(address)),
                    });
                }
            }
            // Two names of one content are one file.
            jobs.sort_by(|a, b| a.to.cmp(&b.to));
            jobs.dedup_by(|a, b| a.to == b.to);
            self.download(jobs, cx)?;
            for (name, facts) in absent.iter().zip(&facts) {
                folder.link(commit, name, &facts.tag)?;
            }
        }
        if let Some(revision) = address.pinned_from() {
            folder.remember(revision, commit)?;
        }
        Ok(places)
    }

    /// The text of the file `name`, if it is one of `names`.
    fn text(
        &self,
        address: &Address,
        name: &str,
        names: &[String],
        cx: &TaskCx,
    ) -> Result<Option<String>, HubError> {
        if !names.iter().any(|present| present == name) {
            return Ok(None);
        }
        let place = self.fetch(address, &[name.to_owned()], cx)?.remove(0);
        fs::read_to_string(&place).map(Some).map_err(|error| HubError::io(place, error))
    }

    /// The file at a plain address, fetched if it is not there.
    pub fn fetch_plain(&self, url: &str, digest: PlainDigest, cx: &TaskCx) -> Result<PathBuf, HubError> {
        let to = self.settings.plain().join(digest.file_name());
        if to.exists() {
            return Ok(to);
        }
        let beside = |ending: &str| to.with_file_name(format!("{}.{ending}", digest.file_name()));
        let job = Job {
            url: plain::check_address(url).map_err(HubError::Address)?,
            part: beside("incomplete"),
            lock: beside("lock"),
            to: to.clone(),
            size: None,
            digest: Some(digest),
            is_secret: false,
            what: format!("`{url}`"),
        };
        self.download(vec![job], cx)?;
        Ok(to)
    }

    fn describe(&self, address: &Address) -> Result<Description, HubError> {
        self.online(address)?;
        let (url, cancel) = (self.client.description(address), Cancel::new());
        self.runtime.block_on(async {
            let text = self.client.text(&url, address, &cancel).await?;
            serde_json::from_str(&text).map_err(|error| HubError::Strange {
                what: HubError::named(address),
                why: format!("the answer of {url} is not what a hub says: {error}"),
            })
        })
    }

    fn online(&self, address: &Address) -> Result<(), HubError> {
        if self.settings.is_offline {
            return Err(HubError::Unreachable {
                what: HubError::named(address),
                endpoint: http::place(&self.settings.endpoint),
                why: "`HF_HUB_OFFLINE` is set".to_owned(),
                cache: self.settings.cache.clone(),
            });
        }
        Ok(())
    }

    /// What the hub says of every file, some at a time.
    async fn facts(
        &self,
        address: &Address,
        names: &[&String],
        cancel: &Cancel,
    ) -> Result<Vec<Facts>, HubError> {
        let mut found = Vec::with_capacity(names.len());
        for some in names.chunks(AT_ONCE) {
            let mut asked = tokio::task::JoinSet::new();
            for (number, name) in some.iter().enumerate() {
                let (client, address, name) = (self.client.clone(), address.clone(), (*name).clone());
                let cancel = cancel.clone();
                asked.spawn(async move { (number, client.facts(&address, &name, &cancel).await) });
            }
            let mut answers = asked.join_all().await;
            answers.sort_by_key(|(number, _)| *number);
            for (_, facts) in answers {
                found.push(facts?);
            }
        }
        Ok(found)
    }

    fn download(&self, jobs: Vec<Job>, cx: &TaskCx) -> Result<(), HubError> {
        for folder in jobs.iter().flat_map(|job| [&job.to, &job.lock]).filter_map(|path| path.parent()) {
            fs::create_dir_all(folder).map_err(|error| HubError::io(folder, error))?;
        }
        let fetcher = Fetcher::new(self.client.clone(), cx.cancel_token(), cx.progress().clone());
        self.runtime.block_on(fetcher.fetch(jobs, AT_ONCE))
    }
}

/// The files that a task is told to read: what lies on a hub is fetched, the files of a split in their order.
pub fn files_of_split(
    told: &str,
    config: Option<&str>,
    split: Option<&str>,
    cx: &TaskCx,
) -> Result<Vec<PathBuf>, TaskError> {
    let address = Address::parse(told, Kind::Dataset, None).map_err(HubError::Address)?;
    let hub = Hub::open(&|name| cx.env(name))?;
    let Listing { names, is_whole } = hub.list(&address)?;
    let wrong = |why: String| TaskError::failed(format!("{}: {why}", HubError::named(&address)));
    let chosen = if let Some(pattern) = address.path() {
        match splits::matching(pattern, &names).map_err(wrong)? {
            found if found.is_empty() => return Err(wrong(format!("no file is called `{pattern}`"))),
            found => found,
        }
    } else {
        let card = hub.text(&address, CARD, &names, cx)?;
        choose(card.as_deref(), &names, config, split).map_err(wrong)?
    };
    if !is_whole {
        check_parts(&chosen).map_err(wrong)?;
        cx.warn(&format!(
            "{}: the hub cannot be asked for its files; {} that lie here are taken for all of them",
            HubError::named(&address),
            chosen.len()
        ));
    }
    Ok(hub.fetch(&address, &chosen, cx)?)
}

/// The card of a repository.
const CARD: &str = "README.md";

/// Whether names that say how many parts there are, are all there.
fn check_parts(names: &[String]) -> Result<(), String> {
    let parts = |name: &str| {
        let (_, count) = name.rsplit_once("-of-")?;
        count.split(|c: char| !c.is_ascii_digit()).next()?.parse::<usize>().ok()
    };
    match names.iter().filter_map(|name| parts(name)).max() {
        Some(count) if count > names.len() => Err(format!(
            "of {count} files {} are here, and the hub cannot be reached for the others",
            names.len()
        )),
        _ => Ok(()),
    }
}

/// The files of a model that a task is told to read, fetched.
pub fn files_of_model(told: &str, cx: &TaskCx) -> Result<Vec<PathBuf>, TaskError> {
    let address = Address::parse(told, Kind::Model, None).map_err(HubError::Address)?;
    let hub = Hub::open(&|name| cx.env(name))?;
    let Listing { names, .. } = hub.list(&address)?;
    let wrong = |why: String| TaskError::failed(format!("{}: {why}", HubError::named(&address)));
    if let Some(pattern) = address.path() {
        return match splits::matching(pattern, &names).map_err(wrong)? {
            found if found.is_empty() => Err(wrong(format!("no file is called `{pattern}`"))),
            found => Ok(hub.fetch(&address, &found, cx)?),
        };
    }
    let index = hub.text(&address, weights::INDEX, &names, cx)?;
    let chosen = weights::of_model(&names, index.as_deref()).map_err(wrong)?;
    Ok(hub.fetch(&address, &chosen, cx)?)
}

impl From<HubError> for TaskError {
    fn from(error: HubError) -> Self {
        match error {
            HubError::Cancelled => Self::Cancelled,
            HubError::Io { path, source } => Self::io(path, source),
            error if error.is_passing() => Self::Transient(error.to_string()),
            error => {
                let missing = error.missing();
                Self::Missing { what: missing.what, help: missing.help }
            }
        }
    }
}
