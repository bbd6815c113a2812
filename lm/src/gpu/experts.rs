//! Mixtures of experts: every token is computed by a few of many feed-forward blocks.

use std::sync::Arc;

use super::driver::{Gpu, GpuError, Kernels, Launch};
use super::products::{From, Products, Projection, To};
use super::sources::EXPERTS;
use super::{Buffer, Element, View};

/// Pairs of a token and an expert that are multiplied together.
const TILE: usize = 16;
/// Warps of a block, and the elements that each of them computes, on the way in and on the way out.
const WARPS: usize = 4;
const INWARD: usize = 8;
const OUTWARD: usize = 16;

/// A block of experts.
#[derive(Debug)]
pub(crate) struct Experts {
    kernels: Arc<dyn Kernels>,
    /// Gives a score per expert.
    router: Projection,
    /// Of every expert the gate's rows, those of up, and those of down.
    weights: Buffer<Element>,
    count: usize,
    chosen: usize,
    inner: usize,
}

/// The memory of a pass through experts.
#[derive(Debug)]
pub(crate) struct ExpertsRoom {
    scores: Buffer<f32>,
    chosen: Buffer<u32>,
    shares: Buffer<f32>,
    order: Buffer<u32>,
    places: Buffer<u32>,
    expert_of: Buffer<u32>,
    active: Buffer<Element>,
    given: Buffer<f32>,
}

impl Experts {
    /// Takes a router and the weights of so many experts, of which each token is computed by `chosen`.
    pub(crate) fn new(
        gpu: &Gpu,
        router: Projection,
        weights: Buffer<Element>,
        chosen: usize,
        adds_up_to_one: bool,
    ) -> Result<Self, GpuError> {
        let count = router.outputs();
        let defines =
            [("EXPERTS", count), ("CHOSEN", chosen), ("ADDS_UP_TO_ONE", usize::from(adds_up_to_one))];
        let inner = weights.len() / (3 * count * router.inputs());
        assert_eq!(weights.len(), 3 * count * inner * router.inputs(), "the weights of {count} experts");
        Ok(Self { kernels: gpu.compile(EXPERTS, &defines)?, router, weights, count, chosen, inner })
    }

    /// Tiles that so many rows need at most.
    fn most_tiles(&self, rows: usize) -> usize {
        let pairs = rows * self.chosen;
        // Every expert that has pairs may leave a tile that is not full.
        pairs / TILE + self.count.min(pairs)
    }

    /// Bytes of a room for so many rows.
    pub(crate) fn room_bytes(&self, rows: usize) -> usize {
        let places = TILE * self.most_tiles(rows);
        4 * (rows * (self.count + 3 * self.chosen) + places * (2 + self.inner + self.router.inputs()))
    }

    /// Room for so many rows.
    pub(crate) fn room(&self, gpu: &Gpu, rows: usize) -> Result<ExpertsRoom, GpuError> {
        let (pairs, tiles) = (rows * self.chosen, self.most_tiles(rows));
        Ok(ExpertsRoom {
            scores: Buffer::new(gpu, rows * self.count)?,
            chosen: Buffer::new(gpu, pairs)?,
            shares: Buffer::new(gpu, pairs)?,
            order: Buffer::new(gpu, tiles * TILE)?,
            places: Buffer::new(gpu, pairs)?,
            expert_of: Buffer::new(gpu, tiles)?,
            active: Buffer::new(gpu, tiles * TILE * self.inner)?,
            given: Buffer::new(gpu, tiles * TILE * self.router.inputs())?,
        })
    }

    /// Adds what its experts give for every row of `normed` to the row of `x`.
    pub(crate) fn add(
        &self,
        products: &Products,
        normed: View<Element>,
        room: &ExpertsRoom,
        x: View<f32>,
    ) -> Result<(), GpuError> {
        let (hidden, inner) = (self.router.inputs(), self.inner);
        let rows = x.len() / hidden;
        let (pairs, tiles) = (rows * self.chosen, self.most_tiles(rows));
        assert!(normed.len() == x.len() && pairs <= room.chosen.len(), "{rows} rows");
        let scores = room.scores.at(0..rows * self.count);
        products.apply(&self.router, From::Elements(normed), To::Floats(scores))?;

        let launch = |kernel, grid, threads, arguments: &[_]| {
            self.kernels.launch(kernel, Launch::new(grid, threads), arguments)
        };
        let (chosen, shares) = (room.chosen.all(), room.shares.all());
        let (order, places, expert_of) = (room.order.all(), room.places.all(), room.expert_of.all());
        let weights = self.weights.all();
        let stride = 3 * inner * hidden;
        launch(
            "choose",
            [rows.div_ceil(WARPS), 1, 1],
            WARPS * 32,
            &[scores.into(), chosen.into(), shares.into(), rows.into()],
        )?;
        launch(
            "arrange",
            [1, 1, 1],
            1024,
            &[chosen.into(), order.into(), places.into(), expert_of.into(), pairs.into(), tiles.into()],
        )?;
        launch(
            "inward",
            [inner.div_ceil(INWARD * WARPS), tiles, 1],
            WARPS * 32,
            &[
                normed.into(),
                weights.into(),
                order.into(),
                expert_of.into(),
                room.active.all().into(),
                hidden.into(),
                inner.into(),
                stride.into(),
            ],
        )?;
        launch(
            "outward",
            [hidden.div_ceil(OUTWARD * WARPS), tiles, 1],
            WARPS * 32,
            &[
                room.active.all().into(),
                weights.into(),
                expert_of.into(),
                room.given.all().into(),
                hidden.into(),
                inner.into(),
                stride.into(),
            ],
        )?;
        launch(
            "gather_experts",
            [rows, 1, 1],
            256,
            &[room.given.all().into(), places.into(), shares.into(), x.into(), hidden.into()],
        )
    }
}
