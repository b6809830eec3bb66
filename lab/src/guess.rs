//! What the reader of an example expects, before it is shown.

use std::fmt::Display;
use std::io::{BufRead, IsTerminal, Result, Write, stdin, stdout};

/// Leaves a moment to think, where there is somebody to think. Returns the
/// number that was typed, or nothing in a pipe. What is no number is asked for
/// once more; Enter alone is no guess.
///
/// # Errors
///
/// When the terminal cannot be written to or read.
pub fn ask(question: &str) -> Result<Option<String>> {
    println!("{question}");
    if !stdin().is_terminal() {
        return Ok(None);
    }
    number(stdin().lock(), stdout())
}

fn number(
    mut from: impl BufRead,
    mut to: impl Write,
) -> Result<Option<String>> {
    for prompt in ["Your guess, then Enter: ", "A number, please: "] {
        write!(to, "{prompt}")?;
        to.flush()?;
        let mut line = String::new();
        from.read_line(&mut line)?;
        let guess = line.trim();
        if guess.is_empty() {
            return Ok(None);
        }
        if guess.parse::<f64>().is_ok_and(f64::is_finite) {
            return Ok(Some(guess.to_owned()));
        }
    }
    Ok(None)
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
    use super::{number, remark};

    /// What is guessed by who types this, and what they see.
    fn guess(typed: &str) -> (Option<String>, String) {
        let mut seen = Vec::new();
        let guess = number(typed.as_bytes(), &mut seen).unwrap();
        (guess, String::from_utf8(seen).unwrap())
    }

    #[test]
    fn a_guess_is_a_number() {
        for typed in ["4", "0.5", "-1"] {
            let (guess, seen) = guess(&format!(" {typed} \n7\n"));
            assert_eq!(guess.as_deref(), Some(typed));
            assert_eq!(seen, "Your guess, then Enter: ");
        }
    }

    #[test]
    fn what_is_no_number_is_asked_for_once_more() {
        let both = "Your guess, then Enter: A number, please: ";
        let some = Some("4".to_owned());
        assert_eq!(guess("abc\n4\n"), (some, both.to_owned()));
        assert_eq!(guess("abc\n4 ms\n4\n"), (None, both.to_owned()));
        assert_eq!(guess("inf\nNaN\n"), (None, both.to_owned()));
    }

    #[test]
    fn nothing_is_no_guess() {
        let once = "Your guess, then Enter: ".to_owned();
        assert_eq!(guess("\n4\n"), (None, once.clone()));
        assert_eq!(guess(""), (None, once));
    }

    #[test]
    fn a_guess_is_compared_with_what_was_seen() {
        assert_eq!(remark(Some("4"), 4), " As you guessed.");
        assert_eq!(remark(Some("7"), 4), " You guessed 7.");
        assert_eq!(remark(Some(""), 4), "");
        assert_eq!(remark(None, 4), "");
    }
}
