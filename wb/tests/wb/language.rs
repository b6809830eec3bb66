//! The language of the question that `start` prints.

use crate::test_workbook::{CommandOutput, TestWorkbook};

const ENGLISH: &str = "How long does a client wait";
const CHINESE: &str = "客户端重试之前应该等待多久？";

fn start(variables: &[(&str, &str)], arguments: &[&str]) -> CommandOutput {
    let book = TestWorkbook::new();
    let mut command = book.command(&["start", "backoff"]);
    command.args(arguments).envs(variables.iter().copied());
    CommandOutput::new(command.output().unwrap()).exits_with(0)
}

#[test]
fn start_prints_the_question_in_the_language_of_the_locale() {
    start(&[], &[]).shows(&[ENGLISH]).omits(CHINESE);
    let chinese = [("LANG", "zh_CN.UTF-8")];
    start(&chinese, &[]).shows(&[CHINESE]).omits(ENGLISH);
    let english = [("LANG", "zh_CN.UTF-8"), ("LC_MESSAGES", "en_GB.UTF-8")];
    start(&english, &[]).shows(&[ENGLISH]).omits(CHINESE);
    let chinese = [("LC_ALL", "zh_TW.UTF-8"), ("LC_MESSAGES", "en_GB.UTF-8")];
    start(&chinese, &[]).shows(&[CHINESE]).omits(ENGLISH);
}

#[test]
fn lang_overrides_the_locale() {
    start(&[], &["--lang", "zh"]).shows(&[CHINESE]).omits(ENGLISH);
    let chinese = [("LC_ALL", "zh_CN.UTF-8")];
    start(&chinese, &["--lang", "en"]).shows(&[ENGLISH]).omits(CHINESE);
}

#[test]
fn an_unknown_language_is_rejected() {
    let book = TestWorkbook::new();
    book.run(&["start", "backoff", "--lang", "fr"])
        .exits_with(2)
        .shows(&["'fr'", "possible values: en, zh"]);
    let attempt = book.path("attempts/week01/backoff.rs");
    assert!(!attempt.exists(), "the stub is copied after a wrong argument");
}
