//! The types of [`compat`](crate::compat), and the parts of a contract that it
//! compares.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use prost_reflect::prost::Message as _;
use prost_reflect::{
    DescriptorPool, EnumDescriptor, FileDescriptor, MessageDescriptor,
    MethodDescriptor, Value,
};

/// A change that breaks clients of the old contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Break {
    /// The full name in the old contract, such as `comments.v1.Comment.text`.
    pub element: String,
    /// The kind of the change.
    pub change: Change,
    /// The clients that break.
    pub breaks: Breaks,
}

/// The kind of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// The element no longer exists.
    Removed,
    /// The field or enum value has another number.
    Renumbered,
    /// The number belongs to a field or enum value with another name.
    Renamed,
    /// The field has an incompatible type, or the method another request or
    /// response.
    Type,
    /// Two fields can no longer be set together, or they can now.
    Oneof,
    /// A number or a name of the message or enum is no longer reserved.
    Unreserved,
    /// The method cannot be called with the same HTTP request.
    HttpBinding,
}

/// The clients that a change breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breaks {
    /// Clients that use the binary format, also over gRPC.
    Wire,
    /// Clients that use JSON, also over HTTP.
    Json,
    /// Clients of both kinds.
    Both,
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { element, change, breaks } = self;
        write!(f, "{element}: {change:?} ({breaks:?})")
    }
}

/// Collects breaks.
#[derive(Debug, Default)]
pub struct Report(BTreeMap<(String, Change), Breaks>);

impl Report {
    /// Adds a break. If the same change of `element` breaks both formats, the
    /// report has one break.
    pub fn add(&mut self, element: &str, change: Change, breaks: Breaks) {
        let entry = self.0.entry((element.to_owned(), change));
        let known = entry.or_insert(breaks);
        if *known != breaks {
            *known = Breaks::Both;
        }
    }

    /// Returns the breaks, sorted by element and then by change.
    #[must_use]
    pub fn into_breaks(self) -> Vec<Break> {
        let to_break =
            |((element, change), breaks)| Break { element, change, breaks };
        self.0.into_iter().map(to_break).collect()
    }
}

/// The types and methods of two contracts, matched by their full names.
///
/// Files in the folder `google`, which contracts import, are left out: a
/// contract may import other files without breaking its clients.
#[derive(Debug, Default)]
pub struct Pairs {
    /// All messages that both contracts have, also nested ones. The entries of
    /// maps are not included.
    pub messages: Vec<(MessageDescriptor, MessageDescriptor)>,
    /// All enums that both contracts have.
    pub enums: Vec<(EnumDescriptor, EnumDescriptor)>,
    /// All methods that both contracts have.
    pub methods: Vec<(MethodDescriptor, MethodDescriptor)>,
    /// The full names of the messages, enums, services and methods that only
    /// the old contract has. The parts of a removed element are not listed.
    pub removed: Vec<String>,
}

impl Pairs {
    /// Matches the elements of `old` with those of `new`.
    #[must_use]
    pub fn new(old: &DescriptorPool, new: &DescriptorPool) -> Self {
        let mut pairs = Self::default();
        let stays = |parent: Option<MessageDescriptor>| {
            parent.is_none_or(|parent| {
                new.get_message_by_name(parent.full_name()).is_some()
            })
        };
        for message in old.all_messages() {
            if message.is_map_entry() || is_imported(&message.parent_file()) {
                continue;
            }
            match new.get_message_by_name(message.full_name()) {
                Some(same) => pairs.messages.push((message, same)),
                None if stays(message.parent_message()) => {
                    pairs.removed.push(message.full_name().to_owned());
                }
                None => {}
            }
        }
        for each in old.all_enums() {
            if is_imported(&each.parent_file()) {
                continue;
            }
            match new.get_enum_by_name(each.full_name()) {
                Some(same) => pairs.enums.push((each, same)),
                None if stays(each.parent_message()) => {
                    pairs.removed.push(each.full_name().to_owned());
                }
                None => {}
            }
        }
        for service in old.services() {
            if is_imported(&service.parent_file()) {
                continue;
            }
            let Some(same) = new.get_service_by_name(service.full_name())
            else {
                pairs.removed.push(service.full_name().to_owned());
                continue;
            };
            for method in service.methods() {
                match same.methods().find(|new| new.name() == method.name()) {
                    Some(same) => pairs.methods.push((method, same)),
                    None => pairs.removed.push(method.full_name().to_owned()),
                }
            }
        }
        pairs
    }
}

fn is_imported(file: &FileDescriptor) -> bool {
    file.name().starts_with("google/")
}

/// The numbers and names of one message or enum.
#[derive(Debug)]
pub struct Members {
    /// The full name of the message or enum.
    pub element: String,
    /// The fields or the enum values.
    pub members: Vec<Member>,
    /// The ranges of reserved numbers, in any order.
    pub reserved_numbers: Vec<Range<i64>>,
    /// The reserved names.
    pub reserved_names: BTreeSet<String>,
}

/// A field or an enum value.
#[derive(Debug)]
pub struct Member {
    /// The full name. That of an enum value does not contain the name of the
    /// enum: `profile.v1.LEVEL_GOLD`.
    pub element: String,
    /// The number, which stands for the member in the binary format.
    pub number: i64,
    /// The name in the `.proto` file, which can be reserved.
    pub name: String,
    /// The name that stands for the member in JSON.
    pub json_name: String,
}

impl Members {
    /// Returns a member with this number. An enum may have several.
    #[must_use]
    pub fn with_number(&self, number: i64) -> Option<&Member> {
        self.members.iter().find(|member| member.number == number)
    }

    /// Returns the member with this name in JSON.
    #[must_use]
    pub fn with_json_name(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.json_name == name)
    }

    /// Returns whether every number of `wanted` is reserved, be it in one range
    /// or in several.
    #[must_use]
    pub fn reserves(&self, wanted: &Range<i64>) -> bool {
        let mut next = wanted.start;
        while next < wanted.end {
            let mut ranges = self.reserved_numbers.iter();
            match ranges.find(|range| range.contains(&next)) {
                Some(range) => next = range.end,
                None => return false,
            }
        }
        true
    }
}

impl From<&MessageDescriptor> for Members {
    fn from(message: &MessageDescriptor) -> Self {
        let numbers = message.reserved_ranges();
        let fields = message.fields().map(|field| Member {
            element: field.full_name().to_owned(),
            number: field.number().into(),
            name: field.name().to_owned(),
            json_name: field.json_name().to_owned(),
        });
        Self {
            element: message.full_name().to_owned(),
            members: fields.collect(),
            reserved_numbers: numbers
                .map(|range| range.start.into()..range.end.into())
                .collect(),
            reserved_names: message
                .reserved_names()
                .map(str::to_owned)
                .collect(),
        }
    }
}

impl From<&EnumDescriptor> for Members {
    fn from(descriptor: &EnumDescriptor) -> Self {
        let numbers = descriptor.reserved_ranges();
        let values = descriptor.values().map(|value| Member {
            element: value.full_name().to_owned(),
            number: value.number().into(),
            name: value.name().to_owned(),
            json_name: value.name().to_owned(),
        });
        Self {
            element: descriptor.full_name().to_owned(),
            members: values.collect(),
            reserved_numbers: numbers
                .map(|range| {
                    let (first, last) = range.into_inner();
                    first.into()..i64::from(last) + 1
                })
                .collect(),
            reserved_names: descriptor
                .reserved_names()
                .map(str::to_owned)
                .collect(),
        }
    }
}

/// Returns the HTTP bindings of a method, which are its option
/// `google.api.http` and the `additional_bindings` in it, each encoded.
#[must_use]
pub fn http_bindings(method: &MethodDescriptor) -> BTreeSet<Vec<u8>> {
    let pool = method.parent_pool();
    let Some(http) = pool.get_extension_by_name("google.api.http") else {
        return BTreeSet::new();
    };
    let Some(Value::Message(mut rule)) = method.options().take_extension(&http)
    else {
        return BTreeSet::new();
    };
    let mut rules = Vec::new();
    if let Some(Value::List(additional)) =
        rule.take_field_by_name("additional_bindings")
    {
        rules = additional;
    }
    rules.push(Value::Message(rule));
    let encoded = rules.iter().filter_map(Value::as_message);
    encoded.map(|rule| rule.encode_to_vec()).collect()
}
