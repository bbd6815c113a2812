//! The task kinds of `dag` and the plain parts they are made of.
pub mod math;
pub mod packing;
pub mod stats;
pub mod table;
