//! `verify` accepts a correct workbook, and finds each kind of fault.

use crate::test_workbook::{CommandOutput, TestWorkbook};

const TOML: &str = "week01/exercises/backoff.toml";
const GRADER: &str = "week01/tests/grade/backoff.rs";

#[test]
#[ignore = "needs rustfmt and clippy"]
fn a_correct_workbook_has_no_faults_and_skipped_tests_are_listed() {
    let book = TestWorkbook::new();
    let bin = book.path_without("redis-server");
    let verify = |arguments: &[&str]| {
        let mut command = book.command(arguments);
        CommandOutput::new(command.env("PATH", &bin).output().unwrap())
    };
    verify(&["verify", "--allow-skips"]).exits_with(0).shows(&[
        "redis-server is missing",
        "apt-get install",
        "week01/backoff      6  passes  1 of 1    fails  3 of 3",
        "(1 not run)",
        "time of each part",
        "skipped: tests that need redis-server",
        "no faults",
    ]);
    verify(&["verify", "week01"])
        .exits_with(1)
        .shows(&["skipped: tests that need redis-server", "--allow-skips"]);
}

#[test]
fn verify_exercise_skips_the_checks_of_the_workspace() {
    let book = TestWorkbook::new();
    // A fault of the workspace: rustfmt would change this line.
    book.replace("week01/src/lib.rs", "pub mod pause;", "pub  mod pause;");
    book.run(&["verify", "--allow-skips", "--exercise", "backoff"])
        .exits_with(0)
        .shows(&["week01/backoff", "no faults"]);
    book.run(&["verify", "--exercise", "backof"])
        .exits_with(2)
        .shows(&["backoff"]);
}

#[test]
fn each_kind_of_fault_in_an_exercise_is_found() {
    let book = TestWorkbook::new();
    // A wrong variant.
    let variant = "week01/variants/backoff/loop_over_tries.rs";
    book.replace(variant, ".min(1000)", ".min(2000)");
    // A stub that passes a test.
    book.replace("week01/stubs/backoff.rs", "_n: u32", "n: u32");
    book.replace(
        "week01/stubs/backoff.rs",
        "todo!(",
        "if n == 0 { return 10 }\n    todo!(",
    );
    // One foil for each kind of fault.
    book.replace(
        TOML,
        r#"["growth::each_wait_doubles", "models::a_modelled_wait_doubles"]"#,
        r#"["growth::each_wait_doubles", "growth::the_first_wait_is_ten_milliseconds"]
sometimes_caught_by = ["growth::a_wait_halves", "growth::each_wait_doubles"]"#,
    );
    let more = r#"
[foils.does_not_compile]
lesson = "l"
tempts = "t"
caught_by = ["limits::a"]
[[foils.does_not_compile.edits]]
find = "{ 1000 }"
replace = "{ 1000_u32 }"

[foils.hangs]
lesson = "l"
tempts = "t"
caught_by = ["limits::a_wait_is_at_most_a_second", "models::d"]
[[foils.hangs.edits]]
find = "{ 1000 }"
replace = "{ loop { std::thread::park() } }"

[foils.not_found]
lesson = "l"
tempts = "t"
caught_by = ["limits::b"]
[[foils.not_found.edits]]
find = "nowhere"
replace = ""

[foils.found_often]
lesson = "l"
tempts = "t"
caught_by = ["limits::c"]
[[foils.found_often.edits]]
find = "doubled"
replace = ""

[foils.nowhere_at_all]
lesson = "l"
tempts = ""
caught_by = ["limits::c"]
"#;
    book.write(TOML, &format!("{}{more}", book.read(TOML)));
    book.replace(
        TOML,
        "Wait longer each time",
        "Wait longer and longer each and every time",
    );
    book.replace(TOML, r#"example = "backoff""#, r#"example = "forward""#);
    book.replace(GRADER, "needs redis-server", "needs a-new-one");
    let summary = "notes/pages/SUMMARY.md";
    book.replace(summary, "(week01/backoff.md)", "(week01/elsewhere.md)");
    std::fs::remove_file(book.path("notes/pages/week01/backoff.md")).unwrap();

    book.replace("README.md", "(notes/pages/week01/backoff.md)", "(nowhere)");
    book.replace("week01/src/lib.rs", "[`backoff`]", "backoff");

    let mut output = book
        .run(&["verify", "--exercises", "--allow-skips"])
        .exits_with(1)
        .shows(&["week01/pause"]);
    for fault in [
        "variant loop_over_tries: does not pass",
        "BROKEN   a wait is at most a second",
        "stub: passes tests without any work: growth::the_first_wait_is_ten_milliseconds",
        "foil grows_by_steps: does not fail the tests in caught_by",
        "fails, but is not named:\n    models::a_modelled_wait_doubles",
        "is named, but does not exist:\n    growth::a_wait_halves",
        "is named twice:\n    growth::each_wait_doubles",
        "is named, but passes:\n    growth::the_first_wait_is_ten_milliseconds",
        "foil does_not_compile: does not compile",
        "foil hangs: hangs",
        "foil not_found: \"nowhere\" occurs 0 times in the answer",
        "foil found_often: \"doubled\" occurs 3 times in the answer",
        "foil nowhere_at_all: the foil has neither edits nor a file week01/foils/backoff/nowhere_at_all.rs",
        "foil nowhere_at_all fails the same tests as found_often",
        "a text in the toml is empty",
        "the title has more than 36 columns",
        "the file week01/examples/forward.rs does not exist",
        "the file notes/pages/week01/backoff.md does not exist",
        "README.md has no link (notes/pages/week01/backoff.md)",
        "week01/src/lib.rs has no [`backoff`]",
        "SUMMARY.md has no link (week01/backoff.md)",
        "needs `a-new-one`, which is not in `lab::servers`",
    ] {
        output = output.shows(&[fault]);
    }
}

#[test]
#[ignore = "needs rustfmt and clippy"]
fn each_kind_of_fault_in_the_workspace_is_found() {
    let book = TestWorkbook::new();
    book.replace("week01/src/pause.rs", "failures > 0\n", "failures  > 0\n");
    book.replace(
        "week01/variants/pause/not_zero.rs",
        "failures != 0\n",
        "failures  != 0\n",
    );
    book.replace(
        "week01/examples/backoff.rs",
        "fn main() {",
        "fn main() {\n    return main_too();\n}\n\nfn main_too() {",
    );
    book.replace("week01/src/lib.rs", "The smallest", "The [`nothing`]");
    book.replace(
        "week01/src/lib.rs",
        "pub mod pause;",
        "pub mod pause;\n\n#[test]\nfn fails() {\n    assert_eq!(1, 2);\n}",
    );
    let figure = "notes/pages/figures/week01/backoff-waits.svg";
    book.write("notes/pages/figures/week01/absent-one.svg", "");
    book.replace(figure, "40", "41");
    // A test beside the exercises.
    book.replace(
        "week01/tests/grade/main.rs",
        "mod pause;",
        "mod pause;\n\n#[test]\nfn beside() {\n    assert_eq!(3, 4);\n}",
    );
    let mut output = book.run(&["verify", "--allow-skips"]).exits_with(1);
    for fault in [
        "fault: format fails",
        "week01/src/pause.rs",
        "not_zero.rs",
        "fault: clippy fails",
        "fault: docs fails",
        "fault: tests fail: week01 week01\n",
        // The tests of the exercises have been run before.
        "fault: tests fail: week01 grade\n\nrunning 1 test\ntest beside",
        "absent-one.svg: `cargo build -p week01 --example absent` fails",
        "backoff-waits.svg is stale; draw it again: `cargo run -p week01 --example backoff",
    ] {
        output = output.shows(&[fault]);
    }
}

#[test]
#[ignore = "needs rustfmt and clippy"]
fn a_test_that_does_not_compile_is_a_fault_and_the_other_checks_go_on() {
    let book = TestWorkbook::new();
    book.replace(
        "week01/tests/grade/main.rs",
        "mod pause;",
        "mod pause;\n\n#[test]\nfn beside() {\n    absent();\n}",
    );
    let figure = "notes/pages/figures/week01/backoff-waits.svg";
    book.replace(figure, "40", "41");
    book.run(&["verify", "--allow-skips"]).exits_with(1).shows(&[
        "fault: the tests do not build",
        "cannot find function `absent`",
        "backoff-waits.svg is stale",
    ]);
}

#[test]
fn an_answer_that_fails_or_a_stub_that_hangs_is_a_fault() {
    let book = TestWorkbook::new();
    book.replace("week01/src/pause.rs", "failures > 0", "failures > 1");
    let stub = "week01/stubs/backoff.rs";
    book.replace(stub, "todo!(", "loop { std::thread::park() }\n    todo!(");
    // Both exercises are graded at the same time: the order may differ.
    book.run(&["verify", "--exercises", "--allow-skips"])
        .exits_with(1)
        .shows(&["week01/backoff stub: hangs", "FAILS"])
        .shows(&["week01/pause answer: does not pass", "FAILS"]);
}
