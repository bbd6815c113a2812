//! Typed memory of a GPU.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use super::driver::{Address, Argument, Driver, Gpu, GpuError, Operand};

/// The type of weights and activations: 16-bit floats with the exponent of 32-bit ones. A marker; the emulator may use 32 bits.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Element {}

/// What memory holds.
pub(crate) trait Unit: Copy + Debug {
    /// Bytes of each.
    fn bytes(driver: &dyn Driver) -> usize;
}

impl Unit for Element {
    fn bytes(driver: &dyn Driver) -> usize {
        driver.element_bytes()
    }
}

/// A unit that is the same on both sides.
pub(crate) trait Plain: Unit + Default {
    /// Its bytes in order.
    fn to_bytes(units: &[Self]) -> Vec<u8>;
    /// The units of so many bytes.
    fn from_bytes(bytes: &[u8]) -> Vec<Self>;
}

macro_rules! plain {
    ($($unit:ty),*) => {$(
        impl Unit for $unit {
            fn bytes(_: &dyn Driver) -> usize {
                size_of::<Self>()
            }
        }

        impl Plain for $unit {
            fn to_bytes(units: &[Self]) -> Vec<u8> {
                units.iter().flat_map(|unit| unit.to_le_bytes()).collect()
            }

            fn from_bytes(bytes: &[u8]) -> Vec<Self> {
                let (units, _) = bytes.as_chunks();
                units.iter().map(|&unit| Self::from_le_bytes(unit)).collect()
            }
        }
    )*};
}

plain!(f32, u32, u64, i16);

/// Memory of a GPU for so many units.
#[derive(Debug)]
pub(crate) struct Buffer<T: Unit> {
    gpu: Gpu,
    view: View<T>,
}

/// A part of a buffer. Plain numbers: whoever keeps one keeps the buffer too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<T: Unit> {
    address: Address,
    len: usize,
    unit_bytes: usize,
    unit: PhantomData<T>,
}

impl<T: Unit> Drop for Buffer<T> {
    fn drop(&mut self) {
        self.gpu.free(self.view.address);
    }
}

impl<T: Unit> Buffer<T> {
    /// Room for so many units, with any contents.
    pub(crate) fn new(gpu: &Gpu, len: usize) -> Result<Self, GpuError> {
        let unit_bytes = T::bytes(&**gpu);
        let address = gpu.allocate(len.max(1) * unit_bytes)?;
        Ok(Self { gpu: gpu.clone(), view: View { address, len, unit_bytes, unit: PhantomData } })
    }

    /// Room for so many units, all zero.
    pub(crate) fn zeros(gpu: &Gpu, len: usize) -> Result<Self, GpuError> {
        let buffer = Self::new(gpu, len)?;
        buffer.clear()?;
        Ok(buffer)
    }

    /// All of it.
    pub(crate) fn all(&self) -> View<T> {
        self.view
    }

    /// A part of it.
    pub(crate) fn at(&self, range: Range<usize>) -> View<T> {
        self.view.at(range)
    }

    /// The units.
    pub(crate) fn len(&self) -> usize {
        self.view.len
    }

    /// Sets all units to zero.
    pub(crate) fn clear(&self) -> Result<(), GpuError> {
        self.gpu.clear(self.view.address, self.view.bytes())
    }

    /// Makes room for at least so many units; what was there is lost.
    pub(crate) fn fit(&mut self, len: usize) -> Result<(), GpuError> {
        if self.view.len < len {
            // The old memory first: both together may be more than there is.
            let gpu = self.gpu.clone();
            gpu.free(std::mem::replace(&mut self.view.address, 0));
            self.view.len = 0;
            *self = Self::new(&gpu, len)?;
        }
        Ok(())
    }
}

impl<T: Plain> Buffer<T> {
    /// Memory with these contents.
    pub(crate) fn from(gpu: &Gpu, units: &[T]) -> Result<Self, GpuError> {
        let buffer = Self::new(gpu, units.len())?;
        buffer.upload(0, units)?;
        Ok(buffer)
    }

    /// Writes units from place `first` on.
    pub(crate) fn upload(&self, first: usize, units: &[T]) -> Result<(), GpuError> {
        self.gpu.upload(&T::to_bytes(units), self.at(first..first + units.len()).address)
    }

    /// The units of a part.
    pub(crate) fn download(&self, range: Range<usize>) -> Result<Vec<T>, GpuError> {
        let view = self.at(range);
        let mut bytes = vec![0; view.bytes()];
        self.gpu.download(view.address, &mut bytes)?;
        Ok(T::from_bytes(&bytes))
    }
}

impl Buffer<Element> {
    /// Writes numbers, rounded, from place `first` on.
    pub(crate) fn upload(&self, first: usize, numbers: &[f32]) -> Result<(), GpuError> {
        let bytes = match self.view.unit_bytes {
            2 => to_bf16(numbers),
            _ => f32::to_bytes(numbers),
        };
        self.gpu.upload(&bytes, self.at(first..first + numbers.len()).address)
    }
}

#[cfg(test)]
impl Buffer<Element> {
    /// Memory with these numbers, rounded.
    pub(crate) fn rounded(gpu: &Gpu, numbers: &[f32]) -> Result<Self, GpuError> {
        let buffer = Self::new(gpu, numbers.len())?;
        buffer.upload(0, numbers)?;
        Ok(buffer)
    }

    /// The numbers of a part.
    pub(crate) fn download(&self, range: Range<usize>) -> Result<Vec<f32>, GpuError> {
        let view = self.at(range);
        let mut bytes = vec![0; view.bytes()];
        self.gpu.download(view.address, &mut bytes)?;
        Ok(match self.view.unit_bytes {
            2 => {
                let (units, _) = bytes.as_chunks();
                units.iter().map(|&unit| bf16::from_le_bytes(unit).to_f32()).collect()
            }
            _ => f32::from_bytes(&bytes),
        })
    }
}

/// The bytes of numbers that are rounded; on all threads, as this is what loading a model is made of.
fn to_bf16(numbers: &[f32]) -> Vec<u8> {
    const PART: usize = 1 << 16;
    let mut bytes = vec![0; 2 * numbers.len()];
    bytes.par_chunks_mut(2 * PART).zip(numbers.par_chunks(PART)).for_each(|(bytes, numbers)| {
        for (bytes, &number) in bytes.as_chunks_mut().0.iter_mut().zip(numbers) {
            *bytes = bf16::from_f32(number).to_le_bytes();
        }
    });
    bytes
}

impl<T: Unit> View<T> {
    /// So many units at an address.
    pub(super) fn lying(driver: &dyn Driver, address: Address, len: usize) -> Self {
        Self { address, len, unit_bytes: T::bytes(driver), unit: PhantomData }
    }

    /// A part of it.
    ///
    /// # Panics
    /// If it ends before the part does.
    pub(crate) fn at(self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {} units", self.len);
        let address = self.address + (range.start * self.unit_bytes) as u64;
        Self { address, len: range.len(), ..self }
    }

    /// The units.
    pub(crate) fn len(self) -> usize {
        self.len
    }

    /// Where it starts.
    pub(crate) fn address(self) -> Address {
        self.address
    }

    /// The bytes it takes.
    pub(crate) fn bytes(self) -> usize {
        self.len * self.unit_bytes
    }
}

impl View<f32> {
    /// The same memory as room for elements: as many or more.
    pub(crate) fn as_elements(self, gpu: &Gpu) -> View<Element> {
        let unit_bytes = gpu.element_bytes();
        View { address: self.address, len: self.bytes() / unit_bytes, unit_bytes, unit: PhantomData }
    }
}

impl View<Element> {
    /// The view as a matrix with rows of `stride` elements.
    pub(crate) fn rows(self, stride: usize) -> Operand {
        Operand { address: self.address, stride, transposed: false }
    }

    /// The transpose of that.
    pub(crate) fn columns(self, stride: usize) -> Operand {
        Operand { address: self.address, stride, transposed: true }
    }
}

impl<T: Unit> From<Option<View<T>>> for Argument {
    fn from(view: Option<View<T>>) -> Self {
        view.map_or(Self::NONE, Self::from)
    }
}

impl<T: Unit> From<View<T>> for Argument {
    fn from(view: View<T>) -> Self {
        Self::Address(view.address)
    }
}
