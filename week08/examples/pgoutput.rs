//! Which bytes does PostgreSQL send for a change, and what do they mean?
//!
//! ```console
//! $ cargo run -p week08 --example pgoutput
//! $ cargo run -p week08 --example pgoutput -- tags
//! ```
//!
//! Prints a recorded stream: each message in hexadecimal digits, and beside
//! them its fields. With an argument, prints the commands that contain it.

use std::env;
use std::error::Error;

use lab::guess;
use week08::pgoutput::{Decoder, decode};
use week08::replication::{Change, Event, Message, Row, Tuple, Value};

/// The bytes of a line.
const WIDTH: usize = 12;

/// Longer texts are cut.
const SHORT: usize = 24;

/// The commands that are printed if there is no argument.
const SHOWN: [&str; 6] = [
    "INSERT INTO accounts VALUES (1",
    "SET id = 3",
    "SET cents = 7",
    "DELETE FROM accounts",
    "SET cents = 6 WHERE",
    "ROLLBACK; CHECKPOINT",
];

/// The update of a row with a long text that does not change.
const TOAST: &str = "SET cents = 7";

fn main() -> Result<(), Box<dyn Error>> {
    let wanted = env::args().nth(1);
    let recorded = include_str!("../tests/grade/pgoutput/recorded.txt");
    let guess = guess::ask(
        "A row has a text of 2,100 bytes. An UPDATE changes a number in this \
         row, and not the text.\nHow many bytes does the server send for the \
         row?",
    )?;
    let mut decoder = Decoder::default();
    let (mut is_shown, mut is_toast, mut toast) = (false, false, 0);
    for line in recorded.lines() {
        if let Some((_, sql)) = line.split_once("> ") {
            is_shown = match &wanted {
                Some(wanted) => sql.contains(wanted.as_str()),
                None => SHOWN.iter().any(|shown| sql.contains(shown)),
            };
            is_toast = sql.contains(TOAST);
            if is_shown {
                println!("\n{sql}");
            }
            continue;
        }
        let Some(bytes) = from_hex(line) else { continue };
        let message = decode(&bytes)?;
        if is_toast && matches!(message, Message::Update { .. }) {
            toast = bytes.len();
        }
        if is_shown {
            dump(&bytes, &fields(&message));
        }
        let event = decoder.push(&bytes)?;
        for line in event.iter().flat_map(meaning).filter(|_| is_shown) {
            println!("  => {line}");
        }
    }
    println!(
        "\nThe UPDATE of the row with 2,100 bytes of text took {toast} bytes.{} \
         The text is\none of them: `u`, for unchanged.",
        guess::remark(guess.as_deref(), toast)
    );
    Ok(())
}

/// Prints the bytes on the left and the fields on the right.
fn dump(bytes: &[u8], fields: &[String]) {
    let lines = bytes.len().div_ceil(WIDTH).min(4).max(fields.len());
    for i in 0..lines {
        let start = (i * WIDTH).min(bytes.len());
        let end = (start + WIDTH).min(bytes.len());
        let hex = bytes[start..end].iter().map(|byte| format!("{byte:02x} "));
        let mut hex: String = hex.collect();
        if i + 1 == lines && end < bytes.len() {
            hex = format!("… {} more bytes", bytes.len() - start);
        }
        let field = fields.get(i).map_or("", String::as_str);
        println!("  {hex:36} {field}");
    }
}

/// Describes the message, a field on each line.
fn fields(message: &Message<'_>) -> Vec<String> {
    match message {
        Message::Begin { final_lsn, xid, .. } => {
            vec![format!("Begin {xid}"), format!("  commit at {final_lsn}")]
        }
        Message::Commit { commit_lsn, end_lsn, .. } => vec![
            "Commit".to_owned(),
            format!("  at {commit_lsn}, end {end_lsn}"),
        ],
        Message::Origin { commit_lsn, name } => {
            vec![format!("Origin {name} {commit_lsn}")]
        }
        Message::Relation(relation) => {
            let first = format!("Relation {} {}", relation.oid, relation.name);
            let columns = relation.columns.iter().map(|column| {
                let key = if column.is_key { " (key)" } else { "" };
                format!("  {}: type {}{key}", column.name, column.type_oid)
            });
            [first].into_iter().chain(columns).collect()
        }
        Message::Type { oid, name, .. } => vec![format!("Type {oid} {name}")],
        Message::Insert { relation, new } => {
            let first = format!("Insert into {relation}");
            [vec![first], tuple("new", new)].concat()
        }
        Message::Update { relation, old, new } => {
            let first = format!("Update of {relation}");
            let old = old.as_ref().map(|old| tuple("old", old));
            [vec![first], old.unwrap_or_default(), tuple("new", new)].concat()
        }
        Message::Delete { relation, old } => {
            let first = format!("Delete from {relation}");
            [vec![first], tuple("old", old)].concat()
        }
        Message::Truncate { relations, .. } => {
            vec![format!("Truncate {relations:?}")]
        }
        Message::Logical(message) => {
            let content = message.content.escape_ascii();
            vec![format!("Message {}: {content}", message.prefix)]
        }
    }
}

fn tuple(name: &str, tuple: &Tuple<'_>) -> Vec<String> {
    let kind = if tuple.key_only { " (K: the key)" } else { "" };
    let values =
        tuple.values.iter().map(|value| format!("    {}", show(value)));
    [format!("  {name}{kind}")].into_iter().chain(values).collect()
}

fn show(value: &Value<'_>) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Unchanged => "unchanged".to_owned(),
        Value::Text(text) if text.len() > SHORT => {
            format!("a text of {} bytes", text.len())
        }
        Value::Text(text) => format!("{text:?}"),
        Value::Binary(bytes) => format!("{bytes:02x?}"),
    }
}

/// Describes what a service can rely on.
fn meaning(event: &Event) -> Vec<String> {
    let transaction = match event {
        Event::Transaction(transaction) => transaction,
        Event::Message(message) => {
            let content = message.content.escape_ascii();
            return vec![format!("message outside: {content}")];
        }
    };
    let row = |row: &Row| {
        let columns = row.relation.columns.iter().zip(&row.values);
        let columns = columns.filter_map(|(column, value)| {
            Some(format!("{} {}", column.name, show(value.as_ref()?)))
        });
        columns.collect::<Vec<_>>().join(", ")
    };
    let lines = transaction.changes.iter().map(|change| match change {
        Change::Insert { new } => format!("insert {}", row(new)),
        Change::Update { old, new } => {
            let old = old.as_ref().map(|old| format!(" (was: {})", row(old)));
            format!("update {}{}", row(new), old.unwrap_or_default())
        }
        Change::Delete { old } => format!("delete {}", row(old)),
        Change::Truncate { relations, .. } => {
            format!("truncate {} tables", relations.len())
        }
        Change::Message(message) => {
            format!("message {}", message.content.escape_ascii())
        }
    });
    let confirm = format!("confirm {} when done", transaction.end_lsn);
    lines.chain([confirm]).collect()
}

/// Returns the bytes of a line of digits, or `None` if it has other characters.
fn from_hex(line: &str) -> Option<Vec<u8>> {
    let digits = line.as_bytes().chunks(2);
    let digits = digits.map(|two| str::from_utf8(two).ok());
    let bytes = digits.map(|two| u8::from_str_radix(two?, 16).ok());
    bytes.collect::<Option<Vec<_>>>().filter(|bytes| !bytes.is_empty())
}
