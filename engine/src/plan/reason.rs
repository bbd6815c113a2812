//! `Reason`: why a node runs, in a fixed vocabulary.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Why a node runs, or differs from what it is compared with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum Reason {
    /// No run of this experiment has computed a node of this name.
    NeverRun,
    /// It is another kind of work.
    Kind {
        /// The kind before.
        before: String,
        /// The kind now.
        after: String,
    },
    /// A param differs.
    Param {
        /// Its path below `with:`, such as `optimizer.betas[0]`.
        path: String,
        /// Its value before; absent if it was at its default.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<Value>,
        /// Its value now; absent if it is at its default.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<Value>,
    },
    /// Another artifact enters a port.
    Input {
        /// The port.
        port: String,
        /// The coordinates of a gathered input, such as `r1/2`; empty otherwise.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        at: String,
        /// The node it comes from, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<String>,
        /// In which way it differs.
        change: InputChange,
    },
    /// A file that a param names has other content.
    File {
        /// The path of the param below `with:`.
        path: String,
        /// What its data elsewhere was pinned to before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<String>,
        /// What it is pinned to now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    },
    /// What the address that a param names means now cannot be found out.
    Unresolved {
        /// The path of the param below `with:`.
        path: String,
    },
    /// The experiment's seed differs.
    Seed {
        /// The seed before.
        before: Option<u64>,
        /// The seed now.
        after: Option<u64>,
    },
    /// It is computed elsewhere, where other bytes come out.
    Device {
        /// Where it was computed, if that is not the default.
        before: Option<String>,
        /// Where it is now.
        after: Option<String>,
    },
    /// The task kind computes something else than it did.
    TaskVersion {
        /// Its version before.
        before: u64,
        /// Its version now.
        after: u64,
    },
    /// Manifests are made in another way than they were.
    SchemaVersion {
        /// The version before.
        before: u64,
        /// The version now.
        after: u64,
    },
    /// The user asked for it.
    Forced,
    /// The record says what it made, but the bytes are gone, and a node that runs needs them.
    OutputLost {
        /// The output port.
        port: String,
    },
    /// Its result is partial: so many records failed last time.
    Owed {
        /// How many.
        records: u64,
    },
    /// It ran before, but the record of that is gone.
    RecordLost,
    /// The same action gave other bytes than it did before.
    OtherBytes,
}

/// In which way an input differs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputChange {
    /// Nothing entered here before.
    Added,
    /// Something entered here before.
    Removed,
    /// Another artifact entered here before; `because` is where the difference began, where that is known.
    Changed {
        /// The root cause, followed upstream.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        because: Option<Box<Cause>>,
    },
}

/// Where a difference began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cause {
    /// The node.
    pub node: String,
    /// What is different about it.
    pub reason: Reason,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverRun => f.write_str("never run"),
            Self::Kind { before, after } => write!(f, "task {before} → {after}"),
            Self::Param { path, before, after } => {
                write!(f, "param `{path}` {} → {}", Shown(before.as_ref()), Shown(after.as_ref()))
            }
            Self::Input { port, at, node, change } => {
                write!(f, "input `{port}`")?;
                if !at.is_empty() {
                    write!(f, " at {at}")?;
                }
                match change {
                    InputChange::Added => f.write_str(" added")?,
                    InputChange::Removed => f.write_str(" removed")?,
                    InputChange::Changed { .. } => f.write_str(" changed")?,
                }
                match (change, node) {
                    (InputChange::Changed { because: Some(cause) }, _) => {
                        write!(f, " because {}: {}", cause.node, cause.reason)
                    }
                    (_, Some(node)) => write!(f, " ({node})"),
                    _ => Ok(()),
                }
            }
            Self::File { path, before: Some(before), after: Some(after) } => {
                write!(f, "content changed (`{path}`): {before} → {after}")
            }
            Self::File { path, .. } => write!(f, "file content changed (`{path}`)"),
            Self::Unresolved { path } => write!(f, "the content of `{path}` is not known"),
            Self::Seed { before, after } => {
                let shown =
                    |seed: &Option<u64>| seed.map_or_else(|| "none".to_owned(), |seed| seed.to_string());
                write!(f, "seed {} → {}", shown(before), shown(after))
            }
            Self::Device { before, after } => {
                let shown = |device: &Option<String>| device.clone().unwrap_or_else(|| "default".to_owned());
                write!(f, "device {} → {}", shown(before), shown(after))
            }
            Self::TaskVersion { before, after } => write!(f, "task version {before} → {after}"),
            Self::SchemaVersion { before, after } => write!(f, "schema version {before} → {after}"),
            Self::Forced => f.write_str("forced"),
            Self::OutputLost { port } => write!(f, "output `{port}` lost"),
            Self::Owed { records: 1 } => f.write_str("owed 1 record"),
            Self::Owed { records } => write!(f, "owed {records} records"),
            Self::RecordLost => f.write_str("record lost"),
            Self::OtherBytes => f.write_str("the same action gave other bytes"),
        }
    }
}

/// A param's value in a line of text: long ones are cut, an absent one is the default.
struct Shown<'a>(Option<&'a Value>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 60;
        let text = match self.0 {
            None => return f.write_str("default"),
            Some(Value::String(text)) => format!("{text:?}"),
            Some(value) => value.to_string(),
        };
        match text.char_indices().nth(LONGEST) {
            None => f.write_str(&text),
            Some((end, _)) => write!(f, "{}…", &text[..end]),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn words() {
        let param = |before, after| Reason::Param { path: "a.b".into(), before, after };
        let input = |change| Reason::Input {
            port: "rows".into(),
            at: String::new(),
            node: Some("data".into()),
            change,
        };
        let cause = Cause { node: "data".into(), reason: Reason::Seed { before: Some(1), after: None } };
        let reasons = [
            param(Some(json!(1)), Some(json!(2))),
            param(None, Some(json!("x".repeat(80)))),
            input(InputChange::Added),
            input(InputChange::Changed { because: None }),
            input(InputChange::Changed { because: Some(Box::new(cause)) }),
            Reason::Owed { records: 3 },
        ];
        insta::assert_snapshot!(reasons.map(|reason| reason.to_string()).join("\n"), @r#"
        param `a.b` 1 → 2
        param `a.b` default → "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…
        input `rows` added (data)
        input `rows` changed (data)
        input `rows` changed because data: seed 1 → none
        owed 3 records
        "#);
    }
}
