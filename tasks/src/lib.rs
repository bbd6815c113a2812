//! The task kinds of `dag`, one file or folder each, and the registry that lists them.

pub mod arithmetic;
pub mod backend;
pub mod command;
pub mod dataset;
mod device;
mod error;
pub mod evaluate;
pub mod expression;
pub mod filter;
pub mod hub;
pub mod judge;
pub mod math;
pub mod mix;
pub mod model;
pub mod pack;
pub mod packing;
mod process;
mod purse;
pub mod records;
pub mod report;
pub mod responses;
pub mod sample;
mod spill;
pub mod stats;
mod survey;
pub mod table;
mod token_store;
pub mod train;

use dag_engine::Registry;

/// The kinds an experiment may use: one line each.
pub fn registry() -> Registry {
    Registry::new()
        .with::<command::Command>()
        .with::<dataset::Dataset>()
        .with::<evaluate::Evaluate>()
        .with::<filter::Filter>()
        .with::<judge::Judge>()
        .with::<mix::Mix>()
        .with::<model::ModelTask>()
        .with::<pack::Pack>()
        .with::<report::Report>()
        .with::<sample::SampleTask>()
        .with::<train::Train>()
}
