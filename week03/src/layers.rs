//! Layers: the sources of settings, and the errors of reading them.

use std::{error, fmt};

use toml::Table;

/// One source of settings: defaults, a file, the environment.
pub struct Layer {
    name: &'static str,
    read: Box<dyn Fn() -> Result<Table, Cause> + Send + Sync>,
}

/// The reason why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A layer cannot be read, or its content is not a table.
    #[error("the layer {layer} cannot be read")]
    Layer {
        /// The name of the layer.
        layer: &'static str,
        /// The error of its `read` function.
        source: Cause,
    },
    /// A setting is missing, unknown, or has the wrong type.
    #[error("the settings do not match their type")]
    Shape(#[source] toml::de::Error),
    /// The settings match their type, but validation rejects them.
    #[error("the settings are not valid")]
    Invalid(#[source] Cause),
}

/// An error of a layer's `read` function or of a validation.
pub type Cause = Box<dyn error::Error + Send + Sync>;

impl Layer {
    /// Creates a source that is read by `read` and is called `name` in errors.
    pub fn new<F>(name: &'static str, read: F) -> Self
    where
        F: Fn() -> Result<Table, Cause> + Send + Sync + 'static,
    {
        Self { name, read: Box::new(read) }
    }

    /// Reads the current content of the layer.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Layer`] with the layer's name.
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
