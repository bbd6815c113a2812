//! Running a model for training on a GPU.

mod heads;
mod loss;
mod products;
mod steps;
mod trained;
