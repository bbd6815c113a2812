//! Low-rank adapters: a projection computes `x·Wᵀ + alpha/rank · x·Aᵀ·Bᵀ`, where W stays what it is and only A and B are
//! trained (Hu et al., arXiv 2106.09685). A is random at the start and B zero, so that training starts from the base model.
//!
//! All A and B lie in one flat slice, as all weights of a model do, and are named as the library PEFT names them.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::Path;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{ModelError, Parameter, Places};
use crate::kernels::matmul::{Into, Matrix, matmul};
use crate::weights::{Saved, save_as};

/// The files of an adapter, as PEFT calls them.
const CONFIG_FILE: &str = "adapter_config.json";
const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// Which adapters to train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lora {
    /// Rows of A and columns of B.
    pub rank: usize,
    /// The adapters are weighted by `alpha / rank`.
    pub alpha: f64,
    /// The projections that get one, by the last part of their names: `q_proj`.
    pub targets: Vec<String>,
    /// Another number makes another A.
    pub seed: u64,
}

/// The adapters of a model.
#[derive(Clone, Debug)]
pub(crate) struct Adapters {
    scale: f32,
    /// In the order of the weights they adapt.
    each: Vec<Adapter>,
    /// A and B of every adapter, in order of their places in `values`.
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) values: Vec<f32>,
}

/// One adapter.
#[derive(Clone, Debug)]
pub(crate) struct Adapter {
    /// The places of the weight that is adapted, a row per output.
    target: Range<usize>,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) rank: usize,
    /// Places of A, `rank` rows of `inputs`.
    pub(crate) a: Range<usize>,
    /// Places of B, `outputs` rows of `rank`.
    pub(crate) b: Range<usize>,
}

impl Adapters {
    pub(crate) fn new(places: &Places, lora: &Lora) -> Result<Self, ModelError> {
        let fault = |what: String| Err(ModelError::Adapters(what));
        if lora.rank == 0 || lora.targets.is_empty() {
            return fault("a rank of at least 1 and at least one target are needed".to_owned());
        }
        let candidates = || places.parameters.iter().filter(|parameter| is_projection(places, parameter));
        if let Some(target) =
            lora.targets.iter().find(|target| candidates().all(|parameter| last_name(parameter) != *target))
        {
            let names: BTreeSet<&str> = candidates().map(last_name).collect();
            let names: Vec<&str> = names.into_iter().collect();
            return fault(format!("there is no projection `{target}`; there is {}", names.join(", ")));
        }
        let (mut each, mut parameters, mut values) = (Vec::new(), Vec::new(), Vec::new());
        let mut random = ChaCha8Rng::seed_from_u64(lora.seed);
        for weight in candidates().filter(|weight| lora.targets.iter().any(|name| name == last_name(weight)))
        {
            let (outputs, inputs) = (weight.shape[0], weight.shape[1]);
            let stem = weight.name.trim_end_matches(".weight");
            let mut add = |part: &str, shape: [usize; 2], number: &mut dyn FnMut() -> f32| {
                let start = values.len();
                values.extend((0..shape[0] * shape[1]).map(|_| number()));
                let name = format!("base_model.model.{stem}.{part}.weight");
                parameters.push(Parameter { name, shape: shape.to_vec(), places: start..values.len() });
                start..values.len()
            };
            // Uniform up to 1/√inputs, as PEFT begins.
            let bound = 1.0 / (inputs as f64).sqrt();
            let a = add("lora_A", [lora.rank, inputs], &mut || {
                (bound * (2.0 * f64::from(random.next_u32()) / f64::from(u32::MAX) - 1.0)) as f32
            });
            let b = add("lora_B", [outputs, lora.rank], &mut || 0.0);
            each.push(Adapter { target: weight.places.clone(), inputs, outputs, rank: lora.rank, a, b });
        }
        Ok(Self { scale: (lora.alpha / lora.rank as f64) as f32, each, parameters, values })
    }

    /// The same adapters with other values.
    pub(crate) fn with(&self, values: Vec<f32>) -> Self {
        Self { values, scale: self.scale, each: self.each.clone(), parameters: self.parameters.clone() }
    }

    /// What the product of A and B is multiplied by: `alpha / rank`.
    pub(crate) fn scale(&self) -> f32 {
        self.scale
    }

    /// The largest rank.
    pub(crate) fn rank(&self) -> usize {
        self.each.iter().map(|adapter| adapter.rank).max().unwrap_or(0)
    }

    /// The adapters of the weights that fill `places`, each with the output it starts at.
    pub(crate) fn within(&self, places: &Range<usize>) -> impl Iterator<Item = (&Adapter, usize)> {
        let first = self.each.partition_point(|adapter| adapter.target.start < places.start);
        let inside = self.each[first..].iter().take_while(|adapter| adapter.target.start < places.end);
        inside.map(|adapter| (adapter, (adapter.target.start - places.start) / adapter.inputs))
    }

    fn a(&self, adapter: &Adapter) -> Matrix<'_> {
        Matrix::new(&self.values[adapter.a.clone()], adapter.rank, adapter.inputs)
    }

    fn b(&self, adapter: &Adapter) -> Matrix<'_> {
        Matrix::new(&self.values[adapter.b.clone()], adapter.outputs, adapter.rank)
    }

    /// A product, times `alpha / rank`.
    fn scaled(&self, left: Matrix<'_>, right: Matrix<'_>) -> Vec<f32> {
        let mut product = vec![0.0; left.rows() * right.columns()];
        matmul(&mut product, left, right, Into::Replace);
        for element in &mut product {
            *element *= self.scale;
        }
        product
    }

    /// Adds what the adapters of the weights at `places` give for the rows of `x`.
    pub(crate) fn forward(&self, places: &Range<usize>, to: &mut [f32], x: &[f32], rows: usize) {
        let width = to.len() / rows;
        for (adapter, first) in self.within(places) {
            let narrow = self.scaled(Matrix::new(x, rows, adapter.inputs), self.a(adapter).transposed());
            let mut given = vec![0.0; rows * adapter.outputs];
            let narrow = Matrix::new(&narrow, rows, adapter.rank);
            matmul(&mut given, narrow, self.b(adapter).transposed(), Into::Replace);
            for (to, given) in to.chunks_exact_mut(width).zip(given.chunks_exact(adapter.outputs)) {
                for (to, given) in to[first..].iter_mut().zip(given) {
                    *to += given;
                }
            }
        }
    }

    /// Adds the gradients of A and B to `gradients` and that of `x` to `x_gradient`, given that of the projection's output.
    pub(crate) fn backward(
        &self,
        places: &Range<usize>,
        x_gradient: &mut [f32],
        gradient: &[f32],
        x: &[f32],
        rows: usize,
        gradients: &mut [f32],
    ) {
        let width = gradient.len() / rows;
        for (adapter, first) in self.within(places) {
            let gradient = Matrix::strided(&gradient[first..], rows, adapter.outputs, width);
            let x = Matrix::new(x, rows, adapter.inputs);
            let narrow = self.scaled(x, self.a(adapter).transposed());
            let narrow = Matrix::new(&narrow, rows, adapter.rank);
            matmul(&mut gradients[adapter.b.clone()], gradient.transposed(), narrow, Into::Accumulate);
            let narrow_gradient = self.scaled(gradient, self.b(adapter));
            let narrow_gradient = Matrix::new(&narrow_gradient, rows, adapter.rank);
            matmul(&mut gradients[adapter.a.clone()], narrow_gradient.transposed(), x, Into::Accumulate);
            matmul(x_gradient, narrow_gradient, self.a(adapter), Into::Accumulate);
        }
    }

    /// Adds the adapters to the weights they adapt.
    pub(crate) fn merge(&self, weights: &mut [f32]) {
        for adapter in &self.each {
            let product = self.scaled(self.b(adapter), self.a(adapter));
            for (weight, product) in weights[adapter.target.clone()].iter_mut().zip(product) {
                *weight += product;
            }
        }
    }

    /// Writes the adapters as PEFT reads them.
    pub(crate) fn save(&self, lora: &Lora, dir: &Path) -> Result<(), ModelError> {
        fs::create_dir_all(dir).map_err(|source| ModelError::io(dir, source))?;
        let config = json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": null,
            "r": lora.rank,
            "lora_alpha": lora.alpha,
            "lora_dropout": 0.0,
            "target_modules": lora.targets,
            "bias": "none",
            "fan_in_fan_out": false,
            "use_rslora": false,
            "inference_mode": true,
        });
        let path = dir.join(CONFIG_FILE);
        crate::atomic::write(&path, format!("{config:#}\n").as_bytes())
            .map_err(|source| ModelError::io(&path, source))?;
        let saved = |parameter: &Parameter| Saved {
            shape: parameter.shape.clone(),
            elements: &self.values[parameter.places.clone()],
        };
        let named = self.parameters.iter().map(|parameter| (parameter.name.clone(), saved(parameter)));
        Ok(save_as(&dir.join(WEIGHTS_FILE), named.collect())?)
    }
}

/// The last part of a weight's name: `q_proj`.
fn last_name(parameter: &Parameter) -> &str {
    parameter.name.trim_end_matches(".weight").rsplit('.').next().unwrap_or_default()
}

/// Whether this is a projection inside a block.
fn is_projection(places: &Places, parameter: &Parameter) -> bool {
    parameter.shape.len() == 2 && parameter.places != places.embedding && parameter.places != places.head
}
