//! One piece of memory that is laid out anew for every use: what it takes is known before it is allocated.

use super::driver::{Address, Gpu, GpuError};
use super::{Buffer, View};
use crate::gpu::buffer::Unit;

/// Where everything starts.
const ALIGNMENT: usize = 256;

/// A plan of memory: views that follow one another from an address on.
#[derive(Debug)]
pub(crate) struct Plan {
    gpu: Gpu,
    start: Address,
    used: usize,
    most: usize,
}

impl Plan {
    fn new(gpu: &Gpu, start: Address) -> Self {
        Self { gpu: gpu.clone(), start, used: 0, most: 0 }
    }

    /// Room for so many units.
    pub(crate) fn take<T: Unit>(&mut self, len: usize) -> View<T> {
        let view = View::lying(&*self.gpu, self.start + self.used as u64, len);
        self.used = (self.used + view.bytes()).next_multiple_of(ALIGNMENT);
        self.most = self.most.max(self.used);
        view
    }

    /// Where the next view will start, for [`Plan::go_back`].
    pub(crate) fn mark(&self) -> usize {
        self.used
    }

    /// What follows lies where the views since `mark` lie: the two are never in use together.
    pub(crate) fn go_back(&mut self, mark: usize) {
        self.used = mark;
    }

    /// What follows lies behind everything so far.
    pub(crate) fn go_on(&mut self) {
        self.used = self.most;
    }
}

/// Memory that grows to what a plan needs.
#[derive(Debug)]
pub(crate) struct Arena {
    gpu: Gpu,
    memory: Buffer<u64>,
}

impl Arena {
    pub(crate) fn new(gpu: &Gpu) -> Result<Self, GpuError> {
        Ok(Self { gpu: gpu.clone(), memory: Buffer::new(gpu, 0)? })
    }

    /// Bytes that a layout takes.
    pub(crate) fn bytes_of<L>(&self, layout: impl Fn(&mut Plan) -> L) -> usize {
        let mut plan = Plan::new(&self.gpu, 0);
        layout(&mut plan);
        plan.most
    }

    /// The views of a layout, which is asked for twice: to see what it takes, and to see where it lies. What earlier layouts held
    /// is lost.
    pub(crate) fn lay<L>(&mut self, layout: impl Fn(&mut Plan) -> L) -> Result<L, GpuError> {
        self.memory.fit(self.bytes_of(&layout).div_ceil(size_of::<u64>()))?;
        Ok(layout(&mut Plan::new(&self.gpu, self.memory.all().address())))
    }

    /// Bytes that are there.
    pub(crate) fn bytes(&self) -> usize {
        self.memory.all().bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Element;
    use crate::gpu::tests::gpus;

    #[test]
    fn a_layout_is_as_large_as_what_is_in_use_together() {
        for tested in gpus() {
            let mut arena = Arena::new(&tested.gpu).unwrap();
            let layout = |plan: &mut Plan| {
                let first = plan.take::<f32>(3);
                let mark = plan.mark();
                let large = plan.take::<Element>(300);
                plan.go_back(mark);
                let small = plan.take::<f32>(1);
                plan.go_on();
                (first, large, small, plan.take::<u32>(1))
            };
            let large_bytes = (300 * tested.gpu.element_bytes()).next_multiple_of(256);
            assert_eq!(arena.bytes_of(layout), 256 + large_bytes + 256);
            let (first, large, small, last) = arena.lay(layout).unwrap();
            assert_eq!(arena.bytes(), 256 + large_bytes + 256);
            assert_eq!(large.address() - first.address(), 256);
            assert_eq!(small.address(), large.address());
            assert_eq!(last.address() - large.address(), large_bytes as u64);
        }
    }
}
