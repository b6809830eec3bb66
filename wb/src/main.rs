//! The workbook's command.
fn main() {}
