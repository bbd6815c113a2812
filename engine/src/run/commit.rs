//! What a task delivered becomes the record of its action. The only caller of `Writer::commit`.

use dag_cache::{Record, Writer};

use crate::call::Delivery;
use crate::plan::Work;
use crate::task::TaskError;

/// Keeps what a task has delivered: the record that names its outputs (C2), whose blobs are there.
///
/// Nothing is kept if a local file that the task may have read has changed meanwhile, since it is not known which
/// content it saw.
pub(crate) fn commit(writer: &Writer, work: &Work, delivery: Delivery) -> Result<Record, TaskError> {
    let changed = work.sources.iter().flat_map(|source| &source.files).find(|file| !file.is_unchanged());
    if let Some(file) = changed {
        return Err(TaskError::input(
            &file.path,
            None,
            "the file was changed while the task ran; nothing was kept",
        ));
    }
    let Delivery { outputs, metrics, owed } = delivery;
    let manifest = work.manifest.bytes().to_vec();
    let record = Record { action: work.action.0, manifest, outputs, metrics, owed };
    writer.commit(&record)?;
    Ok(record)
}
