//! What the reader of an example expects, before it is shown.

use std::fmt::Display;
use std::io::{IsTerminal, Result, Write, stdin, stdout};

/// Leaves a moment to think, where there is somebody to think. Returns the line
/// that was typed, or nothing in a pipe.
///
/// # Errors
///
/// When the terminal cannot be written to or read.
pub fn ask(question: &str) -> Result<Option<String>> {
    println!("{question}");
    if !stdin().is_terminal() {
        return Ok(None);
    }
    print!("Your guess, then Enter: ");
    stdout().flush()?;
    let mut guess = String::new();
    stdin().read_line(&mut guess)?;
    Ok(Some(guess.trim().to_owned()))
}

/// A remark on a guess; empty where there is none.
pub fn remark(guess: Option<&str>, seen: impl Display) -> String {
    let seen = seen.to_string();
    match guess {
        None | Some("") => String::new(),
        Some(guess) if guess == seen => " As you guessed.".to_owned(),
        Some(guess) => format!(" You guessed {guess}."),
    }
}

#[cfg(test)]
mod tests {
    use super::remark;

    #[test]
    fn a_guess_is_compared_with_what_was_seen() {
        assert_eq!(remark(Some("4"), 4), " As you guessed.");
        assert_eq!(remark(Some("7"), 4), " You guessed 7.");
        assert_eq!(remark(Some(""), 4), "");
        assert_eq!(remark(None, 4), "");
    }
}
