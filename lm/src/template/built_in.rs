//! The chat templates that come with the runtime.

/// The chat template of the models made here: turns as `<|user|>…<|end|>`, thinking tags, and a generation prompt that
/// ends with `<|assistant|><think>` and a line break. It wants the special tokens of [`crate::tokenizer::Specials::chat`] and a
/// vocabulary with the line break. `enable_thinking: false` gives an empty pair of tags instead.
pub const BUILT_IN: &str = include_str!("jinja/built_in.jinja");

/// The chat template that is put beside a Tekken vocabulary of the version v3, as Mistral-Nemo's.
pub(crate) const TEKKEN_V3: &str = include_str!("jinja/tekken_v3.jinja");

/// The chat template that is put beside the vocabulary of the gpt-oss models.
pub(crate) const HARMONY: &str = include_str!("jinja/harmony.jinja");
