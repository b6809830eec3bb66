//! Typed settings from a schema: defaults, a file and the environment become
//! the options of each component.
//!
//! *Question.* How does the text of a configuration file become the options of
//! a constructor, if the constructor knows of no file, no variable and no
//! default?
//!
//! *Idea.* A proto message is the schema: it has the names, the types, the
//! defaults and the secrets. [`load`] walks the schema, and not the text. For
//! each field it asks three layers, and the last layer that has a value wins.
//! The keys of the text that are left over are unknown. [`Settings::options`]
//! then parses the values into plain structs, one for each component.
//!
//! *Guarantee.* The settings have exactly the fields of the schema: an unknown
//! key and a value of the wrong type are errors, with their path. All problems
//! are reported at once. No printed text depends on the value of a secret, but
//! for the position of a syntax error.
//!
//! *Cost.* Settings are text until a process starts, so a mistake shows at
//! startup and not at compile time. `serde_json` keeps the last of two equal
//! keys without an error. A secret is still in the memory of the process and,
//! if it was set there, in its environment.
//!
//! ```
//! use week04::settings::load;
//!
//! let file = r#"{ "server": { "http": { "timeout": "1.5s" } } }"#;
//! let password = ("COMMENTS_DATA_PASSWORD".to_owned(), "hunter2".to_owned());
//! let settings = load(file, [password])?;
//!
//! let options = settings.options()?;
//! assert_eq!(options.http.timeout.as_millis(), 1500); // from the file
//! assert_eq!(options.grpc.timeout.as_millis(), 5000); // the default
//!
//! let printed = settings.to_string();
//! assert!(printed.contains(r#"server.http.timeout = "1.500s" (file)"#));
//! assert!(printed.contains("data.password = *** (environment)"));
//!
//! let error = load(r#"{ "server": { "htpp": {} } }"#, []).unwrap_err();
//! assert_eq!(error.problems[0].path, "server.htpp");
//! # Ok::<(), week04::problem::Error>(())
//! ```

use std::collections::HashMap;
use std::fmt;

use prost_reflect::{
    DynamicMessage, FieldDescriptor, MessageDescriptor, Value,
};
use serde_json::{Map, Value as Json};
use week04_api::conf::v1;

use crate::options::{ListenerOptions, Options, Parser};
use crate::problem::{Error, Fault, Layer, Line, Problem};
use crate::schema;

/// The effective values of all settings. `Display` and `Debug` print one line
/// for each setting that has a value.
pub struct Settings {
    message: v1::Settings,
    lines: Vec<Line>,
}

/// Loads the settings from the text of a file and the environment. If there is
/// no file, the text is `{}`.
///
/// Take the variables from [`std::env::vars_os`]: [`std::env::vars`] panics if
/// one of them is not Unicode.
///
/// # Errors
///
/// Returns the problems of all layers.
pub fn load(
    file: &str,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Settings, Error> {
    let environment = environment.into_iter().collect();
    let mut loader = Loader { environment, lines: vec![], problems: vec![] };
    let file = serde_json::from_str(file).unwrap_or_else(|error| {
        let (line, column) = (error.line(), error.column());
        loader.report("", Layer::File, Fault::Syntax { line, column });
        Json::Null // the environment may have problems, too
    });
    let message = loader.section(&schema::settings(), "", file);
    let Loader { lines, problems, .. } = loader;
    match message.transcode_to() {
        Ok(message) if problems.is_empty() => Ok(Settings { message, lines }),
        _ => Err(Error { problems }),
    }
}

/// The environment, and the results so far.
struct Loader {
    environment: HashMap<String, String>,
    lines: Vec<Line>,
    problems: Vec<Problem>,
}

impl Loader {
    /// Loads the fields of a message. `file` is its value in the file.
    fn section(
        &mut self,
        schema: &MessageDescriptor,
        path: &str,
        file: Json,
    ) -> DynamicMessage {
        let mut rest = match file {
            Json::Object(object) => object,
            Json::Null => Map::new(),
            _ => {
                self.report(path, Layer::File, Fault::NotAnObject);
                Map::new()
            }
        };
        let mut message = DynamicMessage::new(schema.clone());
        for field in schema.fields() {
            let path = schema::join(path, field.name());
            let file = rest.remove(field.name());
            let file = file.or_else(|| rest.remove(field.json_name()));
            let file = file.unwrap_or(Json::Null);
            // A section that is not in the file has defaults and variables.
            let value = match schema::section(&field) {
                Some(schema) => {
                    Some(Value::Message(self.section(&schema, &path, file)))
                }
                None => self.setting(&field, path, file),
            };
            if let Some(value) = value {
                message.set_field(&field, value);
            }
        }
        for key in rest.keys() {
            let known = schema.fields().map(|field| field.name().to_owned());
            let fault = Fault::Unknown { known: known.collect() };
            self.report(&schema::join(path, key), Layer::File, fault);
        }
        message
    }

    /// Returns the effective value. Each layer is checked, also if a later one
    /// overrides it.
    fn setting(
        &mut self,
        field: &FieldDescriptor,
        path: String,
        file: Json,
    ) -> Option<Value> {
        let name = path.replace('.', "_").to_uppercase();
        let variable = self.environment.remove(&format!("COMMENTS_{name}"));
        let layers = [
            (Layer::Default, schema::default(field)),
            (Layer::File, file),
            (Layer::Environment, variable.into()),
        ];
        let secret = schema::is_secret(field);
        let mut effective = None;
        for (layer, json) in layers {
            if json.is_null() {
                continue;
            }
            match schema::parse(field, &json) {
                Ok(_) if !secret && json.as_str().is_some_and(has_password) => {
                    self.report(&path, layer, Fault::HasPassword);
                }
                Ok((value, shown)) => effective = Some((layer, value, shown)),
                Err(fault) => self.report(&path, layer, fault),
            }
        }
        let (layer, value, shown) = effective?;
        let shown = if secret { "***".to_owned() } else { shown };
        self.lines.push(Line { path, layer, shown });
        Some(value)
    }

    fn report(&mut self, path: &str, layer: Layer, fault: Fault) {
        self.problems.push(Problem { path: path.to_owned(), layer, fault });
    }
}

/// Returns whether a text may be a URL with a password.
fn has_password(text: &str) -> bool {
    let Some((_scheme, rest)) = text.split_once("://") else { return false };
    let user = rest.rsplit_once('@').map_or("", |(user, _host)| user);
    user.contains(':') || rest.contains("password=")
}

impl Settings {
    /// Returns the options of all components.
    ///
    /// # Errors
    ///
    /// Returns a problem for each value that its component cannot use.
    pub fn options(&self) -> Result<Options, Error> {
        let v1::Settings { server, data, shutdown } = self.message.clone();
        let server = server.unwrap_or_default();
        let mut parser = Parser::new(&self.lines);
        let http = listener(&mut parser, "server.http", server.http);
        let grpc = listener(&mut parser, "server.grpc", server.grpc);
        let data = parser.data(data.unwrap_or_default());
        let shutdown = parser.shutdown(shutdown.unwrap_or_default());
        match (http, grpc, data, shutdown) {
            (Some(http), Some(grpc), Some(data), Some(shutdown)) => {
                Ok(Options { http, grpc, data, shutdown })
            }
            _ => Err(Error { problems: parser.problems }),
        }
    }
}

/// Returns the options of the listener in the section `path`.
fn listener(
    parser: &mut Parser<'_>,
    path: &str,
    section: Option<v1::Listener>,
) -> Option<ListenerOptions> {
    let section = section.unwrap_or_default();
    let path = |name| schema::join(path, name);
    // Parses all values before the first `?`, so that all are reported.
    let address = section.address().parse();
    let address = parser.parsed(&path("address"), address, Fault::NotAnAddress);
    let timeout = parser.duration(&path("timeout"), section.timeout);
    Some(ListenerOptions {
        address: address?,
        timeout: timeout?,
        max_body_bytes: section.max_body_bytes() as usize,
    })
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

// A derived `Debug` would print the message, which contains the secrets.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
