//! The contract of the comment service, as its clients see it over HTTP.
//!
//! `cargo wb grade layers --cmd './mine'` starts your program for each test,
//! and calls it. The program can be in any language, and of any structure.
//! `week04/api/comments/v1/comments.proto` defines the methods, their paths,
//! and the fields. Beyond that, these rules hold:
//!
//! *The process*
//!
//! 1. The variables `ADDRESS` and `COMMENTS_SERVER_HTTP_ADDRESS` contain the
//!    address to listen on, such as `127.0.0.1:10123`. It differs between
//!    starts. If the port is taken, exit with a code other than 0.
//! 2. `COMMENTS_DATA_URL` is the URL of the database, such as
//!    `sqlite:///tmp/x/comments.db`. Each test has a new file. You may ignore
//!    this URL and keep the data in memory, or anywhere else.
//! 3. Be one process, in the foreground: the grader puts `exec` before the
//!    command. If you use a launcher, such as `go run`, it gets the signals:
//!    build first, and pass the binary.
//! 4. `GET /healthz` answers 200 within 10 seconds of the start. Until then, it
//!    may refuse the connection or answer 503.
//! 5. Serve HTTP/1.1, at least 32 requests at a time. Each request has its own
//!    connection, and the header `Connection: close`. Each response comes
//!    within 4 seconds.
//! 6. At SIGTERM, close the port, complete each request whose head has arrived,
//!    and exit with 0. A client that is connected and sends nothing does not
//!    delay this. Close the port within 5 seconds, and exit within 5 seconds of
//!    the last response.
//! 7. If the data is in the file of `COMMENTS_DATA_URL`, it is still there
//!    after a restart: subjects, comments, likes, and request ids. The name of
//!    a deleted comment is never used again. Without this file, a program that
//!    has lost everything after a restart is not asked for it.
//!
//! *JSON*
//!
//! 8. Requests and responses have the JSON form of protobuf. Names are in
//!    `lowerCamelCase`, and counts are strings: `"likeCount": "3"`. Times are
//!    in UTC: `"2026-11-28T19:42:17.5Z"`. A response may leave out a field that
//!    has its default value. The content type is `application/json`.
//! 9. Success is 200. The response to a DELETE is `{}`.
//! 10. An error has the body of AIP-193: an object `error` with the members
//!     `"code": 404`, `"status": "NOT_FOUND"`, `message` and `details`. Exactly
//!     one of the details has the `@type`
//!     `type.googleapis.com/google.rpc.ErrorInfo`, a `reason` such as
//!     `COMMENT_NOT_FOUND`, and a `domain`.
//! 11. The status is 400 and `INVALID_ARGUMENT` for JSON that is malformed or
//!     not Unicode (`\ud800` alone), for a body that is not an object, for an
//!     unknown field or query parameter, and for a value of the wrong type.
//!     Such a request changes nothing.
//!
//! *Values*
//!
//! 12. A text has 1 to 10,000 characters that are not all blank (White_Space of
//!     Unicode). It is stored as it was sent. An author and a user have 1 to 64
//!     characters. A title is not blank. Other values are answered with 400,
//!     and so is an unknown `orderBy`.
//! 13. The id of a subject is in the query: `?subjectId=rust`. It has 1 to 63
//!     characters: a to z, digits and hyphens. Without it, the service chooses
//!     one.
//! 14. A subject or comment that does not exist, or is deleted, is answered
//!     with 404 and `NOT_FOUND`, also if it is the `parent` or `replyTo` of a
//!     new comment. So is the id of a comment below another subject. But a
//!     `replyTo` below another subject is answered with 400.
//!
//! *Lists*
//!
//! 15. Each page but the last has `pageSize` comments: 50 if it is 0 or absent,
//!     and 1,000 if it is higher. Below 0, it is answered with 400.
//! 16. All pages together contain each comment exactly once, in the order of
//!     `orderBy`, also if many comments have the same time or number of likes.
//!     A comment that is created or deleted between two pages changes nothing
//!     for the others.
//! 17. A page token of another subject, order or `replyTo` is answered with
//!     400. So is a text that is not a token.
//! 18. Without `replyTo`, a list contains no replies. The replies to a deleted
//!     comment stay. `commentCount` and `replyCount` do not count what is
//!     deleted.
//!
//! *Changes*
//!
//! 19. `updateMask` is a list of paths with commas: `text,place.label`. The
//!     named fields get the values of the body, and a field that the body does
//!     not have is cleared. `*` stands for all fields. The other fields stay.
//! 20. Without `updateMask`, the keys of the body are the mask, also inside
//!     `place` and `labels`. So `{"place": null}` clears the place,
//!     `{"place": {"label": "x"}}` changes its label only, and `{}` and
//!     `{"place": {}}` change nothing.
//! 21. An unknown path is answered with 400. So is another `author`, which is
//!     immutable. An output-only field in a body or in a mask is ignored.
//! 22. An update that changes nothing keeps `etag` and `updateTime`. Every
//!     other one changes the `etag`. With the `etag` of an earlier version in
//!     the body, an update is answered with 409 and `ABORTED`, and changes
//!     nothing. Of many updates at once with one `etag`, one succeeds.
//! 23. Of many updates at once without an `etag`, some may be answered with 409
//!     and `ABORTED`, but not all. The changes of all others are stored.
//! 24. A second subject with the same id is answered with 409 and
//!     `ALREADY_EXISTS`. A second comment with the same `requestId`, subject
//!     and author is not stored, even if its text differs: the answer is the
//!     first comment. Both hold for requests at the same time.
//! 25. The `likeCount` is the number of different users who like the comment,
//!     also if they do so at the same time.
//!
//! Your program may differ in everything else: in the form of ids, tokens and
//! etags, in the reasons and messages of errors, in limits that are not named
//! here, in additional fields of a response, and in the answer to a name of a
//! form that it never uses, such as `subjects/rust/comments/x`: 400 or 404.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::env;
use std::fmt::Debug;
use std::hash::{BuildHasher as _, RandomState};
use std::net::TcpStream;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::SystemTime;

use prost::Message;
use prost_reflect::{DeserializeOptions, DynamicMessage};
use prost_types::Timestamp;
use serde_json::{Value, json};
use week04_api::DESCRIPTORS;
use week04_api::comments::v1::{
    Comment, LikeCommentResponse, ListCommentsResponse, Place, Subject,
};

use self::program::{Answer, PROGRAM, Program, run_service_if_child, short};

#[path = "layers_contract/program.rs"]
mod program;

const ORDERS: [&str; 3] = ["", "create_time", "like_count desc"];

impl Program {
    #[track_caller]
    fn get(&self, name: &str) -> Answer {
        self.call("GET", &format!("/v1/{name}"), b"")
    }

    #[track_caller]
    fn delete(&self, name: &str) -> Answer {
        self.call("DELETE", &format!("/v1/{name}"), b"")
    }

    #[track_caller]
    fn post(&self, target: &str, body: &Value) -> Answer {
        self.call("POST", &format!("/v1/{target}"), body.to_string().as_bytes())
    }

    #[track_caller]
    fn patch(&self, target: &str, body: &Value) -> Answer {
        let body = body.to_string();
        self.call("PATCH", &format!("/v1/{target}"), body.as_bytes())
    }

    /// Creates a subject, and returns its name.
    #[track_caller]
    fn new_subject(&self) -> String {
        let target = format!("subjects?subjectId={}", new_id());
        self.post(&target, &json!({"title": "A subject"})).subject().name
    }

    #[track_caller]
    fn new_comment(&self, subject: &str, body: &Value) -> Comment {
        self.post(&format!("{subject}/comments"), body).comment()
    }

    #[track_caller]
    fn new_text(&self, subject: &str, text: &str) -> Comment {
        self.new_comment(subject, &json!({"author": "ann", "text": text}))
    }

    #[track_caller]
    fn new_reply(&self, subject: &str, to: &Comment) -> Comment {
        let body = json!({"author": "bob", "text": "re", "replyTo": to.name});
        self.new_comment(subject, &body)
    }

    /// Creates `count` comments from eight threads.
    fn new_comments(&self, subject: &str, count: usize) -> Vec<Comment> {
        let comments = at_once(8, |thread| {
            let numbers = (thread..count).step_by(8);
            let create = |n| self.new_text(subject, &format!("comment {n}"));
            numbers.map(create).collect::<Vec<_>>()
        });
        comments.into_iter().flatten().collect()
    }

    #[track_caller]
    fn like(&self, comment: &Comment, user: &str) -> i64 {
        let target = format!("{}:like", comment.name);
        let answer = self.post(&target, &json!({"user": user}));
        answer.message::<LikeCommentResponse>("LikeCommentResponse").like_count
    }

    #[track_caller]
    fn comment(&self, name: &str) -> Comment {
        self.get(name).comment()
    }

    #[track_caller]
    fn comment_count(&self, subject: &str) -> i64 {
        self.get(subject).subject().comment_count
    }

    /// Reads all pages, and calls `between` after each of them.
    #[track_caller]
    fn pages(
        &self,
        subject: &str,
        query: &[(&str, &str)],
        mut between: impl FnMut(&[Comment]),
    ) -> Vec<Vec<Comment>> {
        let (mut pages, mut token) = (Vec::new(), String::new());
        for _ in 0..200 {
            let query = [query, &[("pageToken", &*token)]].concat();
            let page = self.get(&list(subject, &query)).page();
            between(&page.comments);
            pages.push(page.comments);
            if page.next_page_token.is_empty() {
                return pages;
            }
            token = page.next_page_token;
        }
        panic!(
            "expected GET /v1/{} to come to an end; page 200 still has a \
             nextPageToken",
            list(subject, query)
        );
    }

    #[track_caller]
    fn all(&self, subject: &str) -> Vec<Comment> {
        self.pages(subject, &[], |_| {}).concat()
    }

    /// Sends an update, and checks that it changes nothing but `change`.
    #[track_caller]
    fn update(
        &self,
        stored: &mut Comment,
        mask: Option<&str>,
        body: &Value,
        change: impl FnOnce(&mut Comment),
    ) {
        let answer = self.patch(&masked(stored, mask), body);
        let seen = answer.comment();
        let mut expected = stored.clone();
        change(&mut expected);
        let changes = expected != *stored;
        if changes {
            expected.etag.clone_from(&seen.etag);
            expected.update_time = seen.update_time;
        }
        let request = &answer.request;
        equal(&seen, &expected, &format!("in the response to {request}"));
        assert!(
            !changes || seen.etag != stored.etag,
            "expected a new etag; {}",
            answer.describe()
        );
        assert!(
            nanos(&seen.update_time) >= nanos(&stored.update_time),
            "expected no earlier updateTime than before; {}",
            answer.describe()
        );
        self.is_stored(&expected, &format!("after {request}"));
        *stored = seen;
    }

    /// Checks that a read returns the same comment.
    #[track_caller]
    fn is_stored(&self, expected: &Comment, when: &str) {
        let when = format!("in a read {when}");
        equal(&self.comment(&expected.name), expected, &when);
    }
}

impl Answer {
    /// Checks for success, and returns the JSON of the body.
    #[track_caller]
    fn ok(&self) -> Value {
        assert!(self.status == 200, "expected status 200; {}", self.describe());
        self.json()
    }

    /// Checks for success, and returns the message in the body.
    #[track_caller]
    fn message<M: Message + Default>(&self, name: &str) -> M {
        let json = self.ok();
        if let Some((expected, field)) = malformed(&json) {
            panic!("expected {expected} as `{field}`; {}", self.describe());
        }
        let descriptor =
            DESCRIPTORS.get_message_by_name(&format!("comments.v1.{name}"));
        let descriptor = descriptor.expect("the contract has this message");
        let options = DeserializeOptions::new().deny_unknown_fields(false);
        let read = DynamicMessage::deserialize_with_options;
        let message =
            read(descriptor, json, &options).unwrap_or_else(|error| {
                panic!("expected a {name} ({error}); {}", self.describe())
            });
        message.transcode_to().expect("both types are of the contract")
    }

    #[track_caller]
    fn subject(&self) -> Subject {
        self.message("Subject")
    }

    #[track_caller]
    fn page(&self) -> ListCommentsResponse {
        self.message("ListCommentsResponse")
    }

    #[track_caller]
    fn comment(&self) -> Comment {
        let comment: Comment = self.message("Comment");
        let has_times =
            nanos(&comment.update_time) >= nanos(&comment.create_time).max(1);
        assert!(
            has_times && !comment.etag.is_empty(),
            "expected a createTime, an updateTime not before it, and an etag; {}",
            self.describe()
        );
        comment
    }

    #[track_caller]
    fn json(&self) -> Value {
        assert!(
            self.content_type.starts_with("application/json"),
            "expected the content type application/json, not {:?}; {}",
            self.content_type,
            self.describe()
        );
        let json: Option<Value> = serde_json::from_str(&self.body).ok();
        json.filter(Value::is_object).unwrap_or_else(|| {
            panic!("expected a JSON object; {}", self.describe())
        })
    }

    /// Checks for an error, which `cause` explains.
    #[track_caller]
    fn fails(&self, code: u16, status: &str, cause: &str) {
        assert!(
            self.status == code,
            "expected status {code} for {cause}; {}",
            self.describe()
        );
        let json = self.json();
        let error = &json["error"];
        let is_text = |json: &Value| {
            json.as_str().is_some_and(|text| !text.trim().is_empty())
        };
        let is_reason = |reason: &str| {
            let form = |c: char| matches!(c, 'A'..='Z' | '0'..='9' | '_');
            !reason.is_empty() && reason.chars().all(form)
        };
        let details = error["details"].as_array().into_iter().flatten();
        let infos: Vec<_> = details
            .filter(|it| {
                it["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
            })
            .collect();
        let has_reason = infos.len() == 1
            && infos[0]["reason"].as_str().is_some_and(is_reason)
            && is_text(&infos[0]["domain"]);
        for (is_good, expected) in [
            (error["code"] == code, &*format!("the code {code}")),
            (error["status"] == status, &*format!("the status {status}")),
            (is_text(&error["message"]), "a message"),
            (has_reason, "one ErrorInfo with a REASON and a domain"),
        ] {
            assert!(
                is_good,
                "expected {expected} in the error for {cause}; {}",
                self.describe()
            );
        }
    }

    #[track_caller]
    fn is_invalid(&self, cause: &str) {
        self.fails(400, "INVALID_ARGUMENT", cause);
    }

    #[track_caller]
    fn is_not_found(&self, cause: &str) {
        self.fails(404, "NOT_FOUND", cause);
    }
}

/// Returns a field that has not the JSON form of protobuf, though readers would
/// accept it, and what was expected.
fn malformed(json: &Value) -> Option<(&'static str, &str)> {
    let is_text = |value: &Value| value.is_null() || value.is_string();
    match json {
        Value::Object(fields) => fields.iter().find_map(|(name, value)| {
            let is_time = |time: &str| time.ends_with('Z');
            match &**name {
                "likeCount" | "replyCount" | "commentCount"
                    if !is_text(value) =>
                {
                    Some(("a number in quotes", &**name))
                }
                "createTime" | "updateTime"
                    if !value.as_str().is_none_or(is_time) =>
                {
                    Some(("a time in UTC that ends with Z", name))
                }
                "labels" => None, // its keys are those of a client
                _ => malformed(value),
            }
        }),
        Value::Array(values) => values.iter().find_map(malformed),
        _ => None,
    }
}

/// Checks that two comments are equal. The message has the first difference.
#[track_caller]
fn equal(seen: &Comment, expected: &Comment, when: &str) {
    let fields = |comment: &Comment| {
        let text = |field: &str| format!("{field:?}");
        let time = |time: &Option<Timestamp>| {
            time.map_or("none".to_owned(), |time| time.to_string())
        };
        let labels: BTreeMap<_, _> = comment.labels.iter().collect();
        [
            ("name", text(&comment.name)),
            ("author", text(&comment.author)),
            ("text", text(&comment.text)),
            ("replyTo", text(&comment.reply_to)),
            ("place", format!("{:?}", comment.place)),
            ("labels", format!("{labels:?}")),
            ("likeCount", comment.like_count.to_string()),
            ("replyCount", comment.reply_count.to_string()),
            ("createTime", time(&comment.create_time)),
            ("updateTime", time(&comment.update_time)),
            ("etag", text(&comment.etag)),
        ]
    };
    for ((field, seen), (_, expected)) in
        fields(seen).into_iter().zip(fields(expected))
    {
        assert!(
            seen == expected,
            "expected another `{field}` {when}\nexpected: {}\nseen: {}",
            short(&expected),
            short(&seen)
        );
    }
}

/// Checks that two values are equal.
#[track_caller]
fn is<T: PartialEq + Debug + Copy>(seen: T, expected: T, what: &str) {
    assert!(
        seen == expected,
        "expected {expected:?} as {what}; seen: {seen:?}"
    );
}

/// Returns a time in nanoseconds since 1970, or 0 if there is none.
fn nanos(time: &Option<Timestamp>) -> i128 {
    let time = time.unwrap_or_default();
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
}

fn now() -> i128 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let nanos = since.expect("the clock is after 1970").as_nanos();
    i128::try_from(nanos).expect("the year is before 10,000")
}

/// Calls `work` in `count` threads at the same time.
fn at_once<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let barrier = Barrier::new(count);
    thread::scope(|scope| {
        let (work, barrier) = (&work, &barrier);
        let spawn = |n| {
            scope.spawn(move || {
                barrier.wait();
                work(n)
            })
        };
        let threads: Vec<_> = (0..count).map(spawn).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, T>| {
            thread.join().expect("the thread has told why it fails")
        };
        threads.into_iter().map(join).collect()
    })
}

/// Returns an id that is new even if the program keeps its data somewhere else.
fn new_id() -> String {
    format!("s-{:016x}", RandomState::new().hash_one(0))
}

/// Returns the target of a list.
fn list(subject: &str, query: &[(&str, &str)]) -> String {
    let encode = |text: &str| {
        let bytes = text.bytes().map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        });
        bytes.collect::<String>()
    };
    let query = query.iter().filter(|(_, value)| !value.is_empty());
    let query: Vec<_> =
        query.map(|(key, value)| format!("{key}={}", encode(value))).collect();
    let mark = if query.is_empty() { "" } else { "?" };
    format!("{subject}/comments{mark}{}", query.join("&"))
}

/// Returns the target of an update.
fn masked(comment: &Comment, mask: Option<&str>) -> String {
    match mask {
        Some(mask) => format!("{}?updateMask={mask}", comment.name),
        None => comment.name.clone(),
    }
}

/// Returns a text of `size` characters that is not blank.
fn generated(size: usize, seed: u64) -> String {
    const CHARS: [char; 24] = [
        'a', 'Z', '0', ' ', '"', '\'', '\\', '/', '%', '+', '&', '<', '{',
        '\n', '\r', '\t', '\u{1}', '\u{7f}', 'é', '\u{301}', '\u{2028}',
        '\u{202e}', '漢', '🦀',
    ];
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = |below: u32| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        u32::try_from(state >> 40).expect("24 bits") % below
    };
    let mut chars: Vec<_> = (0..size)
        .map(|_| match next(4) {
            0 => char::from_u32(1 + next(0x10_FFFF)).unwrap_or('\u{FFFD}'),
            _ => CHARS[next(24) as usize],
        })
        .collect();
    chars[size / 2] = '漢';
    chars.into_iter().collect()
}

#[test]
fn created_resources_are_read_back_with_equal_fields() {
    run_service_if_child();
    let program = Program::start();
    let title = generated(60, 1);
    let id = new_id();
    let target = format!("subjects?subjectId={id}");
    let created = program.post(&target, &json!({"title": title})).subject();
    let subject = format!("subjects/{id}");
    is(&created.name, &subject, "the name of the created subject");
    is(&created.title, &title, "the title of the created subject");
    let read = program.get(&subject).subject();
    is(&read, &created, "the subject that is read");
    let chosen = at_once(2, |_| {
        program.post("subjects", &json!({"title": "x"})).subject().name
    });
    assert!(
        chosen[0] != chosen[1]
            && chosen.iter().all(|name| name.len() > "subjects/".len()),
        "expected a new id for each subject that is created without one; seen: \
         {chosen:?}"
    );
    chosen.iter().for_each(|name| drop(program.get(name).subject()));

    let mut created = Vec::new();
    let sizes = [1, 2, 17, 63, 130, 1_500, 9_999, 10_000];
    for (n, size) in sizes.into_iter().cycle().take(40).enumerate() {
        let text = generated(size, n as u64);
        let length = [1, 2, 17, 64][n % 4];
        let author = "Zoë \"o'Neil\" 🦀%".chars().cycle().take(length);
        let author: String = author.collect();
        let degrees = [0.0, -90.0, 90.0, 48.858_370_1, -0.1][n % 5];
        let place = (n % 3 > 0).then(|| Place {
            label: generated(1 + n, n as u64),
            latitude: degrees,
            longitude: 2.0 * degrees,
        });
        let labels = (0..n % 4).map(|label| {
            let key = ["key", "a.b", "🦀 \"`"][label].to_owned();
            (key, generated(1 + label, n as u64))
        });
        let labels: HashMap<_, _> = labels.collect();
        let mut body =
            json!({"author": author, "text": text, "labels": labels});
        if let Some(Place { label, latitude, longitude }) = &place {
            body["place"] = json!({"label": label, "latitude": latitude,
                "longitude": longitude});
        }
        // Only the service sets these.
        body["likeCount"] = "99".into();
        body["createTime"] = "2001-01-01T00:00:00Z".into();
        let before = now();
        let seen = program.new_comment(&subject, &body);
        let (early, late) = (before - 2_000_000_000, now() + 2_000_000_000);
        assert!(
            (early..late).contains(&nanos(&seen.create_time)),
            "expected the current time in UTC as createTime; seen: {} s later",
            (nanos(&seen.create_time) - before) / 1_000_000_000
        );
        let id = seen.name.strip_prefix(&format!("{subject}/comments/"));
        assert!(
            id.is_some_and(|id| !id.is_empty() && !id.contains('/')),
            "expected the name {subject}/comments/ID; seen: {}",
            seen.name
        );
        let expected = Comment {
            author,
            text,
            place,
            labels,
            reply_to: String::new(),
            like_count: 0,
            reply_count: 0,
            ..seen.clone()
        };
        equal(&seen, &expected, "in the response to its creation");
        program.is_stored(&seen, "after its creation");
        created.push(seen);
    }
    let mut listed = program.all(&subject);
    listed.sort_by_key(|it| created.iter().position(|c| c.name == it.name));
    is(listed.len(), created.len(), "the number of listed comments");
    for (seen, expected) in listed.iter().zip(&created) {
        equal(seen, expected, "in the list");
    }
}

#[test]
fn an_unknown_or_deleted_name_is_answered_with_404_and_a_reason() {
    let program = Program::start();
    let (subject, other) = (program.new_subject(), program.new_subject());
    let comment = program.new_text(&subject, "stays");
    let deleted = program.new_text(&subject, "goes");
    let answer = program.delete(&deleted.name);
    assert!(
        answer.ok() == json!({}),
        "expected the body {{}}; {}",
        answer.describe()
    );
    let body = json!({"author": "ann", "text": "text"});
    let methods = |name: &str, cause: &str| {
        program.get(name).is_not_found(cause);
        program.patch(name, &json!({"text": "new"})).is_not_found(cause);
        let like = program.post(&format!("{name}:like"), &json!({"user": "u"}));
        like.is_not_found(cause);
        program.delete(name).is_not_found(cause);
    };
    let id = comment.name.rsplit('/').next().unwrap_or_default();
    let unknown = format!("subjects/{}", new_id());
    let cause = "a subject that does not exist";
    program.get(&unknown).is_not_found(cause);
    program.get(&list(&unknown, &[])).is_not_found(cause);
    program.post(&format!("{unknown}/comments"), &body).is_not_found(cause);
    methods(&format!("{unknown}/comments/{id}"), cause);
    methods(&format!("{other}/comments/{id}"), "a comment of another subject");
    methods(&deleted.name, "a deleted comment");
    let mut reply = body.clone();
    reply["replyTo"] = deleted.name.into();
    let answer = program.post(&format!("{subject}/comments"), &reply);
    answer.is_not_found("a reply to a deleted comment");

    program.is_stored(&comment, "after these requests");
    let listed = program.all(&subject);
    is(listed.len(), 1, "the number of listed comments");
    is(program.comment_count(&subject), 1, "the commentCount");
}

#[test]
fn an_invalid_request_is_answered_with_400_and_stores_nothing() {
    let program = Program::start();
    let (subject, other) = (program.new_subject(), program.new_subject());
    let comment = program.new_text(&subject, "the only one");
    let elsewhere = program.new_comments(&other, 3);
    (0..2).for_each(|_| drop(program.new_reply(&other, &elsewhere[0])));

    let target = format!("/v1/{subject}/comments");
    let long = format!(r#"{{"author":"a","text":"{}"}}"#, "x".repeat(10_001));
    let reply = format!(
        r#"{{"author":"a","text":"x","replyTo":"{}"}}"#,
        elsewhere[0].name
    );
    let author = format!(r#"{{"author":"{}","text":"x"}}"#, "ö".repeat(65));
    let bodies: [(&str, &[u8]); 28] = [
        ("no body", b""),
        ("malformed JSON", br#"{"author":"a","text":"x"#),
        ("malformed JSON", br#"{"author":"a","text":"x",}"#),
        ("text after the JSON", br#"{"author":"a","text":"x"} x"#),
        ("a body that is not UTF-8", b"{\"author\":\"a\",\"text\":\"\xff\"}"),
        ("half a surrogate pair", br#"{"author":"a","text":"\ud800"}"#),
        ("a body that is a list", br#"[{"author":"a","text":"x"}]"#),
        ("a body that is a string", br#""text""#),
        ("a body that is null", b"null"),
        ("a number as text", br#"{"author":"a","text":7}"#),
        ("a list as text", br#"{"author":"a","text":["x"]}"#),
        ("an object as author", br#"{"author":{},"text":"x"}"#),
        ("a string as place", br#"{"author":"a","text":"x","place":"y"}"#),
        (
            "a word as latitude",
            br#"{"author":"a","text":"x","place":{"latitude":"north"}}"#,
        ),
        ("a list as labels", br#"{"author":"a","text":"x","labels":["y"]}"#),
        (
            "a number in labels",
            br#"{"author":"a","text":"x","labels":{"y":1}}"#,
        ),
        ("an unknown field", br#"{"author":"a","text":"x","colour":"red"}"#),
        (
            "an unknown field of place",
            br#"{"author":"a","text":"x","place":{"colour":"red"}}"#,
        ),
        ("no text", br#"{"author":"a"}"#),
        ("null as text", br#"{"author":"a","text":null}"#),
        ("an empty text", br#"{"author":"a","text":""}"#),
        ("a blank text", br#"{"author":"a","text":" \n\t"}"#),
        ("a blank text (U+3000)", br#"{"author":"a","text":"\u3000"}"#),
        ("a text of 10,001 characters", long.as_bytes()),
        ("no author", br#"{"text":"x"}"#),
        ("an empty author", br#"{"author":"","text":"x"}"#),
        ("an author of 65 characters", author.as_bytes()),
        ("a reply to a comment of another subject", reply.as_bytes()),
    ];
    for (cause, body) in bodies {
        program.call("POST", &target, body).is_invalid(cause);
    }
    let good = json!({"author": "a", "text": "x"});
    let answer = program.post(&format!("{subject}/comments?colour=red"), &good);
    answer.is_invalid("an unknown query parameter");

    for (cause, body) in [
        ("no title", json!({})),
        ("a blank title", json!({"title": " "})),
        ("a number as title", json!({"title": 7})),
        ("an unknown field", json!({"title": "x", "colour": "red"})),
    ] {
        let id = new_id();
        let answer = program.post(&format!("subjects?subjectId={id}"), &body);
        answer.is_invalid(cause);
        program.get(&format!("subjects/{id}")).is_not_found("no subject");
    }
    let long = "a".repeat(64);
    for id in ["Upper", "under_score", "a%20b", "%C3%A4", "a%2Fb", &long] {
        let answer = program
            .post(&format!("subjects?subjectId={id}"), &json!({"title": "x"}));
        answer.is_invalid(&format!("the subject id {id}"));
    }

    let like = format!("{}:like", comment.name);
    for (cause, body) in [
        ("no user", json!({})),
        ("an empty user", json!({"user": ""})),
        ("a number as user", json!({"user": 7})),
        ("an unknown field", json!({"user": "u", "colour": "red"})),
    ] {
        program.post(&like, &body).is_invalid(cause);
    }

    let token = |query: &[(&str, &str)]| {
        let query = [query, &[("pageSize", "1")]].concat();
        let token = program.get(&list(&other, &query)).page().next_page_token;
        let seen = list(&other, &query);
        assert!(
            !token.is_empty(),
            "expected a nextPageToken of GET /v1/{seen}"
        );
        token
    };
    let plain = token(&[]);
    let oldest = token(&[("orderBy", "create_time")]);
    let replies = token(&[("replyTo", &elsewhere[0].name)]);
    let is_invalid = |subject: &str, query: &[(&str, &str)], cause: &str| {
        program.get(&list(subject, query)).is_invalid(cause);
    };
    for size in ["-1", "-2147483648", "x", "1.5", "99999999999"] {
        let cause = format!("the pageSize {size}");
        is_invalid(&subject, &[("pageSize", size)], &cause);
    }
    let query = [("orderBy", "colour")];
    is_invalid(&subject, &query, "an order that does not exist");
    let query = [("replyTo", &*elsewhere[0].name)];
    is_invalid(&subject, &query, "replies to a comment of another subject");
    for made_up in ["made-up", "0", "1", "50", "-1", "AAAA", "e30", "🦀"] {
        let cause = format!("the made-up pageToken {made_up}");
        is_invalid(&subject, &[("pageToken", made_up)], &cause);
    }
    let query = [("pageToken", &*plain)];
    is_invalid(&subject, &query, "the pageToken of another subject");
    for (token, order) in [(&oldest, ""), (&plain, "create_time")] {
        let query = [("orderBy", order), ("pageToken", token)];
        is_invalid(&other, &query, "the pageToken of another order");
    }
    let query = [("replyTo", &*elsewhere[0].name), ("pageToken", &plain)];
    is_invalid(&other, &query, "the pageToken of a list without replyTo");
    let query = [("pageToken", &*replies)];
    is_invalid(&other, &query, "the pageToken of a list with replyTo");

    program.is_stored(&comment, "after these requests");
    let listed = program.all(&subject);
    is(listed.len(), 1, "the number of listed comments");
    is(program.comment_count(&subject), 1, "the commentCount");
}

#[test]
fn every_comment_is_on_exactly_one_page_for_every_page_size() {
    let program = Program::start();
    let check = |number: usize, queries: &[(&str, &str)]| {
        let subject = program.new_subject();
        let created = program.new_comments(&subject, number);
        for (n, comment) in created.iter().take(5).enumerate() {
            (0..=n / 2).for_each(|user| {
                program.like(comment, &format!("user {user}"));
            });
        }
        let created: BTreeSet<_> =
            created.into_iter().map(|comment| comment.name).collect();
        is(created.len(), number, "the number of new names");
        for (size, order) in queries {
            let full = match size.parse().unwrap_or(0) {
                0 => 50,
                size => usize::min(size, 1_000),
            };
            let query = [("pageSize", *size), ("orderBy", order)];
            let pages = program.pages(&subject, &query, |_| {});
            let request = format!("GET /v1/{}", list(&subject, &query));
            let (last, others) = pages.split_last().expect("a first page");
            let wrong = others.iter().find(|page| page.len() != full);
            let wrong = wrong.or(Some(last).filter(|last| last.len() > full));
            if let Some(page) = wrong {
                panic!(
                    "expected {full} comments on each page of {request}, and at \
                     most so many on the last one; seen: {}",
                    page.len()
                );
            }
            check_list(&pages.concat(), &created, order, &request);
        }
    };
    for size in ["1", "2", "17", "43", "44"] {
        check(43, &ORDERS.map(|order| (size, order)));
    }
    let sizes = [("1000", ""), ("1001", ""), ("2147483647", "create_time")];
    check(1_003, &sizes);
    check(153, &[("17", "like_count desc"), ("", ""), ("0", "create_time")]);
}

/// Checks that a list contains `expected`, each name once, and is in order.
#[track_caller]
fn check_list(
    listed: &[Comment],
    expected: &BTreeSet<String>,
    order: &str,
    request: &str,
) {
    let mut names = BTreeSet::new();
    for comment in listed {
        assert!(
            names.insert(comment.name.clone()),
            "expected each comment once on the pages of {request}; seen twice: \
             {}",
            comment.name
        );
    }
    let missing = expected.difference(&names).next();
    assert!(
        missing.is_none(),
        "expected all {} comments on the pages of {request}; missing: {} and {} \
         others",
        expected.len(),
        missing.map_or("", String::as_str),
        expected.difference(&names).count() - 1
    );
    let key = |comment: &Comment| match order {
        "create_time" => nanos(&comment.create_time),
        "like_count desc" => -i128::from(comment.like_count),
        _ => -nanos(&comment.create_time),
    };
    let wrong = listed.windows(2).find(|two| key(&two[0]) > key(&two[1]));
    if let Some([first, second]) = wrong {
        panic!(
            "expected the comments of {request} in order; seen: {} with the key \
             {} before {} with the key {}",
            first.name,
            key(first).abs(),
            second.name,
            key(second).abs()
        );
    }
}

#[test]
fn creates_and_deletes_between_two_pages_skip_and_repeat_nothing() {
    let program = Program::start();
    for order in ORDERS {
        let subject = program.new_subject();
        let created = program.new_comments(&subject, 60);
        let mut staying: BTreeSet<_> =
            created.iter().map(|comment| comment.name.clone()).collect();
        let mut unseen = staying.clone();
        let mut deleted = BTreeSet::new();
        let mut number = 0;
        let query = [("pageSize", "7"), ("orderBy", order)];
        let pages = program.pages(&subject, &query, |page| {
            for comment in page {
                unseen.remove(&comment.name);
                assert!(
                    !deleted.contains(&comment.name),
                    "expected no deleted comment on a page; seen: {}",
                    comment.name
                );
            }
            number += 1;
            if number > 10 {
                return; // new comments at the end must come to an end
            }
            // The last comment of a page, at which the next one begins.
            let last = page.last().map(|comment| comment.name.clone());
            for name in last.into_iter().chain(unseen.pop_first()) {
                program.delete(&name).ok();
                staying.remove(&name);
                deleted.insert(name);
            }
            program.new_text(&subject, "new");
            program.new_text(&subject, "new");
        });
        let request = format!("GET /v1/{}", list(&subject, &query));
        check_list(&pages.concat(), &staying, order, &request);
    }
}

#[test]
fn replies_to_a_comment_are_listed_and_counted() {
    let program = Program::start();
    let subject = program.new_subject();
    let parents = program.new_comments(&subject, 3);
    let mut replies: Vec<_> =
        (0..20).map(|_| program.new_reply(&subject, &parents[0])).collect();
    let of_reply = program.new_reply(&subject, &replies[0]);
    is(&replies[0].reply_to, &parents[0].name, "the replyTo of a reply");
    let check = |replies: &[Comment], all: i64| {
        let names = |comments: &[Comment]| -> BTreeSet<_> {
            comments.iter().map(|comment| comment.name.clone()).collect()
        };
        for size in ["", "3"] {
            let query = [("replyTo", &*parents[0].name), ("pageSize", size)];
            let listed = program.pages(&subject, &query, |_| {}).concat();
            let request = list(&subject, &query);
            is(
                listed.len(),
                replies.len(),
                &format!("the number of {request}"),
            );
            check_list(&listed, &names(replies), "", &request);
        }
        is(program.comment_count(&subject), all, "the commentCount");
    };
    let reply_count = |name: &str| program.comment(name).reply_count;
    check(&replies, 24);
    is(reply_count(&parents[0].name), 20, "the replyCount");
    is(reply_count(&parents[1].name), 0, "the replyCount without replies");
    is(reply_count(&replies[0].name), 1, "the replyCount of a reply");
    let listed = program.all(&subject);
    let is_reply = |comment: &&Comment| !comment.reply_to.is_empty();
    let found = listed.iter().filter(is_reply).count();
    is(found, 0, "the number of replies in a list without replyTo");
    is(listed.len(), 3, "the number of listed comments");

    for reply in replies.drain(..2).collect::<Vec<_>>() {
        program.delete(&reply.name).ok();
    }
    check(&replies, 22);
    is(reply_count(&parents[0].name), 18, "the replyCount after 2 deletes");
    program.delete(&parents[0].name).ok();
    program.comment(&of_reply.name); // its parent is deleted
    check(&replies, 21);
    is(
        program.all(&subject).len(),
        2,
        "the number of listed comments after a delete",
    );
}

/// Creates a comment with a value in every field that an update can change.
fn full_comment(program: &Program, subject: &str) -> Comment {
    let body = json!({
        "author": "ann",
        "text": "first",
        "place": {"label": "here", "latitude": 1.5, "longitude": -2.25},
        "labels": {"kept": "yes", "a.b": "1"},
    });
    program.new_comment(subject, &body)
}

#[test]
fn an_update_mask_selects_the_fields_that_change() {
    let program = Program::start();
    let subject = program.new_subject();
    let mut stored = full_comment(&program, &subject);
    let mut update = |mask: &str, body: Value, change: fn(&mut Comment)| {
        program.update(&mut stored, Some(mask), &body, change);
    };
    let others = json!({"text": "second", "labels": {"new": "1"}});
    update("text", others.clone(), |it| it.text = "second".into());
    update("text", others, |_| {});
    update("place.label", json!({"place": {"label": "there"}}), |it| {
        it.place.as_mut().expect("a place").label = "there".into();
    });
    let place =
        json!({"text": "", "place": {"latitude": 4.0, "longitude": 5.0}});
    update("place.latitude,place.label", place, |it| {
        let place = it.place.as_mut().expect("a place");
        (place.latitude, place.label) = (4.0, String::new());
    });
    update("place", json!({"place": {"label": "new"}}), |it| {
        let label = "new".to_owned();
        it.place = Some(Place { label, latitude: 0.0, longitude: 0.0 });
    });
    update("labels.kept", json!({"labels": {"kept": "still"}}), |it| {
        it.labels.insert("kept".into(), "still".into());
    });
    update("labels", json!({"labels": {"only": ""}}), |it| {
        it.labels = HashMap::from([("only".into(), String::new())]);
    });
    update("labels", json!({"text": "not named"}), |it| it.labels.clear());
    update("place", json!({}), |it| it.place = None);
    let output_only = json!({"likeCount": "99", "replyCount": "99",
        "createTime": "2001-01-01T00:00:00Z", "text": "third"});
    update("likeCount,replyCount,createTime", output_only.clone(), |_| {});
    update("text,likeCount,createTime", output_only, |it| {
        it.text = "third".into();
    });
    let whole =
        json!({"author": "ann", "text": "fourth", "labels": {"x": "y"}});
    update("*", whole, |it| {
        it.text = "fourth".into();
        it.labels.insert("x".into(), "y".into());
    });
    update("*", json!({"author": "ann", "text": "fifth"}), |it| {
        it.text = "fifth".into();
        it.labels.clear();
    });

    for (mask, body, cause) in [
        ("colour", json!({}), "an unknown path"),
        ("text,colour", json!({"text": "new"}), "an unknown path"),
        ("place.colour", json!({}), "an unknown path in place"),
        ("text.x", json!({"text": "new"}), "a path into a text"),
        ("text", json!({"text": ""}), "an empty text"),
        ("text", json!({"text": " "}), "a blank text"),
        ("text", json!({}), "a text that is cleared"),
        ("text", json!({"text": 7}), "a number as text"),
        ("text", json!({"text": "new", "colour": ""}), "an unknown field"),
        ("author", json!({"author": "bob"}), "an immutable field"),
    ] {
        let answer = program.patch(&masked(&stored, Some(mask)), &body);
        answer.is_invalid(&format!("{cause} with the mask {mask}"));
        program.is_stored(&stored, &format!("after {}", answer.request));
    }
}

#[test]
fn without_a_mask_the_keys_of_the_body_are_the_fields_that_change() {
    let program = Program::start();
    let subject = program.new_subject();
    let mut stored = full_comment(&program, &subject);
    let mut update = |body: Value, change: fn(&mut Comment)| {
        program.update(&mut stored, None, &body, change);
    };
    update(json!({}), |_| {});
    update(json!({"text": "second"}), |it| it.text = "second".into());
    update(json!({"text": "second"}), |_| {});
    update(json!({"place": {}, "labels": {}}), |_| {});
    update(json!({"place": {"label": ""}}), |it| {
        it.place.as_mut().expect("a place").label.clear();
    });
    update(json!({"place": {"latitude": 0}, "text": "third"}), |it| {
        it.place.as_mut().expect("a place").latitude = 0.0;
        it.text = "third".into();
    });
    update(json!({"labels": {"a.b": "2", "new": ""}}), |it| {
        it.labels.insert("a.b".into(), "2".into());
        it.labels.insert("new".into(), String::new());
    });
    update(json!({"place": null}), |it| it.place = None);
    update(json!({"place": {"longitude": 7.5}}), |it| {
        let label = String::new();
        it.place = Some(Place { label, latitude: 0.0, longitude: 7.5 });
    });
    update(json!({"labels": null}), |it| it.labels.clear());
    update(json!({"likeCount": "99", "replyCount": "99"}), |_| {});
    update(json!({"createTime": "2001-01-01T00:00:00Z"}), |_| {});
    update(json!({"author": "ann", "text": "fourth"}), |it| {
        it.text = "fourth".into();
    });

    for (body, cause) in [
        (r#"{"text": ""}"#, "an empty text"),
        (r#"{"text": null}"#, "a text that is cleared"),
        (r#"{"text": " \n"}"#, "a blank text"),
        (r#"{"text": 7}"#, "a number as text"),
        (r#"{"text": "new", "colour": "red"}"#, "an unknown field"),
        (r#"{"text": "new", "place": {"x": 1}}"#, "an unknown field of place"),
        (r#"{"text": "new", "author": "bob"}"#, "an immutable field"),
        (r#"{"text": "new""#, "malformed JSON"),
        (r#"["text"]"#, "a body that is a list"),
        ("", "no body"),
    ] {
        let target = format!("/v1/{}", stored.name);
        let answer = program.call("PATCH", &target, body.as_bytes());
        answer.is_invalid(&format!("{cause} in a PATCH without a mask"));
        program.is_stored(&stored, &format!("after {}", answer.request));
    }
}

#[test]
fn an_update_with_an_old_etag_is_answered_with_409() {
    let program = Program::start();
    let subject = program.new_subject();
    let first = program.new_text(&subject, "first");
    let mut stored = first.clone();
    let body = json!({"text": "second", "etag": first.etag});
    program.update(&mut stored, None, &body, |it| it.text = "second".into());
    let body = json!({"text": "third", "etag": stored.etag});
    program.update(&mut stored, Some("text"), &body, |it| {
        it.text = "third".into();
    });
    for mask in [None, Some("text")] {
        let body = json!({"text": "lost", "etag": first.etag});
        let answer = program.patch(&masked(&stored, mask), &body);
        answer.fails(409, "ABORTED", "the etag of an earlier version");
        program.is_stored(&stored, &format!("after {}", answer.request));
    }
    // A like is no update.
    program.like(&stored, "ann");
    stored = program.comment(&stored.name);

    let answers = at_once(8, |n| {
        let body = json!({"text": format!("from {n}"), "etag": stored.etag});
        program.patch(&stored.name, &body)
    });
    let (won, lost): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|answer| answer.status == 200);
    let statuses: Vec<_> = lost.iter().map(|answer| answer.status).collect();
    assert!(
        won.len() == 1,
        "expected one of 8 updates at once with the same etag to succeed; seen: \
         {} times 200, and {statuses:?}",
        won.len()
    );
    for answer in lost {
        answer.fails(409, "ABORTED", "the etag of an earlier version");
    }
    program.is_stored(&won[0].comment(), "after 8 updates with one etag");
}

#[test]
fn updates_of_different_fields_at_once_lose_nothing() {
    let program = Program::start();
    let subject = program.new_subject();
    let comment = program.new_text(&subject, "text");
    let keys: Vec<_> = (0..8).map(|n| format!("key{n}")).collect();
    for _ in 0..5 {
        let before = program.comment(&comment.name).labels;
        let answers = at_once(8, |n| {
            let value = before.get(&keys[n]).map_or(0, String::len);
            let value = "x".repeat(value + 1);
            let body = json!({"labels": {keys[n].clone(): value.clone()}});
            (value, program.patch(&comment.name, &body))
        });
        let mut expected = comment.clone();
        expected.labels = before;
        let mut succeeded = 0;
        for ((value, answer), key) in answers.into_iter().zip(&keys) {
            if answer.status == 409 {
                answer.fails(409, "ABORTED", "one of many updates at once");
            } else {
                answer.comment();
                expected.labels.insert(key.clone(), value);
                succeeded += 1;
            }
        }
        assert!(
            succeeded > 0,
            "expected some of 8 updates at once to succeed; seen: 8 times 409"
        );
        let read = program.comment(&comment.name);
        expected.etag.clone_from(&read.etag);
        expected.update_time = read.update_time;
        equal(&read, &expected, "after 8 updates of different labels at once");
    }
}

#[test]
fn a_subject_id_and_a_request_id_are_used_only_once() {
    let program = Program::start();
    let id = new_id();
    let target = format!("subjects?subjectId={id}");
    let subject = format!("subjects/{id}");
    let answers = at_once(8, |n| {
        program.post(&target, &json!({"title": format!("title {n}")}))
    });
    let again = program.post(&target, &json!({"title": "again"}));
    let (won, lost): (Vec<_>, Vec<_>) = answers
        .into_iter()
        .chain([again])
        .partition(|answer| answer.status == 200);
    for answer in lost {
        answer.fails(409, "ALREADY_EXISTS", "a subject id that is taken");
    }
    assert!(
        won.len() == 1,
        "expected one of 9 creations of {subject} to succeed; seen: {}",
        won.len()
    );
    let title = program.get(&subject).subject().title;
    is(&*title, &*won[0].subject().title, "the title of the subject");

    let create = |request: &str, text: &str| {
        let target = format!("{subject}/comments{request}");
        let body = json!({"author": "ann", "text": text});
        program.post(&target, &body).comment()
    };
    let created = at_once(8, |_| create("?requestId=one", "first"));
    let again = create("?requestId=one", "another text");
    for comment in created.iter().chain([&again]) {
        equal(comment, &created[0], "with the same requestId");
    }
    let others =
        [create("?requestId=two", "first"), create("", "x"), create("", "x")];
    let names: BTreeSet<_> = others.iter().map(|it| it.name.clone()).collect();
    is(
        names.len(),
        3,
        "the number of comments with other request ids, or without",
    );
    is(program.all(&subject).len(), 4, "the number of listed comments");
    is(program.comment_count(&subject), 4, "the commentCount");
}

#[test]
fn a_like_counts_each_user_once_even_in_parallel() {
    let program = Program::start();
    let subject = program.new_subject();
    let (one, many) =
        (program.new_text(&subject, "x"), program.new_text(&subject, "x"));
    let likes: Vec<_> = ["ann", "ann", "bob", "Ann", "ann", "Zoë 🦀"]
        .into_iter()
        .map(|user| program.like(&one, user))
        .collect();
    is(&*likes, &[1, 1, 2, 3, 3, 4], "the likeCount after each of 6 likes");
    let likes = at_once(32, |n| {
        let user = format!("user {n}");
        let first = program.like(&many, &user);
        (first, program.like(&many, &user))
    });
    for (first, second) in likes {
        assert!(
            (1..=32).contains(&first) && (first..=32).contains(&second),
            "expected 1 to 32 likes, and no fewer later; seen: {first} after a \
             like, and {second} after the next one"
        );
    }
    let count = |comment: &Comment| program.comment(&comment.name).like_count;
    is(count(&many), 32, "the likeCount after 32 users liked at once, twice");
    is(count(&one), 4, "the likeCount of the other comment");
}

#[test]
fn sigterm_completes_requests_closes_the_port_and_exits_with_0() {
    let program = Program::start();
    let subject = program.new_subject();
    let target = format!("/v1/{subject}/comments");
    let body = json!({"author": "ann", "text": "in flight"}).to_string();
    let _idle = TcpStream::connect(program.address);
    let pending = program.begin("POST", &target, body.as_bytes(), 10);
    let pending = pending.expect("cannot send the beginning of a request");
    // After these responses, the earlier request has surely arrived.
    (0..20).for_each(|_| drop(program.get(&subject).ok()));
    program.terminate();
    program.closes_its_port();
    let request = pending.request.clone();
    let answer = pending.finish().unwrap_or_else(|error| {
        panic!(
            "expected a response to a request whose head had arrived before \
             SIGTERM, and whose body is completed after it: {request}; seen: \
             {error}"
        )
    });
    is(&*answer.comment().text, "in flight", "the text in the response");
    program.exits_with_0();
}

#[test]
fn data_is_still_there_after_a_restart() {
    let program = Program::start();
    let subject = program.new_subject();
    let kept = full_comment(&program, &subject);
    program.new_reply(&subject, &kept);
    program.like(&kept, "ann");
    let target = format!("{subject}/comments?requestId=one");
    let body = json!({"author": "ann", "text": "once"});
    let once = program.post(&target, &body).comment();
    let deleted = program.new_text(&subject, "deleted");
    program.delete(&deleted.name).ok();
    let kept = program.comment(&kept.name);
    let listed = program.all(&subject);
    program.terminate();
    program.exits_with_0();
    let home = Arc::clone(&program.home);
    let has_file = home.path().join("comments.db").exists();
    drop(program);

    let program = Program::start_in(&home);
    let answer = program.get(&subject);
    if env::var_os(PROGRAM).is_some() && !has_file && answer.status == 404 {
        println!("not asked of a program: it has no file at COMMENTS_DATA_URL");
        return;
    }
    let count = answer.subject().comment_count;
    is(count, 3, "the commentCount after a restart");
    program.is_stored(&kept, "after a restart");
    let again = program.post(&target, &body).comment();
    equal(&again, &once, "with the same requestId after a restart");
    is(program.like(&kept, "ann"), 1, "the likeCount after the same like");
    assert!(
        program.all(&subject) == listed,
        "expected the same list after a restart; seen another one"
    );
    program
        .get(&deleted.name)
        .is_not_found("a comment deleted before a restart");
    let new = program.new_text(&subject, "new");
    assert!(
        ![&kept.name, &once.name, &deleted.name].contains(&&new.name),
        "expected a new name for a new comment; seen again: {}",
        new.name
    );
}
