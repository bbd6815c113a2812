//! One piece of memory that is laid out anew for every use: what it takes is known before it is allocated.

use super::driver::{Address, Gpu, GpuError};
use super::{Buffer, View};
use crate::gpu::buffer::Unit;

/// Where everything starts.
const ALIGNMENT: usize = 256;

/// Memory that somebody else does not need yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lent {
    /// Where it starts.
    pub(crate) start: Address,
    /// The bytes at its start that are in use.
    pub(crate) used: usize,
}

/// How far a plan has come: in its own memory and in what it was lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    own: usize,
    lent: usize,
}

/// A plan of memory: views that follow one another from an address on.
#[derive(Debug)]
pub(crate) struct Plan {
    gpu: Gpu,
    start: Address,
    lent: Option<Lent>,
    used: Mark,
    most: Mark,
}

impl Plan {
    fn new(gpu: &Gpu, start: Address, lent: Option<Lent>) -> Self {
        let used = Mark { own: 0, lent: lent.map_or(0, |lent| lent.used) };
        Self { gpu: gpu.clone(), start, lent, used, most: used }
    }

    /// Room for so many units.
    pub(crate) fn take<T: Unit>(&mut self, len: usize) -> View<T> {
        let view = View::lying(&*self.gpu, self.start + self.used.own as Address, len);
        self.used.own = (self.used.own + view.bytes()).next_multiple_of(ALIGNMENT);
        self.most.own = self.most.own.max(self.used.own);
        view
    }

    /// The same, in the memory that was lent if there is room in its first `limit` bytes: what lies behind them may be needed
    /// earlier.
    pub(crate) fn take_below<T: Unit>(&mut self, len: usize, limit: usize) -> View<T> {
        let Some(lent) = self.lent else { return self.take(len) };
        let view = View::lying(&*self.gpu, lent.start + self.used.lent as Address, len);
        if self.used.lent + view.bytes() > limit {
            return self.take(len);
        }
        self.used.lent = (self.used.lent + view.bytes()).next_multiple_of(ALIGNMENT);
        self.most.lent = self.most.lent.max(self.used.lent);
        view
    }

    /// Where the next views will start, for [`Plan::go_back`].
    pub(crate) fn mark(&self) -> Mark {
        self.used
    }

    /// What follows lies where the views since `mark` lie: the two are never in use together.
    pub(crate) fn go_back(&mut self, mark: Mark) {
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

    /// Bytes that a layout takes beside what it is lent.
    pub(crate) fn bytes_of<L>(&self, lent: Option<Lent>, layout: impl Fn(&mut Plan) -> L) -> usize {
        let mut plan = Plan::new(&self.gpu, 0, lent);
        layout(&mut plan);
        plan.most.own
    }

    /// The views of a layout, which is asked for twice: to see what it takes, and to see where it lies. What earlier layouts held
    /// is lost.
    pub(crate) fn lay<L>(
        &mut self,
        lent: Option<Lent>,
        layout: impl Fn(&mut Plan) -> L,
    ) -> Result<L, GpuError> {
        self.memory.fit(self.bytes_of(lent, &layout).div_ceil(size_of::<u64>()))?;
        Ok(layout(&mut Plan::new(&self.gpu, self.memory.all().address(), lent)))
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
            assert_eq!(arena.bytes_of(None, layout), 256 + large_bytes + 256);
            let (first, large, small, last) = arena.lay(None, layout).unwrap();
            assert_eq!(arena.bytes(), 256 + large_bytes + 256);
            assert_eq!(large.address() - first.address(), 256);
            assert_eq!(small.address(), large.address());
            assert_eq!(last.address() - large.address(), large_bytes as u64);
        }
    }

    #[test]
    fn what_is_lent_is_used_up_to_where_it_is_needed() {
        for tested in gpus() {
            let mut arena = Arena::new(&tested.gpu).unwrap();
            let lent = Some(Lent { start: 1 << 20, used: 512 });
            let layout = |plan: &mut Plan| {
                let early = plan.take_below::<f32>(64, 1024);
                // 256 bytes are left below the limit, and 400 are asked for.
                let large = plan.take_below::<f32>(100, 1024);
                let mark = plan.mark();
                let one = plan.take_below::<f32>(64, 1024);
                plan.go_back(mark);
                let other = plan.take_below::<f32>(300, 4096);
                plan.go_on();
                [early, large, one, other, plan.take_below::<f32>(1, 4096)].map(View::address)
            };
            assert_eq!(arena.bytes_of(lent, layout), 512);
            let own = arena.lay(lent, layout).unwrap()[1];
            let there = 1 << 20;
            assert_eq!(
                arena.lay(lent, layout).unwrap(),
                [there + 512, own, there + 768, there + 768, there + 2048]
            );
        }
    }
}
