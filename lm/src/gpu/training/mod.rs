//! What only training needs of a GPU: the way back through the small steps, the loss, and weights that are updated.

pub(crate) mod heads;
pub(crate) mod loss;
pub(crate) mod mamba;
pub(crate) mod products;
pub(crate) mod steps;
pub(crate) mod trained;
