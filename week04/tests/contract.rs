//! Compares the contracts of this week with those of the last release.

use std::path::Path;
use std::{env, fs};

use prost_reflect::prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage};
use week04::compat::compare;
use week04::contract::Break;
use week04_api::{DESCRIPTORS, FILE_DESCRIPTOR_SET};

/// The contracts of the last release, without comments.
const BASELINE: &str = "api/baseline.binpb";

const HELP: &str = "\
    To accept this, write the baseline again and commit it:\n\
    NEW_BASELINE=1 cargo test -p week04 --test contract\n";

#[test]
fn the_contracts_break_no_client_of_the_baseline() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(BASELINE);
    if env::var_os("NEW_BASELINE").is_some() {
        fs::write(&file, without_comments()).unwrap();
    }
    let baseline = fs::read(&file).unwrap_or_else(|error| {
        panic!("cannot read week04/{BASELINE}: {error}\n{HELP}")
    });
    let baseline = DescriptorPool::decode(&*baseline).unwrap();
    let breaks = compare(&baseline, &DESCRIPTORS);
    assert!(
        breaks.is_empty(),
        "expected no break since week04/{BASELINE}, got:\n{}\nEach of them \
         breaks clients that are in use.\n{HELP}",
        lines(&breaks)
    );
    // What the baseline does not have, the next comparison would not protect.
    let missing = compare(&DESCRIPTORS, &baseline);
    let missing: Vec<_> = missing.iter().map(|each| &*each.element).collect();
    assert!(
        missing.is_empty(),
        "the changes break no client, but week04/{BASELINE} does not have all \
         of these elements, or their reservations: {}\n{HELP}",
        missing.join(", ")
    );
}

/// Returns one line for each break.
fn lines(breaks: &[Break]) -> String {
    let lines: Vec<_> = breaks.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

/// Returns the current contracts, encoded.
fn without_comments() -> Vec<u8> {
    let message = DESCRIPTORS
        .get_message_by_name("google.protobuf.FileDescriptorSet")
        .unwrap();
    let mut set = DynamicMessage::decode(message, FILE_DESCRIPTOR_SET).unwrap();
    let files = set.get_field_by_name_mut("file").unwrap();
    for file in files.as_list_mut().unwrap() {
        let file = file.as_message_mut().unwrap();
        file.clear_field_by_name("source_code_info");
    }
    set.encode_to_vec()
}
