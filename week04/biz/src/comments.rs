//! The use cases.

use crate::comment::{check_content, check_title};
use crate::{
    Comment, CommentId, Error, Invalid, NewComment, NewSubject, Position,
    Query, Repository, Subject, SubjectId, Timestamp,
};

/// The use cases of the comment service, over any storage.
#[derive(Debug)]
pub struct Comments<R> {
    repository: R,
    now: fn() -> Timestamp,
}

/// The part of a list that a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRequest {
    /// The largest number of comments. 0 stands for 50, and more than 1,000
    /// for 1,000. A page of long texts has fewer.
    pub size: u32,
    /// The last comment of the page before, or `None` for the first page.
    pub after: Option<Position>,
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The comments, in the order of the query.
    pub comments: Vec<Comment>,
    /// Where the next page begins, or `None` on the last page.
    pub next: Option<Position>,
}

/// How often an update without a version is tried.
const ATTEMPTS: usize = 4;

impl<R: Repository> Comments<R> {
    /// Creates the use cases. `now` is the clock.
    pub fn new(repository: R, now: fn() -> Timestamp) -> Self {
        Self { repository, now }
    }

    /// Creates a subject.
    ///
    /// # Errors
    ///
    /// Returns [`Error::AlreadyExists`] if its id is taken.
    pub async fn create_subject(
        &self,
        new: &NewSubject,
    ) -> Result<Subject, Error> {
        check_title(&new.title)?;
        let created = self.repository.create_subject(new, (self.now)()).await?;
        created.ok_or_else(|| Error::AlreadyExists {
            kind: "subject",
            id: new.id.to_string(),
        })
    }

    /// Returns a subject.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NotFound`] if there is no such subject.
    pub async fn subject(&self, id: &SubjectId) -> Result<Subject, Error> {
        let subject = self.repository.subject(id).await?;
        subject.ok_or_else(|| no_subject(id))
    }

    /// Creates a comment. The same author, subject and request id again return
    /// the comment that the first call created.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NotFound`] if the subject, or the comment that it
    /// replies to, does not exist.
    pub async fn create(&self, new: &NewComment) -> Result<Comment, Error> {
        check_content(&new.text, new.place.as_ref(), &new.labels)?;
        if let Some(id) = &new.request_id
            && (id.chars().count() > 64 || id.contains('\0'))
        {
            let problem = "expected up to 64 characters, and no NUL character";
            return Err(Invalid { field: "request_id", problem }.into());
        }
        let created = self.repository.create_comment(new, (self.now)()).await?;
        if let Some(comment) = created {
            return Ok(comment);
        }
        match new.reply_to {
            Some(id)
                if self.repository.subject(&new.subject).await?.is_some() =>
            {
                Err(no_comment(id))
            }
            _ => Err(no_subject(&new.subject)),
        }
    }

    /// Returns a comment.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NotFound`] if there is no such comment, or if it is
    /// deleted.
    pub async fn comment(
        &self,
        subject: &SubjectId,
        id: CommentId,
    ) -> Result<Comment, Error> {
        let comment = self.repository.comment(subject, id).await?;
        comment.ok_or_else(|| no_comment(id))
    }

    /// Returns one page of a list.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NotFound`] if there is no such subject.
    pub async fn list(
        &self,
        query: &Query,
        page: PageRequest,
    ) -> Result<Page, Error> {
        let size = if page.size == 0 { 50 } else { page.size.min(1_000) };
        // One more than asked for tells whether there is a next page.
        let mut comments =
            self.repository.list(query, page.after, size + 1).await?;
        if comments.is_empty() && page.after.is_none() {
            // An empty list and a missing subject are different answers.
            self.subject(&query.subject).await?;
        }
        let mut next = None;
        let fit = fitting(&comments[..comments.len().min(size as usize)]);
        if comments.len() > fit {
            comments.truncate(fit);
            next = comments.last().map(|last| last.position(query.order));
        }
        Ok(Page { comments, next })
    }

    /// Reads a comment, changes it by `change`, and stores it. If another
    /// update comes between, reads it again and repeats the change. So
    /// `change` may be called several times.
    ///
    /// With a `version`, only that version is changed.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Changed`] if the version is not `version`, and the
    /// error of `change` if it fails.
    pub async fn update<E: From<Error>>(
        &self,
        subject: &SubjectId,
        id: CommentId,
        version: Option<i64>,
        change: impl Fn(&Comment) -> Result<Comment, E>,
    ) -> Result<Comment, E> {
        for _ in 0..ATTEMPTS {
            let stored = self.comment(subject, id).await?;
            if version.is_some_and(|version| version != stored.version) {
                break;
            }
            let changed = change(&stored)?;
            let Comment { text, place, labels, .. } = changed;
            if (&text, &place, &labels)
                == (&stored.text, &stored.place, &stored.labels)
            {
                return Ok(stored);
            }
            check_content(&text, place.as_ref(), &labels)
                .map_err(Error::from)?;
            let updated = (self.now)().max(stored.updated);
            let mut new = Comment { text, place, labels, updated, ..stored };
            if self.repository.update(&new).await.map_err(Error::from)? {
                new.version += 1;
                return Ok(new);
            }
        }
        Err(Error::Changed { id: id.to_string() }.into())
    }

    /// Deletes a comment.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NotFound`] if there is no such comment, or if it is
    /// already deleted.
    pub async fn delete(
        &self,
        subject: &SubjectId,
        id: CommentId,
    ) -> Result<(), Error> {
        let now = (self.now)();
        if self.repository.delete(subject, id, now).await? {
            Ok(())
        } else {
            Err(no_comment(id))
        }
    }
}

/// Returns how many of `comments` fit into one page: all that have up to 3 MiB
/// together. Clients of gRPC accept messages of 4 MiB.
fn fitting(comments: &[Comment]) -> usize {
    let mut bytes = 0;
    let fit = comments.iter().take_while(|comment| {
        let labels = comment.labels.iter().map(|(k, v)| k.len() + v.len() + 8);
        let place = comment.place.as_ref().map_or(0, |place| place.label.len());
        // Names, numbers and times have fewer than 700 bytes.
        bytes += comment.text.len() + labels.sum::<usize>() + place + 700;
        bytes <= 3 << 20
    });
    fit.count()
}

fn no_subject(id: &SubjectId) -> Error {
    Error::NotFound { kind: "subject", id: id.to_string() }
}

fn no_comment(id: CommentId) -> Error {
    Error::NotFound { kind: "comment", id: id.to_string() }
}
