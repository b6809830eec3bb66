//! A comment, the bytes that carry it through Kafka and Redis, and its limits.

use serde::{Deserialize, Serialize};

/// The largest number of characters of a text.
pub const MAX_CHARS: usize = 10_000;

/// The largest size of the body of an API request, in bytes. It is enough for
/// every text that is allowed: JSON writes a character in at most six bytes.
pub const MAX_BODY: usize = 64 * 1024;

/// What someone writes about a subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comment {
    /// The number that makes a retry harmless: of two comments with one id, only
    /// the first is stored.
    pub id: u64,
    /// The subject that the comment is about.
    pub subject: u64,
    /// The author of the comment.
    pub author: u64,
    /// The text, of at most [`MAX_CHARS`] characters.
    pub text: String,
    /// The time of creation, in milliseconds since 1970 in UTC.
    pub created_ms: u64,
}

/// The reason why a comment can never be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The text has more than [`MAX_CHARS`] characters.
    #[error("the text has more than {MAX_CHARS} characters")]
    TextTooLong,
    /// The text contains the character U+0000, which Postgres cannot store.
    #[error("the text contains the character U+0000")]
    NulInText,
    /// A number is larger than the 63 bits of a column.
    #[error("a number has more than 63 bits")]
    NumberTooLarge,
}

impl Comment {
    /// Returns whether the tables accept the comment. An API calls it before the
    /// comment is acknowledged.
    ///
    /// # Errors
    ///
    /// Returns the first reason why they do not.
    pub fn check(&self) -> Result<(), Invalid> {
        let numbers = [self.id, self.subject, self.author, self.created_ms];
        if numbers.iter().any(|&number| i64::try_from(number).is_err()) {
            return Err(Invalid::NumberTooLarge);
        }
        if self.text.contains('\0') {
            return Err(Invalid::NulInText);
        }
        // A character has at least one byte: most texts need not be counted.
        let is_long = self.text.len() > MAX_CHARS
            && self.text.chars().count() > MAX_CHARS;
        if is_long { Err(Invalid::TextTooLong) } else { Ok(()) }
    }

    /// Returns the comment as JSON.
    ///
    /// # Panics
    ///
    /// Never: numbers and text are always JSON.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers and text are always JSON")
    }

    /// Returns the comment that [`to_bytes`](Self::to_bytes) has written. Fields
    /// that are not known are ignored, so that a newer version can add some.
    ///
    /// # Errors
    ///
    /// Returns an error if the bytes are something else.
    pub fn from_bytes(bytes: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comment(text: String) -> Comment {
        Comment { id: 1, subject: 2, author: 3, text, created_ms: 4 }
    }

    #[test]
    fn the_bytes_of_a_comment_are_the_comment() {
        for text in ["", "a \"quote\"", "评论 🦀", "\u{1}\n"] {
            let comment = comment(text.to_owned());
            let bytes = comment.to_bytes();
            assert_eq!(Comment::from_bytes(&bytes).unwrap(), comment);
        }
        assert!(Comment::from_bytes(b"\xff").is_err());
    }

    #[test]
    fn every_text_that_is_allowed_fits_into_a_body() {
        for character in ["a", "评", "🦀", "\u{1}", "\""] {
            let longest = comment(character.repeat(MAX_CHARS));
            assert_eq!(longest.check(), Ok(()));
            let bytes = longest.to_bytes().len();
            assert!(bytes < MAX_BODY, "{character:?} needs {bytes} bytes");

            let too_long = comment(character.repeat(MAX_CHARS + 1));
            assert_eq!(too_long.check(), Err(Invalid::TextTooLong));
        }
    }

    #[test]
    fn what_no_table_can_store_is_invalid() {
        let nul = comment("a\0b".to_owned());
        assert_eq!(nul.check(), Err(Invalid::NulInText));
        let large = Comment { id: 1 << 63, ..comment(String::new()) };
        assert_eq!(large.check(), Err(Invalid::NumberTooLarge));
    }
}
