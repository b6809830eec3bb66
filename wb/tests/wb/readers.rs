//! What a reader sees of an attempt.

use std::fs;
use std::process::Command;

use crate::mini::{Mini, Said};
use crate::tty::is_gone;

#[test]
fn a_reader_is_led_from_the_map_to_the_answer() {
    let mini = Mini::new();
    mini.wb(&[]).ends_with(0).shows(&[
        "> backoff",
        "untouched",
        "0 of 1",
        "`cargo wb start backoff` (30 minutes)",
    ]);
    mini.wb(&["start", "backoff"]).ends_with(0).shows(&[
        "30 minutes",
        "How long does a client wait",
        "客户端重试之前应该等待多久？",
        "attempts/week01/backoff.rs",
        "notes/pages/week01/backoff.md",
        "cargo wb demo backoff",
    ]);
    mini.wb(&[]).shows(&[
        "> backoff",
        "started",
        "then `cargo wb check backoff`",
    ]);

    // The stub: nothing is written yet, and each question is asked once.
    mini.wb(&["check"])
        .ends_with(1)
        .shows(&[
            "rung 1 of 4",
            "todo     the first wait is ten",
            "what is twice as long",
            "todo     the model doubles",
        ])
        .hides("not yet implemented");
    mini.wb(&["compare"]).ends_with(2).in_one_line().shows(&["--spoil"]);

    // Wrong as one of the foils is.
    mini.attempt("10_u64 << n.min(12)");
    mini.wb(&["check"]).ends_with(1).shows(&[
        "rung 2 of 4",
        "holds    each wait doubles",
        "BROKEN   no wait is longer than a second",
        "milliseconds before try 7",
        "left: 1280",
        "week01/tests/grade/backoff.rs:23",
        "holds    the model doubles",
        "“no limit”",
        "It waits for hours.",
    ]);
    mini.wb(&[]).shows(&["failing at rung 2 of 4"]);

    // Right, and of another shape than the answer.
    mini.attempt("if n < 7 { 10 << n } else { 1000 }");
    mini.wb(&["check", "backoff"]).ends_with(0).shows(&[
        "passes",
        "holds    no wait",
        "cargo wb compare backoff",
    ]);
    mini.wb(&[]).shows(&["passing", "1 of 1", "All done"]);
    mini.wb(&["compare", "backoff"]).ends_with(0).shows(&[
        "lines of code",
        "A: loop over tries",
        "Doubles in a loop. Nothing to overflow",
        "-     if n < 7 { 10 << n } else { 1000 }",
        "+     if n > 6 { 1000 } else { doubled }",
        "week01/src/backoff.rs",
    ]);

    // What has passed counts, whatever one tries with it.
    mini.attempt("if n < 7 { 10 << n } else { 1_000 }");
    mini.wb(&[]).shows(&["changed since it passed", "1 of 1"]);
    mini.attempt("10_u64 << n.min(12)");
    mini.wb(&["check"]).ends_with(1);
    mini.wb(&[]).shows(&["passed, now rung 2 of 4", "1 of 1"]);
}

#[test]
fn only_what_breaks_nearly_the_same_is_likened_to_a_foil() {
    let mini = Mini::new();
    mini.attempt("if n < 6 { 20 << n } else { 1000 }");
    mini.wb(&["check", "backoff"]).ends_with(1).shows(&["starts at twenty"]);
    // And one test more.
    mini.attempt("if n < 6 { 20 << n } else { 999 }");
    mini.wb(&["check", "backoff"]).ends_with(1).shows(&["starts at twenty"]);
    // All of them.
    mini.attempt("20 << n.min(20)");
    mini.wb(&["check", "backoff"]).ends_with(1).hides("fails like");
}

#[test]
fn a_loop_without_end_hangs_and_leaves_no_process() {
    let mini = Mini::new();
    mini.attempt(
        r#"let file = concat!(env!("CARGO_MANIFEST_DIR"), "/pids");
    if n == 0 {
        let child = std::process::Command::new("sleep").arg("600").spawn();
        let ids = format!("{} {}", std::process::id(), child.unwrap().id());
        std::fs::write(file, ids).unwrap();
        loop { std::thread::park() }
    }
    if n < 7 { 10 << n } else { 1000 }"#,
    );
    mini.wb(&["check", "backoff"]).ends_with(3).shows(&[
        "HANGS, rung 1 of 4",
        "HANGS    the first wait is ten",
        "no end after 5 s",
        "holds    each wait doubles",
    ]);
    for id in mini.read("attempts/week01/pids").split(' ') {
        assert!(is_gone(id), "process {id} is left");
    }
}

#[test]
fn after_two_hangs_nobody_waits_for_more() {
    let mini = Mini::new();
    mini.attempt("loop { std::hint::black_box(n); std::thread::park() }");
    let said = mini.wb(&["check", "backoff", "--json"]).ends_with(3);
    let json: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    let rungs = json["rungs"].as_array().unwrap();
    let verdicts = rungs
        .iter()
        .flat_map(|rung| rung["properties"].as_array().unwrap())
        .map(|property| property["verdict"].as_str().unwrap());
    let (hangs, others): (Vec<_>, Vec<_>) =
        verdicts.partition(|verdict| *verdict == "hangs");
    // One a core: those that were under way are waited for.
    assert!(hangs.len() >= 2, "{json:#}");
    // One of them asks for a server, which may not be here.
    let is_left = |it: &&str| ["not_reached", "not_run"].contains(it);
    assert!(others.iter().all(is_left), "{json:#}");
    mini.wb(&["check", "backoff"])
        .ends_with(3)
        .shows(&["HANGS", "were not run, since two hung"]);
}

#[test]
fn much_output_hides_no_verdict() {
    let mini = Mini::new();
    // More than is kept, in one piece.
    let flood = r#"println!("{}", "a line\n".repeat(300_000));"#;
    mini.attempt(&format!("{flood} if n < 7 {{ 10 << n }} else {{ 1000 }}"));
    mini.wb(&["check", "backoff"]).ends_with(0).shows(&["passes"]);
    let flood = flood.replace("println", "eprintln");
    mini.attempt(&format!("{flood} u64::from(n)"));
    mini.wb(&["check", "backoff"]).ends_with(1).shows(&["left: 0"]);
}

#[test]
fn a_hang_says_what_panicked_before_it() {
    let mini = Mini::new();
    mini.attempt(
        r#"let fails = move || panic!("the real reason, for {n}");
    if std::thread::spawn(fails).join().is_err() {
        loop { std::thread::park() }
    }
    0"#,
    );
    mini.wb(&["check", "backoff"])
        .ends_with(3)
        .shows(&["no end after 5 s, but first: the real reason"]);
}

#[test]
fn what_the_grader_does_not_find_is_told_by_the_attempt() {
    let mini = Mini::new();
    mini.write(
        "attempts/week01/backoff.rs",
        "pub fn wait(n: u32) -> u64 { 7 }",
    );
    mini.wb(&["check", "backoff"]).ends_with(4).shows(&[
        "does not compile",
        "Your file lacks an item that the grader uses",
        "`cargo wb reset backoff`",
        "error[E0432]",
    ]);
    mini.attempt("n");
    mini.wb(&["check", "backoff"])
        .ends_with(4)
        .shows(&["error[E0308]"])
        .hides("the grader calls");
}

#[test]
fn an_exercise_is_known_by_the_file_of_its_attempt() {
    let mini = Mini::new();
    mini.attempt("if n < 7 { 10 << n } else { 1000 }");
    for name in ["attempts/week01/backoff.rs", "./attempts/week01/backoff.rs"] {
        mini.wb(&["check", name]).ends_with(0).shows(&["passes"]);
    }
    mini.wb(&["list"]).ends_with(0).shows(&["backoff", "passing"]);
}

#[test]
fn what_does_not_compile_is_shown_as_rustc_says_it() {
    let mini = Mini::new();
    mini.attempt("n");
    mini.wb(&["check", "backoff"]).ends_with(4).shows(&[
        "does not compile",
        "error[E0308]: mismatched types",
        "--> attempts/week01/backoff.rs:2:5",
        "expected `u64`, found `u32`",
    ]);
}

#[test]
fn what_ends_the_process_has_not_passed() {
    let mini = Mini::new();
    mini.attempt("let _ = n; std::process::exit(0)");
    mini.wb(&["check", "backoff"])
        .ends_with(1)
        .shows(&["the process ended before the test did"]);
    mini.attempt("let _ = n; std::process::abort()");
    mini.wb(&["check", "backoff"]).ends_with(1).shows(&["signal 6"]);
}

#[test]
fn what_an_attempt_prints_stands_below_what_it_breaks() {
    let mini = Mini::new();
    mini.attempt(r#"println!("n is {n}"); eprintln!("odd"); 10"#);
    mini.wb(&["check", "backoff"]).ends_with(1).shows(&[
        "holds    the first wait is ten",
        "BROKEN   each wait doubles",
        "it printed:",
        "n is 1",
        "odd",
    ]);
}

#[test]
fn a_missing_server_stands_in_nobodys_way() {
    let mini = Mini::new();
    mini.attempt("if n < 7 { 10 << n } else { 1000 }");
    let bin = mini.path_without("redis-server");
    let output =
        mini.command(&["check", "backoff"]).env("PATH", bin).output().unwrap();
    crate::mini::Said::new(output).ends_with(0).shows(&[
        "passes, without redis-server",
        "not run  a server is left in peace",
        "Not run, and not needed to pass: what needs redis-server",
        "apt-get install",
    ]);
}

#[test]
fn a_save_while_the_compiler_runs_is_graded() {
    let mini = Mini::new();
    // The compiler waits for whoever writes to it.
    let pipe = mini.path("attempts/week01/pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    mini.attempt(r#"let _ = include_str!("pipe"); u64::from(n)"#);
    let check = mini.start(&["check", "backoff"]);
    let writer = fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    mini.attempt("if n < 7 { 10 << n } else { 1000 }");
    drop(writer);
    Said::new(check.wait_with_output().unwrap())
        .ends_with(0)
        .shows(&["passes"])
        .hides("Your file has changed");
    mini.wb(&[]).shows(&["passing"]);
}

#[test]
fn a_verdict_on_what_was_saved_over_says_so() {
    let mini = Mini::new();
    mini.attempt(
        r#"let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::write(here.join("waits"), "").unwrap();
    while !here.join("go").exists() { std::thread::yield_now() }
    if n < 7 { 10 << n } else { 1000 }"#,
    );
    let check = mini.start(&["check", "backoff"]);
    while !mini.path("attempts/week01/waits").exists() {
        std::thread::yield_now();
    }
    mini.attempt("u64::from(n)");
    mini.write("attempts/week01/go", "");
    Said::new(check.wait_with_output().unwrap())
        .ends_with(0)
        .shows(&["passes", "Your file has changed since"]);
    mini.wb(&[]).shows(&["changed since it passed"]);
}

#[test]
fn an_unfinished_attempt_is_in_no_other_ones_way() {
    let mini = Mini::new();
    mini.attempt("n");
    mini.wb(&["start", "pause"]).ends_with(0);
    mini.write(
        "attempts/week01/pause.rs",
        "pub fn is_needed(failures: u32) -> bool { failures != 0 }",
    );
    mini.wb(&["check", "pause"]).ends_with(0).shows(&["passes"]);

    let test = Command::new(env!("CARGO"))
        .arg("test")
        .current_dir(mini.path(""))
        .env("CARGO_TARGET_DIR", mini.path("target"))
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&test.stderr);
    assert!(test.status.success(), "cargo test\n{errors}");
}

#[test]
fn start_and_reset_lose_no_attempt() {
    let mini = Mini::new();
    mini.attempt("1");
    mini.wb(&["start", "backoff"]).ends_with(0).shows(&["yours, kept:"]);
    assert!(mini.read("attempts/week01/backoff.rs").contains("    1\n"));

    mini.wb(&["reset", "backoff"]).ends_with(0).shows(&["backoff.1.rs"]);
    let stub = mini.read("week01/stubs/backoff.rs");
    assert_eq!(mini.read("attempts/week01/backoff.rs"), stub);
    mini.attempt("2");
    mini.wb(&["reset", "backoff"]).ends_with(0).shows(&["backoff.2.rs"]);
    // Nothing is worth a copy, and the one that one is at needs no name.
    mini.wb(&["reset"]).ends_with(0).shows(&["is the stub"]).hides(".3.rs");
    assert!(mini.read("attempts/week01/backoff.1.rs").contains("    1\n"));
    assert!(mini.read("attempts/week01/backoff.2.rs").contains("    2\n"));
}

#[test]
fn each_call_gives_one_hint_more() {
    let mini = Mini::new();
    let hint = || mini.wb(&["hint", "backoff"]).ends_with(0);
    hint().shows(&["Hint 1 of 3", "first two"]).hides("A shift");
    hint().shows(&["Hint 1 of 3", "Hint 2 of 3", "A shift"]).hides("10 << n");
    hint().shows(&["Hint 3 of 3", "10 << n"]).hides("--spoil");
    hint().shows(&["10 << n", "--spoil"]);
    // What was seen is shown again, and nothing more.
    let again = || mini.wb(&["hint", "backoff", "--again"]).ends_with(0);
    again().shows(&["Hint 3 of 3", "10 << n"]).hides("--spoil");
}

#[test]
fn the_path_says_what_is_on_the_map() {
    let mini = Mini::new();
    mini.wb(&[]).shows(&["0 of 1", "1 more"]).hides("pause");
    mini.wb(&["path", "all"]).ends_with(0).shows(&["> all", "2 exercises"]);
    mini.wb(&[]).shows(&["pause", "0 of 2"]);
    mini.wb(&["start"]).ends_with(0).shows(&["week01/backoff"]);
    mini.attempt("if n < 7 { 10 << n } else { 1000 }");
    mini.wb(&["check"]).ends_with(0);
    mini.wb(&["start"]).ends_with(0).shows(&["week01/pause"]);
    mini.wb(&["path", "homework"]).ends_with(0);
    mini.wb(&[]).shows(&["1 of 1 on the path"]);
    mini.write(
        "attempts/week01/pause.rs",
        "pub fn is_needed(failures: u32) -> bool { failures != 0 }",
    );
    mini.wb(&["check"]).ends_with(0);
    mini.wb(&["start"]).ends_with(2).in_one_line().shows(&["path all"]);
    mini.wb(&["path"]).shows(&["> homework", "1 exercises"]);
}

#[test]
fn the_map_fits_in_80_columns() {
    let mini = Mini::new();
    mini.change(
        "week01/exercises/backoff.toml",
        "Wait longer each time",
        &"w".repeat(36),
    );
    mini.change(
        "week01/exercises/backoff.toml",
        "minutes",
        "starred = true\nminutes",
    );
    mini.attempt("if n < 7 { 10 << n } else { 1000 }");
    mini.wb(&["check", "backoff"]).ends_with(0);
    mini.wb(&["path", "homework"]);
    let fits = |state: &str| {
        let map =
            mini.wb(&[]).shows(&["backoff", state, " *\n", "; * starred"]);
        let line = map.out.lines().find(|line| line.contains(state)).unwrap();
        // A name may have a column more.
        assert!(line.chars().count() < 80, "{line:?}");
    };
    fits("passing");
    mini.attempt("n");
    fits("changed since it passed");
    mini.attempt("10_u64 << n.min(12)");
    mini.wb(&["check", "backoff"]).ends_with(1);
    fits("rung 2 of 4");
}

#[test]
fn json_says_what_the_report_says() {
    let mini = Mini::new();
    mini.attempt("10 << n.min(20)");
    let said = mini.wb(&["check", "backoff", "--json"]).ends_with(1);
    let json: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(json["exercise"], "week01/backoff");
    assert_eq!(json["outcome"], "wrong");
    assert_eq!(json["like_foil"]["name"], "no limit");
    let broken = &json["rungs"][1]["properties"][0];
    assert_eq!(broken["name"], "limits::no_wait_is_longer_than_a_second");
    assert_eq!(broken["verdict"], "broken");

    mini.attempt("n");
    let said = mini.wb(&["check", "backoff", "--json"]).ends_with(4);
    let json: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(json["outcome"], "does_not_compile");
    assert!(json["compiler"].as_str().unwrap().contains("E0308"));
}

#[test]
fn a_program_is_graded_where_the_exercise_looks_at_one() {
    let mini = Mini::new();
    mini.wb(&["grade", "backoff", "--cmd", "true"])
        .ends_with(2)
        .in_one_line()
        .shows(&["backoff looks at no process"]);
    mini.change(
        "week01/exercises/pause.toml",
        "minutes =",
        "takes_program = true\nminutes =",
    );
    let grader = mini.read("week01/tests/grade/pause.rs").replace(
        "() {\n",
        "() {\n        let program = std::env::var(\"WB_PROGRAM\").unwrap();
        assert_eq!(program, \"./server --fast\");\n",
    );
    mini.write("week01/tests/grade/pause.rs", &grader);
    let grade = |cmd: &str| mini.wb(&["grade", "pause", "--cmd", cmd]);
    grade("./server --fast").ends_with(0).shows(&["passes", "pause.md"]);
    grade("other").ends_with(1).shows(&["BROKEN", "left: \"other\""]);

    // One of them looks at no process.
    mini.change(
        "week01/tests/grade/pause.rs",
        "fn after_a_failure_there_is_one() {\n",
        "fn after_a_failure_there_is_one() {
        println!(\"not asked of a program: it does not count\");\n",
    );
    grade("./server --fast").ends_with(0).shows(&[
        "holds    without a failure there is none",
        "not run  after a failure there is one\n",
        "               it does not count\n",
    ]);
}

#[test]
fn a_long_message_is_shown_as_far_as_one_reads_it() {
    let mini = Mini::new();
    let says = |lines: usize| {
        mini.attempt(&format!(
            r#"let line = |n: u32| format!("\nline {{n}}");
    let lines: String = (1..{lines}).map(line).collect();
    panic!("of try {{n}}:{{lines}}")"#
        ));
        mini.wb(&["check", "backoff"]).ends_with(1)
    };
    says(60).shows(&["of try 0:", "line 1", "line 30", "line 59"]).hides("…");
    says(100).shows(&["of try 0:", "line 1", "… 41 lines …", "line 99"]);
}
