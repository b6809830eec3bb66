//! Shows the current step of a build or a check.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Where the steps are shown.
#[derive(Debug)]
pub(crate) enum Status {
    /// A spinner in a terminal. Shows nothing in a pipe.
    Spinner(ProgressBar),
    /// One line on stderr for each step, for a program that reads them.
    Lines,
}

impl Status {
    /// Creates a spinner, which disappears on drop.
    pub(crate) fn spinner() -> Self {
        let bar = ProgressBar::new_spinner();
        let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}");
        bar.set_style(style.expect("the template is valid"));
        bar.enable_steady_tick(Duration::from_millis(100));
        Self::Spinner(bar)
    }

    pub(crate) fn show(&self, step: &str) {
        match self {
            Self::Spinner(bar) => bar.set_message(step.to_owned()),
            Self::Lines => eprintln!("{step}"),
        }
    }

    /// Hides the spinner while `print` runs.
    pub(crate) fn suspend(&self, print: impl FnOnce()) {
        match self {
            Self::Spinner(bar) => bar.suspend(print),
            Self::Lines => print(),
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
