//! `Registry`: from the name of a task kind to its code; `Step`: a kind bound to its params.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use schemars::Schema;
use serde::Deserialize as _;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::artifact::Ports;
use crate::context::TaskCx;
use crate::executor::Executor;
use crate::params::{BindError, Defaults, bind_typed};
use crate::service::ServiceUse;
use crate::spec::tree::Tree;
use crate::task::{
    Environment, Estimate, EstimateInputs, Fault, FileRef, Missing, Resources, Task, TaskError,
};

/// A task kind bound to its params: what a node of a graph does.
///
/// The object-safe face of [`Task`]; there is one implementation, for every `T: Task`.
pub trait Step: Send + Sync {
    /// [`Task::KIND`].
    fn kind(&self) -> &'static str;
    /// [`Task::VERSION`].
    fn version(&self) -> u32;
    /// The params as they enter the key: typed, serialised again as canonical JSON, fields at their default left out.
    /// Bytes and not a tree, since a graph may hold a hundred thousand of them.
    fn params(&self) -> &[u8];
    /// [`Task::ports`].
    fn ports(&self) -> &Ports;
    /// [`Task::check`].
    fn check(&self) -> Vec<Fault>;
    /// [`Task::files`].
    fn files(&self) -> Vec<FileRef>;
    /// [`Task::uses_seed`].
    fn uses_seed(&self) -> bool;
    /// [`Task::device`].
    fn device(&self, gpus: u32) -> Option<&'static str>;
    /// [`Task::splits`].
    fn splits(&self) -> bool;
    /// [`Task::resources`].
    fn resources(&self) -> Resources;
    /// [`Task::check_run`]; `run` is what [`Registry::check_run`] has accepted.
    fn check_run(&self, run: &Value) -> Vec<Fault>;
    /// [`Task::services`]; `run` is what [`Registry::check_run`] has accepted.
    fn services(&self, run: &Value) -> Vec<ServiceUse>;
    /// [`Task::preflight`]; `run` is what [`Registry::check_run`] has accepted.
    fn preflight(&self, run: &Value, environment: &dyn Environment) -> Vec<Missing>;
    /// [`Task::estimate`].
    fn estimate(&self, inputs: &EstimateInputs) -> Estimate;
    /// [`Task::run`].
    fn run(&self, cx: &mut TaskCx) -> Result<(), TaskError>;
}

struct Bound<T: Task> {
    params: T::Params,
    canonical: Box<[u8]>,
    ports: Ports,
}

impl<T: Task> Step for Bound<T> {
    fn kind(&self) -> &'static str {
        T::KIND
    }
    fn version(&self) -> u32 {
        T::VERSION
    }
    fn params(&self) -> &[u8] {
        &self.canonical
    }
    fn ports(&self) -> &Ports {
        &self.ports
    }
    fn check(&self) -> Vec<Fault> {
        T::check(&self.params)
    }
    fn files(&self) -> Vec<FileRef> {
        T::files(&self.params)
    }
    fn uses_seed(&self) -> bool {
        T::uses_seed(&self.params)
    }
    fn device(&self, gpus: u32) -> Option<&'static str> {
        T::device(&self.params, gpus)
    }
    fn splits(&self) -> bool {
        T::splits(&self.params)
    }
    fn resources(&self) -> Resources {
        T::resources(&self.params)
    }
    fn check_run(&self, run: &Value) -> Vec<Fault> {
        T::Run::deserialize(run).map_or_else(|_| Vec::new(), |run| T::check_run(&self.params, &run))
    }
    fn services(&self, run: &Value) -> Vec<ServiceUse> {
        T::Run::deserialize(run).map_or_else(|_| Vec::new(), |run| T::services(&self.params, &run))
    }
    fn preflight(&self, run: &Value, environment: &dyn Environment) -> Vec<Missing> {
        match T::Run::deserialize(run) {
            Ok(run) => T::preflight(&self.params, &run, environment),
            Err(_) => Vec::new(),
        }
    }
    fn estimate(&self, inputs: &EstimateInputs) -> Estimate {
        T::estimate(&self.params, inputs)
    }
    fn run(&self, cx: &mut TaskCx) -> Result<(), TaskError> {
        T::run(&self.params, cx)
    }
}

/// Binds params to a kind whose type the registry has forgotten.
type Bind<P> = fn(&P, &Defaults) -> Result<Arc<dyn Step>, BindError>;

/// One entry of the registry.
struct Kind {
    about: &'static str,
    version: u32,
    bind: Bind<Value>,
    bind_tree: Bind<Tree>,
    check_run: fn(&Value) -> Result<(), BindError>,
    params_schema: fn() -> Schema,
    run_schema: fn() -> Schema,
    defaults: Mutex<Defaults>,
}

/// The task kinds that an experiment may use, and the executors that may run them.
///
/// Filled by an explicit list (one `.with::<Kind>()` per kind), so that what exists can be found by searching.
#[derive(Default)]
pub struct Registry {
    kinds: BTreeMap<&'static str, Kind>,
    executors: BTreeMap<&'static str, Arc<dyn Executor>>,
}

impl Registry {
    /// No kinds.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a kind.
    ///
    /// # Panics
    /// If the kind is there already: two kinds of one name are a mistake of the program, not of its user.
    #[must_use]
    pub fn with<T: Task>(mut self) -> Self {
        let kind = Kind {
            about: T::ABOUT,
            version: T::VERSION,
            bind: |params, defaults| bound::<T>(bind_typed(params)?, defaults),
            bind_tree: bind_tree::<T>,
            check_run: check_run::<T::Run>,
            params_schema: || schemars::schema_for!(T::Params),
            run_schema: || schemars::schema_for!(T::Run),
            defaults: Mutex::default(),
        };
        let previous = self.kinds.insert(T::KIND, kind);
        assert!(previous.is_none(), "task kind `{}` is registered twice", T::KIND);
        self
    }

    /// Adds an executor.
    #[must_use]
    pub fn with_executor(mut self, executor: Arc<dyn Executor>) -> Self {
        self.executors.insert(executor.name(), executor);
        self
    }

    /// The executor of this name.
    pub fn executor(&self, name: &str) -> Option<&Arc<dyn Executor>> {
        self.executors.get(name)
    }

    /// All executors, in the order of their names.
    pub fn executors(&self) -> impl Iterator<Item = &Arc<dyn Executor>> {
        self.executors.values()
    }

    /// The names of the kinds, sorted.
    pub fn kinds(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.kinds.keys().copied()
    }

    /// One line about a kind, and its version.
    pub fn about(&self, kind: &str) -> Option<(&'static str, u32)> {
        self.kinds.get(kind).map(|kind| (kind.about, kind.version))
    }

    /// Binds `params` to a kind; `None` if there is no such kind.
    pub fn bind(&self, kind: &str, params: &Value) -> Option<Result<Arc<dyn Step>, BindError>> {
        let kind = self.kinds.get(kind)?;
        // Held while binding: kinds are bound one after the other by the compiler, so nothing waits here.
        let defaults = kind.defaults.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Some((kind.bind)(params, &defaults))
    }

    /// [`Registry::bind`] of params as they are written.
    pub(crate) fn bind_tree(&self, kind: &str, params: &Tree) -> Option<Result<Arc<dyn Step>, BindError>> {
        let kind = self.kinds.get(kind)?;
        let defaults = kind.defaults.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Some((kind.bind_tree)(params, &defaults))
    }

    /// Checks the operational options of a kind.
    pub fn check_run(&self, kind: &str, run: &Value) -> Option<Result<(), BindError>> {
        self.kinds.get(kind).map(|kind| (kind.check_run)(run))
    }

    /// The JSON Schemas of a kind's `with:` and `run:`.
    pub fn schemas(&self, kind: &str) -> Option<(Schema, Schema)> {
        self.kinds.get(kind).map(|kind| ((kind.params_schema)(), (kind.run_schema)()))
    }
}

/// The tree is read as it is; only to say what is wrong with it is it turned into JSON.
fn bind_tree<T: Task>(params: &Tree, defaults: &Defaults) -> Result<Arc<dyn Step>, BindError> {
    let params = T::Params::deserialize(params).or_else(|_| bind_typed(&params.to_json()))?;
    bound::<T>(params, defaults)
}

fn bound<T: Task>(params: T::Params, defaults: &Defaults) -> Result<Arc<dyn Step>, BindError> {
    let canonical = defaults.strip::<T::Params>(&params)?;
    let ports = T::ports(&params);
    Ok(Arc::new(Bound::<T> { params, canonical, ports }))
}

fn check_run<R: DeserializeOwned>(run: &Value) -> Result<(), BindError> {
    bind_typed::<R>(run).map(|_| ())
}
