//! The graders of week 4: each test checks one rule of an exercise.

mod compat;
mod field_mask;
mod frames;
mod layers;
mod layers_contract;
mod settings;
mod status;
mod wire;

/// The texts of the subjects, for graders that read them.
mod sources {
    pub(crate) const LAYERS: &str = include_str!("../../src/layers.rs");
}
