//! Attention of new tokens over the pages of keys and values of their sequences.

use crate::gpu::{Element, View};

/// Keys and values of all sequences in one layer.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_field_names, reason = "pages are what a seat has")]
pub(crate) struct Pages {
    /// `[page][key head][token][element]`.
    pub(crate) keys: View<Element>,
    /// The same of values.
    pub(crate) values: View<Element>,
    /// The pages of every seat, in order.
    pub(crate) tables: View<u32>,
    /// Pages that a seat may have.
    pub(crate) pages_per_seat: usize,
}
