//! Installs missing servers with apt-get.

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

const NONINTERACTIVE: &str = "DEBIAN_FRONTEND=noninteractive";

fn apt_get(arguments: &[&str]) -> Result<(), Error> {
    let mut command = if geteuid().is_root() {
        let mut env = Command::new("env");
        env.args([NONINTERACTIVE, "apt-get"]);
        env
    } else {
        // sudo fails instead of asking for a password.
        let mut sudo = Command::new("sudo");
        sudo.args(["--non-interactive", "env", NONINTERACTIVE, "apt-get"]);
        sudo
    };
    command.args(arguments).stdout(Stdio::from(std::io::stderr()));
    let shown = format!("apt-get {}", arguments.join(" "));
    eprintln!("{shown}");
    match Group::spawn(&mut command)?.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Error::new(format!("`{shown}` ended with {status}"))
            .fix("install the packages yourself, or use --allow-skips")),
        Err(error) => {
            Err(Error::new(format!("cannot wait for apt-get: {error}")))
        }
    }
}
