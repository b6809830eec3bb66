//! Resource names: `subjects/{subject}` and
//! `subjects/{subject}/comments/{comment}`.

use std::hash::{BuildHasher as _, RandomState};

use week04_biz::{CommentId, Invalid, SubjectId};

/// The ids in the name of a comment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CommentName {
    pub(super) subject: SubjectId,
    pub(super) comment: CommentId,
}

/// Reads the name of a subject. `field` is the field that contains it.
pub(super) fn subject(
    field: &'static str,
    name: &str,
) -> Result<SubjectId, Invalid> {
    let problem = "expected subjects/{subject}";
    let id = name.strip_prefix("subjects/");
    id.and_then(|id| SubjectId::new(id).ok()).ok_or(Invalid { field, problem })
}

/// Reads the name of a comment. `field` is the field that contains it.
pub(super) fn comment(
    field: &'static str,
    name: &str,
) -> Result<CommentName, Invalid> {
    let problem = "expected subjects/{subject}/comments/{comment}";
    let parse = || {
        let (parent, id) = name.rsplit_once("/comments/")?;
        let subject = subject(field, parent).ok()?;
        // The only form of a number: no sign, no zeros in front.
        let number: i64 = id.parse().ok()?;
        (number > 0 && number.to_string() == id)
            .then_some(CommentName { subject, comment: CommentId(number) })
    };
    parse().ok_or(Invalid { field, problem })
}

/// Reads the name of the comment that is replied to, if it is not empty. It
/// must be a comment on `subject`.
pub(super) fn reply_to(
    field: &'static str,
    name: &str,
    subject: &SubjectId,
) -> Result<Option<CommentId>, Invalid> {
    if name.is_empty() {
        return Ok(None);
    }
    let problem = "expected a comment on the same subject";
    let name = comment(field, name)?;
    if name.subject == *subject {
        Ok(Some(name.comment))
    } else {
        Err(Invalid { field, problem })
    }
}

/// Returns the name of a subject.
pub(super) fn of_subject(subject: &SubjectId) -> String {
    format!("subjects/{subject}")
}

/// Returns the name of a comment.
pub(super) fn of_comment(subject: &SubjectId, comment: CommentId) -> String {
    format!("subjects/{subject}/comments/{comment}")
}

/// Returns an id that no other subject has.
pub(super) fn random_subject_id() -> SubjectId {
    // Each `RandomState` has other keys.
    let random = || RandomState::new().hash_one(0);
    let id = format!("{:016x}{:016x}", random(), random());
    SubjectId::new(id).expect("32 hexadecimal digits are a valid id")
}
