//! A test of `signals` in a process whose stderr cannot be written. The stub
//! does not require this.

use std::process::{Command, Stdio, exit};
use std::{env, io};

use tokio::runtime::Runtime;
use week03::signals;

/// If this variable is set, this program is the child.
const CHILD: &str = "WEEK03_STDERR_CHILD";

#[test]
fn run_returns_1_for_a_failure_even_if_the_reader_of_stderr_has_ended() {
    if env::var_os(CHILD).is_some() {
        let runtime = Runtime::new().expect("a runtime");
        let start = async |_| Err("a failure".into());
        exit(runtime.block_on(signals::run(start, || ())).into());
    }
    let (reader, stderr) = io::pipe().expect("a pipe");
    drop(reader);
    let name =
        "run_returns_1_for_a_failure_even_if_the_reader_of_stderr_has_ended";
    let mut child = Command::new(env::current_exe().expect("this program"));
    child.args(["--exact", name, "--nocapture"]).env(CHILD, "1");
    child.stdout(Stdio::null()).stderr(stderr);
    let code = child.status().expect("the child starts").code();
    assert_eq!(code, Some(1), "the exit code; 101: a panic");
}
