//! The kernels' sources.

/// What every source starts with.
pub(super) const PRELUDE: &str = include_str!("kernels/prelude.cuh");

/// A file of kernels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    /// The file's name, for messages.
    pub(crate) name: &'static str,
    /// Its text, which follows that of the prelude.
    pub(crate) text: &'static str,
}

macro_rules! source {
    ($name:ident, $file:literal $(, after $shared:literal)?) => {
        #[doc = concat!("The kernels of `", $file, "`.")]
        pub(crate) const $name: Source = Source {
            name: $file,
            text: concat!(
                $("#line 1 \"", $shared, "\"\n", include_str!(concat!("kernels/", $shared)),)?
                "#line 1 \"", $file, "\"\n", include_str!(concat!("kernels/", $file))
            ),
        };
    };
}

source!(STREAM, "stream.cu", after "stream.cuh");
source!(FEW, "few.cu");
source!(PAGES, "pages.cu");
source!(DRAW, "draw.cu");
source!(EXPERTS, "experts.cu");
source!(MAMBA, "mamba.cu");
source!(MAMBA_TRAINING, "mamba_training.cu");
source!(ATTENTION, "attention.cu", after "attention.cuh");
source!(ATTENTION_DECODE, "attention_decode.cu", after "attention.cuh");
source!(ATTENTION_QUERY_GRADIENT, "attention_query_gradient.cu", after "attention.cuh");
source!(ATTENTION_KEY_GRADIENT, "attention_key_gradient.cu", after "attention.cuh");
source!(BACKWARD, "backward.cu", after "stream.cuh");
source!(HEADS, "heads.cu");
source!(LOSS, "loss.cu");
source!(UPDATE, "update.cu");
