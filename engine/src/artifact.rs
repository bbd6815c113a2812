//! The kinds of artifact that travel between nodes, and the ports that name them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What an artifact is, as far as two nodes must agree on it.
///
/// The engine moves bytes and never looks inside; the type exists so that a graph which hands a model to a judge is
/// refused before anything runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArtifactType {
    /// A Parquet table of records.
    Table,
    /// A Hugging Face model directory (`config.json`, `tokenizer.json`, `*.safetensors`).
    Model,
    /// Token-packed training sequences, with the statistics of the packing.
    Packs,
    /// Graded responses of one model on one benchmark, with their metrics.
    Results,
    /// A directory of pages, tables and figures for people.
    Report,
    /// A file or directory that only the tasks around it understand.
    File,
    /// A port that takes whatever it is given.
    Any,
}

impl ArtifactType {
    /// Whether an artifact of type `given` may enter a port of this type.
    ///
    /// `Any` is a wildcard on either side: a `command` does not know what its program reads or writes.
    pub fn accepts(self, given: Self) -> bool {
        self == given || self == Self::Any || given == Self::Any
    }
}

impl fmt::Display for ArtifactType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Table => "table",
            Self::Model => "model",
            Self::Packs => "packs",
            Self::Results => "results",
            Self::Report => "report",
            Self::File => "file",
            Self::Any => "any",
        })
    }
}

/// How many artifacts an input port takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Arity {
    /// Exactly one.
    One,
    /// One or none.
    Optional,
    /// Any number, none included; each carries its coordinates.
    Many,
}

/// A named, typed input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputPort {
    /// The name under `inputs:`.
    pub name: String,
    /// What it takes.
    pub accepts: ArtifactType,
    /// How many.
    pub arity: Arity,
}

/// A named, typed output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputPort {
    /// The name after the dot in `node.port`.
    pub name: String,
    /// What it gives.
    pub gives: ArtifactType,
}

/// The inputs and outputs of a step. The first output is what a plain reference to the node means.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ports {
    inputs: Vec<InputPort>,
    open: Option<(ArtifactType, Arity)>,
    outputs: Vec<OutputPort>,
}

impl Ports {
    /// No ports yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a required input.
    #[must_use]
    pub fn input(self, name: impl Into<String>, accepts: ArtifactType) -> Self {
        self.with_input(name.into(), accepts, Arity::One)
    }

    /// Adds an input that may be absent.
    #[must_use]
    pub fn optional(self, name: impl Into<String>, accepts: ArtifactType) -> Self {
        self.with_input(name.into(), accepts, Arity::Optional)
    }

    /// Adds an input that gathers any number of artifacts.
    #[must_use]
    pub fn many(self, name: impl Into<String>, accepts: ArtifactType) -> Self {
        self.with_input(name.into(), accepts, Arity::Many)
    }

    /// Allows further inputs under names of the user's choosing: `Arity::One` for one artifact each, `Arity::Many`
    /// where each may also gather.
    #[must_use]
    pub fn open_inputs(mut self, accepts: ArtifactType, arity: Arity) -> Self {
        self.open = Some((accepts, arity));
        self
    }

    /// Adds an output.
    #[must_use]
    pub fn output(mut self, name: impl Into<String>, gives: ArtifactType) -> Self {
        self.outputs.push(OutputPort { name: name.into(), gives });
        self
    }

    fn with_input(mut self, name: String, accepts: ArtifactType, arity: Arity) -> Self {
        self.inputs.push(InputPort { name, accepts, arity });
        self
    }

    /// The declared inputs, in order.
    pub fn inputs(&self) -> &[InputPort] {
        &self.inputs
    }

    /// The type and arity of inputs with undeclared names, where the step allows them.
    pub fn open(&self) -> Option<(ArtifactType, Arity)> {
        self.open
    }

    /// The outputs, in order.
    pub fn outputs(&self) -> &[OutputPort] {
        &self.outputs
    }

    /// The declared or open input called `name`.
    pub fn find_input(&self, name: &str) -> Option<(ArtifactType, Arity)> {
        self.inputs.iter().find(|port| port.name == name).map(|port| (port.accepts, port.arity)).or(self.open)
    }

    /// The output called `name`.
    pub fn find_output(&self, name: &str) -> Option<&OutputPort> {
        self.outputs.iter().find(|port| port.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_takes_its_own_type_and_the_wildcard_takes_all() {
        assert!(ArtifactType::Table.accepts(ArtifactType::Table));
        assert!(!ArtifactType::Table.accepts(ArtifactType::Model));
        assert!(ArtifactType::Any.accepts(ArtifactType::Model));
        assert!(ArtifactType::Table.accepts(ArtifactType::Any));
    }

    #[test]
    fn undeclared_inputs_are_found_only_where_they_are_open() {
        let closed = Ports::new().input("a", ArtifactType::Table);
        assert_eq!(closed.find_input("b"), None);
        let open = closed.open_inputs(ArtifactType::File, Arity::One);
        assert_eq!(open.find_input("b"), Some((ArtifactType::File, Arity::One)));
        assert_eq!(open.find_input("a"), Some((ArtifactType::Table, Arity::One)));
    }
}
