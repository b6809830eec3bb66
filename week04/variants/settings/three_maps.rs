//! Typed settings from a schema. Each layer becomes a flat map from paths to
//! values, and a later map overrides an earlier one. Only the file needs
//! recursion, and the effective values become a message in one step.

use std::collections::HashMap;
use std::fmt;
use std::iter::zip;

use prost_reflect::{DynamicMessage, FieldDescriptor, MessageDescriptor};
use serde_json::{Map, Value as Json, json};
use week04_api::conf::v1;

use crate::options::{ListenerOptions, Options, Parser};
use crate::problem::{Error, Fault, Layer, Line, Problem};
use crate::schema;

/// The effective values of all settings.
pub struct Settings {
    message: v1::Settings,
    lines: Vec<Line>,
}

/// Values by path.
type Values = HashMap<String, Json>;

/// Loads the settings from the text of a file and the environment.
pub fn load(
    file: &str,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Settings, Error> {
    let root = schema::settings();
    let mut all = Vec::new();
    settings(&root, "", &mut all);

    let mut problems = Vec::new();
    let mut in_file = Values::new();
    match serde_json::from_str(file) {
        Ok(json) => flatten(&root, "", json, &mut in_file, &mut problems),
        Err(error) => {
            let (line, column) = (error.line(), error.column());
            let fault = Fault::Syntax { line, column };
            problems.push(problem("", Layer::File, fault));
        }
    }
    let mut variables: HashMap<_, _> = environment.into_iter().collect();
    let named = all.iter().filter_map(|(path, _)| {
        let name = format!("COMMENTS.{path}").to_uppercase().replace('.', "_");
        Some((path.clone(), variables.remove(&name)?.into()))
    });
    let in_environment: Values = named.collect();
    let default = |(path, field): &(String, FieldDescriptor)| {
        (path.clone(), schema::default(field))
    };
    let defaults: Values = all.iter().map(default).collect();

    let mut lines = Vec::new();
    let mut effective = json!({});
    let layers = [Layer::Default, Layer::File, Layer::Environment];
    for (path, field) in all {
        let is_secret = schema::is_secret(&field);
        let mut last = None;
        for (layer, values) in
            zip(layers, [&defaults, &in_file, &in_environment])
        {
            let Some(json) = values.get(&path).filter(|json| !json.is_null())
            else {
                continue;
            };
            match schema::parse(&field, json) {
                Err(fault) => problems.push(problem(&path, layer, fault)),
                Ok(_) if !is_secret && has_password(json) => {
                    problems.push(problem(&path, layer, Fault::HasPassword));
                }
                Ok((_, text)) => last = Some((layer, json, text)),
            }
        }
        if let Some((layer, json, text)) = last {
            let names = path.split('.');
            *names.fold(&mut effective, |it, name| &mut it[name]) =
                json.clone();
            let shown = if is_secret { "***".to_owned() } else { text };
            lines.push(Line { path, layer, shown });
        }
    }
    if !problems.is_empty() {
        return Err(Error { problems });
    }
    let message = DynamicMessage::deserialize(root, effective);
    let message = message.expect("each value was parsed alone");
    let message = message.transcode_to().expect("it has the same type");
    Ok(Settings { message, lines })
}

fn problem(path: &str, layer: Layer, fault: Fault) -> Problem {
    Problem { path: path.to_owned(), layer, fault }
}

/// Lists the settings of a section, at any depth.
fn settings(
    section: &MessageDescriptor,
    path: &str,
    all: &mut Vec<(String, FieldDescriptor)>,
) {
    for field in section.fields() {
        let path = schema::join(path, field.name());
        match schema::section(&field) {
            Some(inner) => settings(&inner, &path, all),
            None => all.push((path, field)),
        }
    }
}

/// Moves the values of one section of the file to `values`.
fn flatten(
    section: &MessageDescriptor,
    path: &str,
    json: Json,
    values: &mut Values,
    problems: &mut Vec<Problem>,
) {
    let object = match json {
        Json::Null => Map::new(),
        Json::Object(object) => object,
        _ => {
            return problems.push(problem(
                path,
                Layer::File,
                Fault::NotAnObject,
            ));
        }
    };
    let has_name = |name: &str| object.contains_key(name);
    let unknown = |key: &str| match section.get_field_by_json_name(key) {
        Some(field) => field.name() != key && has_name(field.name()),
        None => section.get_field_by_name(key).is_none(),
    };
    let unknown: Vec<_> =
        object.keys().filter(|key| unknown(key)).cloned().collect();
    for (key, json) in object {
        let field = section
            .get_field_by_name(&key)
            .or_else(|| section.get_field_by_json_name(&key))
            .filter(|_| !unknown.contains(&key));
        let Some(field) = field else {
            let known = section.fields().map(|it| it.name().to_owned());
            let fault = Fault::Unknown { known: known.collect() };
            let path = schema::join(path, &key);
            problems.push(problem(&path, Layer::File, fault));
            continue;
        };
        let path = schema::join(path, field.name());
        match schema::section(&field) {
            Some(inner) => flatten(&inner, &path, json, values, problems),
            None => drop(values.insert(path, json)),
        }
    }
}

/// Returns whether a value is a text that may be a URL with a password.
fn has_password(json: &Json) -> bool {
    let text = json.as_str().unwrap_or_default();
    let rest = text.split_once("://").map_or("", |(_, rest)| rest);
    let colon = rest.find(':').unwrap_or(rest.len());
    rest[colon..].contains('@') || rest.contains("password=")
}

impl Settings {
    /// Returns the options of all components.
    pub fn options(&self) -> Result<Options, Error> {
        let mut parser = Parser::new(&self.lines);
        let options = options(&mut parser, self.message.clone());
        options.ok_or(Error { problems: parser.problems })
    }
}

fn options(parser: &mut Parser<'_>, from: v1::Settings) -> Option<Options> {
    let server = from.server?;
    let http = listener(parser, "server.http", server.http?);
    let grpc = listener(parser, "server.grpc", server.grpc?);
    let data = parser.data(from.data?);
    let shutdown = parser.shutdown(from.shutdown?);
    Some(Options { http: http?, grpc: grpc?, data: data?, shutdown: shutdown? })
}

fn listener(
    parser: &mut Parser<'_>,
    section: &str,
    from: v1::Listener,
) -> Option<ListenerOptions> {
    let timeout = parser.duration(&format!("{section}.timeout"), from.timeout);
    let address = from.address?.parse();
    let path = format!("{section}.address");
    Some(ListenerOptions {
        address: parser.parsed(&path, address, Fault::NotAnAddress)?,
        timeout: timeout?,
        max_body_bytes: from.max_body_bytes?.try_into().ok()?,
    })
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.lines).finish()
    }
}
