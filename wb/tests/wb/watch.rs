//! The interactive screen, in a pseudo-terminal.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process};

use crate::terminal::{Terminal, exits_soon, is_alive};
use crate::test_workbook::{NO_LIMIT, TestWorkbook};

const RIGHT: &str = "if n < 7 { 10 << n } else { 1000 }";

/// The body of an attempt that writes its process id to a file, and blocks until
/// the file `go` exists.
const BLOCKING_BODY: &str = r#"
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let id = std::process::id().to_string();
    std::fs::write(here.join(format!("waits.{id}")), id).unwrap();
    while !here.join("go").exists() { std::thread::yield_now() }
    u64::from(n)"#;

fn watch(book: &TestWorkbook) -> Terminal {
    Terminal::start(&book.command(&["watch", "backoff"]))
}

/// Returns the ids of the processes in which a test has blocked.
fn blocked_tests(book: &TestWorkbook) -> Vec<String> {
    let folder = fs::read_dir(book.path("attempts/week01")).unwrap();
    let names = folder.map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.into_string().unwrap());
    names.filter_map(|name| Some(name.strip_prefix("waits.")?.into())).collect()
}

#[track_caller]
fn wait_until(expected: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "still no: {expected}");
        std::thread::yield_now();
    }
}

#[test]
fn keys_open_the_pages_of_an_exercise() {
    let book = TestWorkbook::new();
    let terminal = Terminal::start(&book.command(&[]));
    terminal.shows(&[
        "Week 1: Wait",
        "> backoff",
        "not started",
        "enter open backoff",
    ]);
    terminal.type_keys("\r");
    terminal.shows(&["How long does a client", "s start   t 中文"]);
    // `h` does nothing before the exercise is started.
    terminal.type_keys("hs");
    terminal.shows(&[
        "How long does a client",
        "attempts/week01/backoff.rs: edit and save it",
        "backoff: fails at rung 1 of 4",
        "enter verdict   t 中文   h hint",
    ]);
    terminal.type_keys("s");
    terminal.shows(&["attempts/week01/backoff.rs exists, and is kept"]);
    terminal.type_keys("\r");
    terminal.shows(&[
        "rung 1 of 4",
        "growth 0 of 2",
        "todo",
        "what is twice",
        "q quit",
    ]);

    book.write_attempt(NO_LIMIT);
    terminal.shows(&[
        "week01/backoff: Wait longer each time  fails at rung 2 of 4",
        "growth 2 of 2 · limits 0 of 1",
        "BROKEN   a wait is at most a second",
        "milliseconds before try 7",
        "seen: 1280",
        "A known mistake fails the same checks: “no limit”",
        "The client waits",
        "Next: edit attempts/week01/backoff.rs",
        "h hint",
    ]);
    terminal.type_keys("h");
    terminal.shows(&["Hint 1 of 3", "first two", "h next hint"]);
    terminal.type_keys("h");
    terminal.shows(&["Hint 2 of 3", "A shift doubles."]);
    terminal.type_keys("a");
    terminal.shows(&["holds    each wait doubles", "more lines", "enter back"]);
    terminal.type_keys("G");
    terminal.shows(&["Why people make", "enter back"]);
    // From another page, `h` shows no new hint.
    terminal.type_keys("h");
    terminal.shows(&["Hint 2 of 3", "h next hint"]);
    assert!(
        !terminal.text().contains("Hint 3"),
        "a third hint:\n{}",
        terminal.text()
    );
    terminal.type_keys("h");
    terminal.shows(&["Hint 3 of 3", "enter back   ↑ ↓ scroll"]);
    terminal.type_keys("?");
    terminal.shows(&[
        "\n  s  start",
        "\n  h  show the hints",
        "r  check again",
        "enter back",
    ]);
    // Enter goes back to the page before. Other keys work from here, too.
    terminal.type_keys("\r");
    terminal.shows(&["Hint 3 of 3", "enter back   ↑ ↓ scroll"]);
    terminal.type_keys("?a");
    terminal.shows(&["holds    each wait doubles", "more lines", "enter back"]);
    terminal.type_keys("\r");
    terminal.shows(&["rung 2 of 4", "h hint   a all"]);
    terminal.type_keys("n");
    terminal.shows(&["backoff does not pass yet"]);
    terminal.type_keys("c");
    terminal.shows(&["--spoil"]);

    book.write_attempt(RIGHT);
    terminal.shows(&[
        "passes",
        "c compares your file",
        "all exercises on this path pass",
        "q quit",
    ]);
    terminal.type_keys("c");
    terminal.shows(&["lines of code", "Variants"]);
    terminal.type_keys("\x1b");
    terminal.shows(&["passes", "c compare"]);
    terminal.type_keys("l");
    terminal.shows(&["> backoff", "passing", "1 of 1"]);
    terminal.type_keys("q");
    let (status, text) = terminal.wait_for_exit();
    assert!(status.success(), "{status}");
    assert!(text.contains("week01/backoff: passes"), "seen:\n{text}");
    assert!(text.contains("`cargo wb` continues here."), "seen:\n{text}");
}

#[test]
fn t_shows_the_question_in_the_other_language() {
    let book = TestWorkbook::new();
    let (english, chinese) = ("How long does a client", "应该等待多久？");
    let terminal = Terminal::start(&book.command(&[]));
    terminal.shows(&["> backoff", "enter open backoff"]);
    // The key does nothing on the map.
    terminal.type_keys("t\r");
    terminal.shows(&[english, "t 中文"]);
    assert!(!terminal.text().contains(chinese), "{}", terminal.text());
    terminal.type_keys("t");
    terminal.shows(&[chinese, "t English"]);
    assert!(!terminal.text().contains(english), "{}", terminal.text());
    // The choice also holds for the page that `s` shows.
    terminal.type_keys("s");
    terminal.shows(&[chinese, "edit and save it", "t English"]);
    terminal.type_keys("\r");
    terminal.shows(&["rung 1 of 4", "h hint"]);
    // From the verdict, the key shows the question.
    terminal.type_keys("t");
    terminal.shows(&[chinese, "t English"]);
    terminal.type_keys("t");
    terminal.shows(&[english, "t 中文"]);
    terminal.type_keys("?");
    terminal.shows(&["t  show the question; there, switch its language"]);
    terminal.type_keys("q");
    assert!(terminal.wait_for_exit().0.success());
}

#[test]
fn the_screen_shows_the_question_in_the_language_of_the_locale() {
    let book = TestWorkbook::new();
    let mut command = book.command(&["watch", "backoff"]);
    let terminal = Terminal::start(command.env("LC_ALL", "zh_CN.UTF-8"));
    terminal.shows(&["There is no attempts/week01/backoff.rs"]);
    terminal.type_keys("s");
    terminal.shows(&["应该等待多久？", "t English"]);
    assert!(
        !terminal.text().contains("How long does a client"),
        "English question in a Chinese locale:\n{}",
        terminal.text()
    );
}

#[test]
fn n_and_the_map_open_another_exercise() {
    let book = TestWorkbook::new();
    book.run(&["path", "all"]);
    book.write_attempt(RIGHT);
    let terminal = watch(&book);
    terminal.shows(&[
        "passes",
        "n opens the next exercise, week01/pause",
        "n next: pause",
    ]);
    terminal.type_keys("n");
    terminal.shows(&["week01/pause: Wait at all", "Is a wait needed?"]);
    terminal.type_keys("\r");
    terminal.shows(&["week01/pause", "rung 1 of 1"]);
    book.write(
        "attempts/week01/pause.rs",
        "pub fn is_needed(failures: u32) -> bool { failures != 0 }",
    );
    terminal.shows(&[
        "week01/pause",
        "passes",
        "all exercises on this path pass",
    ]);
    // The file of the exercise before is not watched any more.
    book.write_attempt("n");
    terminal.type_keys("l");
    terminal.shows(&["  backoff", "changed since it passed", "> pause"]);
    terminal.type_keys("\x1b[A");
    terminal.shows(&["> backoff", "  pause", "enter open backoff"]);
    // On the map, keys for the current exercise do nothing.
    terminal.type_keys("hcnsart?");
    terminal.shows(&["r  check again"]);
    for back in ["\r", "\x1b", "\x7f", "?"] {
        // On the keys over the map, they do nothing either.
        terminal.type_keys(&format!("hcnsat{back}"));
        terminal.shows(&["> backoff", "  pause", "enter open backoff"]);
        terminal.type_keys("?");
        terminal.shows(&["r  check again"]);
    }
    terminal.type_keys("\r");
    terminal.shows(&["> backoff", "  pause", "enter open backoff"]);
    for (last, first) in [("G", "g"), ("\x1b[F", "\x1b[H"), (" ", "b")] {
        terminal.type_keys(last);
        terminal.shows(&["  backoff", "> pause", "enter open pause"]);
        terminal.type_keys(first);
        terminal.shows(&["> backoff", "  pause", "enter open backoff"]);
    }
    terminal.type_keys("\r");
    terminal.shows(&["week01/backoff", "does not compile", "error[E0308]"]);
    terminal.type_keys("q");
    assert!(terminal.wait_for_exit().0.success());
}

#[test]
fn the_verdict_belongs_to_the_last_save() {
    let book = TestWorkbook::new();
    book.write_attempt(BLOCKING_BODY);
    let terminal = watch(&book);
    // A save during compilation.
    terminal.shows(&["compiling week01/backoff"]);
    book.write_attempt(&format!("let _ = 1; {BLOCKING_BODY}"));
    // A save while tests run.
    wait_until("a blocked test", || !blocked_tests(&book).is_empty());
    terminal.shows(&["grading"]);
    book.write_attempt(NO_LIMIT);
    terminal.shows(&["rung 2 of 4", "seen: 1280"]);
    for id in blocked_tests(&book) {
        assert!(exits_soon(&id), "process {id} still runs");
    }
    // Two saves at once, and two with a check in between.
    book.write_attempt("n");
    book.write_attempt(RIGHT);
    terminal.shows(&["passes"]);
    book.write_attempt(NO_LIMIT);
    terminal.shows(&["checking…"]);
    book.write_attempt(RIGHT);
    terminal.wait_until("passes", |screen| {
        let text = screen.contents();
        text.contains("passes") && !text.contains("checking…")
    });
    terminal.type_keys("q");
    let (_, text) = terminal.wait_for_exit();
    assert!(text.contains("passes"), "seen:\n{text}");
}

#[test]
fn the_old_verdict_is_hidden_during_a_check() {
    let book = TestWorkbook::new();
    book.write_attempt(RIGHT);
    let terminal = watch(&book);
    terminal.shows(&["passes"]);
    book.write_attempt(BLOCKING_BODY);
    wait_until("a blocked test", || !blocked_tests(&book).is_empty());
    terminal.shows(&["checking…", "grading"]);
    assert!(
        !terminal.text().contains("passes"),
        "old verdict:\n{}",
        terminal.text()
    );
}

#[test]
fn each_way_of_saving_is_detected() {
    let book = TestWorkbook::new();
    let file = book.path("attempts/week01/backoff.rs");
    let text = |body: &str| {
        format!("pub fn delay(n: u32) -> u64 {{\n    {body}\n}}\n")
    };
    book.write_attempt(RIGHT);
    let terminal = watch(&book);
    terminal.shows(&["passes"]);

    // A new file replaces it.
    let new = file.with_extension("rs.new");
    fs::write(&new, text(NO_LIMIT)).unwrap();
    fs::rename(&new, &file).unwrap();
    terminal.shows(&["rung 2 of 4"]);

    // The old file is renamed, and a new one is written.
    fs::rename(&file, file.with_extension("rs~")).unwrap();
    fs::write(&file, text(RIGHT)).unwrap();
    terminal.shows(&["passes"]);

    // The new file is an hour older than the compiled one.
    fs::write(&new, text(NO_LIMIT)).unwrap();
    let hour = Duration::from_secs(3600);
    let old = File::options().write(true).open(&new).unwrap();
    old.set_modified(SystemTime::now() - hour).unwrap();
    fs::rename(&new, &file).unwrap();
    terminal.shows(&["rung 2 of 4"]);

    // The file is removed, and written again.
    fs::remove_file(&file).unwrap();
    terminal.shows(&["There is no attempts/week01/backoff.rs", "s start"]);
    fs::write(&file, text(RIGHT)).unwrap();
    terminal.shows(&["passes"]);

    // The folder is replaced, as version control does.
    let folder = file.parent().unwrap();
    let aside = book.path("aside");
    fs::rename(folder, &aside).unwrap();
    terminal.shows(&["There is no attempts/week01/backoff.rs"]);
    fs::rename(&aside, folder).unwrap();
    terminal.shows(&["passes"]);
    book.write_attempt(NO_LIMIT);
    terminal.shows(&["rung 2 of 4"]);
}

#[test]
fn the_file_is_polled_if_events_are_missing() {
    let book = TestWorkbook::new();
    book.write_attempt(RIGHT);
    // A write through a hard link causes no event in this folder.
    let other = book.path("other.rs");
    fs::hard_link(book.path("attempts/week01/backoff.rs"), &other).unwrap();
    let save = |body: &str| {
        let text = format!("pub fn delay(n: u32) -> u64 {{ {body} }}\n");
        fs::write(&other, text).unwrap();
    };
    let terminal = watch(&book);
    terminal.shows(&["passes"]);
    save(NO_LIMIT);
    terminal.shows(&["rung 2 of 4"]);
    save(RIGHT);
    terminal.shows(&["passes", "no events from this file system: reading"]);
    save(NO_LIMIT);
    terminal.shows(&["rung 2 of 4"]);
}

#[test]
fn the_screen_adapts_to_any_size() {
    let book = TestWorkbook::new();
    book.write_attempt(NO_LIMIT);
    let terminal = watch(&book);
    terminal.shows(&["rung 2 of 4", "“no limit”", "q quit"]);
    let text = terminal.text();
    assert!(text.lines().count() <= 24, "more than 24 lines:\n{text}");
    terminal.resize(12, 60);
    terminal.shows(&[
        "rung 2 of 4",
        "BROKEN",
        "more lines: a shows all",
        "h hint",
    ]);
    terminal.resize(1, 1);
    terminal.resize(2, 7);
    terminal.shows(&["q quit"]);
    terminal.resize(2, 30);
    terminal.shows(&["h hint   a all   q quit"]);
    terminal.type_keys("l");
    terminal.shows(&["↑ ↓"]);
    terminal.type_keys("\x1b");
    terminal.shows(&["h hint"]);
    terminal.type_keys("a");
    terminal.resize(6, 80);
    terminal.shows(&["more lines", "enter back"]);
    terminal.type_keys("G");
    terminal.shows(&["Why people make", "enter back"]);
    terminal.type_keys("k");
    terminal.shows(&["… 2 more lines", "enter back"]);
    terminal.type_keys("\x1b[H");
    terminal.shows(&["week01/backoff: Wait longer each time"]);
    terminal.resize(50, 200);
    terminal
        .shows(&["week01/backoff: Wait longer each time", "Why people make"]);
    terminal.type_keys("q");
    assert!(terminal.wait_for_exit().0.success());
}

#[test]
fn a_long_message_keeps_its_headings_on_the_screen() {
    let book = TestWorkbook::new();
    book.write_attempt(
        r#"let rows = "\n  row".repeat(40);
    panic!("of try {n}\nexpected:{rows}\nseen:{rows}")"#,
    );
    let terminal = watch(&book);
    terminal.shows(&[
        "of try 0",
        "expected:",
        "lines …",
        "seen:",
        "lines …",
        "Next: edit",
        "q quit",
    ]);
    terminal.type_keys("a");
    terminal.shows(&["of try 0", "expected:", "more lines", "enter back"]);
}

#[test]
fn ctrl_c_stops_the_running_test() {
    let book = TestWorkbook::new();
    book.write_attempt(BLOCKING_BODY);
    let terminal = watch(&book);
    wait_until("a blocked test", || !blocked_tests(&book).is_empty());
    terminal.type_keys("\x03");
    assert!(terminal.wait_for_exit().0.success());
    assert_no_blocked_test(&book);
}

#[test]
fn sigterm_stops_the_running_test() {
    let book = TestWorkbook::new();
    book.write_attempt(BLOCKING_BODY);
    let terminal = watch(&book);
    wait_until("a blocked test", || !blocked_tests(&book).is_empty());
    kill_process(terminal.pid(), Signal::TERM).unwrap();
    assert_eq!(terminal.wait_for_exit().0.code(), Some(143));
    assert_no_blocked_test(&book);
}

#[test]
fn a_closed_terminal_stops_the_running_test() {
    let book = TestWorkbook::new();
    book.write_attempt(BLOCKING_BODY);
    let terminal = watch(&book);
    wait_until("a blocked test", || !blocked_tests(&book).is_empty());
    assert_eq!(terminal.close().code(), Some(129));
    assert_no_blocked_test(&book);
}

#[track_caller]
fn assert_no_blocked_test(book: &TestWorkbook) {
    let ids = blocked_tests(book);
    assert!(!ids.is_empty(), "expected a test that has blocked");
    for id in ids {
        assert!(exits_soon(&id), "process {id} still runs");
    }
}

#[test]
fn ctrl_z_restores_the_terminal_and_fg_resumes_the_screen() {
    let book = TestWorkbook::new();
    book.write_attempt(RIGHT);
    let wb = book.command(&[]);
    let mut shell = Command::new("/bin/sh");
    shell.arg("-i").env("PS1", "ready> ").current_dir(book.path(""));
    for (name, value) in wb.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let terminal = Terminal::start(&shell);
    terminal.shows(&["ready>"]);
    terminal
        .type_keys(&format!("{} watch backoff\n", env!("CARGO_BIN_EXE_wb")));
    terminal.shows(&["passes", "q quit"]);
    terminal.type_keys("\x1a");
    // The shell prints its next prompt below the first one.
    terminal.shows(&["Stopped", "ready>"]);
    assert!(
        !terminal.screen().alternate_screen(),
        "alternate screen:\n{}",
        terminal.text()
    );
    terminal.assert_cooked();
    terminal.type_keys("fg\n");
    terminal.shows(&["passes", "q quit"]);
    book.write_attempt(NO_LIMIT);
    terminal.shows(&["rung 2 of 4"]);
    terminal.type_keys("q");
    terminal.shows(&["rung 2 of 4. `cargo wb`", "ready>"]);
    terminal.type_keys("exit\n");
    terminal.wait_for_exit();
}

#[test]
fn notes_are_served_until_the_screen_is_closed() {
    let book = TestWorkbook::new();
    book.write_attempt(NO_LIMIT);
    let terminal = watch(&book);
    terminal.shows(&["rung 2 of 4"]);
    terminal.type_keys("o");
    terminal.shows(&["notes: http://127.0.0.1:3000/week01/backoff.html"]);
    let id = book.read("notes/pid");
    assert!(is_alive(&id), "the notes' server does not run");
    // A check does not stop the server.
    book.write_attempt(RIGHT);
    terminal
        .shows(&["passes", "notes: http://127.0.0.1:3000/week01/backoff.html"]);
    assert!(is_alive(&id), "the notes' server does not run");
    // The server is killed, and can be started again.
    let pid = Pid::from_raw(id.parse().unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    terminal.shows(&["the notes' server has ended"]);
    terminal.type_keys("o");
    terminal.shows(&["notes: http://127.0.0.1:3000/week01/backoff.html"]);
    let id = book.read("notes/pid");
    terminal.type_keys("q");
    terminal.wait_for_exit();
    assert!(exits_soon(&id), "process {id} still runs");
}

#[test]
fn a_build_error_of_the_notes_is_reported() {
    let book = TestWorkbook::new();
    book.replace("notes/src/main.rs", "fn main() {", "fn main() { undefined");
    book.write_attempt(RIGHT);
    let terminal = watch(&book);
    terminal.shows(&["passes"]);
    terminal.type_keys("o");
    terminal.shows(&["does not build"]);
    terminal.type_keys("q");
    assert!(terminal.wait_for_exit().0.success());
}

#[test]
fn without_a_terminal_no_screen_is_shown() {
    let book = TestWorkbook::new();
    book.run(&["watch"])
        .exits_with(2)
        .in_one_error_line()
        .shows(&["cargo wb check"]);
    book.run(&[]).exits_with(0).shows(&["> backoff", "cargo wb start backoff"]);
    let terminal = Terminal::start(book.command(&[]).env("TERM", "dumb"));
    terminal.shows(&["> backoff", "cargo wb start backoff"]);
    assert!(terminal.wait_for_exit().0.success());
}

#[test]
fn watch_records_progress() {
    let book = TestWorkbook::new();
    book.write_attempt(RIGHT);
    let terminal = watch(&book);
    terminal.shows(&["passes"]);
    terminal.type_keys("q");
    terminal.wait_for_exit();
    book.run(&[]).shows(&["passing", "1 of 1"]);
    assert!(Path::new(&book.path("attempts/progress.txt")).exists());
}
