//! Real processes move money while they are killed.

use std::process::Command;

const TRANSFERS: &str = "20";
const KILLS: &str = "5";

/// Runs three seeds, one after the other.
fn no_cent_is_lost(pattern: &str) {
    for seed in ["1", "2", "3"] {
        let output = Command::new(env!("CARGO_BIN_EXE_transfer"))
            .args(["--pattern", pattern, "--chaos", seed])
            .args(["--transfers", TRANSFERS, "--crashes", KILLS])
            .output()
            .expect("the program starts");
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        let is_right = output.status.success()
            && text.contains(&format!(" {KILLS} kills"))
            && text.contains("0 cents lost");
        assert!(
            is_right,
            "expected {KILLS} kills and no lost cent with seed {seed}, got \
             {}:\n{text}{errors}",
            output.status
        );
    }
}

#[test]
#[ignore = "needs postgres"]
fn no_cent_is_lost_with_an_outbox_while_processes_are_killed() {
    no_cent_is_lost("outbox");
}

#[test]
#[ignore = "needs postgres"]
fn no_cent_is_lost_with_half_messages_while_processes_are_killed() {
    no_cent_is_lost("half");
}

#[test]
#[ignore = "needs postgres"]
fn no_cent_is_lost_with_tcc_while_processes_are_killed() {
    no_cent_is_lost("tcc");
}
