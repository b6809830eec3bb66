//! What a reader sees in a terminal.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process};

use crate::mini::Mini;
use crate::tty::{Tty, is_alive, is_gone};

const RIGHT: &str = "if n < 7 { 10 << n } else { 1000 }";
const NO_LIMIT: &str = "10_u64 << n.min(12)";

/// A test that waits for the file `go`, and says where it waits.
const WAITS: &str = r#"
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let id = std::process::id().to_string();
    std::fs::write(here.join(format!("waits.{id}")), id).unwrap();
    while !here.join("go").exists() { std::thread::yield_now() }
    u64::from(n)"#;

fn watch(mini: &Mini) -> Tty {
    Tty::start(&mini.command(&["watch", "backoff"]))
}

/// Processes that wait.
fn waiting(mini: &Mini) -> Vec<String> {
    let folder = fs::read_dir(mini.path("attempts/week01")).unwrap();
    let names = folder.map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.into_string().unwrap());
    names.filter_map(|name| Some(name.strip_prefix("waits.")?.into())).collect()
}

#[track_caller]
fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn an_evening_in_a_terminal() {
    let mini = Mini::new();
    let tty = Tty::start(&mini.command(&[]));
    tty.shows(&["Week 1: Wait", "> backoff", "untouched", "enter backoff"]);
    tty.types("\r");
    tty.shows(&["How long does a client", "应该等待多久？", "s start"]);
    // Nothing to give a hint on yet.
    tty.types("hs");
    tty.shows(&[
        "How long does a client",
        "attempts/week01/backoff.rs: edit and save it",
        "backoff: rung 1 of 4",
        "enter verdict   h hint",
    ]);
    tty.types("s");
    tty.shows(&["attempts/week01/backoff.rs: yours, kept"]);
    tty.types("\r");
    tty.shows(&[
        "rung 1 of 4",
        "growth 0 of 2",
        "todo",
        "what is twice",
        "q quit",
    ]);

    mini.attempt(NO_LIMIT);
    tty.shows(&[
        "week01/backoff: Wait longer each time  rung 2 of 4",
        "growth 2 of 2 · limits 0 of 1",
        "BROKEN   no wait is longer than a second",
        "milliseconds before try 7",
        "left: 1280",
        "a known mistake, “no limit”",
        "It waits for",
        "Next: edit attempts/week01/backoff.rs",
        "h hint",
    ]);
    tty.types("h");
    tty.shows(&["Hint 1 of 3", "first two", "h one more"]);
    tty.types("h");
    tty.shows(&["Hint 2 of 3", "A shift doubles."]);
    tty.types("a");
    tty.shows(&["holds    each wait doubles", "more lines", "enter back"]);
    tty.types("G");
    tty.shows(&["What tempts", "enter back"]);
    // Back to the hints: none is spent.
    tty.types("h");
    tty.shows(&["Hint 2 of 3", "h one more"]);
    assert!(!tty.text().contains("Hint 3"), "{}", tty.text());
    tty.types("h");
    tty.shows(&["Hint 3 of 3", "enter back   ↑ ↓ scroll"]);
    tty.types("?");
    tty.shows(&[
        "\n  s  starts",
        "\n  h  the hints",
        "r  checks again",
        "enter back",
    ]);
    // Back to where one was; a key that leads elsewhere does so from here.
    tty.types("\r");
    tty.shows(&["Hint 3 of 3", "enter back   ↑ ↓ scroll"]);
    tty.types("?a");
    tty.shows(&["holds    each wait doubles", "more lines", "enter back"]);
    tty.types("\r");
    tty.shows(&["rung 2 of 4", "h hint   a all"]);
    tty.types("n");
    tty.shows(&["backoff does not pass yet"]);
    tty.types("c");
    tty.shows(&["--spoil"]);

    mini.attempt(RIGHT);
    tty.shows(&[
        "passes",
        "c compares yours",
        "That was the last one",
        "q quit",
    ]);
    tty.types("c");
    tty.shows(&["lines of code", "Other right answers"]);
    tty.types("\x1b");
    tty.shows(&["passes", "c compare"]);
    tty.types("l");
    tty.shows(&["> backoff", "passing", "1 of 1"]);
    tty.types("q");
    let (status, text) = tty.ends();
    assert!(status.success(), "{status}");
    assert!(text.contains("week01/backoff: passes"), "{text}");
    assert!(text.contains("`cargo wb` goes on from here."), "{text}");
}

#[test]
fn from_one_exercise_to_the_next() {
    let mini = Mini::new();
    mini.wb(&["path", "all"]);
    mini.attempt(RIGHT);
    let tty = watch(&mini);
    tty.shows(&["passes", "n goes on: week01/pause", "n pause"]);
    tty.types("n");
    tty.shows(&["week01/pause: Wait at all", "Is a wait needed?"]);
    tty.types("\r");
    tty.shows(&["week01/pause", "rung 1 of 1"]);
    mini.write(
        "attempts/week01/pause.rs",
        "pub fn is_needed(failures: u32) -> bool { failures != 0 }",
    );
    tty.shows(&["week01/pause", "passes", "That was the last one"]);
    // What was left is watched no more.
    mini.attempt("n");
    tty.types("l");
    tty.shows(&["  backoff", "changed since it passed", "> pause"]);
    tty.types("\x1b[A");
    tty.shows(&["> backoff", "  pause", "enter backoff"]);
    // Keys are for what is chosen, or do nothing.
    tty.types("hcnsar?");
    tty.shows(&["r  checks again"]);
    for back in ["\r", "\x1b", "\x7f", "?"] {
        // Nothing of the exercise that is left happens from there either.
        tty.types(&format!("hcnsa{back}"));
        tty.shows(&["> backoff", "  pause", "enter backoff"]);
        tty.types("?");
        tty.shows(&["r  checks again"]);
    }
    tty.types("\r");
    tty.shows(&["> backoff", "  pause", "enter backoff"]);
    for (last, first) in [("G", "g"), ("\x1b[F", "\x1b[H"), (" ", "b")] {
        tty.types(last);
        tty.shows(&["  backoff", "> pause", "enter pause"]);
        tty.types(first);
        tty.shows(&["> backoff", "  pause", "enter backoff"]);
    }
    tty.types("\r");
    tty.shows(&["week01/backoff", "does not compile", "error[E0308]"]);
    tty.types("q");
    assert!(tty.ends().0.success());
}

#[test]
fn the_verdict_is_of_the_last_save() {
    let mini = Mini::new();
    mini.attempt(WAITS);
    let tty = watch(&mini);
    // While the compiler is at it.
    tty.shows(&["compiling week01/backoff"]);
    mini.attempt(&format!("let _ = 1; {WAITS}"));
    // While tests are at it.
    eventually("a test waits", || !waiting(&mini).is_empty());
    tty.shows(&["grading"]);
    mini.attempt(NO_LIMIT);
    tty.shows(&["rung 2 of 4", "left: 1280"]);
    for id in waiting(&mini) {
        assert!(is_gone(&id), "process {id} is left");
    }
    // Two at once, and two a moment apart.
    mini.attempt("n");
    mini.attempt(RIGHT);
    tty.shows(&["passes"]);
    mini.attempt(NO_LIMIT);
    tty.shows(&["checking…"]);
    mini.attempt(RIGHT);
    tty.shows_when("passes", |screen| {
        let text = screen.contents();
        text.contains("passes") && !text.contains("checking…")
    });
    tty.types("q");
    let (_, text) = tty.ends();
    assert!(text.contains("passes"), "{text}");
}

#[test]
fn what_is_checked_again_does_not_look_like_a_verdict() {
    let mini = Mini::new();
    mini.attempt(RIGHT);
    let tty = watch(&mini);
    tty.shows(&["passes"]);
    mini.attempt(WAITS);
    eventually("a test waits", || !waiting(&mini).is_empty());
    tty.shows(&["checking…", "grading"]);
    assert!(!tty.text().contains("passes"), "{}", tty.text());
}

#[test]
fn however_an_editor_saves() {
    let mini = Mini::new();
    let file = mini.path("attempts/week01/backoff.rs");
    let text = |body: &str| {
        format!("pub fn delay(n: u32) -> u64 {{\n    {body}\n}}\n")
    };
    mini.attempt(RIGHT);
    let tty = watch(&mini);
    tty.shows(&["passes"]);

    // A new file takes its place.
    let new = file.with_extension("rs.new");
    fs::write(&new, text(NO_LIMIT)).unwrap();
    fs::rename(&new, &file).unwrap();
    tty.shows(&["rung 2 of 4"]);

    // The old one is put aside first.
    fs::rename(&file, file.with_extension("rs~")).unwrap();
    fs::write(&file, text(RIGHT)).unwrap();
    tty.shows(&["passes"]);

    // One that is older than what was compiled, by an hour.
    fs::write(&new, text(NO_LIMIT)).unwrap();
    let hour = Duration::from_secs(3600);
    let old = File::options().write(true).open(&new).unwrap();
    old.set_modified(SystemTime::now() - hour).unwrap();
    fs::rename(&new, &file).unwrap();
    tty.shows(&["rung 2 of 4"]);

    // Gone, and back.
    fs::remove_file(&file).unwrap();
    tty.shows(&["There is no attempts/week01/backoff.rs", "s start"]);
    fs::write(&file, text(RIGHT)).unwrap();
    tty.shows(&["passes"]);

    // With its folder, as version control does.
    let folder = file.parent().unwrap();
    let aside = mini.path("aside");
    fs::rename(folder, &aside).unwrap();
    tty.shows(&["There is no attempts/week01/backoff.rs"]);
    fs::rename(&aside, folder).unwrap();
    tty.shows(&["passes"]);
    mini.attempt(NO_LIMIT);
    tty.shows(&["rung 2 of 4"]);
}

#[test]
fn where_the_file_system_tells_nothing_it_is_asked() {
    let mini = Mini::new();
    mini.attempt(RIGHT);
    // What is written through another name is no event in this folder.
    let other = mini.path("other.rs");
    fs::hard_link(mini.path("attempts/week01/backoff.rs"), &other).unwrap();
    let save = |body: &str| {
        let text = format!("pub fn delay(n: u32) -> u64 {{ {body} }}\n");
        fs::write(&other, text).unwrap();
    };
    let tty = watch(&mini);
    tty.shows(&["passes"]);
    save(NO_LIMIT);
    tty.shows(&["rung 2 of 4"]);
    save(RIGHT);
    tty.shows(&["passes", "no events from this file system: looking"]);
    save(NO_LIMIT);
    tty.shows(&["rung 2 of 4"]);
}

#[test]
fn a_screen_of_any_size() {
    let mini = Mini::new();
    mini.attempt(NO_LIMIT);
    let tty = watch(&mini);
    tty.shows(&["rung 2 of 4", "“no limit”", "q quit"]);
    let text = tty.text();
    assert!(text.lines().count() <= 24, "{text}");
    tty.resize(12, 60);
    tty.shows(&["rung 2 of 4", "BROKEN", "more lines: a shows all", "h hint"]);
    tty.resize(1, 1);
    tty.resize(2, 7);
    tty.shows(&["q quit"]);
    tty.resize(2, 30);
    tty.shows(&["h hint   a all   q quit"]);
    tty.types("l");
    tty.shows(&["↑ ↓"]);
    tty.types("\x1b");
    tty.shows(&["h hint"]);
    tty.types("a");
    tty.resize(6, 80);
    tty.shows(&["more lines", "enter back"]);
    tty.types("G");
    tty.shows(&["What tempts", "enter back"]);
    tty.types("k");
    tty.shows(&["… 2 more lines", "enter back"]);
    tty.types("\x1b[H");
    tty.shows(&["week01/backoff: Wait longer each time"]);
    tty.resize(50, 200);
    tty.shows(&["week01/backoff: Wait longer each time", "What tempts"]);
    tty.types("q");
    assert!(tty.ends().0.success());
}

#[test]
fn a_long_message_keeps_its_headings_on_the_screen() {
    let mini = Mini::new();
    mini.attempt(
        r#"let rows = "\n  row".repeat(40);
    panic!("of try {n}\nexpected:{rows}\nseen:{rows}")"#,
    );
    let tty = watch(&mini);
    tty.shows(&[
        "of try 0",
        "expected:",
        "lines …",
        "seen:",
        "lines …",
        "Next: edit",
        "q quit",
    ]);
    tty.types("a");
    tty.shows(&["of try 0", "expected:", "more lines", "enter back"]);
}

#[test]
fn ctrl_c_leaves_nothing() {
    let mini = Mini::new();
    mini.attempt(WAITS);
    let tty = watch(&mini);
    eventually("a test waits", || !waiting(&mini).is_empty());
    tty.types("\x03");
    assert!(tty.ends().0.success());
    nothing_waits(&mini);
}

#[test]
fn a_signal_leaves_nothing() {
    let mini = Mini::new();
    mini.attempt(WAITS);
    let tty = watch(&mini);
    eventually("a test waits", || !waiting(&mini).is_empty());
    kill_process(tty.id(), Signal::TERM).unwrap();
    assert_eq!(tty.ends().0.code(), Some(143));
    nothing_waits(&mini);
}

#[test]
fn a_terminal_that_goes_leaves_nothing() {
    let mini = Mini::new();
    mini.attempt(WAITS);
    let tty = watch(&mini);
    eventually("a test waits", || !waiting(&mini).is_empty());
    assert_eq!(tty.closes().code(), Some(129));
    nothing_waits(&mini);
}

#[track_caller]
fn nothing_waits(mini: &Mini) {
    let ids = waiting(mini);
    assert!(!ids.is_empty());
    for id in ids {
        assert!(is_gone(&id), "process {id} is left");
    }
}

#[test]
fn ctrl_z_gives_the_terminal_to_the_shell() {
    let mini = Mini::new();
    mini.attempt(RIGHT);
    let wb = mini.command(&[]);
    let mut shell = Command::new("/bin/sh");
    shell.arg("-i").env("PS1", "ready> ").current_dir(mini.path(""));
    for (name, value) in wb.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let tty = Tty::start(&shell);
    tty.shows(&["ready>"]);
    tty.types(&format!("{} watch backoff\n", env!("CARGO_BIN_EXE_wb")));
    tty.shows(&["passes", "q quit"]);
    tty.types("\x1a");
    // Its next prompt: the first one stands on this screen as well.
    tty.shows(&["Stopped", "ready>"]);
    assert!(!tty.screen().alternate_screen(), "{}", tty.text());
    tty.is_cooked();
    tty.types("fg\n");
    tty.shows(&["passes", "q quit"]);
    mini.attempt(NO_LIMIT);
    tty.shows(&["rung 2 of 4"]);
    tty.types("q");
    tty.shows(&["rung 2 of 4. `cargo wb`", "ready>"]);
    tty.types("exit\n");
    tty.ends();
}

#[test]
fn the_notes_are_served_as_long_as_one_watches() {
    let mini = Mini::new();
    mini.attempt(NO_LIMIT);
    let tty = watch(&mini);
    tty.shows(&["rung 2 of 4"]);
    tty.types("o");
    tty.shows(&["notes: http://127.0.0.1:3000/week01/backoff.html"]);
    let id = mini.read("notes/pid");
    assert!(is_alive(&id), "the notes' server");
    // A check does not end it.
    mini.attempt(RIGHT);
    tty.shows(&["passes", "notes: http://127.0.0.1:3000/week01/backoff.html"]);
    assert!(is_alive(&id), "the notes' server");
    // It ends, and can be started again.
    let pid = Pid::from_raw(id.parse().unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    tty.shows(&["the notes are not served"]);
    tty.types("o");
    tty.shows(&["notes: http://127.0.0.1:3000/week01/backoff.html"]);
    let id = mini.read("notes/pid");
    tty.types("q");
    tty.ends();
    assert!(is_gone(&id), "process {id} is left");
}

#[test]
fn notes_that_do_not_build_say_so() {
    let mini = Mini::new();
    mini.change("notes/src/main.rs", "fn main() {", "fn main() { nonsense");
    mini.attempt(RIGHT);
    let tty = watch(&mini);
    tty.shows(&["passes"]);
    tty.types("o");
    tty.shows(&["does not build"]);
    tty.types("q");
    assert!(tty.ends().0.success());
}

#[test]
fn without_a_terminal_nothing_is_watched() {
    let mini = Mini::new();
    mini.wb(&["watch"]).ends_with(2).in_one_line().shows(&["cargo wb check"]);
    mini.wb(&[]).ends_with(0).shows(&["> backoff", "cargo wb start backoff"]);
    let tty = Tty::start(mini.command(&[]).env("TERM", "dumb"));
    tty.shows(&["> backoff", "cargo wb start backoff"]);
    assert!(tty.ends().0.success());
}

#[test]
fn progress_is_kept() {
    let mini = Mini::new();
    mini.attempt(RIGHT);
    let tty = watch(&mini);
    tty.shows(&["passes"]);
    tty.types("q");
    tty.ends();
    mini.wb(&[]).shows(&["passing", "1 of 1"]);
    assert!(Path::new(&mini.path("attempts/progress.txt")).exists());
}
