//! The services of a run: begun when the first node that asks one is about to run, shared by all that do, ended when no node
//! that is still to come needs them.
//!
//! A service is begun before the task of the node that asks it, so that a job which waits for a service never holds what
//! the service itself waits for. There is one instance of a service for each model it serves.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use dag_cache::{Digest, Output, View};
use serde_json::{Value, json};

use crate::context::Cancel;
use crate::files;
use crate::graph::NodeId;
use crate::service::{Host, Service, ServiceNews, ServiceSite, ServiceUse};
use crate::task::TaskError;

/// How often a node that waits for a service looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(100);

/// What a node wants of a service: which, and whose model it is to serve.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Want {
    pub(crate) service: String,
    /// The node and the output that the model comes from.
    pub(crate) source: Option<(NodeId, String)>,
}

/// A service that a node is about to ask.
#[derive(Debug, Clone)]
pub(crate) struct Need {
    pub(crate) used: ServiceUse,
    pub(crate) want: Want,
    pub(crate) service: Arc<Service>,
    /// The model that it is to serve.
    pub(crate) model: Option<Output>,
}

impl Need {
    /// The instance that answers it.
    pub(crate) fn instance(&self) -> Digest {
        self.service.instance(self.model.as_ref().map(|model| &model.digest))
    }
}

/// What became of the wish to use a service.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Engaged {
    /// It is there, or begins.
    Yes,
    /// It cannot begin before so many GPUs of this machine are given to it.
    NeedsGpus(u32),
    /// An earlier start of it is still ending.
    Ending,
}

/// All services of a run.
pub(crate) struct Services {
    host: Option<Arc<dyn Host>>,
    view: View,
    run: String,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    instances: BTreeMap<Digest, Instance>,
    warnings: Vec<String>,
}

struct Instance {
    wants: BTreeSet<Want>,
    /// The nodes that use it.
    users: BTreeSet<u32>,
    gpus: Vec<u32>,
    stop: Cancel,
    standing: Standing,
}

#[derive(Debug, Clone)]
enum Standing {
    Waiting(String),
    Up,
    /// Nothing of it runs any more; why, where it failed.
    Over(Option<String>),
}

impl Services {
    pub(crate) fn new(host: Option<Arc<dyn Host>>, view: View, run: String) -> Arc<Self> {
        Arc::new(Self { host, view, run, state: Mutex::default(), changed: Condvar::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node is about to run that asks a service. `gpus` are those it was given, where it needs some.
    pub(crate) fn engage(self: &Arc<Self>, node: u32, need: &Need, gpus: Option<Vec<u32>>) -> Engaged {
        let id = need.instance();
        let mut state = self.state();
        if let Some(instance) = state.instances.get_mut(&id) {
            let is_ending = instance.stop.is_cancelled() || matches!(instance.standing, Standing::Over(None));
            if is_ending {
                return Engaged::Ending;
            }
            instance.users.insert(node);
            instance.wants.insert(need.want.clone());
            return Engaged::Yes;
        }
        let wanted = need.service.local_gpus();
        if wanted > 0 && gpus.is_none() {
            return Engaged::NeedsGpus(wanted);
        }
        let instance = Instance {
            wants: [need.want.clone()].into(),
            users: [node].into(),
            gpus: gpus.unwrap_or_default(),
            stop: Cancel::new(),
            standing: Standing::Waiting("it begins".to_owned()),
        };
        let services = Arc::clone(self);
        let (need, gpus, stop) = (need.clone(), instance.gpus.clone(), instance.stop.clone());
        state.instances.insert(id, instance);
        drop(state);
        let name = format!("service {}", need.service.name);
        let spawned = thread::Builder::new().name(name).spawn(move || {
            let kept = services.keep(&id, &need, gpus, stop);
            services.stands(&id, Standing::Over(kept.err()));
        });
        if let Err(error) = spawned {
            self.stands(&id, Standing::Over(Some(format!("no thread could be started: {error}"))));
        }
        Engaged::Yes
    }

    /// Keeps an instance up until it is stopped; on a thread of its own.
    fn keep(self: &Arc<Self>, id: &Digest, need: &Need, gpus: Vec<u32>, stop: Cancel) -> Result<(), String> {
        let host = self.host.as_ref().ok_or("nobody here keeps services up")?;
        let folder = self.folder(id);
        let model = match &need.model {
            Some(output) => {
                let path = folder.join("model");
                self.place(output, &path)
                    .map_err(|error| format!("its model cannot be put into place: {error}"))?;
                Some(path)
            }
            None => None,
        };
        let services = Arc::clone(self);
        let id = *id;
        let name = need.service.name.clone();
        let site = ServiceSite {
            folder,
            view: self.view.clone(),
            model,
            gpus,
            holder: self.run.clone(),
            stop,
            tell: Arc::new(move |news| match news {
                ServiceNews::Waiting(why) => services.stands(&id, Standing::Waiting(why)),
                ServiceNews::Up(_) => services.stands(&id, Standing::Up),
                ServiceNews::Warning(text) => {
                    services.state().warnings.push(format!("service {name}: {text}"));
                }
            }),
        };
        host.keep(&need.service, &site)
    }

    /// Puts the model where its servers find it, on whatever machine. One that is there is left: its name says what it is.
    fn place(&self, output: &Output, path: &std::path::Path) -> Result<(), String> {
        if path.exists() {
            return Ok(());
        }
        let parent = path.parent().unwrap_or(path);
        std::fs::create_dir_all(parent).map_err(|error| error.to_string())?;
        let beside = parent.join(format!(".model-{}", std::process::id()));
        files::remove_tree(&beside).map_err(|error| error.to_string())?;
        self.view.materialize(output, &beside).map_err(|error| error.to_string())?;
        match std::fs::rename(&beside, path) {
            Err(error) if !path.exists() => Err(error.to_string()),
            // Another process was faster.
            Err(_) => files::remove_tree(&beside).map_err(|error| error.to_string()),
            Ok(()) => Ok(()),
        }
    }

    fn folder(&self, id: &Digest) -> PathBuf {
        let folder = self.view.layout().service(id);
        // Whoever finds it in an order may stand elsewhere.
        std::path::absolute(&folder).unwrap_or(folder)
    }

    fn stands(&self, id: &Digest, standing: Standing) {
        if let Some(instance) = self.state().instances.get_mut(id) {
            instance.standing = standing;
        }
        self.changed.notify_all();
    }

    /// Waits until everything of `needs` can be asked; gives the options of the node with the places of its services.
    pub(crate) fn ready(
        &self,
        needs: &[Need],
        options: &Value,
        cancel: &Cancel,
        tell: &dyn Fn(&str),
    ) -> Result<Value, TaskError> {
        let mut options = options.clone();
        for need in needs {
            let id = need.instance();
            let service = &need.service;
            let mut told = String::new();
            let mut state = self.state();
            loop {
                match state.instances.get(&id).map(|instance| instance.standing.clone()) {
                    Some(Standing::Up) => break,
                    Some(Standing::Waiting(why)) if why != told => {
                        tell(&format!("waiting for {}: {why}", service.name));
                        told = why;
                    }
                    Some(Standing::Waiting(_)) => {}
                    Some(Standing::Over(Some(why))) => {
                        return Err(TaskError::failed(format!("the service `{}`: {why}", service.name)));
                    }
                    Some(Standing::Over(None)) | None => return Err(TaskError::Cancelled),
                }
                if cancel.is_cancelled() {
                    return Err(TaskError::Cancelled);
                }
                let waited = self.changed.wait_timeout(state, LOOK);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            drop(state);
            if !told.is_empty() {
                tell(&format!("{} answers", service.name));
            }
            if let Some(place) = options.pointer_mut(&need.used.pointer) {
                *place = json!({
                    "name": service.name, "folder": self.folder(&id), "replicas": service.replicas,
                    "start_within": service.start_within,
                });
            }
        }
        Ok(options)
    }

    /// A node uses its services no more.
    pub(crate) fn leave(&self, node: u32) {
        for instance in self.state().instances.values_mut() {
            instance.users.remove(&node);
        }
    }

    /// Ends what nobody uses and nobody will want.
    pub(crate) fn end_unwanted(&self, is_wanted: impl Fn(&Want) -> bool) {
        for instance in self.state().instances.values() {
            if instance.users.is_empty() && !instance.wants.iter().any(&is_wanted) {
                instance.stop.cancel();
            }
        }
    }

    /// Ends what nobody uses just now and holds GPUs of this machine: others wait for them, and it can begin again.
    pub(crate) fn make_room(&self) {
        for instance in self.state().instances.values() {
            if instance.users.is_empty() && !instance.gpus.is_empty() {
                instance.stop.cancel();
            }
        }
    }

    /// Forgets what has ended in order, and gives the GPUs that are free again and what the user should know.
    pub(crate) fn reap(&self) -> (Vec<u32>, Vec<String>) {
        let mut state = self.state();
        let mut gpus = Vec::new();
        for instance in state.instances.values_mut() {
            if matches!(instance.standing, Standing::Over(_)) {
                gpus.append(&mut instance.gpus);
            }
        }
        state.instances.retain(|_, instance| !matches!(instance.standing, Standing::Over(None)));
        (gpus, std::mem::take(&mut state.warnings))
    }

    /// Ends all of them, and waits until nothing of them runs; at once, without waiting, where the run is abandoned.
    pub(crate) fn end(&self, waits: bool) -> Vec<String> {
        let mut state = self.state();
        for instance in state.instances.values() {
            instance.stop.cancel();
        }
        while waits && state.instances.values().any(|one| !matches!(one.standing, Standing::Over(_))) {
            let waited = self.changed.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        std::mem::take(&mut state.warnings)
    }
}
