//! The loss of every step, read from what a trainer says while it trains.
//!
//! A trainer says it in any of four ways, which are told apart line by line: JSON objects as the documented protocol has them,
//! the lines of NeMo-Automodel and of Megatron, and the dictionaries that the `Trainer` of transformers prints.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use dag_engine::context::Progress;
use dag_engine::task::TaskError;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The longest line that is looked at; trainers print whole configurations.
const LONGEST: usize = 1 << 16;

/// What a trainer says of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Report {
    /// The step, from 1.
    pub(super) step: u64,
    /// Mean loss over the label tokens of the step, before the update.
    pub(super) loss: f64,
    /// Norm of the gradient before clipping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) grad_norm: Option<f64>,
    /// The learning rate used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) lr: Option<f64>,
    /// Label tokens of the step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) loss_tokens: Option<u64>,
}

/// What is known of a step beforehand, since the order of the packs is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expected {
    /// Tokens of its packs.
    pub(super) tokens: u64,
    /// Those that are labels.
    pub(super) loss_tokens: u64,
}

/// A file that grows, and how far it has been read.
struct Source {
    path: PathBuf,
    read: u64,
    /// The beginning of a line whose end is not there yet.
    open: Vec<u8>,
}

/// The loss so far, from files that grow.
pub(super) struct Follower {
    sources: Vec<Source>,
    expected: Vec<Expected>,
    reports: BTreeMap<u64, Report>,
    /// The last step that progress was told of.
    told: Option<u64>,
    /// What the trainer says its version is.
    version: Option<String>,
}

impl Follower {
    /// Reads what earlier attempts have said in `files`, and then follows those files.
    pub(super) fn new(files: Vec<PathBuf>, expected: Vec<Expected>) -> Result<Self, TaskError> {
        let sources = files.into_iter().map(|path| Source { path, read: 0, open: Vec::new() }).collect();
        let mut follower = Self { sources, expected, reports: BTreeMap::new(), told: None, version: None };
        follower.read()?;
        Ok(follower)
    }

    /// Follows another file besides, from its beginning.
    pub(super) fn follow(&mut self, path: PathBuf) {
        self.sources.push(Source { path, read: 0, open: Vec::new() });
    }

    /// Reads what has been added, and tells it.
    pub(super) fn look(&mut self, progress: &Progress) -> Result<(), TaskError> {
        for step in self.read()? {
            let told = *self.told.get_or_insert_with(|| {
                if step > 1 {
                    progress.reused(step - 1);
                }
                step - 1
            });
            // Two sources may speak of one step, and a step that is trained again is no progress.
            for new in told + 1..=step {
                progress.done(1);
                progress.tokens(0, self.expected[new as usize - 1].tokens);
                if let Some(report) = self.reports.get(&new) {
                    progress.point("loss", new as f64, report.loss);
                }
                self.told = Some(new);
            }
        }
        Ok(())
    }

    /// The reports of all steps in order, once all are there: with the label tokens of every step, which are known, and the
    /// learning rate where the trainer has not told it.
    pub(super) fn curve(mut self, rate: impl Fn(u64) -> f64) -> Result<Vec<Report>, TaskError> {
        self.read()?;
        let steps = self.expected.len() as u64;
        let missing: Vec<u64> = (1..=steps).filter(|step| !self.reports.contains_key(step)).collect();
        if missing.len() as u64 == steps {
            return Err(TaskError::failed(
                "the trainer ended well and told no loss; see docs/training.md for the lines that are understood",
            ));
        }
        if let Some(first) = missing.first() {
            return Err(TaskError::failed(format!(
                "the trainer ended well and told no loss of {} of {steps} steps, such as step {first}",
                missing.len()
            )));
        }
        let reports = self.reports.into_values().zip(&self.expected).map(|(mut report, expected)| {
            report.loss_tokens = Some(expected.loss_tokens);
            report.lr.get_or_insert_with(|| rate(report.step - 1));
            report
        });
        Ok(reports.collect())
    }

    /// The version that NeMo-Automodel says it has.
    pub(super) fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Reads what has been added to the files; gives the steps it speaks of, in that order.
    fn read(&mut self) -> Result<Vec<u64>, TaskError> {
        let mut steps = Vec::new();
        for number in 0..self.sources.len() {
            for line in self.sources[number].lines()? {
                if let Some(version) = version(&line) {
                    self.version = Some(version);
                }
                if let Some(report) = parse(&line, self.expected.len() as u64) {
                    steps.extend(self.take(report)?);
                }
            }
        }
        Ok(steps)
    }

    fn take(&mut self, report: Report) -> Result<Option<u64>, TaskError> {
        let step = report.step;
        if !report.loss.is_finite() {
            return Err(TaskError::failed(format!("step {step} diverged: its loss is {}", report.loss)));
        }
        let Some(expected) = step.checked_sub(1).and_then(|place| self.expected.get(place as usize)) else {
            return Err(TaskError::failed(format!(
                "the trainer speaks of step {step} of {}: it does not train as it is told to",
                self.expected.len()
            )));
        };
        if let Some(told) = report.loss_tokens
            && told != expected.loss_tokens
        {
            return Err(TaskError::failed(format!(
                "the trainer had {told} label tokens in step {step}, and the packs of that step have {}: it does not read the \
                 packs as they are handed to it",
                expected.loss_tokens
            )));
        }
        match self.reports.get_mut(&step) {
            // What another source says in fewer digits is not taken for less.
            Some(known) if known.is_rounded_to(&report) => return Ok(Some(step)),
            _ => self.reports.insert(step, report),
        };
        Ok(Some(step))
    }
}

impl Report {
    /// Whether `other` is this in fewer digits: the last line of a log, read after the file that has it in full.
    fn is_rounded_to(&self, other: &Self) -> bool {
        let digits = |value: f64| format!("{value}").split_once('.').map_or(0, |(_, digits)| digits.len());
        let places = digits(other.loss);
        places < digits(self.loss) && format!("{:.places$}", self.loss) == format!("{:.places$}", other.loss)
    }
}

impl Source {
    /// The whole lines that have been added.
    fn lines(&mut self) -> Result<Vec<String>, TaskError> {
        let failed = |error| TaskError::io(&self.path, error);
        let mut file = match File::open(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            file => file.map_err(failed)?,
        };
        file.seek(SeekFrom::Start(self.read)).map_err(failed)?;
        let mut buffer = vec![0; 1 << 16];
        let mut lines = Vec::new();
        loop {
            let count = file.read(&mut buffer).map_err(failed)?;
            if count == 0 {
                return Ok(lines);
            }
            self.read += count as u64;
            // A progress bar goes back to the start of its line instead of beginning another.
            for part in buffer[..count].split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
                let is_whole = part.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r'));
                if self.open.len() < LONGEST {
                    self.open.extend(part);
                }
                if is_whole {
                    lines.push(String::from_utf8_lossy(&self.open).trim().to_owned());
                    self.open.clear();
                }
            }
        }
    }
}

/// The report in a line, if it is one.
fn parse(line: &str, steps: u64) -> Option<Report> {
    if line.starts_with('{') {
        let value = serde_json::from_str(line).ok().or_else(|| python(line))?;
        return from_object(&value, steps);
    }
    automodel(line).or_else(|| megatron(line))
}

/// A JSON object, or the dictionary that transformers prints.
fn from_object(value: &Value, steps: u64) -> Option<Report> {
    // Newer transformers print numbers as texts of four digits.
    let number = |name: &str| match value.get(name)? {
        Value::String(text) => text.parse().ok(),
        Value::Null => Some(f64::NAN),
        other => other.as_f64(),
    };
    let loss = number("loss")?;
    let whole = |name: &str| value.get(name).and_then(Value::as_u64);
    let step = match (whole("step"), whole("num_label_tokens"), number("epoch")) {
        // The log that NeMo-Automodel keeps beside its checkpoints counts steps from zero, and tells the rate of the next.
        (Some(step), Some(loss_tokens), _) => {
            let (step, grad_norm) = (step + 1, number("grad_norm"));
            return Some(Report { step, loss, grad_norm, lr: None, loss_tokens: Some(loss_tokens) });
        }
        (Some(step), ..) => step,
        // transformers tell where in the epoch they are, and the packs of all steps are one.
        (None, None, Some(epoch)) => (epoch * steps as f64).round() as u64,
        _ => return None,
    };
    Some(Report {
        step,
        loss,
        grad_norm: number("grad_norm"),
        lr: number("lr").or_else(|| number("learning_rate")),
        loss_tokens: whole("loss_tokens"),
    })
}

/// A dictionary as Python prints it: single quotes, and names for what is no number.
fn python(line: &str) -> Option<Value> {
    let line = line.replace('\'', "\"").replace(": nan", ": null").replace(": NaN", ": null");
    serde_json::from_str(&line).ok()
}

/// `… step 0 | epoch 0 | loss 1.2345 | grad_norm 0.5 | lr 5.50e-07 | mem … | num_label_tokens 812`, with steps from zero and
/// the rate of the next step.
fn automodel(line: &str) -> Option<Report> {
    let from = line.find("step ").filter(|_| line.contains(" | epoch ") && !line.contains("[val]"))?;
    let fields = fields(&line[from..], ' ');
    let whole = |name: &str| fields.get(name).and_then(|text| text.parse::<u64>().ok());
    let number = |name: &str| fields.get(name).and_then(|text| text.parse::<f64>().ok());
    Some(Report {
        step: whole("step")? + 1,
        loss: number("loss")?,
        grad_norm: number("grad_norm"),
        lr: None,
        loss_tokens: whole("num_label_tokens"),
    })
}

/// `… iteration 10/ 3000 | consumed samples: 640 | … learning rate: 5.0E-07 | … lm loss: 1.2E+00 | … grad norm: 1.234 |`.
fn megatron(line: &str) -> Option<Report> {
    let (_, rest) = line.split_once(" iteration ").filter(|_| line.contains("lm loss:"))?;
    let (step, _) = rest.split_once('/')?;
    let fields = fields(rest, ':');
    let number = |name: &str| fields.get(name).and_then(|text| text.parse::<f64>().ok());
    Some(Report {
        step: step.trim().parse().ok()?,
        loss: number("lm loss")?,
        grad_norm: number("grad norm"),
        lr: number("learning rate"),
        loss_tokens: None,
    })
}

/// The parts of a line between bars, each a name and a value.
fn fields(line: &str, between: char) -> BTreeMap<&str, &str> {
    line.split('|')
        .filter_map(|part| part.trim().split_once(between))
        .map(|(name, value)| (name.trim(), value.trim()))
        .collect()
}

/// `- nemo_automodel: 0.7.0+36044ad (…)` among what NeMo-Automodel says of the libraries it runs on.
fn version(line: &str) -> Option<String> {
    let (_, after) = line.split_once("- nemo_automodel: ")?;
    Some(after.split_whitespace().next()?.to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use dag_engine::context::Note;

    use super::*;

    const AUTOMODEL: &str = "2026-08-22 12:00:01 | INFO | root | step 0 | epoch 0 | loss 1.2345 | grad_norm 0.7500 | lr 5.50e-07 \
         | mem 61.20 GiB | tps 8123.10(1015.39/gpu) | num_label_tokens 812";
    const MEGATRON: &str = " [2026-08-22 12:00:01] iteration        2/    3000 | consumed samples:          128 | elapsed time per \
         iteration (ms): 812.3 | learning rate: 5.500000E-07 | global batch size:    64 | lm loss: 1.234500E+00 | loss scale: 1.0 \
         | grad norm: 0.750 | number of skipped iterations:   0 | number of nan iterations:   0 |";

    fn expected(steps: usize) -> Vec<Expected> {
        vec![Expected { tokens: 1000, loss_tokens: 812 }; steps]
    }

    #[test]
    fn lines_of_four_trainers_are_understood() {
        let report = |step, lr, loss_tokens| {
            Some(Report { step, loss: 1.2345, grad_norm: Some(0.75), lr, loss_tokens })
        };
        for (line, expected) in [
            (
                r#"{"step": 3, "loss": 1.2345, "grad_norm": 0.75, "lr": 5.5e-7, "loss_tokens": 812}"#,
                report(3, Some(5.5e-7), Some(812)),
            ),
            (AUTOMODEL, report(1, None, Some(812))),
            (
                r#"{"step": 1, "epoch": 0, "timestamp": "2026-08-22T12:00:01.000Z", "loss": 1.2345, "grad_norm": 0.75, "lr": 6e-07, "mem": 61.2, "tps": 8123.1, "num_label_tokens": 812}"#,
                report(2, None, Some(812)),
            ),
            (MEGATRON, report(2, Some(5.5e-7), None)),
            (
                "{'loss': 1.2345, 'grad_norm': 0.75, 'learning_rate': 5.5e-07, 'epoch': 0.4}",
                report(4, Some(5.5e-7), None),
            ),
            (
                "{'loss': '1.2345', 'grad_norm': '0.75', 'learning_rate': '5.5e-07', 'epoch': '0.4'}",
                report(4, Some(5.5e-7), None),
            ),
            (r#"{"name": "other"}"#, None),
            ("{'train_runtime': 12.5, 'train_loss': 1.1, 'epoch': 1.0}", None),
            (
                "[val] name \"default\" | step 3 | epoch 0 | loss 1.0000 | lr 5.00e-06 | num_label_tokens 9",
                None,
            ),
            ("Saving checkpoint to step 10", None),
            ("", None),
        ] {
            assert_eq!(parse(line, 10), expected, "{line}");
        }
        for line in [
            r#"{"step": 1, "loss": null}"#,
            "{'loss': nan, 'epoch': 0.1}",
            &AUTOMODEL.replace("1.2345", "nan"),
        ] {
            assert!(parse(line, 10).unwrap().loss.is_nan(), "{line}");
        }
        let said = "12:00 | INFO | root | - nemo_automodel: 0.7.0+36044ad (/opt/Automodel/nemo_automodel/__init__.py)";
        assert_eq!(version(said).as_deref(), Some("0.7.0+36044ad"));
    }

    #[test]
    fn a_file_is_followed_as_it_grows() {
        let dir = tempfile::tempdir().unwrap();
        let (early, late) = (dir.path().join("log-1"), dir.path().join("log-2"));
        // What an earlier attempt said; its last line is torn.
        std::fs::write(&early, "{\"step\":1,\"loss\":3.0}\n{\"step\":2,\"loss\":2.5}\n{\"step\":3,\"lo")
            .unwrap();
        let mut follower = Follower::new(vec![early, late.clone()], expected(4)).unwrap();
        let notes = Arc::new(Mutex::new(Vec::new()));
        let progress = Progress::to({
            let notes = Arc::clone(&notes);
            move |note| notes.lock().unwrap().push(note)
        });
        follower.look(&progress).unwrap();
        assert!(notes.lock().unwrap().is_empty());
        let mut file = File::create(&late).unwrap();
        file.write_all(b"starting\r 50%|#### | \r\n{\"step\":2,\"loss\":2.25}\n{\"step\":3,\"loss\":")
            .unwrap();
        follower.look(&progress).unwrap();
        file.write_all(b"2.0}\n").unwrap();
        follower.look(&progress).unwrap();
        let points: Vec<(f64, f64)> = notes
            .lock()
            .unwrap()
            .iter()
            .filter_map(|note| if let Note::Point { x, y, .. } = note { Some((*x, *y)) } else { None })
            .collect();
        assert_eq!(points, [(2.0, 2.25), (3.0, 2.0)]);
        assert_eq!(notes.lock().unwrap()[0], Note::Reused { records: 1 });
        file.write_all(b"{\"step\":4,\"loss\":1.5,\"lr\":0.5}\n").unwrap();
        let curve = follower.curve(|step| step as f64).unwrap();
        let told: Vec<_> = curve.iter().map(|report| (report.loss, report.lr, report.loss_tokens)).collect();
        let expected = [(3.0, 0.0), (2.25, 1.0), (2.0, 2.0), (1.5, 0.5)];
        assert_eq!(told, expected.map(|(loss, lr)| (loss, Some(lr), Some(812))));
    }

    #[test]
    fn what_cannot_be_right_stops_the_training() {
        let dir = tempfile::tempdir().unwrap();
        let said = |text: &str| {
            std::fs::write(dir.path().join("log"), text).unwrap();
            Follower::new(vec![dir.path().join("log")], expected(2))?.curve(|_| 0.0).map(|curve| curve.len())
        };
        let fault = |text: &str| said(text).unwrap_err().to_string();
        assert!(fault("{\"step\":1,\"loss\":null}\n").contains("step 1 diverged"));
        assert!(fault("{\"step\":3,\"loss\":1}\n").contains("step 3 of 2"));
        assert!(fault("{\"step\":0,\"loss\":1}\n").contains("step 0 of 2"));
        assert!(
            fault("{\"step\":1,\"loss\":1,\"loss_tokens\":811}\n")
                .contains("811 label tokens in step 1, and the packs")
        );
        assert!(fault("nothing of the kind\n").contains("told no loss;"));
        assert!(fault("{\"step\":2,\"loss\":1}\n").contains("1 of 2 steps, such as step 1"));
        assert_eq!(said("{\"step\":2,\"loss\":1}\n{\"step\":1,\"loss\":1}\n").unwrap(), 2);
    }

    #[test]
    fn what_is_known_in_full_stays_so() {
        let dir = tempfile::tempdir().unwrap();
        let (full, short) = (dir.path().join("training.jsonl"), dir.path().join("log"));
        std::fs::write(
            &full,
            "{\"step\": 0, \"epoch\": 0, \"loss\": 1.23450178, \"num_label_tokens\": 812}\n",
        )
        .unwrap();
        std::fs::write(&short, format!("{AUTOMODEL}\n")).unwrap();
        for files in [vec![full.clone(), short.clone()], vec![short, full]] {
            let curve = Follower::new(files, expected(1)).unwrap().curve(|_| 0.0).unwrap();
            assert_eq!(curve[0].loss.to_string(), "1.23450178");
        }
    }
}
