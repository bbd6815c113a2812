//! How the faults of this crate's plain parts become the failure of a task.

use dag_engine::task::TaskError;

use crate::table::TableError;

impl From<TableError> for TaskError {
    fn from(error: TableError) -> Self {
        Self::failed(error.to_string())
    }
}
