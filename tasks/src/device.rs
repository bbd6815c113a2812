//! Where a node's own models are computed: on the GPU that it was given, else on its threads.

use dag_engine::task::{Environment, Missing, TaskCx, TaskError};
use dag_lm::device::{Device, HAS_CUDA};

/// What the identity of a response says of a device: results on the two differ in their last digits.
pub(crate) fn name(gpus: u32) -> &'static str {
    if gpus == 0 { "cpu" } else { "cuda" }
}

/// What a node's key says of its device: nothing of a CPU, where the bytes are the same on all.
pub(crate) fn of_key(gpus: u32) -> Option<&'static str> {
    (gpus > 0).then(|| name(gpus))
}

/// The device of a node that runs.
pub(crate) fn of(cx: &TaskCx) -> Result<Device, TaskError> {
    match cx.gpus() {
        [] => Ok(Device::Cpu { threads: cx.threads().max(1) }),
        [gpu] => Ok(Device::Cuda(ordinal(*gpu, cx.env("CUDA_VISIBLE_DEVICES").as_deref()))),
        several => Err(TaskError::failed(format!(
            "the embedded runtime computes on one GPU, and `run:` gives the node {}; ask for `gpus: 1`",
            several.len()
        ))),
    }
}

/// What this program lacks to compute on the GPUs that a node is given.
pub(crate) fn missing(environment: &dyn Environment) -> Option<Missing> {
    let (what, help) = match environment.gpus() {
        0 => return None,
        1 if HAS_CUDA => return None,
        1 => (
            "CUDA in this program, for `gpus: 1`".to_owned(),
            "build it with `cargo build --release --features cuda` (docs/cuda.md), or leave out `gpus` to compute on the CPU",
        ),
        several => (
            format!("an embedded model that {several} GPUs can share"),
            "ask for `gpus: 1`, which is what the embedded runtime computes on",
        ),
    };
    Some(Missing { what, help: help.to_owned() })
}

/// The number by which this process knows a GPU: the driver counts those that are visible.
fn ordinal(gpu: u32, visible: Option<&str>) -> usize {
    let place = |list: &str| list.split(',').position(|id| id.trim().parse() == Ok(gpu));
    visible.and_then(place).unwrap_or(gpu as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_counted_among_those_that_are_visible() {
        assert_eq!(ordinal(2, None), 2);
        assert_eq!(ordinal(7, Some("5, 7")), 1);
        assert_eq!(ordinal(5, Some("5,7")), 0);
    }
}
