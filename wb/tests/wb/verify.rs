//! `verify` is green for what is right, and red for each thing it checks.

use crate::mini::{Mini, Said};

const TOML: &str = "week01/exercises/backoff.toml";
const GRADER: &str = "week01/tests/grade/backoff.rs";

#[test]
#[ignore = "needs rustfmt and clippy"]
fn a_good_workbook_has_no_faults_and_a_skip_is_said() {
    let mini = Mini::new();
    let bin = mini.path_without("redis-server");
    let verify = |arguments: &[&str]| {
        let mut command = mini.command(arguments);
        Said::new(command.env("PATH", &bin).output().unwrap())
    };
    verify(&["verify", "--allow-skips"]).ends_with(0).shows(&[
        "redis-server is missing",
        "apt-get install",
        "week01/backoff      6  passes  1 of 1    fails  3 of 3",
        "(1 not run)",
        "time of each part",
        "skipped: what needs redis-server",
        "no faults",
    ]);
    verify(&["verify", "week01"])
        .ends_with(1)
        .shows(&["skipped: what needs redis-server", "--allow-skips"]);
}

#[test]
fn one_exercise_is_held_to_its_promises_alone() {
    let mini = Mini::new();
    // A fault of the house, and none of the exercise.
    mini.change("week01/src/lib.rs", "//!", "//!  ");
    mini.wb(&["verify", "--allow-skips", "--exercise", "backoff"])
        .ends_with(0)
        .shows(&["week01/backoff", "no faults"]);
    mini.wb(&["verify", "--exercise", "backof"])
        .ends_with(2)
        .shows(&["backoff"]);
}

#[test]
fn each_kind_of_fault_in_an_exercise_is_found() {
    let mini = Mini::new();
    // A variant that is wrong.
    let variant = "week01/variants/backoff/loop_over_tries.rs";
    mini.change(variant, ".min(1000)", ".min(2000)");
    // A stub that passes a test.
    mini.change("week01/stubs/backoff.rs", "_n: u32", "n: u32");
    mini.change(
        "week01/stubs/backoff.rs",
        "todo!(",
        "if n == 0 { return 10 }\n    todo!(",
    );
    // A foil for each way in which one can be wrong.
    mini.change(
        TOML,
        r#"["growth::each_wait_doubles", "models::the_model_doubles"]"#,
        r#"["growth::each_wait_doubles", "growth::the_first_wait_is_ten"]"#,
    );
    let more = r#"
[foils.compiles_not]
lesson = "l"
tempts = "t"
caught_by = ["limits::a"]
[[foils.compiles_not.edits]]
find = "{ 1000 }"
replace = "{ 1000_u32 }"

[foils.hangs]
lesson = "l"
tempts = "t"
caught_by = ["limits::no_wait_is_longer_than_a_second", "models::d"]
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
    mini.write(TOML, &format!("{}{more}", mini.read(TOML)));
    mini.change(
        TOML,
        "Wait longer each time",
        "Wait longer and longer each and every time",
    );
    mini.change(TOML, r#"example = "backoff""#, r#"example = "forward""#);
    mini.change(GRADER, "needs redis-server", "needs a-new-one");
    let summary = "notes/pages/SUMMARY.md";
    mini.change(summary, "(week01/backoff.md)", "(week01/elsewhere.md)");
    std::fs::remove_file(mini.path("notes/pages/week01/backoff.md")).unwrap();

    mini.change("README.md", "(notes/pages/week01/backoff.md)", "(nowhere)");
    mini.change("week01/src/lib.rs", "[`backoff`]", "backoff");

    let said = mini.wb(&["verify", "--allow-skips"]).ends_with(1);
    let mut said = said.shows(&["week01/pause"]);
    for fault in [
        "variant loop_over_tries: does not pass",
        "BROKEN   no wait is longer than a second",
        "stub: passes without any work: growth::the_first_wait_is_ten",
        "foil grows_by_steps: is not caught as it says",
        "breaks as well:\n    models::the_model_doubles",
        "does not break:\n    growth::the_first_wait_is_ten",
        "foil compiles_not: does not compile",
        "foil hangs: hangs",
        "foil not_found: \"nowhere\" occurs 0 times in the answer",
        "foil found_often: \"doubled\" occurs 3 times in the answer",
        "foil nowhere_at_all: the foil has neither edits nor a file week01/foils/backoff/nowhere_at_all.rs",
        "foil nowhere_at_all breaks the same tests as found_often",
        "the toml has an empty text",
        "the title has more than 36 columns",
        "there is no week01/examples/forward.rs",
        "there is no notes/pages/week01/backoff.md",
        "README.md has no link (notes/pages/week01/backoff.md)",
        "week01/src/lib.rs has no [`backoff`]",
        "SUMMARY.md has no link (week01/backoff.md)",
        "needs `a-new-one`, which `lab::servers` does not know",
    ] {
        said = said.shows(&[fault]);
    }
}

#[test]
#[ignore = "needs rustfmt and clippy"]
fn each_kind_of_fault_in_the_house_is_found() {
    let mini = Mini::new();
    mini.change("week01/src/pause.rs", "failures > 0\n", "failures  > 0\n");
    mini.change(
        "week01/variants/pause/not_zero.rs",
        "failures != 0\n",
        "failures  != 0\n",
    );
    mini.change(
        "week01/examples/backoff.rs",
        "fn main() {",
        "fn main() {\n    return main_too();\n}\n\nfn main_too() {",
    );
    mini.change("week01/src/lib.rs", "as a week", "as [a week](nothing)");
    mini.change("week01/src/lib.rs", "as [a week](nothing)", "as [`nothing`]");
    mini.change(
        "week01/src/lib.rs",
        "pub mod pause;",
        "pub mod pause;\n\n#[test]\nfn falls() {\n    assert_eq!(1, 2);\n}",
    );
    let figure = "notes/pages/figures/week01/backoff-waits.svg";
    mini.write("notes/pages/figures/week01/absent-one.svg", "");
    mini.change(figure, "40", "41");
    mini.wb(&["verify", "--allow-skips"]).ends_with(1).shows(&[
        "fault: format fails",
        "week01/src/pause.rs",
        "fault: format fails",
        "not_zero.rs",
        "fault: clippy fails",
        "fault: docs fails",
        "fault: tests fails",
        "falls",
        "absent-one.svg: example absent draws nothing",
        "no example target named `absent`",
        "backoff-waits.svg is stale: `cargo run -p week01 --example backoff",
    ]);
}

#[test]
fn an_answer_that_fails_or_a_stub_that_hangs_is_a_fault() {
    let mini = Mini::new();
    mini.change("week01/src/pause.rs", "failures > 0", "failures > 1");
    let stub = "week01/stubs/backoff.rs";
    mini.change(stub, "todo!(", "loop { std::thread::park() }\n    todo!(");
    // Exercises are graded at the same time: the first fault may be of either.
    mini.wb(&["verify", "--allow-skips"])
        .ends_with(1)
        .shows(&["week01/backoff stub: hangs", "FAILS"])
        .shows(&["week01/pause answer: does not pass", "FAILS"]);
}
