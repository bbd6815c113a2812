//! What the arguments mean here and now: the store, the environment, the clock, the task kinds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use dag_cache::{Remote, View, Writer};
use dag_cluster::Cluster;
use dag_engine::Registry;
use dag_engine::executor::Executor;
use dag_engine::remote::Resolver;
use dag_engine::service::Host;
use dag_engine::spec::RemoteSpec;

use crate::args::Global;
use crate::environment::{variable, working_directory};
use crate::failure::Failure;
use crate::printer::Printer;
use crate::shared;
use crate::text::Text;

/// The folder a store has where nobody named one.
const STORE: &str = ".dag";

/// The world as the command line sees it. The clock enters the program here and nowhere else.
pub struct Context {
    /// Writes to stdout and stderr.
    pub printer: Printer,
    /// Whether stdout is for a program.
    pub json: bool,
    /// The root of the store; it need not exist.
    pub store: PathBuf,
    /// The shared cache as the command line or the environment names it.
    remote: Option<String>,
    /// The shared cache, once somebody said what an experiment names.
    shared: OnceLock<Option<Remote>>,
    /// What runs tasks and services elsewhere.
    cluster: Cluster,
}

impl Context {
    /// Looks around once.
    pub fn new(global: &Global) -> Result<Self, Failure> {
        let no_color = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
        let printer = Printer::new(global.color, no_color);
        let store = match &global.store {
            Some(store) => store.clone(),
            None => nearest_store(&working_directory()?),
        };
        let remote = global.remote.clone().filter(|remote| !remote.is_empty());
        Ok(Self {
            printer,
            json: global.json,
            store,
            remote,
            shared: OnceLock::new(),
            cluster: Cluster::default(),
        })
    }

    /// The task kinds, and who may run them elsewhere.
    pub fn registry(&self) -> Registry {
        self.cluster.executors().into_iter().fold(dag_tasks::registry(), Registry::with_executor)
    }

    /// Who runs tasks elsewhere, by name.
    pub fn executors(&self) -> BTreeMap<String, Arc<dyn Executor>> {
        let executors = self.cluster.executors().into_iter();
        executors.map(|executor| (executor.name().to_owned(), executor)).collect()
    }

    /// Who keeps services up.
    pub fn host(&self) -> Arc<dyn Host> {
        self.cluster.host()
    }

    /// Who knows what addresses of data elsewhere mean. Nothing is asked, or opened, before the first of them.
    pub fn resolver() -> Arc<dyn Resolver> {
        Arc::new(dag_tasks::hub::Remote::new(Arc::new(variable)))
    }

    /// A reader of the store, and of the shared cache where [`Self::share`] found one.
    pub fn view(&self) -> View {
        View::open(&self.store).with_remote(self.shared())
    }

    /// A writer of the store, which shares in the same way.
    pub fn writer(&self) -> Result<Writer, Failure> {
        Ok(Writer::open(&self.store)?.with_remote(self.shared()))
    }

    /// The shared cache that [`Self::share`] found.
    pub fn shared(&self) -> Option<Remote> {
        self.shared.get().cloned().flatten()
    }

    /// Opens the shared cache that the command line, the environment or an experiment names, in this order; the first call
    /// decides. Without its key it is left alone, and that is said.
    pub fn share(&self, spec: Option<&RemoteSpec>) -> Result<(), Failure> {
        if self.shared.get().is_some() {
            return Ok(());
        }
        let opened = shared::open(self.remote.as_deref(), spec)?;
        if let Some(shared::Opened::Without { url, why }) = &opened {
            let text =
                Text::new().warn("warning: ").plain(format!("the shared cache {url} is not used: {why}"));
            self.printer.note(&text.line());
        }
        let remote = match opened {
            Some(shared::Opened::With(remote)) => Some(remote),
            _ => None,
        };
        // Another thread cannot have been faster: there is one.
        let _ = self.shared.set(remote);
        Ok(())
    }

    /// The time.
    #[expect(clippy::disallowed_methods, reason = "this is where the clock enters")]
    pub fn system_time() -> SystemTime {
        SystemTime::now()
    }

    /// Milliseconds since 1970. A clock that is before it is broken, and taken as 1970.
    pub fn now() -> u64 {
        Self::system_time().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64
    }

    /// The cores of the machine.
    pub fn cores() -> u32 {
        std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32)
    }
}

/// The nearest store at or above `directory`, else the one that a first run would make in it.
fn nearest_store(directory: &Path) -> PathBuf {
    directory
        .ancestors()
        .map(|ancestor| ancestor.join(STORE))
        .find(|store| store.is_dir())
        .unwrap_or_else(|| directory.join(STORE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_is_the_nearest_above_and_else_a_new_one_here() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a/b");
        std::fs::create_dir_all(&deep).unwrap();
        assert_eq!(nearest_store(&deep), deep.join(".dag"));
        std::fs::create_dir(root.path().join("a/.dag")).unwrap();
        assert_eq!(nearest_store(&deep), root.path().join("a/.dag"));
    }
}
