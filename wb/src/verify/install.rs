//! Debian's packages for the servers that are missing.

use std::process::{Command, Stdio};

use lab::servers::Program;
use rustix::process::geteuid;

use crate::error::Error;
use crate::grading::process::Group;

pub(super) fn install(missing: &[&Program]) -> Result<(), Error> {
    apt_get(&["update"])?;
    let packages: Vec<_> =
        missing.iter().map(|program| program.debian).collect();
    let install = ["install", "--yes", "--no-install-recommends"];
    apt_get(&[&install[..], &packages].concat())
}

const NOBODY_TO_ASK: &str = "DEBIAN_FRONTEND=noninteractive";

fn apt_get(arguments: &[&str]) -> Result<(), Error> {
    let mut command = if geteuid().is_root() {
        let mut env = Command::new("env");
        env.args([NOBODY_TO_ASK, "apt-get"]);
        env
    } else {
        // Without a terminal to ask on, it fails rather than waits.
        let mut sudo = Command::new("sudo");
        sudo.args(["--non-interactive", "env", NOBODY_TO_ASK, "apt-get"]);
        sudo
    };
    command.args(arguments).stdout(Stdio::from(std::io::stderr()));
    let what = format!("apt-get {}", arguments.join(" "));
    eprintln!("{what}");
    match Group::spawn(&mut command)?.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Error::new(format!("`{what}` ended with {status}"))
            .fix("install the packages by hand, or go without: --allow-skips")),
        Err(error) => Err(Error::new(format!("cannot wait: {error}"))),
    }
}
