//! Which bytes does a client send and read? Redis' protocol, RESP2.
//!
//! A batch of commands is encoded once; later, only the digits of its keys
//! change. Replies are checked in the buffer that they were read into, and of a
//! value only the length is kept. So a request allocates nothing.

use std::io;

use thiserror::Error;

/// The digits of a key's number, as many as redis-benchmark writes.
pub(crate) const DIGITS: usize = 12;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Get,
    Set,
}

/// Commands that are sent in one write.
#[derive(Debug)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    /// Where the digits of each key begin.
    digits: Vec<usize>,
}

/// Checks replies, even if one is split over two reads.
#[derive(Debug)]
pub(crate) struct Replies {
    /// The length of each value, or `None` if each reply is `+OK`.
    value_len: Option<usize>,
    state: State,
    /// The beginning of a line whose end has not been read yet.
    cut: Vec<u8>,
    problem: Option<Problem>,
}

/// The reason why a reply is not the expected one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Problem {
    #[error("a key is missing: does the server evict or expire keys?")]
    Missing,
    #[error("a value has {0} bytes")]
    WrongLength(usize),
    #[error("the server's reply is {0:?}")]
    Reply(String),
    /// It is not known where the next reply begins.
    #[error("the server's reply is malformed: {0:?}")]
    Malformed(String),
    #[error("the connection failed: {0}")]
    Connection(String),
}

/// The part of a reply that comes next.
#[derive(Debug)]
enum State {
    /// The line with the type.
    Line,
    /// The value's bytes.
    Value { left: usize },
    /// The end of line after a value.
    End,
}

/// A longer line is malformed.
const MAX_LINE: usize = 1024;

/// Encodes a command.
pub(crate) fn encode(arguments: &[&[u8]], bytes: &mut Vec<u8>) {
    bytes.extend(format!("*{}\r\n", arguments.len()).bytes());
    for argument in arguments {
        bytes.extend(format!("${}\r\n", argument.len()).bytes());
        bytes.extend_from_slice(argument);
        bytes.extend(b"\r\n");
    }
}

impl Command {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Set => "SET",
        }
    }
}

impl Batch {
    /// Encodes `depth` commands. All their keys have the number 0.
    pub(crate) fn new(
        command: Command,
        prefix: &str,
        value: &[u8],
        depth: usize,
    ) -> Self {
        let key = format!("{prefix}{:0DIGITS$}", 0);
        let arguments = [command.name().as_bytes(), key.as_bytes(), value];
        let used = match command {
            Command::Get => &arguments[..2],
            Command::Set => &arguments,
        };
        let mut one = Vec::new();
        encode(&used[..2], &mut one);
        let first_digit = one.len() - b"\r\n".len() - DIGITS;
        one.clear();
        encode(used, &mut one);
        Self {
            digits: (0..depth).map(|i| i * one.len() + first_digit).collect(),
            bytes: one.repeat(depth),
        }
    }

    /// Gives each command the number of its key.
    pub(crate) fn set_keys(&mut self, mut number: impl FnMut() -> u32) {
        for start in &self.digits {
            let mut left = number();
            for digit in self.bytes[*start..*start + DIGITS].iter_mut().rev() {
                *digit = b'0' + (left % 10) as u8;
                left /= 10;
            }
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the number of commands.
    pub(crate) fn depth(&self) -> usize {
        self.digits.len()
    }
}

impl Replies {
    /// Expects the replies to `command`, with values of `value_len` bytes.
    pub(crate) fn new(command: Command, value_len: usize) -> Self {
        Self {
            value_len: (command == Command::Get).then_some(value_len),
            state: State::Line,
            cut: Vec::new(),
            problem: None,
        }
    }

    /// Takes the bytes of a read, and returns how many replies they complete.
    ///
    /// # Errors
    ///
    /// When the replies after this one cannot be found.
    pub(crate) fn read(&mut self, mut bytes: &[u8]) -> Result<usize, Problem> {
        let mut complete = 0;
        while !bytes.is_empty() {
            if let State::Value { left } = &mut self.state {
                let here = bytes.len().min(*left);
                *left -= here;
                if *left == 0 {
                    self.state = State::End;
                }
                bytes = &bytes[here..];
                continue;
            }
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let (line, rest) =
                bytes.split_at(end.map_or(bytes.len(), |n| n + 1));
            bytes = rest;
            if end.is_some() && self.cut.is_empty() {
                complete += self.read_line(line)?;
                continue;
            }
            self.cut.extend_from_slice(line);
            if self.cut.len() > MAX_LINE {
                return Err(malformed(&self.cut));
            }
            if end.is_some() {
                let mut line = std::mem::take(&mut self.cut);
                complete += self.read_line(&line)?;
                line.clear();
                self.cut = line;
            }
        }
        Ok(complete)
    }

    /// Begins again, with the first reply of a new connection.
    pub(crate) fn reset(&mut self) {
        self.state = State::Line;
        self.cut.clear();
        self.problem = None;
    }

    /// Returns the first reply since the last call that was not as expected.
    pub(crate) fn take_problem(&mut self) -> Option<Problem> {
        self.problem.take()
    }

    /// Returns how many replies end with this line.
    fn read_line(&mut self, line: &[u8]) -> Result<usize, Problem> {
        let text = line.strip_suffix(b"\r\n").ok_or_else(|| malformed(line))?;
        if let State::End = self.state {
            self.state = State::Line;
            return if text.is_empty() { Ok(1) } else { Err(malformed(line)) };
        }
        let problem = match (text, self.value_len) {
            (b"+OK", None) => return Ok(1),
            (b"$-1", Some(_)) => Problem::Missing,
            ([b'$', digits @ ..], Some(expected)) => {
                let len = length(digits).ok_or_else(|| malformed(line))?;
                self.state = match len {
                    0 => State::End,
                    left => State::Value { left },
                };
                if len != expected {
                    self.problem.get_or_insert(Problem::WrongLength(len));
                }
                return Ok(0);
            }
            ([b'-' | b'+' | b':', ..], _) => {
                Problem::Reply(String::from_utf8_lossy(text).into_owned())
            }
            _ => return Err(malformed(line)),
        };
        self.problem.get_or_insert(problem);
        Ok(1)
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Connection(error.to_string())
    }
}

fn length(digits: &[u8]) -> Option<usize> {
    // `parse` would accept a sign.
    let all_digits = digits.iter().all(u8::is_ascii_digit);
    all_digits.then(|| str::from_utf8(digits).ok()?.parse().ok())?
}

fn malformed(line: &[u8]) -> Problem {
    Problem::Malformed(String::from_utf8_lossy(line).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads the bytes in parts of each length, and returns the number of
    /// replies and the first problem.
    fn read(
        replies: impl Fn() -> Replies,
        bytes: &[u8],
    ) -> (Result<usize, Problem>, Option<Problem>) {
        let in_parts = |len: usize| {
            let mut replies = replies();
            let parts = bytes.chunks(len).map(|part| replies.read(part));
            let complete = parts.sum::<Result<usize, Problem>>();
            (complete, replies.take_problem())
        };
        let whole = in_parts(bytes.len());
        for len in 1..bytes.len() {
            let parts = in_parts(len);
            match &whole.0 {
                Ok(_) => assert_eq!(parts, whole, "in parts of {len}"),
                Err(_) => assert!(parts.0.is_err(), "in parts of {len}"),
            }
        }
        whole
    }

    fn values(len: usize) -> impl Fn() -> Replies {
        move || Replies::new(Command::Get, len)
    }

    fn oks() -> Replies {
        Replies::new(Command::Set, 10)
    }

    #[test]
    fn a_batch_contains_each_command_with_its_key() {
        let mut numbers = [7, u32::MAX, 0, 120].into_iter();
        let mut batch = Batch::new(Command::Get, "a:", b"unused", 2);
        batch.set_keys(|| numbers.next().unwrap());
        let get = |key| format!("*2\r\n$3\r\nGET\r\n$14\r\na:{key}\r\n");
        let expected = get("000000000007") + &get("004294967295");
        assert_eq!(batch.bytes(), expected.as_bytes());
        assert_eq!(batch.depth(), 2);

        let mut batch = Batch::new(Command::Set, "a:", b"value", 2);
        batch.set_keys(|| numbers.next().unwrap());
        let set = |key| {
            let key = format!("$14\r\na:{key}\r\n");
            format!("*3\r\n$3\r\nSET\r\n{key}$5\r\nvalue\r\n")
        };
        let expected = set("000000000000") + &set("000000000120");
        assert_eq!(batch.bytes(), expected.as_bytes());
    }

    #[test]
    fn replies_are_counted_however_they_are_cut() {
        assert_eq!(read(oks, b"+OK\r\n+OK\r\n+OK\r\n"), (Ok(3), None));
        let two = b"$4\r\n\r\n$1\r\n$4\r\nabcd\r\n";
        assert_eq!(read(values(4), two), (Ok(2), None));
        let long = format!("$1500\r\n{}\r\n", "x".repeat(1500));
        assert_eq!(read(values(1500), long.as_bytes()), (Ok(1), None));
        assert_eq!(read(values(0), b"$0\r\n\r\n$0\r\n\r\n"), (Ok(2), None));
    }

    #[test]
    fn a_reply_without_its_end_is_not_counted() {
        for bytes in ["$", "$4", "$4\r\n", "$4\r\nabcd", "$4\r\nabcd\r"] {
            assert_eq!(read(values(4), bytes.as_bytes()), (Ok(0), None));
        }
        assert_eq!(read(oks, b"+OK\r\n+OK\r"), (Ok(1), None));
    }

    #[test]
    fn a_problem_does_not_hide_the_next_reply() {
        let miss = b"$-1\r\n$1\r\na\r\n";
        assert_eq!(read(values(1), miss), (Ok(2), Some(Problem::Missing)));
        let short = b"$1\r\na\r\n$-1\r\n";
        let problem = Some(Problem::WrongLength(1));
        assert_eq!(read(values(2), short), (Ok(2), problem));
        let error = b"-OOM command not allowed\r\n+OK\r\n";
        let problem = Problem::Reply("-OOM command not allowed".to_owned());
        assert_eq!(read(oks, error), (Ok(2), Some(problem.clone())));
        let error = b"-OOM command not allowed\r\n$1\r\na\r\n";
        assert_eq!(read(values(1), error), (Ok(2), Some(problem)));
    }

    #[test]
    fn malformed_replies_are_errors() {
        let malformed: [&[u8]; 7] = [
            b"$+4\r\nabcd\r\n",
            b"$\xff\r\n",
            b"$4\r\nabcde\r\n",
            b"OK\r\n",
            b"$4\nabcd\r\n",
            b"\r\n",
            &[b'x'; 3000],
        ];
        for bytes in malformed {
            let (outcome, _) = read(values(4), bytes);
            assert!(outcome.is_err(), "expected an error for {bytes:?}");
        }
        assert!(read(oks, b"$4\r\nabcd\r\n").0.is_err());
    }

    #[test]
    fn a_problem_is_returned_once() {
        let mut replies = oks();
        assert_eq!(replies.read(b"-ERR\r\n-ERR\r\n"), Ok(2));
        assert!(replies.take_problem().is_some());
        assert_eq!(replies.take_problem(), None);
    }
}
