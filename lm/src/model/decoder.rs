//! Running a model: sequences of any lengths advance together, each with its own cache.

use std::path::Path;
use std::sync::Arc;

use rayon::ThreadPool;

use super::{Config, ModelError, Places};
use crate::device::Device;
use crate::kernels::activation::swiglu;
use crate::kernels::attention::{Heads, KEPT, STRIP, attend};
use crate::kernels::matmul::{Into, Matrix, PanelView, Panels, WIDTH, matmul_packed};
use crate::kernels::norm::rms_norm;
use crate::kernels::rope::{self, Rotation};
use crate::kernels::share::{Shared, share};

/// A model ready to run on the CPU. Cheap to share between threads by reference.
#[derive(Debug)]
pub struct Model {
    config: Config,
    embedding: Vec<f32>,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    head: Panels,
    rotation: Rotation,
    pool: Arc<ThreadPool>,
}

/// The weights of one layer, packed for products.
#[derive(Debug)]
struct Layer {
    attention_norm: Vec<f32>,
    qkv: Panels,
    output: Panels,
    feed_norm: Vec<f32>,
    gate_up: Panels,
    down: Panels,
}

/// The keys and values of one sequence in every layer. A clone continues independently.
#[derive(Clone, Debug)]
pub struct Cache {
    /// Per layer and key head.
    heads: Vec<HeadCache>,
    shape: Heads,
    length: usize,
    capacity: usize,
}

/// Keys as columns and values as rows of [`Panels`], so that a product reads them as they are.
#[derive(Clone, Debug, Default)]
struct HeadCache {
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// New tokens of one sequence.
#[derive(Debug)]
pub struct Turn<'a> {
    /// What the sequence holds already; grows by the tokens.
    pub cache: &'a mut Cache,
    /// At least one token.
    pub tokens: &'a [u32],
}

impl Cache {
    /// Number of tokens held.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether no token is held.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Makes room for `count` more tokens.
    pub(crate) fn reserve(&mut self, count: usize) {
        let needed = self.length + count;
        if needed <= self.capacity {
            return;
        }
        let capacity = needed.max(self.capacity * 2).next_multiple_of(WIDTH);
        let panels = self.shape.dim.div_ceil(WIDTH);
        for head in &mut self.heads {
            head.keys.resize(capacity * self.shape.dim, 0.0);
            let mut values = vec![0.0; panels * capacity * WIDTH];
            let used = self.length * WIDTH;
            for panel in 0..panels {
                let (from, to) = (panel * self.capacity * WIDTH, panel * capacity * WIDTH);
                values[to..to + used].copy_from_slice(&head.values[from..from + used]);
            }
            head.values = values;
        }
        self.capacity = capacity;
    }
}

impl HeadCache {
    fn put(&mut self, position: usize, capacity: usize, key: &[f32], value: &[f32]) {
        let panel = &mut self.keys[position / WIDTH * WIDTH * key.len()..];
        for (row, key) in key.iter().enumerate() {
            panel[row * WIDTH + position % WIDTH] = *key;
        }
        for (panel, value) in value.chunks(WIDTH).enumerate() {
            self.values[(panel * capacity + position) * WIDTH..][..value.len()].copy_from_slice(value);
        }
    }
}

impl Model {
    /// Loads a model directory.
    pub fn load(dir: &Path, device: &Device) -> Result<Self, ModelError> {
        if let Device::Cuda(ordinal) = device {
            return Err(ModelError::Device(format!("generation on CUDA device {ordinal}")));
        }
        let config = Config::load(dir)?;
        let places = Places::new(&config);
        let weights = super::load(dir, &places)?;
        Ok(Self::new(config, &places, &weights, device.pool()?))
    }

    fn new(config: Config, places: &Places, weights: &[f32], pool: Arc<ThreadPool>) -> Self {
        let (hidden, inner, heads) = (config.hidden_size, config.intermediate_size, config.heads());
        // A stored projection has a row per output: transposed it is the right-hand side of a product.
        let pack = |places: &std::ops::Range<usize>, outputs: usize, inputs: usize| {
            Panels::new(Matrix::new(&weights[places.clone()], outputs, inputs).transposed())
        };
        let layers = places.layers.iter().map(|layer| Layer {
            attention_norm: weights[layer.attention_norm.clone()].to_vec(),
            qkv: pack(&layer.qkv, heads.row(), hidden),
            output: pack(&layer.output, hidden, heads.out()),
            feed_norm: weights[layer.feed_norm.clone()].to_vec(),
            gate_up: pack(&layer.gate_up, 2 * inner, hidden),
            down: pack(&layer.down, hidden, inner),
        });
        Self {
            layers: layers.collect(),
            embedding: weights[places.embedding.clone()].to_vec(),
            norm: weights[places.norm.clone()].to_vec(),
            head: pack(&places.head, config.vocab_size, hidden),
            rotation: Rotation::new(heads.dim, config.theta(), config.max_position_embeddings),
            config,
            pool,
        }
    }

    /// The shape of the model.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// An empty cache for one sequence.
    pub fn cache(&self) -> Cache {
        let shape = self.config.heads();
        let heads = vec![HeadCache::default(); self.layers.len() * shape.keys];
        Cache { heads, shape, length: 0, capacity: 0 }
    }

    /// Appends each turn's tokens to its sequence and returns the logits after its last token, one row of the vocabulary per turn.
    ///
    /// A row depends on its own sequence only: the other turns, the split of a sequence into turns and the number of threads
    /// leave its bytes as they are.
    ///
    /// # Panics
    /// If a turn has no token, a token is not in the vocabulary, or a sequence outgrows `max_position_embeddings`.
    pub fn forward(&self, turns: &mut [Turn<'_>]) -> Vec<f32> {
        self.pool.install(|| self.forward_here(turns))
    }

    /// [`Model::forward`] on the current pool, for a caller that runs one model on threads of its own.
    pub(crate) fn forward_here(&self, turns: &mut [Turn<'_>]) -> Vec<f32> {
        let (hidden, inner, heads) =
            (self.config.hidden_size, self.config.intermediate_size, self.config.heads());
        let mut positions: Vec<u32> = Vec::new();
        let mut x: Vec<f32> = Vec::new();
        let mut ends: Vec<usize> = Vec::new();
        for turn in turns.iter_mut() {
            assert!(!turn.tokens.is_empty(), "a turn has at least one token");
            let end = turn.cache.length + turn.tokens.len();
            assert!(end <= self.rotation.positions(), "the sequence outgrows the model's context");
            turn.cache.reserve(turn.tokens.len());
            positions.extend((turn.cache.length..end).map(|position| position as u32));
            for &token in turn.tokens {
                x.extend_from_slice(&self.embedding[token as usize * hidden..][..hidden]);
            }
            ends.push(positions.len());
        }
        let rows = positions.len();
        let mut normed = vec![0.0; rows * hidden];
        let mut scales = vec![0.0; rows];
        let mut qkv = vec![0.0; rows * heads.row()];
        let mut attended = vec![0.0; rows * heads.out()];
        let mut gate_up = vec![0.0; rows * 2 * inner];
        let mut active = vec![0.0; rows * inner];
        let epsilon = self.config.rms_norm_eps as f32;
        for (index, layer) in self.layers.iter().enumerate() {
            rms_norm(&x, &layer.attention_norm, epsilon, &mut normed, &mut scales);
            matmul_packed(&mut qkv, Matrix::new(&normed, rows, hidden), &layer.qkv, Into::Replace);
            self.rotation.apply(
                &mut qkv,
                heads.row(),
                heads.queries + heads.keys,
                &positions,
                rope::Turn::Forward,
            );
            for (turn, &end) in turns.iter_mut().zip(&ends) {
                let first = end - turn.tokens.len();
                let rows = qkv[first * heads.row()..end * heads.row()].chunks_exact(heads.row());
                let cache = &mut *turn.cache;
                for (position, row) in (cache.length..).zip(rows) {
                    for (head, store) in
                        cache.heads[index * heads.keys..][..heads.keys].iter_mut().enumerate()
                    {
                        let (key, value) =
                            (&row[heads.key(head)..][..heads.dim], &row[heads.value(head)..][..heads.dim]);
                        store.put(position, cache.capacity, key, value);
                    }
                }
            }
            attend_turns(heads, index, turns, &ends, &qkv, &mut attended);
            matmul_packed(&mut x, Matrix::new(&attended, rows, heads.out()), &layer.output, Into::Accumulate);
            rms_norm(&x, &layer.feed_norm, epsilon, &mut normed, &mut scales);
            matmul_packed(&mut gate_up, Matrix::new(&normed, rows, hidden), &layer.gate_up, Into::Replace);
            swiglu(&gate_up, inner, &mut active);
            matmul_packed(&mut x, Matrix::new(&active, rows, inner), &layer.down, Into::Accumulate);
        }
        for turn in turns.iter_mut() {
            turn.cache.length += turn.tokens.len();
        }
        let last: Vec<f32> =
            ends.iter().flat_map(|end| &x[(end - 1) * hidden..end * hidden]).copied().collect();
        let mut normed = vec![0.0; last.len()];
        rms_norm(&last, &self.norm, epsilon, &mut normed, &mut scales[..turns.len()]);
        let mut logits = vec![0.0; turns.len() * self.config.vocab_size];
        matmul_packed(&mut logits, Matrix::new(&normed, turns.len(), hidden), &self.head, Into::Replace);
        logits
    }
}

/// Attention of every turn's new tokens over its cache, whose last entries they are.
fn attend_turns(
    heads: Heads,
    layer: usize,
    turns: &[Turn<'_>],
    ends: &[usize],
    qkv: &[f32],
    out: &mut [f32],
) {
    let out = Shared::new(out);
    share(turns.len() * heads.keys, 1, |tasks| {
        let (mut scores, mut kept) = (Vec::new(), [0.0; STRIP * KEPT]);
        for task in tasks {
            let (turn, key_head) = (task / heads.keys, task % heads.keys);
            let (start, end) = (ends[turn] - turns[turn].tokens.len(), ends[turn]);
            let cache = &*turns[turn].cache;
            let length = cache.length + (end - start);
            let store = &cache.heads[layer * heads.keys + key_head];
            let keys =
                PanelView { data: &store.keys, stride: heads.dim * WIDTH, depth: heads.dim, columns: length };
            let values = PanelView {
                data: &store.values,
                stride: cache.capacity * WIDTH,
                depth: length,
                columns: heads.dim,
            };
            for head in heads.group(key_head) {
                for first in (start..end).step_by(STRIP) {
                    let count = (end - first).min(STRIP);
                    let place = first * heads.row() + head * heads.dim;
                    let queries = Matrix::strided(&qkv[place..], count, heads.dim, heads.row());
                    let position = cache.length + first - start;
                    let kept = &mut kept[..count * KEPT];
                    // SAFETY: each task writes the rows of its turn in the columns of its heads.
                    unsafe {
                        let out = out.pointer().add(first * heads.out() + head * heads.dim);
                        attend(heads, queries, position, keys, values, &mut scores, kept, out, heads.out());
                    }
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::init;
    use candle_core::{DType, Tensor};
    use candle_transformers::models::mistral;

    fn shape() -> Config {
        let mut config = Config::small(50, 48, 2, 16, 128);
        config.num_attention_heads = 4;
        config.num_key_value_heads = Some(2);
        config.tie_word_embeddings = false;
        config
    }

    fn tokens(count: usize) -> Vec<u32> {
        (0..count as u32).map(|index| (index * 7 + index * index) % 50).collect()
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    /// The weights are random and wide enough that attention is far from uniform.
    #[test]
    fn logits_are_those_of_the_reference() {
        let dir = tempfile::tempdir().unwrap();
        let config = shape();
        init(&config, 5, dir.path()).unwrap();
        let model = Model::load(dir.path(), &Device::Cpu { threads: 2 }).unwrap();
        let json = std::fs::read(dir.path().join("config.json")).unwrap();
        let reference: mistral::Config = serde_json::from_slice(&json).unwrap();
        let files = [dir.path().join("model.safetensors")];
        // SAFETY: nobody changes the file.
        let weights = unsafe {
            candle_nn::VarBuilder::from_mmaped_safetensors(&files, DType::F32, &candle_core::Device::Cpu)
                .unwrap()
        };
        let mut reference = mistral::Model::new(&reference, weights).unwrap();
        for length in [1, 2, 40, 101] {
            let tokens = tokens(length);
            let mut cache = model.cache();
            let ours = model.forward(&mut [Turn { cache: &mut cache, tokens: &tokens }]);
            reference.clear_kv_cache();
            let input =
                Tensor::new(tokens.as_slice(), &candle_core::Device::Cpu).unwrap().unsqueeze(0).unwrap();
            let theirs =
                reference.forward(&input, 0).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let largest = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(theirs.iter().any(|logit| logit.abs() > 0.1));
            assert!(largest < 1e-4, "length {length}: {largest}");
        }
    }

    #[test]
    fn company_turns_and_threads_change_no_bit() {
        let dir = tempfile::tempdir().unwrap();
        init(&shape(), 6, dir.path()).unwrap();
        let all = tokens(90);
        let alone = {
            let model = Model::load(dir.path(), &Device::Cpu { threads: 1 }).unwrap();
            let mut cache = model.cache();
            model.forward(&mut [Turn { cache: &mut cache, tokens: &all }])
        };
        let model = Model::load(dir.path(), &Device::Cpu { threads: 3 }).unwrap();
        let (mut cache, mut other) = (model.cache(), model.cache());
        model.forward(&mut [Turn { cache: &mut cache, tokens: &all[..37] }]);
        let mut fork = cache.clone();
        for token in 37..90 {
            let tokens = &all[token..=token];
            let mut turns = [Turn { cache: &mut other, tokens }, Turn { cache: &mut cache, tokens }];
            let logits = model.forward(&mut turns);
            if token == 89 {
                assert_eq!(bits(&alone), bits(&logits[50..]));
            }
        }
        let logits = model.forward(&mut [Turn { cache: &mut fork, tokens: &all[37..] }]);
        assert_eq!(bits(&alone), bits(&logits));
        assert_eq!((cache.len(), fork.len(), other.len()), (90, 90, 53));
    }
}
