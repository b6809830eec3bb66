//! Asks the reader of an example to guess a number before it is printed.

use std::fmt::Display;
use std::io::{BufRead, IsTerminal, Result, Write, stdin, stdout};

/// Prints `question` and, in a terminal, waits for a guess. Returns the number
/// that the reader types.
///
/// Asks once more if the input is not a number. Returns `None` if the second
/// input is not a number, if the reader presses only Enter, or if the standard
/// input or the standard output is not a terminal.
///
/// # Errors
///
/// When the terminal cannot be read or written.
pub fn ask(question: &str) -> Result<Option<String>> {
    writeln!(stdout(), "{question}")?;
    if !stdin().is_terminal() || !stdout().is_terminal() {
        return Ok(None);
    }
    read_number(stdin().lock(), stdout())
}

fn read_number(
    mut input: impl BufRead,
    mut output: impl Write,
) -> Result<Option<String>> {
    for prompt in ["Your guess, then Enter: ", "Please type a number: "] {
        write!(output, "{prompt}")?;
        output.flush()?;
        let mut line = String::new();
        input.read_line(&mut line)?;
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

/// Returns a sentence that compares `guess` with `result`, or an empty string
/// if the reader did not guess.
pub fn remark(guess: Option<&str>, result: impl Display) -> String {
    let result = result.to_string();
    match guess {
        None | Some("") => String::new(),
        Some(guess) if guess == result => " As you guessed.".to_owned(),
        Some(guess) => format!(" You guessed {guess}."),
    }
}

#[cfg(test)]
mod tests {
    use super::{read_number, remark};

    /// Returns the guess for the input `typed`, and the prompts.
    fn guess(typed: &str) -> (Option<String>, String) {
        let mut prompts = Vec::new();
        let guess = read_number(typed.as_bytes(), &mut prompts).unwrap();
        (guess, String::from_utf8(prompts).unwrap())
    }

    #[test]
    fn a_finite_number_is_accepted() {
        for typed in ["4", "0.5", "-1"] {
            let (guess, prompts) = guess(&format!(" {typed} \n7\n"));
            assert_eq!(guess.as_deref(), Some(typed));
            assert_eq!(prompts, "Your guess, then Enter: ");
        }
    }

    #[test]
    fn invalid_input_is_prompted_for_once_more() {
        let both = "Your guess, then Enter: Please type a number: ";
        let some = Some("4".to_owned());
        assert_eq!(guess("abc\n4\n"), (some, both.to_owned()));
        assert_eq!(guess("abc\n4 ms\n4\n"), (None, both.to_owned()));
        assert_eq!(guess("inf\nNaN\n"), (None, both.to_owned()));
    }

    #[test]
    fn an_empty_line_or_the_end_of_input_is_no_guess() {
        let once = "Your guess, then Enter: ".to_owned();
        assert_eq!(guess("\n4\n"), (None, once.clone()));
        assert_eq!(guess(""), (None, once));
    }

    #[test]
    fn the_remark_compares_the_guess_with_the_result() {
        assert_eq!(remark(Some("4"), 4), " As you guessed.");
        assert_eq!(remark(Some("7"), 4), " You guessed 7.");
        assert_eq!(remark(Some(""), 4), "");
        assert_eq!(remark(None, 4), "");
    }
}
