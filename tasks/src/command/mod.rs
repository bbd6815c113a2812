//! `command`: any program, as a list of arguments, on declared inputs and outputs. There is no shell.
//!
//! `{inputs.NAME}`, `{files.NAME}` and `{outputs.NAME}` in an argument stand for paths; an argument that is one gathered
//! input becomes as many arguments as there are artifacts. Anything else in braces is left alone.
//!
//! The program runs in an empty folder, with no standard input and with few environment variables, so that what it reads
//! is what is declared. That is a convention and no sandbox: a program that reads more breaks its own reuse.

mod placeholder;

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use dag_engine::task::{
    Arity, ArtifactType, Environment, Fault, FileKind, FileRef, Missing, Ports, Task, TaskCx, TaskError,
};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::process::{HANDED_THROUGH, Program, Stop, last_line_to};
use placeholder::{Paths, Word};

/// The params of `command`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Local files and folders it reads: name → path. Their content decides reuse, not their path.
    #[serde(default)]
    pub files: IndexMap<String, String>,
    /// The outputs it writes at `{outputs.NAME}`, each a file or a folder.
    #[serde(default)]
    pub outputs: Vec<String>,
    /// An output that is what the program prints.
    #[serde(default)]
    pub stdout: Option<String>,
    /// What kind of artifact an output is (`table`, `model`, …), where a port of another task must know.
    #[serde(default)]
    pub types: IndexMap<String, Kind>,
    /// Environment variables that decide what the program does.
    #[serde(default)]
    pub env: IndexMap<String, String>,
}

/// The kinds of artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are those of `ArtifactType`, where each is described")]
pub enum Kind {
    Table,
    Model,
    Packs,
    Results,
    Report,
    File,
}

impl From<Kind> for ArtifactType {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Table => Self::Table,
            Kind::Model => Self::Model,
            Kind::Packs => Self::Packs,
            Kind::Results => Self::Results,
            Kind::Report => Self::Report,
            Kind::File => Self::File,
        }
    }
}

/// The operational options of `command`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Run {
    /// Further environment variables that are handed through and decide nothing, such as a proxy or a token.
    pub pass_env: Vec<String>,
}

impl Params {
    /// All outputs, the printed one last.
    fn all_outputs(&self) -> impl Iterator<Item = &String> {
        self.outputs.iter().chain(&self.stdout)
    }

    fn words(&self) -> Result<Vec<Word<'_>>, Fault> {
        let words = self.argv.iter().enumerate().map(|(index, text)| {
            Word::parse(text).map_err(|what| Fault::new(format!("/argv/{index}"), what))
        });
        words.collect()
    }
}

/// The task kind.
pub struct Command;

impl Task for Command {
    const KIND: &'static str = "command";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "any program, as a list of arguments, on declared inputs and outputs";
    type Params = Params;
    type Run = Run;

    fn ports(params: &Params) -> Ports {
        let ports = Ports::new().open_inputs(ArtifactType::Any, Arity::Many);
        params.all_outputs().fold(ports, |ports, name| {
            let gives = params.types.get(name).map_or(ArtifactType::Any, |kind| (*kind).into());
            ports.output(name, gives)
        })
    }

    fn check(params: &Params) -> Vec<Fault> {
        let mut faults = Vec::new();
        if params.argv.first().is_none_or(String::is_empty) {
            faults.push(Fault::new("/argv", "there is no program to run"));
        }
        if params.all_outputs().next().is_none() {
            let fault = Fault::new("/outputs", "a command without outputs has nothing to keep");
            faults.push(fault.help("name its outputs, or `stdout: NAME` for what it prints"));
        }
        for (index, name) in params.outputs.iter().enumerate() {
            let again = params.outputs[..index].contains(name) || params.stdout.as_ref() == Some(name);
            let what = check_name(name).err().or_else(|| again.then(|| format!("`{name}` is named twice")));
            faults.extend(what.map(|what| Fault::new(format!("/outputs/{index}"), what)));
        }
        if let Some(Err(what)) = params.stdout.as_deref().map(check_name) {
            faults.push(Fault::new("/stdout", what));
        }
        for name in params.types.keys().filter(|name| !params.all_outputs().any(|output| output == *name)) {
            faults.push(Fault::new(format!("/types/{name}"), format!("there is no output `{name}`")));
        }
        for name in params.files.keys() {
            if let Err(what) = check_name(name) {
                faults.push(Fault::new(format!("/files/{name}"), what));
            }
        }
        let wrong = |text: &str| match Word::parse(text) {
            Err(what) => Some(what),
            Ok(word) => word.unknown(&params.files, &params.outputs),
        };
        let argv = params.argv.iter().enumerate();
        let argv = argv.filter_map(|(at, text)| Some(Fault::new(format!("/argv/{at}"), wrong(text)?)));
        let env = params
            .env
            .iter()
            .filter_map(|(name, text)| Some(Fault::new(format!("/env/{name}"), wrong(text)?)));
        faults.extend(argv.chain(env));
        faults
    }

    fn files(params: &Params) -> Vec<FileRef> {
        let file = |(name, path): (&String, &String)| FileRef {
            pointer: format!("/files/{name}"),
            pattern: path.trim_end_matches('/').to_owned(),
            kind: match path {
                path if path.contains(['*', '?', '[']) => FileKind::Glob,
                path if path.ends_with('/') => FileKind::Tree,
                _ => FileKind::File,
            },
        };
        params.files.iter().map(file).collect()
    }

    fn preflight(params: &Params, _run: &Run, environment: &dyn Environment) -> Vec<Missing> {
        let Some(program) = params.argv.first().filter(|program| !program.contains('{')) else {
            return Vec::new();
        };
        if environment.has_program(program) {
            return Vec::new();
        }
        let help = "install it, or give its path; a script of your own goes under `files:` and into `argv` as `{files.NAME}`";
        vec![Missing { what: format!("the program `{program}`"), help: help.into() }]
    }

    fn run(params: &Params, cx: &mut TaskCx) -> Result<(), TaskError> {
        let run: Run = cx.run_options()?;
        let folder = fresh_folder(&cx.scratch().join("work"))?;
        let paths = CxPaths(cx);
        let words = params.words().map_err(|fault| TaskError::failed(fault.message))?;
        let mut argv: Vec<OsString> = Vec::new();
        for word in &words {
            argv.extend(word.expand(&paths).map_err(TaskError::failed)?);
        }
        let mut env: Vec<(OsString, OsString)> = HANDED_THROUGH
            .iter()
            .copied()
            .chain(run.pass_env.iter().map(String::as_str))
            .filter_map(|name| Some((name.into(), cx.env(name)?.into())))
            .collect();
        for (name, text) in &params.env {
            let word = Word::parse(text).map_err(TaskError::failed)?;
            env.push((name.into(), word.join(&paths).map_err(TaskError::failed)?));
        }
        let log = cx.scratch().join("log");
        let stdout = match &params.stdout {
            Some(name) => create(&cx.output(name))?,
            None => create(&log)?,
        };
        let stderr = if params.stdout.is_some() {
            create(&log)?
        } else {
            stdout.try_clone().map_err(|error| TaskError::io(&log, error))?
        };
        let program = Program { argv, env, folder, stdout, stderr, log: log.clone(), stop: Stop::default() };
        program.run(&cx.cancel_token(), last_line_to(cx.progress(), &log))?;
        for name in &params.outputs {
            let path = cx.output(name);
            if fs::symlink_metadata(&path).is_err() {
                return Err(TaskError::failed(format!(
                    "the program ended well and did not write its output `{name}` (`{{outputs.{name}}}`)"
                )));
            }
        }
        Ok(())
    }
}

/// Where the placeholders of a running command lead.
struct CxPaths<'a>(&'a TaskCx);

impl Paths for CxPaths<'_> {
    fn inputs(&self, name: &str) -> Vec<PathBuf> {
        self.0.inputs(name).iter().map(|input| input.path.clone()).collect()
    }

    fn files(&self, name: &str) -> Vec<PathBuf> {
        self.0.files(&format!("/files/{name}")).to_vec()
    }

    fn output(&self, name: &str) -> PathBuf {
        self.0.output(name)
    }
}

/// Names become file names and parts of references, so they are plain.
fn check_name(name: &str) -> Result<(), String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.len() <= 64 && name.chars().all(is_plain) {
        Ok(())
    } else {
        Err(format!("`{name}` is no name: letters, digits, `_` and `-`, up to 64"))
    }
}

fn fresh_folder(folder: &Path) -> Result<PathBuf, TaskError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(TaskError::io(folder, error));
        }
        _ => {}
    }
    fs::create_dir_all(folder).map_err(|error| TaskError::io(folder, error))?;
    Ok(folder.to_owned())
}

fn create(path: &Path) -> Result<File, TaskError> {
    File::create(path).map_err(|error| TaskError::io(path, error))
}

#[cfg(test)]
mod tests;
