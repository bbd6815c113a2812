//! stub
use std::{fmt, path::Path, sync::Arc};
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub struct Digest([u8; 32]);
impl Digest {
    pub fn of(b: &[u8]) -> Self {
        Self(*blake3::hash(b).as_bytes())
    }
}
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for b in self.0 {
            write!(f, "{b:02x}")?
        }
        Ok(())
    }
}
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct CacheError;
pub struct RecordLog;
pub struct Writer;
impl Writer {
    pub fn open(_: &Path) -> Result<Self, CacheError> {
        Ok(Self)
    }
    pub fn record_log(&self, _: &Digest, _: &serde_json::Value) -> Result<Arc<RecordLog>, CacheError> {
        Ok(Arc::new(RecordLog))
    }
}
