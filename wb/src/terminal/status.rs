//! Where a build, and what follows it, says how far it is.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

#[derive(Debug)]
pub(crate) enum Status {
    /// One line in a terminal, that moves. Nothing in a pipe.
    Spinner(ProgressBar),
    /// A line on stderr for each step: for a program that reads it.
    Lines,
}

impl Status {
    /// Gone when it is dropped.
    pub(crate) fn spinner() -> Self {
        let bar = ProgressBar::new_spinner();
        let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}");
        bar.set_style(style.expect("the template is right"));
        bar.enable_steady_tick(Duration::from_millis(100));
        Self::Spinner(bar)
    }

    pub(crate) fn say(&self, text: &str) {
        match self {
            Self::Spinner(bar) => bar.set_message(text.to_owned()),
            Self::Lines => eprintln!("{text}"),
        }
    }
}

impl Drop for Status {
    fn drop(&mut self) {
        if let Self::Spinner(bar) = self {
            bar.finish_and_clear();
        }
    }
}
