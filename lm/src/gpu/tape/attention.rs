//! Attention whose way back is made on the CPU, until there are kernels for it.
#![expect(clippy::too_many_arguments, reason = "until there are kernels")]

use crate::gpu::attention::{Attention as Packed, Samples};
use crate::gpu::driver::{Gpu, GpuError};
use crate::gpu::{Element, View};
use crate::kernels::attention::{Heads, attention, attention_backward, kept_len};

#[derive(Debug)]
pub(super) struct Attention {
    gpu: Gpu,
    heads: Heads,
    packed: Packed,
    bounds: std::sync::Mutex<Vec<usize>>,
}

impl Attention {
    pub(super) fn new(gpu: &Gpu, heads: Heads) -> Result<Self, GpuError> {
        Ok(Self {
            gpu: gpu.clone(),
            heads,
            packed: Packed::new(gpu, heads)?,
            bounds: std::sync::Mutex::default(),
        })
    }

    pub(super) fn samples(&self, bounds: &[usize]) -> Result<Samples, GpuError> {
        *self.bounds.lock().expect("no panic") = bounds.to_vec();
        self.packed.samples(bounds)
    }

    pub(super) fn forward(
        &self,
        qkv: View<Element>,
        samples: &Samples,
        out: View<Element>,
        log_sums: View<f32>,
    ) -> Result<(), GpuError> {
        self.packed.forward(qkv, samples, out, log_sums)
    }

    fn read(&self, view: View<Element>) -> Vec<f32> {
        let mut bytes = vec![0; view.bytes()];
        self.gpu.download(view.address(), &mut bytes).expect("a download");
        match self.gpu.element_bytes() {
            2 => bytes.chunks(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            _ => bytes.chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        }
    }

    pub(super) fn backward(
        &self,
        qkv: View<Element>,
        _: &Samples,
        _: View<Element>,
        _: View<f32>,
        gradient: View<Element>,
        _: View<f32>,
        to: View<Element>,
    ) -> Result<(), GpuError> {
        let (heads, bounds) = (self.heads, self.bounds.lock().expect("no panic").clone());
        let rows = qkv.len() / heads.row();
        let (qkv, gradient) = (self.read(qkv), self.read(gradient));
        let (mut out, mut kept) = (vec![0.0; rows * heads.out()], vec![0.0; kept_len(heads, rows)]);
        attention(heads, &qkv, &bounds, &mut out, &mut kept);
        let mut back = vec![0.0; qkv.len()];
        attention_backward(heads, &qkv, &bounds, &out, &kept, &gradient, &mut back);
        let bytes: Vec<u8> = match self.gpu.element_bytes() {
            2 => back.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect(),
            _ => back.iter().flat_map(|x| x.to_le_bytes()).collect(),
        };
        self.gpu.upload(&bytes, to.address())
    }
}
