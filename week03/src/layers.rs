//! Where settings come from, and why they cannot be used.

use std::{error, fmt};

use toml::Table;

/// One source of settings: defaults, a file, the environment.
pub struct Layer {
    name: &'static str,
    read: Box<dyn Fn() -> Result<Table, Cause> + Send + Sync>,
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A layer cannot be read, or is not a table.
    #[error("the layer {layer} cannot be read")]
    Layer {
        /// Its name.
        layer: &'static str,
        /// Why.
        source: Cause,
    },
    /// A setting is missing, unknown, or of another type.
    #[error("the settings have another shape")]
    Shape(#[source] toml::de::Error),
    /// They have the right shape, and must not be used.
    #[error("the settings are not valid")]
    Invalid(#[source] Cause),
}

/// What others fail with.
pub type Cause = Box<dyn error::Error + Send + Sync>;

impl Layer {
    /// A source that is read by `read`, and has this `name` in errors.
    pub fn new<F>(name: &'static str, read: F) -> Self
    where
        F: Fn() -> Result<Table, Cause> + Send + Sync + 'static,
    {
        Self { name, read: Box::new(read) }
    }

    /// What it says now.
    ///
    /// # Errors
    ///
    /// [`Error::Layer`], with its name.
    pub fn read(&self) -> Result<Table, Error> {
        let layer = self.name;
        (self.read)().map_err(|source| Error::Layer { layer, source })
    }
}

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layer")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
