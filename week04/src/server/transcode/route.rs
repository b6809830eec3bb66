//! The HTTP forms of methods: `GET /v1/{name=subjects/*}` and the like.

use std::str::Split;

use http::{Method, Uri};
use percent_encoding::percent_decode_str;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor};

/// One HTTP form of a method.
#[derive(Debug, Clone)]
pub struct Route {
    /// The method in the contract.
    pub method: MethodDescriptor,
    /// The path of the method in gRPC.
    pub grpc_path: Uri,
    /// GET, POST and so on.
    pub http_method: Method,
    /// The template of the path, as in the contract.
    pub template: String,
    /// What the body contains.
    pub body: RequestBody,
    /// The variables of the path, such as `comment.name`.
    pub variables: Vec<Variable>,
    segments: Vec<Segment>,
    /// The last part of the path after a colon, such as `like`.
    verb: Option<String>,
}

/// What the body of a request contains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestBody {
    /// There is none: all fields are in the path and in the query.
    Absent,
    /// One field.
    Field(String),
    /// All fields that are not in the path.
    Whole,
}

/// A variable of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// The path of the field that it sets, such as `comment.name`.
    pub field: String,
    /// The segments of the path that it contains.
    segments: std::ops::Range<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(String),
    /// `*`: any text without a slash.
    Any,
}

/// Returns the HTTP forms of all methods of the services in `pool`.
///
/// # Panics
///
/// Panics if a template is malformed: the contract has a mistake.
#[must_use]
pub fn routes(pool: &DescriptorPool) -> Vec<Route> {
    let Some(http) = pool.get_extension_by_name("google.api.http") else {
        return Vec::new();
    };
    let mut routes = Vec::new();
    for service in pool.services() {
        for method in service.methods() {
            let options = method.options();
            if !options.has_extension(&http) {
                continue;
            }
            let rule = options.get_extension(&http);
            let rule = rule.as_message().expect("HttpRule is a message");
            routes.push(Route::new(&method, rule));
            let more = rule.get_field_by_name("additional_bindings");
            let more = more.expect("HttpRule has this field");
            for rule in more.as_list().unwrap_or_default() {
                let rule = rule.as_message().expect("HttpRule is a message");
                routes.push(Route::new(&method, rule));
            }
        }
    }
    routes
}

impl Route {
    fn new(method: &MethodDescriptor, rule: &DynamicMessage) -> Self {
        let verbs = ["get", "put", "post", "delete", "patch"];
        let verb = verbs
            .into_iter()
            .find(|verb| rule.has_field_by_name(verb))
            .expect("HttpRule has a method");
        let text = |field| {
            let value = rule.get_field_by_name(field);
            let value = value.expect("HttpRule has this field");
            value.as_str().expect("the field is a string").to_owned()
        };
        let http_method = Method::from_bytes(verb.to_uppercase().as_bytes())
            .expect("the name of a method");
        let service = method.parent_service().full_name();
        let grpc_path = format!("/{service}/{}", method.name());
        let body = match text("body").as_str() {
            "" => RequestBody::Absent,
            "*" => RequestBody::Whole,
            field => RequestBody::Field(field.to_owned()),
        };
        let template = text(verb);
        let (segments, variables, verb) =
            parse(&template).unwrap_or_else(|| {
                panic!("{}: malformed path {template}", method.full_name())
            });
        Self {
            method: method.clone(),
            grpc_path: grpc_path.parse().expect("names are valid in a path"),
            http_method,
            template,
            body,
            variables,
            segments,
            verb,
        }
    }

    /// Returns whether `path` has the form of this route.
    pub(super) fn matches(&self, path: &str) -> bool {
        let Some(mut parts) = self.parts(path) else { return false };
        let fits = |segment: &Segment| {
            parts.next().is_some_and(|part| segment.matches(part))
        };
        self.segments.iter().all(fits) && parts.next().is_none()
    }

    /// Returns the value of each variable in a path that matches.
    pub(super) fn values(&self, path: &str) -> Vec<String> {
        let value = |Variable { segments, .. }: &Variable| {
            let parts = self.parts(path).into_iter().flatten();
            let parts = parts.skip(segments.start).take(segments.len());
            let decode = |part| percent_decode_str(part).decode_utf8_lossy();
            parts.map(decode).collect::<Vec<_>>().join("/")
        };
        self.variables.iter().map(value).collect()
    }

    /// Returns the encoded segments of a path, without the verb.
    fn parts<'a>(&self, path: &'a str) -> Option<Split<'a, char>> {
        let path = path.strip_prefix('/')?;
        let path = match &self.verb {
            Some(verb) => path.strip_suffix(verb)?.strip_suffix(':')?,
            None => path,
        };
        Some(path.split('/'))
    }
}

impl Segment {
    /// Returns whether the text of a segment in a path matches.
    fn matches(&self, encoded: &str) -> bool {
        let text = percent_decode_str(encoded);
        match self {
            Self::Literal(literal) => text.eq(literal.bytes()),
            // An encoded slash would make two segments out of one. A colon
            // would hide a verb.
            Self::Any => text.decode_utf8().is_ok_and(|text| {
                !text.is_empty() && !text.contains(['/', ':'])
            }),
        }
    }
}

type Parsed = (Vec<Segment>, Vec<Variable>, Option<String>);

/// Parses a template.
fn parse(template: &str) -> Option<Parsed> {
    let mut rest = template.strip_prefix('/')?;
    let mut verb = None;
    if let Some((path, last)) = rest.rsplit_once(':')
        && !last.contains(['/', '}'])
    {
        rest = path;
        verb = Some(last.to_owned());
    }
    let (mut segments, mut variables) = (Vec::new(), Vec::new());
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('{') {
            let (variable, after) = inner.split_once('}')?;
            let (field, pattern) =
                variable.split_once('=').unwrap_or((variable, "*"));
            let start = segments.len();
            for part in pattern.split('/') {
                segments.push(segment(part)?);
            }
            let range = start..segments.len();
            let field = field.to_owned();
            variables.push(Variable { field, segments: range });
            rest = after.strip_prefix('/').unwrap_or(after);
        } else {
            let (part, after) = rest.split_once('/').unwrap_or((rest, ""));
            segments.push(segment(part)?);
            rest = after;
        }
    }
    Some((segments, variables, verb))
}

fn segment(part: &str) -> Option<Segment> {
    match part {
        "*" => Some(Segment::Any),
        "" | "**" => None,
        _ if part.contains(['{', '}', '*']) => None,
        literal => Some(Segment::Literal(literal.to_owned())),
    }
}
