//! Bucket: the client of one place, made to wait.
//!
//! Large objects travel in parts, several at a time, each through memory once; so an object may be larger than memory.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use dag_cache::{Body, Objects, Piece, RemoteError};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode,
    PutPayload, RetryConfig,
};
use tokio::runtime::Runtime;

use crate::{Address, OpenError};

/// The size of a part: what every provider takes, and small enough that several are in memory.
const PART: u64 = 8 << 20;
/// So many parts of one object are on their way at once.
const PARTS_AT_ONCE: usize = 6;
/// A place that does not answer must not hold a run up for long: what cannot be asked is a miss.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// A part of a slow line.
const ANSWER_WITHIN: Duration = Duration::from_mins(3);
const RETRIES: usize = 4;
const RETRY_WITHIN: Duration = Duration::from_secs(30);

/// The objects of a shared cache.
pub(crate) struct Bucket {
    url: String,
    folder: Path,
    store: Arc<dyn ObjectStore>,
    runtime: Runtime,
}

impl Bucket {
    pub(crate) fn open(address: &Address) -> Result<Self, OpenError> {
        let url = address.to_string();
        let failed = |error: Error| OpenError::Client { url: url.clone(), what: told(&error) };
        let store = client(address).map_err(failed)?;
        let folder = match address.scheme {
            "file" => Path::from_absolute_path(&address.folder),
            _ => Path::parse(&address.folder),
        };
        let folder = folder.map_err(|error| failed(error.into()))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("remote")
            .enable_all()
            .build()
            .map_err(OpenError::Threads)?;
        Ok(Self { url, folder, store, runtime })
    }

    fn path(&self, name: &str) -> Path {
        name.split('/').fold(self.folder.clone(), Path::join)
    }

    /// A part of an object, on the runtime's threads, so that parts come side by side.
    fn part(&self, path: &Path, from: u64, to: u64) -> impl Future<Output = Result<Part, Error>> + use<> {
        let (store, path) = (Arc::clone(&self.store), path.clone());
        let task = self.runtime.spawn(async move {
            let options = GetOptions { range: Some(GetRange::Bounded(from..to)), ..GetOptions::default() };
            let answer = store.get_opts(&path, options).await?;
            let size = answer.meta.size;
            Ok(Part { size, bytes: answer.bytes().await? })
        });
        async move { task.await? }
    }

    async fn put_parts(&self, path: &Path, file: &File, bytes: u64) -> Result<(), Failed> {
        let mut upload = self.store.put_multipart(path).await?;
        let sent = async {
            let upload = &mut upload;
            let parts = (0..bytes.div_ceil(PART)).map(|number| {
                let from = number * PART;
                let mut part = vec![0; PART.min(bytes - from) as usize];
                file.read_exact_at(&mut part, from)?;
                Ok::<_, Failed>(self.runtime.spawn(upload.put_part(PutPayload::from(part))))
            });
            // An iterator is asked for its next part only when one that is on its way has arrived.
            let parts = stream::iter(parts)
                .map(|part| async { part?.await.map_err(Error::from)?.map_err(Failed::from) })
                .buffer_unordered(PARTS_AT_ONCE);
            parts.try_collect::<()>().await
        }
        .await;
        match sent {
            Ok(()) => Ok(upload.complete().await.map(drop)?),
            Err(error) => {
                // Best effort: providers remove what was begun and left after some days, if told to.
                let _ = upload.abort().await;
                Err(error)
            }
        }
    }
}

struct Part {
    /// The size of the whole object.
    size: u64,
    bytes: bytes::Bytes,
}

enum Failed {
    There(Error),
    Here(std::io::Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::There(error)
    }
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        Self::Here(error)
    }
}

impl Failed {
    fn at(self, name: &str) -> RemoteError {
        match self {
            Self::There(error) => failed(name)(error),
            Self::Here(error) => error.into(),
        }
    }
}

/// Whether it says that there is nothing: a folder of this machine also says so where a file is in the way.
fn is_absent(error: &Error) -> bool {
    matches!(error, Error::NotFound { .. })
}

fn failed(name: &str) -> impl Fn(Error) -> RemoteError {
    move |error| RemoteError::Failed { name: name.to_owned(), what: told(&error) }
}

/// An error with its causes, in one line.
fn told(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Objects for Bucket {
    fn url(&self) -> &str {
        &self.url
    }

    fn get(&self, name: &str, most: u64) -> Result<Option<Vec<u8>>, RemoteError> {
        let path = self.path(name);
        self.runtime.block_on(async {
            let answer = match self.store.get(&path).await {
                Err(error) if is_absent(&error) => return Ok(None),
                other => other.map_err(failed(name))?,
            };
            let size = answer.meta.size;
            if size > most {
                let what = format!("it has {size} bytes, and at most {most} are expected");
                return Err(RemoteError::Failed { name: name.to_owned(), what });
            }
            let bytes = answer.bytes().await.map_err(failed(name))?;
            Ok(Some(bytes.into()))
        })
    }

    fn size(&self, name: &str) -> Result<Option<u64>, RemoteError> {
        match self.runtime.block_on(self.store.head(&self.path(name))) {
            Ok(meta) => Ok(Some(meta.size)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(failed(name)(error)),
        }
    }

    fn read(&self, name: &str, bytes: u64, piece: &mut Piece<'_>) -> Result<bool, RemoteError> {
        let path = self.path(name);
        // No provider gives a range of nothing.
        if bytes == 0 {
            return Ok(self.size(name)? == Some(0));
        }
        self.runtime.block_on(async {
            let parts = (0..bytes.div_ceil(PART)).map(|number| number * PART);
            let mut parts = stream::iter(parts)
                .map(|from| self.part(&path, from, (from + PART).min(bytes)))
                .buffered(PARTS_AT_ONCE);
            while let Some(part) = parts.next().await {
                let part = match part {
                    Err(error) if is_absent(&error) => return Ok(false),
                    other => other.map_err(failed(name))?,
                };
                if part.size != bytes {
                    return Ok(false);
                }
                piece(&part.bytes)?;
            }
            Ok(true)
        })
    }

    fn put(&self, name: &str, body: Body<'_>, replace: bool) -> Result<bool, RemoteError> {
        let path = self.path(name);
        let payload = match body {
            Body::Bytes(bytes) => PutPayload::from(bytes),
            Body::File(file, bytes) if bytes > PART => {
                // In parts there is no way to say that nothing may be there; two who write one name write one content.
                if !replace && self.size(name)?.is_some() {
                    return Ok(false);
                }
                let written = self.runtime.block_on(self.put_parts(&path, file, bytes));
                return written.map(|()| true).map_err(|failed| failed.at(name));
            }
            Body::File(file, bytes) => {
                let mut all = vec![0; bytes as usize];
                file.read_exact_at(&mut all, 0)?;
                PutPayload::from(all)
            }
        };
        let mode = if replace { PutMode::Overwrite } else { PutMode::Create };
        let put =
            |mode: PutMode| self.runtime.block_on(self.store.put_opts(&path, payload.clone(), mode.into()));
        match put(mode) {
            Ok(_) => Ok(true),
            Err(Error::AlreadyExists { .. }) => Ok(false),
            // A provider without conditions: looked at first, which is as good for names that mean their content.
            Err(Error::NotImplemented { .. } | Error::NotSupported { .. }) => {
                if self.size(name)?.is_some() {
                    return Ok(false);
                }
                put(PutMode::Overwrite).map(|_| true).map_err(failed(name))
            }
            Err(error) => Err(failed(name)(error)),
        }
    }

    fn list(&self, folder: &str) -> Result<Vec<(String, u64)>, RemoteError> {
        let path = self.path(folder);
        self.runtime.block_on(async {
            let listed = self.store.list_with_delimiter(Some(&path)).await.map_err(failed(folder))?;
            let named = listed.objects.into_iter();
            Ok(named.filter_map(|meta| Some((meta.location.filename()?.to_owned(), meta.size))).collect())
        })
    }
}

/// The client for an address, with what the environment says.
fn client(address: &Address) -> Result<Arc<dyn ObjectStore>, Error> {
    let retry =
        RetryConfig { backoff: BackoffConfig::default(), max_retries: RETRIES, retry_timeout: RETRY_WITHIN };
    let options = ClientOptions::new().with_connect_timeout(CONNECT_WITHIN).with_timeout(ANSWER_WITHIN);
    let bucket = &address.bucket;
    Ok(match address.scheme {
        "s3" => {
            let builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry);
            // Only where somebody has named an endpoint is there one without TLS.
            let options = options.with_allow_http(true);
            Arc::new(builder.with_client_options(options).build()?)
        }
        "gs" => {
            let builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket).with_retry(retry);
            Arc::new(builder.with_client_options(options).build()?)
        }
        "az" => {
            let builder = MicrosoftAzureBuilder::from_env().with_container_name(bucket).with_retry(retry);
            Arc::new(builder.with_client_options(options).build()?)
        }
        _ => Arc::new(LocalFileSystem::new()),
    })
}
