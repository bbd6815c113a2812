//! What a sequence has left behind in the layers: keys and values, and states.

use crate::kernels::attention::Heads;
use crate::kernels::mamba::MambaShape;
use crate::kernels::matmul::{PanelView, WIDTH};

/// The keys, values and states of one sequence in every layer. A clone continues independently.
#[derive(Clone, Debug)]
pub struct Cache {
    /// Per attention layer and key head.
    heads: Vec<HeadCache>,
    shape: Heads,
    /// Per Mamba layer.
    states: Vec<MambaState>,
    length: usize,
    capacity: usize,
}

/// Keys as columns and values as rows of panels, so that a product reads them as they are.
#[derive(Clone, Debug, Default)]
struct HeadCache {
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// What a Mamba layer knows of a sequence.
#[derive(Clone, Debug)]
pub(super) struct MambaState {
    /// The last channels that the convolution read.
    pub(super) history: Vec<f32>,
    /// The states of all heads.
    pub(super) states: Vec<f32>,
}

impl Cache {
    pub(super) fn new(layers: usize, shape: Heads) -> Self {
        Self {
            heads: vec![HeadCache::default(); layers * shape.keys],
            shape,
            states: Vec::new(),
            length: 0,
            capacity: 0,
        }
    }

    /// The same with states of zero for so many Mamba layers.
    pub(super) fn with_states(self, layers: usize, shape: MambaShape) -> Self {
        let state = MambaState { history: vec![0.0; shape.history()], states: vec![0.0; shape.states()] };
        Self { states: vec![state; layers], ..self }
    }

    /// What a Mamba layer goes on from.
    pub(super) fn state(&mut self, layer: usize) -> &mut MambaState {
        &mut self.states[layer]
    }

    /// Number of tokens held.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether no token is held.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Counts `tokens` more, after their keys and values were put into every layer.
    pub(super) fn grow(&mut self, tokens: usize) {
        self.length += tokens;
    }

    /// Number of tokens that there is room for.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes that the keys, values and states take.
    #[cfg(test)]
    pub(crate) fn allocated(&self) -> usize {
        let heads = self.heads.iter().map(|head| head.keys.capacity() + head.values.capacity());
        let states = self.states.iter().map(|state| state.history.capacity() + state.states.capacity());
        heads.chain(states).sum::<usize>() * size_of::<f32>()
    }

    /// Makes room for `count` more tokens and hardly more.
    pub(crate) fn reserve(&mut self, count: usize) {
        let needed = self.length + count;
        if needed <= self.capacity {
            return;
        }
        let capacity = needed.next_multiple_of(WIDTH);
        let panels = self.shape.dim.div_ceil(WIDTH);
        let used = self.length * WIDTH;
        for head in &mut self.heads {
            let added = capacity * self.shape.dim - head.keys.len();
            head.keys.reserve_exact(added);
            head.keys.resize(capacity * self.shape.dim, 0.0);
            let mut values = vec![0.0; panels * capacity * WIDTH];
            for panel in 0..panels {
                let (from, to) = (panel * self.capacity * WIDTH, panel * capacity * WIDTH);
                values[to..to + used].copy_from_slice(&head.values[from..from + used]);
            }
            head.values = values;
        }
        self.capacity = capacity;
    }

    /// [`Cache::reserve`] for one who does not know how long the sequence becomes: at least doubles what has to grow.
    pub(super) fn reserve_more(&mut self, count: usize) {
        if self.length + count > self.capacity {
            self.reserve(count.max(self.length));
        }
    }

    /// Stores the keys and values of `rows`, which are the next tokens, in an attention layer; there is room for them.
    pub(super) fn put(&mut self, layer: usize, rows: &[f32]) {
        let Self { heads, shape, length, capacity, .. } = self;
        for (position, row) in (*length..).zip(rows.chunks_exact(shape.row())) {
            for (head, store) in heads[layer * shape.keys..][..shape.keys].iter_mut().enumerate() {
                let key = &row[shape.key(head)..][..shape.dim];
                let value = &row[shape.value(head)..][..shape.dim];
                store.put(position, *capacity, key, value);
            }
        }
    }

    /// The keys and the values of the first `count` tokens in an attention layer, of one key head.
    pub(super) fn views(
        &self,
        layer: usize,
        key_head: usize,
        count: usize,
    ) -> (PanelView<'_>, PanelView<'_>) {
        let store = &self.heads[layer * self.shape.keys + key_head];
        let dim = self.shape.dim;
        let keys = PanelView { data: &store.keys, stride: dim * WIDTH, depth: dim, columns: count };
        let values =
            PanelView { data: &store.values, stride: self.capacity * WIDTH, depth: count, columns: dim };
        (keys, values)
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
