//! Changes the contract in five ways: what do an old client and a new server read?
//!
//! ```console
//! $ cargo run -p week04 --example evolve
//! ```

use std::error::Error;

use lab::guess;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, Value};
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};
use serde_json::json;
use week04::compat::compare;
use week04::contract::Breaks;
use week04_api::FILE_DESCRIPTOR_SET;

/// A change of the message `Comment`.
struct Scenario {
    name: &'static str,
    change: fn(&mut DescriptorProto),
}

const SCENARIOS: [Scenario; 5] = [
    Scenario { name: "add the field `pinned` as number 12", change: add },
    Scenario { name: "rename the field `text` to `body`", change: rename },
    Scenario { name: "give `text` the number 13", change: renumber },
    Scenario {
        name: "make `like_count` an int32 instead of an int64",
        change: narrow,
    },
    Scenario { name: "remove `author`", change: remove },
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("An old client sends a comment with 5,000,000,000 likes:");
    let sent = json!({
        "author": "ann", "text": "hello", "likeCount": "5000000000",
    });
    println!("  {sent}\n");
    let question = "The contract of the server is changed in five ways, one at \
                    a time. In how many cases does\nthe server read the same \
                    comment, over both gRPC and HTTP?";
    let guess = guess::ask(question)?;
    let old_pool = changed(|_| {})?;
    let old = message(&old_pool);
    let mut same = 0;
    for Scenario { name, change } in SCENARIOS {
        println!("\n{name}");
        let new_pool = changed(change)?;
        let new = message(&new_pool);
        let over_grpc = over_grpc(&old, &new, &sent)?;
        let over_http = over_http(&old, &new, &sent)?;
        println!("  gRPC: {over_grpc}");
        println!("  HTTP: {over_http}");
        let breaks = compare(&old_pool, &new_pool);
        if breaks.is_empty() {
            println!("  compare: may be released");
            same += 1;
        }
        for found in breaks {
            let breaks = match found.breaks {
                Breaks::Wire => "gRPC",
                Breaks::Json => "HTTP",
                Breaks::Both => "gRPC and HTTP",
            };
            let element = &found.element;
            println!(
                "  compare: {:?} ({element}) breaks {breaks}",
                found.change
            );
        }
    }
    println!(
        "\n{same} of 5. Only a new field with a new number is safe. Never change a \
         field, and reserve\nthe number and the name of one that you remove. \
         `compare` lets an int64 become an int32\non the wire, as protobuf \
         does: large values are cut off.{}",
        guess::remark(guess.as_deref(), same)
    );
    Ok(())
}

/// Sends bytes of the old contract to a server with the new one.
fn over_grpc(
    old: &MessageDescriptor,
    new: &MessageDescriptor,
    sent: &serde_json::Value,
) -> Result<String, Box<dyn Error>> {
    let sent = DynamicMessage::deserialize(old.clone(), sent)?;
    let bytes = sent.encode_to_vec();
    Ok(match DynamicMessage::decode(new.clone(), bytes.as_slice()) {
        Ok(read) => show(&read),
        Err(error) => format!("error: {error}"),
    })
}

/// Sends JSON of the old contract to a server with the new one.
fn over_http(
    old: &MessageDescriptor,
    new: &MessageDescriptor,
    sent: &serde_json::Value,
) -> Result<String, Box<dyn Error>> {
    let sent = DynamicMessage::deserialize(old.clone(), sent)?;
    let json = serde_json::to_value(&sent)?;
    Ok(match DynamicMessage::deserialize(new.clone(), &json) {
        Ok(read) => show(&read),
        Err(error) => format!("error: {error}"),
    })
}

/// Returns the fields that have a value.
fn show(message: &DynamicMessage) -> String {
    let known = message.fields().map(|(field, value)| {
        let value = match value {
            Value::String(text) => format!("{text:?}"),
            other => other.to_string(),
        };
        format!("{}: {value}", field.name())
    });
    let known = known.collect::<Vec<_>>().join(", ");
    match message.unknown_fields().count() {
        0 => known,
        unknown => format!("{known}, and {unknown} unknown"),
    }
}

fn message(pool: &DescriptorPool) -> MessageDescriptor {
    let message = pool.get_message_by_name("comments.v1.Comment");
    message.expect("the contract has this message")
}

/// Returns the contract with a changed `Comment`, and without the HTTP options,
/// which these types do not keep.
fn changed(
    change: fn(&mut DescriptorProto),
) -> Result<DescriptorPool, Box<dyn Error>> {
    let mut files = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET)?;
    let messages = files.file.iter_mut().flat_map(|f| &mut f.message_type);
    let comment = messages.into_iter().find(|m| m.name() == "Comment");
    change(comment.expect("the contract has this message"));
    Ok(DescriptorPool::from_file_descriptor_set(files)?)
}

fn field<'a>(
    comment: &'a mut DescriptorProto,
    name: &str,
) -> &'a mut FieldDescriptorProto {
    let field = comment.field.iter_mut().find(|field| field.name() == name);
    field.expect("the message has this field")
}

fn add(comment: &mut DescriptorProto) {
    let mut pinned = field(comment, "etag").clone();
    pinned.name = Some("pinned".to_owned());
    pinned.json_name = None;
    pinned.number = Some(12);
    pinned.set_type(Type::Bool);
    comment.field.push(pinned);
}

fn rename(comment: &mut DescriptorProto) {
    let text = field(comment, "text");
    text.name = Some("body".to_owned());
    text.json_name = Some("body".to_owned());
}

fn renumber(comment: &mut DescriptorProto) {
    field(comment, "text").number = Some(13);
}

fn narrow(comment: &mut DescriptorProto) {
    field(comment, "like_count").set_type(Type::Int32);
}

fn remove(comment: &mut DescriptorProto) {
    comment.field.retain(|field| field.name() != "author");
}
