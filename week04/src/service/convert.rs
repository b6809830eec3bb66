//! Messages of the contract from and to values of the domain.

use std::sync::LazyLock;

use prost_reflect::{DynamicMessage, MessageDescriptor};
use week04_api::DESCRIPTORS;
use week04_api::comments::v1;
use week04_biz::{
    Comment, Invalid, NewComment, Place, Subject, Timestamp, UserId,
};

use super::names;
use crate::field_mask::Mask;
use crate::field_path::MaskError;

pub(super) fn subject_to_message(subject: Subject) -> v1::Subject {
    v1::Subject {
        name: names::of_subject(&subject.id),
        title: subject.title,
        comment_count: subject.comment_count,
        create_time: Some(time_to_message(subject.created)),
    }
}

pub(super) fn comment_to_message(comment: Comment) -> v1::Comment {
    let subject = &comment.subject;
    let reply_to = comment.reply_to.map(|id| names::of_comment(subject, id));
    v1::Comment {
        name: names::of_comment(subject, comment.id),
        author: comment.author.as_str().to_owned(),
        text: comment.text,
        reply_to: reply_to.unwrap_or_default(),
        place: comment.place.map(place_to_message),
        labels: comment.labels.into_iter().collect(),
        like_count: comment.like_count,
        reply_count: comment.reply_count,
        create_time: Some(time_to_message(comment.created)),
        update_time: Some(time_to_message(comment.updated)),
        etag: format!("\"{}\"", comment.version),
    }
}

/// Reads a comment that is to be created. Fields that only the service sets are
/// ignored.
pub(super) fn new_comment(
    parent: &str,
    comment: v1::Comment,
    request_id: String,
) -> Result<NewComment, Invalid> {
    let subject = names::subject("parent", parent)?;
    Ok(NewComment {
        author: UserId::new("comment.author", comment.author)?,
        text: comment.text,
        reply_to: names::reply_to(
            "comment.reply_to",
            &comment.reply_to,
            &subject,
        )?,
        place: comment.place.map(place_from_message),
        labels: comment.labels.into_iter().collect(),
        request_id: Some(request_id).filter(|id| !id.is_empty()),
        subject,
    })
}

/// Returns `stored` with the text, the place and the labels of `changed`.
pub(super) fn changed_comment(
    stored: &Comment,
    changed: v1::Comment,
) -> Result<Comment, Invalid> {
    let problem = "expected the stored value: this field cannot be changed";
    if changed.author != stored.author.as_str() {
        return Err(Invalid { field: "comment.author", problem });
    }
    let reply_to = names::reply_to(
        "comment.reply_to",
        &changed.reply_to,
        &stored.subject,
    )?;
    if reply_to != stored.reply_to {
        return Err(Invalid { field: "comment.reply_to", problem });
    }
    Ok(Comment {
        text: changed.text,
        place: changed.place.map(place_from_message),
        labels: changed.labels.into_iter().collect(),
        ..stored.clone()
    })
}

/// Returns `stored` with the fields of `sent` that `mask` selects.
pub(super) fn masked(
    stored: &v1::Comment,
    sent: &DynamicMessage,
    mask: &Mask,
) -> Result<v1::Comment, MaskError> {
    let changed = mask.update(&to_dynamic(stored), sent)?;
    Ok(changed.transcode_to().expect("both types are of one contract"))
}

/// Returns a comment as a message whose fields have names.
pub(super) fn to_dynamic(comment: &v1::Comment) -> DynamicMessage {
    let mut message = DynamicMessage::new(COMMENT.clone());
    let decoded = message.transcode_from(comment);
    decoded.expect("both types are of one contract");
    message
}

static COMMENT: LazyLock<MessageDescriptor> = LazyLock::new(|| {
    let descriptor = DESCRIPTORS.get_message_by_name("comments.v1.Comment");
    descriptor.expect("the contract has this message")
});

/// Reads the version of an etag, or `None` if it is empty.
pub(super) fn version_of_etag(etag: &str) -> Result<Option<i64>, Invalid> {
    if etag.is_empty() {
        return Ok(None);
    }
    let version = etag.strip_prefix('"').and_then(|e| e.strip_suffix('"'));
    let problem = "expected the etag of the comment";
    let version = version.and_then(|version| version.parse().ok());
    version.map(Some).ok_or(Invalid { field: "comment.etag", problem })
}

fn place_to_message(place: Place) -> v1::Place {
    let Place { label, latitude, longitude } = place;
    v1::Place { label, latitude, longitude }
}

fn place_from_message(place: v1::Place) -> Place {
    let v1::Place { label, latitude, longitude } = place;
    Place { label, latitude, longitude }
}

fn time_to_message(time: Timestamp) -> prost_types::Timestamp {
    let micros = time.micros.rem_euclid(1_000_000);
    prost_types::Timestamp {
        seconds: time.micros.div_euclid(1_000_000),
        nanos: i32::try_from(micros * 1_000).expect("less than a second"),
    }
}
