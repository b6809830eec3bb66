//! The commands for exercises: `list`, `start`, `check`, `hint`, `compare`,
//! `reset`, `path` and `grade`.

use std::fs;
use std::process::Command;

use crate::terminal::exits_soon;
use crate::test_workbook::{CommandOutput, NO_LIMIT, TestWorkbook};

#[test]
fn list_start_check_and_compare_show_the_state_of_an_exercise() {
    let book = TestWorkbook::new();
    book.run(&[]).exits_with(0).shows(&[
        "> backoff",
        "not started",
        "0 of 1 passed",
        "`cargo wb start backoff` (30 minutes)",
    ]);
    book.run(&["start", "backoff"]).exits_with(0).shows(&[
        "30 minutes",
        "How long does a client wait",
        "attempts/week01/backoff.rs",
        "notes/pages/week01/backoff.md",
        "cargo wb demo backoff",
    ]);
    book.run(&[]).shows(&[
        "> backoff",
        "started",
        "then `cargo wb check backoff`",
    ]);

    // The stub: each test reaches a `todo!`, and its question is shown once.
    book.run(&["check"])
        .exits_with(1)
        .shows(&[
            "rung 1 of 4",
            "todo     the first wait is ten milliseconds",
            "what is twice as long",
            "todo     a modelled wait doubles",
        ])
        .omits("not yet implemented");
    book.run(&["compare"])
        .exits_with(2)
        .in_one_error_line()
        .shows(&["--spoil"]);

    // A wrong attempt that fails the same test as a foil.
    book.write_attempt("10_u64 << n.min(12)");
    book.run(&["check"]).exits_with(1).shows(&[
        "rung 2 of 4",
        "holds    each wait doubles",
        "BROKEN   a wait is at most a second",
        "milliseconds before try 7",
        "seen: 1280",
        "week01/tests/grade/backoff.rs:23",
        "holds    a modelled wait doubles",
    ]);
    book.run(&[]).shows(&["failing at rung 2 of 4"]);

    // A right attempt that differs from the answer.
    book.write_attempt("if n < 7 { 10 << n } else { 1000 }");
    book.run(&["check", "backoff"]).exits_with(0).shows(&[
        "passes",
        "holds    a wait is at most",
        "cargo wb compare backoff",
    ]);
    book.run(&[]).shows(&["passing", "1 of 1", "All done"]);
    book.run(&["compare", "backoff"]).exits_with(0).shows(&[
        "lines of code",
        "A: loop over tries",
        "Doubles in a loop. It cannot overflow",
        "-     if n < 7 { 10 << n } else { 1000 }",
        "+     if n > 6 { 1000 } else { doubled }",
        "week01/src/backoff.rs",
    ]);

    // The exercise still counts as passed after a change.
    book.write_attempt("if n < 7 { 10 << n } else { 1_000 }");
    book.run(&[]).shows(&["changed since it passed", "1 of 1"]);
    book.write_attempt("10_u64 << n.min(12)");
    book.run(&["check"]).exits_with(1);
    book.run(&[]).shows(&["passed, now rung 2 of 4", "1 of 1"]);
}

#[test]
fn a_foil_is_named_if_it_fails_the_same_tests_and_has_the_same_text() {
    let book = TestWorkbook::new();
    book.write_attempt(NO_LIMIT);
    book.run(&["check", "backoff"]).exits_with(1).shows(&[
        "A known mistake fails the same checks: “no limit”",
        "The client waits for hours.",
    ]);
    // It fails the same test, by another mistake.
    book.write_attempt("10_u64 << n.min(12)");
    book.run(&["check", "backoff"]).exits_with(1).omits("A known mistake");
    // It fails all tests.
    book.write_attempt("20 << n.min(20)");
    book.run(&["check", "backoff"]).exits_with(1).omits("A known mistake");
}

#[test]
fn an_endless_loop_hangs_and_its_processes_are_stopped() {
    let book = TestWorkbook::new();
    book.write_attempt(
        r#"let file = concat!(env!("CARGO_MANIFEST_DIR"), "/pids");
    if n == 0 {
        let child = std::process::Command::new("sleep").arg("600").spawn();
        let ids = format!("{} {}", std::process::id(), child.unwrap().id());
        std::fs::write(file, ids).unwrap();
        loop { std::thread::park() }
    }
    if n < 7 { 10 << n } else { 1000 }"#,
    );
    book.run(&["check", "backoff"]).exits_with(3).shows(&[
        "HANGS at rung 1 of 4",
        "HANGS    the first wait is ten milliseconds",
        "no end after 5 s",
        "holds    each wait doubles",
    ]);
    for id in book.read("attempts/week01/pids").split(' ') {
        assert!(exits_soon(id), "process {id} still runs");
    }
}

#[test]
fn after_two_hangs_no_further_test_is_started() {
    let book = TestWorkbook::new();
    book.write_attempt("loop { std::hint::black_box(n); std::thread::park() }");
    let output = book.run(&["check", "backoff", "--json"]).exits_with(3);
    let json: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    let rungs = json["rungs"].as_array().unwrap();
    let verdicts = rungs
        .iter()
        .flat_map(|rung| rung["properties"].as_array().unwrap())
        .map(|property| property["verdict"].as_str().unwrap());
    let (hangs, others): (Vec<_>, Vec<_>) =
        verdicts.partition(|verdict| *verdict == "hangs");
    // More than two may hang, since tests run on all cores at the same time.
    assert!(hangs.len() >= 2, "expected two hangs in {json:#}");
    // The server that one test needs may not be installed.
    let is_not_run = |it: &&str| ["not_reached", "not_run"].contains(it);
    assert!(
        others.iter().all(is_not_run),
        "expected no other verdicts in {json:#}"
    );
    book.run(&["check", "backoff"])
        .exits_with(3)
        .shows(&["HANGS", "were not run, because others hang"]);
}

#[test]
fn a_large_output_does_not_hide_the_verdict() {
    let book = TestWorkbook::new();
    // More than is kept, in one write.
    let flood = r#"println!("{}", "a line\n".repeat(300_000));"#;
    book.write_attempt(&format!(
        "{flood} if n < 7 {{ 10 << n }} else {{ 1000 }}"
    ));
    book.run(&["check", "backoff"]).exits_with(0).shows(&["passes"]);
    let flood = flood.replace("println", "eprintln");
    book.write_attempt(&format!("{flood} u64::from(n)"));
    book.run(&["check", "backoff"]).exits_with(1).shows(&["seen: 0"]);
}

#[test]
fn a_hang_is_reported_with_the_panic_before_it() {
    let book = TestWorkbook::new();
    book.write_attempt(
        r#"let fails = move || panic!("the real reason, for {n}");
    if std::thread::spawn(fails).join().is_err() {
        loop { std::thread::park() }
    }
    0"#,
    );
    book.run(&["check", "backoff"])
        .exits_with(3)
        .shows(&["no end after 5 s; before that, a panic: the real reason"]);
}

#[test]
fn a_missing_item_is_explained_before_the_compiler_error() {
    let book = TestWorkbook::new();
    book.write(
        "attempts/week01/backoff.rs",
        "pub fn wait(n: u32) -> u64 { 7 }",
    );
    book.run(&["check", "backoff"]).exits_with(4).shows(&[
        "does not compile",
        "The grader uses an item that your file does not have",
        "`cargo wb reset backoff`",
        "error[E0432]",
    ]);
    book.write_attempt("n");
    book.run(&["check", "backoff"])
        .exits_with(4)
        .shows(&["error[E0308]"])
        .omits("The grader uses");
}

#[test]
fn an_error_that_only_the_models_have_is_explained() {
    let book = TestWorkbook::new();
    // The stand-in of the model checker has no `AtomicU64`.
    book.write(
        "attempts/week01/backoff.rs",
        "use crate::model_checked::loom_atomics::AtomicU64;
        pub fn delay(n: u32) -> u64 {
            AtomicU64::new(u64::from(n)).into_inner()
        }",
    );
    book.run(&["check", "backoff"]).exits_with(4).shows(&[
        "does not compile",
        "For the rung `models`, it is compiled again",
        "error[E0432]",
        "AtomicU64",
    ]);
    book.write_attempt("n");
    book.run(&["check", "backoff"]).exits_with(4).omits("`models`");
}

#[test]
fn an_exercise_can_be_named_by_the_path_of_its_attempt() {
    let book = TestWorkbook::new();
    book.write_attempt("if n < 7 { 10 << n } else { 1000 }");
    for name in ["attempts/week01/backoff.rs", "./attempts/week01/backoff.rs"] {
        book.run(&["check", name]).exits_with(0).shows(&["passes"]);
    }
    book.run(&["list"]).exits_with(0).shows(&["backoff", "passing"]);
}

#[test]
fn compiler_errors_show_the_path_of_the_attempt() {
    let book = TestWorkbook::new();
    book.write_attempt("n");
    book.run(&["check", "backoff"]).exits_with(4).shows(&[
        "does not compile",
        "error[E0308]: mismatched types",
        "--> attempts/week01/backoff.rs:2:5",
        "expected `u64`, found `u32`",
    ]);
}

#[test]
fn a_test_whose_process_exits_early_is_broken() {
    let book = TestWorkbook::new();
    book.write_attempt("let _ = n; std::process::exit(0)");
    book.run(&["check", "backoff"])
        .exits_with(1)
        .shows(&["the process exited before the test ended"]);
    book.write_attempt("let _ = n; std::process::abort()");
    book.run(&["check", "backoff"]).exits_with(1).shows(&["signal 6"]);
}

#[test]
fn output_of_the_attempt_is_shown_below_the_broken_property() {
    let book = TestWorkbook::new();
    book.write_attempt(r#"println!("n is {n}"); eprintln!("odd"); 10"#);
    book.run(&["check", "backoff"]).exits_with(1).shows(&[
        "holds    the first wait is ten milliseconds",
        "BROKEN   each wait doubles",
        "printed:",
        "n is 1",
        "odd",
    ]);
}

#[test]
fn an_attempt_can_pass_without_a_missing_server() {
    let book = TestWorkbook::new();
    book.write_attempt("if n < 7 { 10 << n } else { 1000 }");
    let bin = book.path_without("redis-server");
    let output =
        book.command(&["check", "backoff"]).env("PATH", bin).output().unwrap();
    CommandOutput::new(output).exits_with(0).shows(&[
        "passes, without redis-server",
        "not run  a server gets no request early",
        "Some tests need redis-server",
        "apt-get install",
    ]);
}

#[test]
fn a_save_during_compilation_is_graded() {
    let book = TestWorkbook::new();
    // The compiler blocks until a writer opens and closes the pipe.
    let pipe = book.path("attempts/week01/pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success(), "mkfifo: {made}");
    book.write_attempt(r#"let _ = include_str!("pipe"); u64::from(n)"#);
    let check = book.spawn(&["check", "backoff"]);
    let writer = fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    book.write_attempt("if n < 7 { 10 << n } else { 1000 }");
    drop(writer);
    CommandOutput::new(check.wait_with_output().unwrap())
        .exits_with(0)
        .shows(&["passes"])
        .omits("Your file has changed");
    book.run(&[]).shows(&["passing"]);
}

#[test]
fn a_save_during_the_tests_is_reported_with_the_verdict() {
    let book = TestWorkbook::new();
    book.write_attempt(
        r#"let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::write(here.join("waits"), "").unwrap();
    while !here.join("go").exists() { std::thread::yield_now() }
    if n < 7 { 10 << n } else { 1000 }"#,
    );
    let check = book.spawn(&["check", "backoff"]);
    while !book.path("attempts/week01/waits").exists() {
        std::thread::yield_now();
    }
    book.write_attempt("u64::from(n)");
    book.write("attempts/week01/go", "");
    CommandOutput::new(check.wait_with_output().unwrap())
        .exits_with(0)
        .shows(&["passes", "Your file has changed since"]);
    book.run(&[]).shows(&["changed since it passed"]);
}

#[test]
fn an_attempt_that_does_not_compile_does_not_affect_others() {
    let book = TestWorkbook::new();
    book.write_attempt("n");
    book.run(&["start", "pause"]).exits_with(0);
    book.write(
        "attempts/week01/pause.rs",
        "pub fn is_needed(failures: u32) -> bool { failures != 0 }",
    );
    book.run(&["check", "pause"]).exits_with(0).shows(&["passes"]);

    let test = Command::new(env!("CARGO"))
        .arg("test")
        .current_dir(book.path(""))
        .env("CARGO_TARGET_DIR", book.path("target"))
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&test.stderr);
    assert!(test.status.success(), "`cargo test` fails:\n{errors}");
}

#[test]
fn start_and_reset_keep_existing_attempts() {
    let book = TestWorkbook::new();
    book.write_attempt("1");
    book.run(&["start", "backoff"])
        .exits_with(0)
        .shows(&["Your file existed before"]);
    assert!(book.read("attempts/week01/backoff.rs").contains("    1\n"));

    book.run(&["reset", "backoff"]).exits_with(0).shows(&["backoff.1.rs"]);
    let stub = book.read("week01/stubs/backoff.rs");
    assert_eq!(book.read("attempts/week01/backoff.rs"), stub);
    book.write_attempt("2");
    book.run(&["reset", "backoff"]).exits_with(0).shows(&["backoff.2.rs"]);
    // The stub is not copied, and the current exercise needs no name.
    book.run(&["reset"])
        .exits_with(0)
        .shows(&["is the stub already"])
        .omits(".3.rs");
    assert!(book.read("attempts/week01/backoff.1.rs").contains("    1\n"));
    assert!(book.read("attempts/week01/backoff.2.rs").contains("    2\n"));
}

#[test]
fn each_hint_command_shows_one_more_hint() {
    let book = TestWorkbook::new();
    let hint = || book.run(&["hint", "backoff"]).exits_with(0);
    hint().shows(&["Hint 1 of 3", "the first two"]).omits("A shift");
    hint().shows(&["Hint 1 of 3", "Hint 2 of 3", "A shift"]).omits("10 << n");
    hint().shows(&["Hint 3 of 3", "10 << n"]).omits("--spoil");
    hint().shows(&["10 << n", "--spoil"]);
    // `--again` shows no new hint.
    let again = || book.run(&["hint", "backoff", "--again"]).exits_with(0);
    again().shows(&["Hint 3 of 3", "10 << n"]).omits("--spoil");
}

#[test]
fn the_path_selects_the_listed_exercises() {
    let book = TestWorkbook::new();
    book.run(&[]).shows(&["0 of 1 passed", "1 more"]).omits("pause");
    book.run(&["path", "all"]).exits_with(0).shows(&["> all", "2 exercises"]);
    book.run(&[]).shows(&["pause", "0 of 2"]);
    book.run(&["start"]).exits_with(0).shows(&["week01/backoff"]);
    book.write_attempt("if n < 7 { 10 << n } else { 1000 }");
    book.run(&["check"]).exits_with(0);
    book.run(&["start"]).exits_with(0).shows(&["week01/pause"]);
    book.run(&["path", "homework"]).exits_with(0);
    book.run(&[]).shows(&["1 of 1 passed on the path"]);
    book.write(
        "attempts/week01/pause.rs",
        "pub fn is_needed(failures: u32) -> bool { failures != 0 }",
    );
    book.run(&["check"]).exits_with(0);
    book.run(&["start"]).exits_with(2).in_one_error_line().shows(&["path all"]);
    book.run(&["path"]).shows(&["> homework", "1 exercises"]);
}

#[test]
fn the_map_fits_in_80_columns() {
    let book = TestWorkbook::new();
    book.replace(
        "week01/exercises/backoff.toml",
        "Wait longer each time",
        &"w".repeat(36),
    );
    book.replace(
        "week01/exercises/backoff.toml",
        "minutes",
        "starred = true\nminutes",
    );
    book.write_attempt("if n < 7 { 10 << n } else { 1000 }");
    book.run(&["check", "backoff"]).exits_with(0);
    book.run(&["path", "homework"]);
    let fits = |state: &str| {
        let map = book.run(&[]).shows(&[
            "backoff",
            state,
            " *\n",
            "; * research level",
        ]);
        let line =
            map.stdout.lines().find(|line| line.contains(state)).unwrap();
        // The longest name may have one column more.
        assert!(line.chars().count() < 80, "longer than 79 columns: {line:?}");
    };
    fits("passing");
    book.write_attempt("n");
    fits("changed since it passed");
    book.write_attempt("10_u64 << n.min(12)");
    book.run(&["check", "backoff"]).exits_with(1);
    fits("rung 2 of 4");
}

#[test]
fn json_output_has_the_outcome_and_the_verdicts() {
    let book = TestWorkbook::new();
    book.write_attempt(NO_LIMIT);
    let output = book.run(&["check", "backoff", "--json"]).exits_with(1);
    let json: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(json["exercise"], "week01/backoff");
    assert_eq!(json["outcome"], "wrong");
    assert_eq!(json["like_foil"]["name"], "no limit");
    let broken = &json["rungs"][1]["properties"][0];
    assert_eq!(broken["name"], "limits::a_wait_is_at_most_a_second");
    assert_eq!(broken["verdict"], "broken");

    book.write_attempt("n");
    let output = book.run(&["check", "backoff", "--json"]).exits_with(4);
    let json: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(json["outcome"], "does_not_compile");
    assert!(json["compiler"].as_str().unwrap().contains("E0308"));
}

#[test]
fn grade_gives_the_command_to_an_exercise_that_takes_a_program() {
    let book = TestWorkbook::new();
    book.run(&["grade", "backoff", "--cmd", "true"])
        .exits_with(2)
        .in_one_error_line()
        .shows(&["the exercise backoff cannot grade a program"]);
    book.replace(
        "week01/exercises/pause.toml",
        "minutes =",
        "takes_program = true\nminutes =",
    );
    let grader = book.read("week01/tests/grade/pause.rs").replace(
        "() {\n",
        "() {\n        let program = std::env::var(\"WB_PROGRAM\").unwrap();
        assert_eq!(program, \"./server --fast\");\n",
    );
    book.write("week01/tests/grade/pause.rs", &grader);
    let grade = |cmd: &str| book.run(&["grade", "pause", "--cmd", cmd]);
    grade("./server --fast").exits_with(0).shows(&["passes", "pause.md"]);
    grade("other").exits_with(1).shows(&["BROKEN", "seen: \"other\""]);

    // One of its tests cannot test a program.
    book.replace(
        "week01/tests/grade/pause.rs",
        "fn a_failure_needs_a_pause() {\n",
        "fn a_failure_needs_a_pause() {
        println!(\"not asked of a program: it does not count\");\n",
    );
    grade("./server --fast").exits_with(0).shows(&[
        "holds    no failure needs no pause",
        "not run  a failure needs a pause\n",
        "               it does not count\n",
    ]);
}

#[test]
fn the_program_rung_runs_for_programs_and_for_nothing_else() {
    let book = TestWorkbook::new();
    book.write(
        "attempts/week01/pause.rs",
        "pub fn is_needed(failures: u32) -> bool {\n    failures > 0\n}\n",
    );
    book.replace(
        "week01/exercises/pause.toml",
        "minutes =",
        "program_rung = \"contract\"\nminutes =",
    );
    let main = "week01/tests/grade/main.rs";
    book.replace(main, "mod pause;", "mod pause;\nmod pause_contract;");
    let contract = "week01/tests/grade/pause_contract.rs";
    book.write(
        contract,
        "#[test]\nfn the_program_starts() {
    let program = std::env::var(\"WB_PROGRAM\").unwrap();
    assert_eq!(program, \"./server --fast\");\n}
#[test]\nfn an_answer_comes() {}\n",
    );

    let grade = |cmd: &str| book.run(&["grade", "pause", "--cmd", cmd]);
    // In the order of the module's own file.
    grade("./server --fast")
        .exits_with(0)
        .shows(&["passes", "contract", "program starts", "answer comes"])
        .omits("no failure needs no pause");
    grade("other")
        .exits_with(1)
        .shows(&["rung 1 of 1", "BROKEN", "seen: \"other\""])
        .omits("A known mistake");

    // For a file, none of its tests counts.
    book.run(&["check", "pause"])
        .exits_with(0)
        .shows(&["passes", "a failure needs a pause"])
        .omits("contract");
    book.run(&["verify", "--allow-skips", "--exercise", "pause"])
        .exits_with(0)
        .shows(&["week01/pause      2  passes  1 of 1    fails  3 of 3"]);

    book.write(contract, "");
    grade("./server --fast")
        .exits_with(2)
        .shows(&["week01/tests/grade/pause_contract.rs has no tests"]);
}

#[test]
fn a_long_message_is_shortened_in_the_report() {
    let book = TestWorkbook::new();
    let check = |lines: usize| {
        book.write_attempt(&format!(
            r#"let line = |n: u32| format!("\nline {{n}}");
    let lines: String = (1..{lines}).map(line).collect();
    panic!("of try {{n}}:{{lines}}")"#
        ));
        book.run(&["check", "backoff"]).exits_with(1)
    };
    check(60).shows(&["of try 0:", "line 1", "line 30", "line 59"]).omits("…");
    check(100).shows(&["of try 0:", "line 1", "… 41 lines …", "line 99"]);
}
