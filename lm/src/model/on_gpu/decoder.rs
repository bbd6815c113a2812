//! A model on a GPU, for generation: its weights as elements, and one pass of tokens through them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use crate::gpu::attention::{self, PagedAttention, Turn};
use crate::gpu::draw::{DRAW_WORDS, Draw, Drawing};
use crate::gpu::driver::{Gpu, GpuError, Recording};
use crate::gpu::experts::{Experts, ExpertsRoom};
use crate::gpu::mamba::{Mamba, MambaKernels, MambaRoom, MambaTurns};
use crate::gpu::pages::{Cache, CacheShape, Placing, Rows};
use crate::gpu::products::{From, Products, Projection, To};
use crate::gpu::stream::{NO_TOKEN, Seated, Steps};
use crate::gpu::{Buffer, Element, View};
use crate::kernels::activation::Activation;
use crate::model::{Config, MixerPlaces, ModelError, Places, Source};
use crate::sampler::{Drawn, SamplerError};

/// A model on a GPU.
#[derive(Debug)]
pub struct Decoder {
    gpu: Gpu,
    config: Config,
    shape: CacheShape,
    /// The embedding, where the head is another matrix.
    embedding: Option<Buffer<Element>>,
    blocks: Vec<Block>,
    norm: Buffer<Element>,
    head: Projection,
    frequencies: Option<Buffer<f32>>,
    mamba: Option<MambaKernels>,
    products: Products,
    steps: Steps,
    attention: PagedAttention,
}

/// A residual block: the mixer reads the normalised stream and adds to it.
#[derive(Debug)]
struct Block {
    norm: Buffer<Element>,
    mixer: Mixer,
}

#[derive(Debug)]
enum Mixer {
    Attention {
        /// Which of the attention layers this is.
        layer: usize,
        qkv: Projection,
        bias: Option<Buffer<Element>>,
        norms: Option<[Buffer<Element>; 2]>,
        output: Projection,
    },
    Feed {
        activation: Activation,
        inward: Projection,
        down: Projection,
    },
    Experts(Experts),
    Mamba(Mamba),
}

/// Weights on their way from a file to a GPU: one at a time, rounded to elements.
struct WeightReader<'a> {
    gpu: &'a Gpu,
    source: &'a Source,
    places: &'a Places,
}

impl WeightReader<'_> {
    /// The weights at `range`, one parameter after the other.
    fn read(&self, range: &Range<usize>) -> Result<Buffer<Element>, ModelError> {
        let buffer = Buffer::<Element>::new(self.gpu, range.len())?;
        for parameter in self.places.within(range) {
            let weights = self.source.read(parameter)?;
            buffer.upload(parameter.places.start - range.start, &weights)?;
        }
        Ok(buffer)
    }

    fn floats(&self, range: &Range<usize>) -> Result<Buffer<f32>, ModelError> {
        let mut weights = Vec::with_capacity(range.len());
        for parameter in self.places.within(range) {
            weights.extend(self.source.read(parameter)?);
        }
        Ok(Buffer::from(self.gpu, &weights)?)
    }

    fn projection(&self, range: &Range<usize>, inputs: usize) -> Result<Projection, ModelError> {
        Ok(Projection::new(self.read(range)?, inputs))
    }
}

/// Refuses a model whose layers or sizes the kernels do not know.
pub(crate) fn check(config: &Config, places: &Places) -> Result<(), ModelError> {
    let refuse = |what: &str| Err(ModelError::Unsupported { what: format!("{what} on a GPU") });
    for block in &places.blocks {
        match &block.mixer {
            MixerPlaces::Attention(_) => {}
            MixerPlaces::Feed(feed) if (feed.down.len() / config.hidden_size).is_multiple_of(8) => {}
            MixerPlaces::Feed(_) => return refuse("feed-forward blocks whose width is no multiple of 8"),
            MixerPlaces::Experts(experts) => {
                let inner =
                    experts.experts.first().map_or(0, |expert| expert.down.len() / config.hidden_size);
                if !inner.is_multiple_of(16) || !config.hidden_size.is_multiple_of(16) {
                    return refuse("experts whose sizes are no multiples of 16");
                }
            }
            MixerPlaces::Mamba(mamba) => {
                let shape = mamba.shape;
                if !shape.inner().is_multiple_of(8) || shape.dim > 256 || shape.state > 256 {
                    return refuse("Mamba blocks of such a shape");
                }
            }
        }
    }
    if !config.hidden_size.is_multiple_of(8) {
        return refuse("a width that is no multiple of 8");
    }
    Ok(attention::check(config.heads())?)
}

impl Decoder {
    /// Loads a model directory or a GGUF file, its weights rounded to elements.
    pub(crate) fn load(path: &Path, gpu: &Gpu) -> Result<Self, ModelError> {
        let (config, source) = Source::open(path)?;
        let places = Places::new(&config);
        source.check(&places)?;
        check(&config, &places)?;
        let reader = WeightReader { gpu, source: &source, places: &places };
        let (hidden, heads) = (config.hidden_size, config.heads());
        let (mut layers, mut mamba_layers) = (0, 0);
        let mut blocks = Vec::with_capacity(places.blocks.len());
        for block in &places.blocks {
            let mixer = match &block.mixer {
                MixerPlaces::Attention(places) => {
                    layers += 1;
                    Mixer::Attention {
                        layer: layers - 1,
                        qkv: reader.projection(&places.qkv, hidden)?,
                        bias: places.bias.as_ref().map(|bias| reader.read(bias)).transpose()?,
                        norms: match &places.head_norms {
                            Some([query, key]) => Some([reader.read(query)?, reader.read(key)?]),
                            None => None,
                        },
                        output: reader.projection(&places.output, heads.out())?,
                    }
                }
                MixerPlaces::Feed(places) => Mixer::Feed {
                    activation: places.activation,
                    inward: reader.projection(&places.inward, hidden)?,
                    down: reader.projection(&places.down, places.down.len() / hidden)?,
                },
                MixerPlaces::Experts(places) => {
                    let (first, last) = (&places.experts[0], &places.experts[places.experts.len() - 1]);
                    let weights = reader.read(&(first.inward.start..last.down.end))?;
                    let router = reader.projection(&places.router, hidden)?;
                    Mixer::Experts(Experts::new(gpu, router, weights, places.chosen, places.adds_up_to_one)?)
                }
                MixerPlaces::Mamba(places) => {
                    mamba_layers += 1;
                    let bias = places.convolution_bias.as_ref();
                    Mixer::Mamba(Mamba {
                        layer: mamba_layers - 1,
                        inward: reader.projection(&places.inward, hidden)?,
                        taps: reader.read(&places.convolution)?,
                        convolution_bias: bias.map(|bias| reader.read(bias)).transpose()?,
                        step_bias: reader.floats(&places.step_bias)?,
                        a_log: reader.floats(&places.a_log)?,
                        d: reader.floats(&places.d)?,
                        norm: reader.read(&places.norm)?,
                        output: reader.projection(&places.output, places.shape.inner())?,
                    })
                }
            };
            blocks.push(Block { norm: reader.read(&block.norm)?, mixer });
        }
        let is_tied = places.head == places.embedding;
        let embedding = if is_tied { None } else { Some(reader.read(&places.embedding)?) };
        let epsilon = config.rms_norm_eps as f32;
        let mamba = config.mamba().filter(|_| mamba_layers > 0);
        let steps = Steps::new(gpu, hidden, epsilon)?;
        let products = Products::new(gpu, steps.clone())?;
        let mamba = mamba
            .map(|(shape, _)| MambaKernels::new(gpu, shape, mamba_layers, epsilon, products.clone()))
            .transpose()?;
        let frequencies = config.frequencies().map(|numbers| Buffer::from(gpu, &numbers)).transpose()?;
        Ok(Self {
            shape: CacheShape {
                heads,
                layers,
                has_bias: config.has_qkv_bias(),
                has_norms: config.has_head_norms(),
                has_rotation: frequencies.is_some(),
            },
            embedding,
            blocks,
            norm: reader.read(&places.norm)?,
            head: reader.projection(&places.head, hidden)?,
            frequencies,
            mamba,
            products,
            steps,
            attention: PagedAttention::new(gpu, heads)?,
            gpu: gpu.clone(),
            config,
        })
    }

    /// The shape of the model.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The GPU it is on.
    pub(crate) fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Bytes that a page of the cache takes.
    pub(crate) fn page_bytes(&self) -> usize {
        self.shape.page_bytes(&self.gpu)
    }

    /// Bytes that a sequence takes beside its pages.
    pub(crate) fn state_bytes(&self) -> usize {
        self.mamba.as_ref().map_or(0, |mamba| mamba.state_bytes(&self.gpu))
    }

    /// The experts of a layer, if there are any: all layers' are of one size.
    fn experts(&self) -> Option<&Experts> {
        self.blocks.iter().find_map(|block| match &block.mixer {
            Mixer::Experts(experts) => Some(experts),
            _ => None,
        })
    }

    fn embedding(&self) -> View<Element> {
        self.embedding.as_ref().map_or(self.head.weights(), Buffer::all)
    }
}

/// A token that enters a pass.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entering {
    /// `None` is the one that was drawn last in this seat, which only the GPU may know yet.
    pub(crate) token: Option<u32>,
    /// Where its sequence sits.
    pub(crate) seat: usize,
    /// Its position in the sequence.
    pub(crate) position: usize,
}

/// The memory of passes: caches, activations, and what was recorded of earlier passes.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    model: &'a Decoder,
    cache: Cache,
    drawing: Drawing,
    /// Rows of a pass, at most, and of those that draw.
    rows: usize,
    drawn_rows: usize,
    x: Buffer<f32>,
    normed: Buffer<Element>,
    qkv: Buffer<Element>,
    attended: Buffer<Element>,
    inner: Buffer<Element>,
    active: Buffer<Element>,
    experts: Option<ExpertsRoom>,
    mamba: Option<MambaRoom>,
    logits: Buffer<f32>,
    inputs: Buffer<u32>,
    /// By number of rows: passes in which every row draws.
    recorded: BTreeMap<usize, Recorded>,
}

/// What is known of a pass with so many rows.
#[derive(Debug)]
enum Recorded {
    /// It ran once, so all libraries are ready for it.
    Once,
    /// It can be done again at once.
    Ready(Box<dyn Recording>),
    /// It cannot be recorded.
    Never,
}

/// The size of a [`Session`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// Pages of the cache.
    pub(crate) pages: usize,
    /// Sequences that have pages.
    pub(crate) seats: usize,
    /// Rows that draw in one pass.
    pub(crate) drawing: usize,
    /// Other rows of one pass.
    pub(crate) reading: usize,
    /// Ids that may be drawn.
    pub(crate) vocabulary: usize,
}

impl<'a> Session<'a> {
    pub(crate) fn new(model: &'a Decoder, size: &Size) -> Result<Self, GpuError> {
        let Decoder { gpu, config, shape, .. } = model;
        let (hidden, heads) = (config.hidden_size, shape.heads);
        let drawn_rows = bucket(size.drawing);
        let rows = drawn_rows + size.reading;
        let widths = model.blocks.iter().filter_map(|block| match &block.mixer {
            Mixer::Feed { activation, inward, .. } => {
                Some((inward.outputs(), inward.outputs() / activation.inputs()))
            }
            Mixer::Attention { .. } | Mixer::Experts(_) | Mixer::Mamba(_) => None,
        });
        let experts = model.experts().map(|experts| experts.room(gpu, rows)).transpose()?;
        let (inner, active) = widths.fold((0, 0), |most, width| (most.0.max(width.0), most.1.max(width.1)));
        Ok(Self {
            cache: Cache::new(gpu, shape, size.pages, size.seats, config.context())?,
            drawing: Drawing::new(gpu, size.vocabulary, size.seats.max(drawn_rows))?,
            rows,
            drawn_rows,
            x: Buffer::new(gpu, rows * hidden)?,
            normed: Buffer::new(gpu, rows * hidden)?,
            qkv: Buffer::new(gpu, rows * heads.row())?,
            attended: Buffer::new(gpu, rows * heads.out())?,
            inner: Buffer::new(gpu, rows * inner)?,
            active: Buffer::new(gpu, rows * active)?,
            experts,
            mamba: model.mamba.as_ref().map(|mamba| mamba.room(gpu, size.seats, rows)).transpose()?,
            logits: Buffer::new(gpu, drawn_rows * config.vocab_size)?,
            inputs: Buffer::new(gpu, 3 * rows + DRAW_WORDS * drawn_rows)?,
            recorded: BTreeMap::new(),
            model,
        })
    }

    /// Bytes of a session without its pages.
    pub(crate) fn bytes(model: &Decoder, size: &Size) -> usize {
        let (rows, config) = (size.reading + bucket(size.drawing), &model.config);
        let widest = model.blocks.iter().map(|block| match &block.mixer {
            Mixer::Feed { inward, .. } => 2 * inward.outputs(),
            Mixer::Attention { .. } | Mixer::Experts(_) | Mixer::Mamba(_) => 0,
        });
        let experts = model.experts().map_or(0, |experts| experts.room_bytes(rows));
        let row = 4 * config.hidden_size + 2 * model.shape.heads.row() + widest.max().unwrap_or(0);
        let mamba = model.mamba.as_ref();
        let mamba =
            mamba.map_or(0, |mamba| mamba.pass_bytes(&model.gpu, rows) + size.seats * model.state_bytes());
        4 * (rows * row + bucket(size.drawing) * config.vocab_size) + experts + mamba
    }

    /// The pages of all sequences.
    pub(crate) fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Gives the sequence on one seat what that on another has beside its pages.
    pub(crate) fn copy_state(&self, from: usize, to: usize) -> Result<(), GpuError> {
        self.mamba.as_ref().map_or(Ok(()), |mamba| mamba.copy(from, to))
    }

    /// Notes which tokens the sequence on a seat begins with.
    pub(crate) fn begin(&self, seat: usize, seen: impl Iterator<Item = u32>) -> Result<(), GpuError> {
        self.drawing.begin(seat, seen)
    }

    /// Begins a pass that puts tokens into the cache: one of each sequence that draws its next, as `draws` says, and `turns` of
    /// several tokens of sequences that are only read. `entering` has the tokens of the first and then those of the turns.
    ///
    /// # Panics
    /// If [`AHEAD`] passes have been begun whose tokens were not asked for.
    pub(crate) fn advance(
        &mut self,
        entering: &[Entering],
        draws: &[Draw],
        turns: &[Turn],
    ) -> Result<(), GpuError> {
        // Rows that are recorded come in a few numbers; those that nobody needs are marked so.
        let drawing = if turns.is_empty() { bucket(draws.len()) } else { draws.len() };
        let unused = drawing - draws.len();
        let rows = entering.len() + unused;
        assert!(rows <= self.rows && drawing <= self.drawn_rows, "{rows} rows in one pass");
        let mut inputs = Vec::with_capacity(3 * rows + DRAW_WORDS * drawing);
        let tokens = entering.iter().map(|entering| entering.token.unwrap_or(NO_TOKEN));
        inputs.extend(tokens.chain(vec![0; unused]));
        inputs.extend(entering.iter().map(|entering| entering.seat as u32).chain(vec![0; unused]));
        inputs.extend(entering.iter().map(|entering| entering.position as u32 + 1).chain(vec![0; unused]));
        inputs.extend(draws.iter().flat_map(Draw::words));
        inputs.extend(vec![Draw::UNUSED; unused].as_flattened());
        self.inputs.upload(0, &inputs)?;
        if turns.is_empty() {
            self.replay(rows)?;
        } else {
            self.pass(rows, drawing, turns)?;
        }
        self.drawing.fetch(draws.len())
    }

    /// Passes that were begun and whose tokens were not asked for.
    pub(crate) fn ahead(&self) -> usize {
        self.drawing.ahead()
    }

    /// Waits for the oldest of those passes: the tokens that its rows drew. `None` if there is no such pass.
    pub(crate) fn drawn(&mut self) -> Result<Option<Vec<Result<Drawn, SamplerError>>>, GpuError> {
        self.drawing.results()
    }

    /// A pass in which every row draws: recorded when it comes for the second time.
    fn replay(&mut self, rows: usize) -> Result<(), GpuError> {
        match self.recorded.get(&rows) {
            Some(Recorded::Ready(recording)) => return recording.replay(),
            Some(Recorded::Never) => return self.pass(rows, rows, &[]),
            Some(Recorded::Once) => {}
            None => {
                self.recorded.insert(rows, Recorded::Once);
                return self.pass(rows, rows, &[]);
            }
        }
        let recording = self.model.gpu.record(&mut || self.pass(rows, rows, &[]))?;
        let Some(recording) = recording else {
            self.recorded.insert(rows, Recorded::Never);
            return self.pass(rows, rows, &[]);
        };
        recording.replay()?;
        self.recorded.insert(rows, Recorded::Ready(recording));
        Ok(())
    }

    fn pass(&self, rows: usize, drawing: usize, turns: &[Turn]) -> Result<(), GpuError> {
        let Self { model, cache, x, normed, qkv, attended, inner, active, .. } = self;
        let Decoder { config, products, steps, attention, shape, .. } = model;
        let (hidden, heads, epsilon) = (config.hidden_size, shape.heads, config.rms_norm_eps as f32);
        let [tokens, seats, lengths] = [0, 1, 2].map(|part| self.inputs.at(part * rows..(part + 1) * rows));
        let draws = self.inputs.at(3 * rows..3 * rows + DRAW_WORDS * drawing);
        let mamba = match &model.mamba {
            Some(_) if !turns.is_empty() => Some(MambaTurns::new(&model.gpu, turns)?),
            _ => None,
        };
        let turns = if turns.is_empty() { None } else { Some(attention.turns(turns)?) };
        let (x, normed) = (x.at(0..rows * hidden), normed.at(0..rows * hidden));
        let seated = Seated { seats, tokens: self.drawing.last() };
        steps.embed(model.embedding(), tokens, Some(seated), x)?;
        for block in &model.blocks {
            let from = From::Normed { x, weight: block.norm.all(), room: normed };
            match &block.mixer {
                Mixer::Attention { layer, qkv: projection, bias, norms, output } => {
                    let qkv = qkv.at(0..rows * heads.row());
                    products.apply(projection, from, To::Elements(qkv))?;
                    let placing = Placing {
                        bias: bias.as_ref().map(Buffer::all),
                        norms: norms.as_ref().map(|norms| norms.each_ref().map(Buffer::all)),
                        frequencies: model.frequencies.as_ref(),
                        epsilon,
                    };
                    cache.place(*layer, &placing, qkv, Rows { seats, lengths })?;
                    let pages = cache.layer(*layer);
                    let attended = attended.at(0..rows * heads.out());
                    if drawing > 0 {
                        attention.decode(
                            qkv.at(0..drawing * heads.row()),
                            heads.row(),
                            pages,
                            seats.at(0..drawing),
                            lengths.at(0..drawing),
                            attended.at(0..drawing * heads.out()),
                        )?;
                    }
                    if let Some(turns) = &turns {
                        attention.extend(qkv, heads.row(), pages, turns, attended)?;
                    }
                    products.apply(output, From::Elements(attended), To::Added(x))?;
                }
                Mixer::Mamba(block) => {
                    let (Some(kernels), Some(room)) = (&model.mamba, &self.mamba) else {
                        unreachable!("a model with Mamba blocks has their kernels and room for them")
                    };
                    let single = Rows { seats: seats.at(0..drawing), lengths: lengths.at(0..drawing) };
                    kernels.add(block, from, room, single, mamba.as_ref(), x)?;
                }
                Mixer::Experts(experts) => {
                    let room = self.experts.as_ref().expect("a model with experts has room for them");
                    steps.norm(x, None, block.norm.all(), normed, None, None)?;
                    experts.add(products, normed, room, x)?;
                }
                Mixer::Feed { activation, inward, down } => {
                    let width = inward.outputs() / activation.inputs();
                    let inner = inner.at(0..rows * inward.outputs());
                    let active = active.at(0..rows * width);
                    products.apply(inward, from, To::Elements(inner))?;
                    let from = From::Active { activation: *activation, x: inner, room: active };
                    products.apply(down, from, To::Added(x))?;
                }
            }
        }
        if drawing == 0 {
            return Ok(());
        }
        let (x, normed) = (x.at(0..drawing * hidden), normed.at(0..drawing * hidden));
        let from = From::Normed { x, weight: model.norm.all(), room: normed };
        let logits = self.logits.at(0..drawing * config.vocab_size);
        products.apply(&model.head, from, To::Floats(logits))?;
        self.drawing.draw(logits, config.vocab_size, draws)
    }
}

/// The number of rows that so many are rounded up to, so that passes come in a few sizes.
fn bucket(rows: usize) -> usize {
    match rows {
        0..=8 => rows.next_power_of_two(),
        9..=64 => rows.next_multiple_of(8),
        65..=128 => rows.next_multiple_of(16),
        _ => rows.next_multiple_of(32),
    }
}
