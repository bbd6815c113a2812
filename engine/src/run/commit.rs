//! Outputs to the store: blobs, then the record. The only caller of `Writer::commit`.

use std::path::Path;

use dag_cache::{Record, Writer};

use crate::context::TaskCx;
use crate::plan::Work;
use crate::registry::Step;
use crate::task::TaskError;

/// Keeps what a task has written: every declared output, and the record that names them (C2).
///
/// Nothing is kept if a local file that the task may have read has changed meanwhile, since it is not known which
/// content it saw.
pub(crate) fn commit(
    writer: &Writer,
    step: &dyn Step,
    work: &Work,
    outputs: &Path,
    cx: &TaskCx,
) -> Result<Record, TaskError> {
    let mut record = Record {
        action: work.action.0,
        manifest: work.manifest.bytes().to_vec(),
        outputs: std::collections::BTreeMap::new(),
        metrics: cx.metrics().clone(),
        owed: cx.owed_records(),
    };
    for port in step.ports().outputs() {
        let path = outputs.join(&port.name);
        if !path.exists() {
            return Err(TaskError::failed(format!(
                "the task ended without writing its output `{}`",
                port.name
            )));
        }
        record.outputs.insert(port.name.clone(), writer.put_path(&path)?);
    }
    let changed = work.sources.iter().flat_map(|source| &source.files).find(|file| !file.is_unchanged());
    if let Some(file) = changed {
        return Err(TaskError::input(
            &file.path,
            None,
            "the file was changed while the task ran; nothing was kept",
        ));
    }
    writer.commit(&record)?;
    Ok(record)
}
