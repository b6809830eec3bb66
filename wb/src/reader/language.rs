//! The language of the questions.

use std::env;
use std::ffi::OsString;

use clap::ValueEnum;
use workbook::spec::Question;

/// A language that every question is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Language {
    #[value(name = "en")]
    English,
    #[value(name = "zh")]
    Chinese,
}

impl Language {
    /// Returns the language of the process's locale.
    pub(crate) fn from_environment() -> Self {
        Self::of_locale(|name| env::var_os(name))
    }

    /// Returns Chinese if the locale starts with `zh`, and English otherwise.
    ///
    /// The locale is the first of `LC_ALL`, `LC_MESSAGES` and `LANG` that is set
    /// and not empty.
    fn of_locale(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let variables = ["LC_ALL", "LC_MESSAGES", "LANG"];
        let mut values = variables.into_iter().filter_map(variable);
        let locale = values.find(|value| !value.is_empty());
        let locale = locale.unwrap_or_default();
        if locale.as_encoded_bytes().starts_with(b"zh") {
            Self::Chinese
        } else {
            Self::English
        }
    }

    pub(crate) fn other(self) -> Self {
        match self {
            Self::English => Self::Chinese,
            Self::Chinese => Self::English,
        }
    }

    /// Returns the name of the language, in the language itself.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::English => "English",
            Self::Chinese => "中文",
        }
    }

    pub(crate) fn question(self, question: &Question) -> &str {
        match self {
            Self::English => &question.en,
            Self::Chinese => &question.zh,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Language::{self, Chinese, English};

    fn language(variables: &[(&str, &str)]) -> Language {
        Language::of_locale(|name| {
            let (_, value) = variables.iter().find(|(n, _)| *n == name)?;
            Some(value.into())
        })
    }

    #[test]
    fn a_zh_locale_selects_chinese() {
        for locale in ["zh", "zh_CN.UTF-8", "zh_TW"] {
            assert_eq!(language(&[("LANG", locale)]), Chinese, "{locale}");
        }
        for locale in ["C", "POSIX", "en_US.UTF-8", "de_DE", "ja_JP"] {
            assert_eq!(language(&[("LANG", locale)]), English, "{locale}");
        }
        assert_eq!(language(&[]), English, "no variable is set");
    }

    #[test]
    fn lc_all_overrides_lc_messages_which_overrides_lang() {
        let (zh, en) = ("zh_CN.UTF-8", "en_US.UTF-8");
        let all = [("LANG", zh), ("LC_MESSAGES", zh), ("LC_ALL", en)];
        assert_eq!(language(&all), English);
        let all = [("LANG", en), ("LC_MESSAGES", en), ("LC_ALL", zh)];
        assert_eq!(language(&all), Chinese);
        assert_eq!(language(&[("LANG", en), ("LC_MESSAGES", zh)]), Chinese);
        assert_eq!(language(&[("LANG", zh), ("LC_MESSAGES", en)]), English);
    }

    #[test]
    fn an_empty_variable_counts_as_unset() {
        let all = [("LANG", "zh_CN"), ("LC_MESSAGES", ""), ("LC_ALL", "")];
        assert_eq!(language(&all), Chinese);
        assert_eq!(language(&[("LC_ALL", ""), ("LANG", "en_GB")]), English);
    }
}
