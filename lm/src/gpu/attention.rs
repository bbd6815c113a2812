//! stub
use super::driver::{Gpu, GpuError};
use super::{Element, View};
use crate::kernels::attention::Heads;
pub(crate) const PAGE: usize = 64;
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pages {
    pub(crate) keys: View<Element>,
    pub(crate) values: View<Element>,
    pub(crate) tables: View<u32>,
    pub(crate) pages_per_seat: usize,
}
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    pub(crate) seat: usize,
    pub(crate) first_row: usize,
    pub(crate) rows: usize,
    pub(crate) position: usize,
}
#[derive(Debug)]
pub(crate) struct Turns;
#[derive(Debug)]
pub(crate) struct Attention;
impl Attention {
    pub(crate) fn new(_: &Gpu, _: Heads) -> Result<Self, GpuError> {
        Ok(Self)
    }
    pub(crate) fn scratch(&self, _: usize) -> usize {
        1
    }
    pub(crate) fn turns(&self, _: &[Turn]) -> Result<Turns, GpuError> {
        Ok(Turns)
    }
    pub(crate) fn decode(
        &self,
        _: View<Element>,
        _: &Pages,
        _: View<u32>,
        _: View<u32>,
        _: View<f32>,
        _: View<Element>,
    ) -> Result<(), GpuError> {
        Ok(())
    }
    pub(crate) fn extend(
        &self,
        _: View<Element>,
        _: &Pages,
        _: &Turns,
        _: View<Element>,
    ) -> Result<(), GpuError> {
        Ok(())
    }
}
