//! Typed settings from a schema: defaults, a file and the environment become
//! the options of each component. Your turn.
//!
//! These rules are graded, and nothing else:
//!
//! - The schema is the message `conf.v1.Settings`, in the file `conf.proto` in
//!   `week04/api/conf/v1`. A field with fields of its own is a *section*. Every
//!   other field is a *setting*. Its *path* consists of the names of its
//!   sections and its own name, such as `server.http.timeout`.
//! - A setting has up to three values, one for each layer: the default from
//!   `schema::default`, the value in the file, and the variable in the
//!   environment. The last of these values is effective. Each setting is
//!   decided alone: a section that is in the file, or is not, has no effect on
//!   the other layers of its settings.
//! - In the file, a section or a setting has its name or its JSON name:
//!   `max_connections` or `maxConnections`. `null` stands for no value: a
//!   section or a file that is `null` is the same as `{}`. 0 and "" are values.
//! - The variable of `server.http.timeout` is `COMMENTS_SERVER_HTTP_TIMEOUT`,
//!   and so on. Its value is the text, as a JSON string. An empty text is a
//!   value, too. Other programs also set variables: ignore every name that is
//!   not exactly one of these, such as `COMMENTS_PORT` or `comments_data_url`.
//! - `load` checks every value of every layer, also if a later layer overrides
//!   it. It reports each problem once, with its path and its layer, in any
//!   order. If there is none, `load` succeeds. The problems are:
//!   - `Syntax`: the file is not JSON. Then the file has no values and no
//!     other problem. The path is empty. Variables are still checked.
//!   - `NotAnObject`: in the file, a section is neither an object nor `null`.
//!     The file as a whole is also a section. Its path is empty. The variables
//!     of the section's settings are still checked.
//!   - `Unknown`: a key in a section is no name of a field, whatever its value.
//!     `known` has the names of the section's fields, in the order of the
//!     schema. A key may contain dots: `"server.http": {}` is unknown. If both
//!     names of one field are keys, the JSON name is unknown, also if a value
//!     is `null`.
//!   - `HasPassword`: the value of a string setting is a text that may be a URL
//!     with a password. After the first `://`, it has a `:` and later an `@`,
//!     or it has `password=`. A secret setting may have such a value.
//!   - The problems of `schema::parse`, which knows the types.
//! - `Display` of the settings prints one line for each setting that has a
//!   value, in the order of the schema, such as `data.max_connections = 4
//!   (file)`. The value is the JSON that `schema::parse` returns, or `***` if
//!   the setting is a secret.
//! - `options` returns the values as plain structs. It reports all values that
//!   a component cannot use, each with its path and the layer of the effective
//!   value: an address that is no `SocketAddr`, a negative duration, and 0
//!   connections. A duration of 0 is valid.
//! - No printed text depends on the value of a secret. This holds for
//!   `Display` and `Debug` of settings, options and errors, and also if a
//!   secret stands in the wrong place, such as in an unknown key's value. An
//!   error contains no value at all. Only the position of a `Syntax` may depend
//!   on the length of a secret.
//!
//! Help: the modules `schema`, `problem` and `options` are given. They are
//! short: read them. `DynamicMessage::new(schema.clone())` is an empty message,
//! and `message.set_field(&field, value)` sets a field. A section is a
//! `Value::Message`. `json_name` of a field returns its JSON name.

use std::collections::HashMap;
use std::fmt;

use prost_reflect::{
    DynamicMessage, FieldDescriptor, MessageDescriptor, Value,
};
use serde_json::Value as Json;
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
    /// Loads the fields of a message. `path` is empty for the whole file.
    /// `file` is the value of the section in the file, or `null`.
    fn section(
        &mut self,
        _schema: &MessageDescriptor,
        _path: &str,
        _file: Json,
    ) -> DynamicMessage {
        todo!("which keys are left when you have taken those of each field?")
    }

    /// Returns the effective value of a setting, if it has one, and adds its
    /// line. `file` is the value in the file, or `null`.
    fn setting(
        &mut self,
        _field: &FieldDescriptor,
        _path: String,
        _file: Json,
    ) -> Option<Value> {
        todo!("which of the three layers has a value, and is it valid?")
    }

    fn report(&mut self, path: &str, layer: Layer, fault: Fault) {
        self.problems.push(Problem { path: path.to_owned(), layer, fault });
    }
}

/// Returns whether a text may be a URL with a password.
fn has_password(_text: &str) -> bool {
    todo!("what stands between the scheme and the host?")
}

impl Settings {
    /// Returns the options of all components.
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

/// Returns the options of the listener in the section `path`, such as
/// `server.http`.
fn listener(
    _parser: &mut Parser<'_>,
    _path: &str,
    _section: Option<v1::Listener>,
) -> Option<ListenerOptions> {
    todo!("how are both values reported if both are wrong?")
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!("what would a derived `Debug` print?")
    }
}
