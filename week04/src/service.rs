//! The service layer: turns messages of the contract into calls of use cases,
//! and answers into messages. It has no rule of its own.

use prost_reflect::DynamicMessage;
use tonic::{Request, Response, Status};
use week04_api::comments::v1;
use week04_api::comments::v1::comment_service_server::CommentService;
use week04_biz::{
    Comment, Comments, Error, Invalid, NewSubject, Order, PageRequest, Query,
    Repository, SubjectId,
};

use self::names::CommentName;
use crate::field_mask::Mask;
use crate::layers::biz::{LikeRepository, Likes};

pub(crate) use self::failure::failure;

mod convert;
mod failure;
mod names;
mod page_token;

/// Answers every method of the contract, for gRPC and HTTP.
#[derive(Debug)]
pub struct Service<R, L> {
    comments: Comments<R>,
    likes: Likes<L>,
}

impl<R, L> Service<R, L> {
    /// Creates the service over its use cases.
    pub fn new(comments: Comments<R>, likes: Likes<L>) -> Self {
        Self { comments, likes }
    }
}

#[tonic::async_trait]
impl<R: Repository, L: LikeRepository> CommentService for Service<R, L> {
    async fn create_subject(
        &self,
        request: Request<v1::CreateSubjectRequest>,
    ) -> Result<Response<v1::Subject>, Status> {
        let v1::CreateSubjectRequest { subject, subject_id } =
            request.into_inner();
        let subject = subject.ok_or_else(|| missing("subject"))?;
        let id = if subject_id.is_empty() {
            names::random_subject_id()
        } else {
            SubjectId::new(subject_id).map_err(failure::from_invalid)?
        };
        let new = NewSubject { id, title: subject.title };
        let created = self.comments.create_subject(&new).await;
        let created = created.map_err(|error| failure::from_error(&error))?;
        Ok(Response::new(convert::subject_to_message(created)))
    }

    async fn get_subject(
        &self,
        request: Request<v1::GetSubjectRequest>,
    ) -> Result<Response<v1::Subject>, Status> {
        let id = names::subject("name", &request.get_ref().name)
            .map_err(failure::from_invalid)?;
        let subject = self.comments.subject(&id).await;
        let subject = subject.map_err(|error| failure::from_error(&error))?;
        Ok(Response::new(convert::subject_to_message(subject)))
    }

    async fn create_comment(
        &self,
        request: Request<v1::CreateCommentRequest>,
    ) -> Result<Response<v1::Comment>, Status> {
        let v1::CreateCommentRequest { parent, comment, request_id } =
            request.into_inner();
        let comment = comment.ok_or_else(|| missing("comment"))?;
        let new = convert::new_comment(&parent, comment, request_id)
            .map_err(failure::from_invalid)?;
        let created = self.comments.create(&new).await;
        let created = created.map_err(|error| match new.request_id {
            Some(_) => failure::from_error(&error),
            None => failure::from_error_of_unrepeatable(&error),
        })?;
        Ok(Response::new(convert::comment_to_message(created)))
    }

    async fn get_comment(
        &self,
        request: Request<v1::GetCommentRequest>,
    ) -> Result<Response<v1::Comment>, Status> {
        let CommentName { subject, comment } =
            names::comment("name", &request.get_ref().name)
                .map_err(failure::from_invalid)?;
        let comment = self.comments.comment(&subject, comment).await;
        let comment = comment.map_err(|error| failure::from_error(&error))?;
        Ok(Response::new(convert::comment_to_message(comment)))
    }

    async fn list_comments(
        &self,
        request: Request<v1::ListCommentsRequest>,
    ) -> Result<Response<v1::ListCommentsResponse>, Status> {
        let request = request.into_inner();
        let query = query(&request).map_err(failure::from_invalid)?;
        let size = u32::try_from(request.page_size).map_err(|_| {
            let problem = "expected zero or more";
            failure::from_invalid(Invalid { field: "page_size", problem })
        })?;
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(
                page_token::read(token, &query)
                    .map_err(failure::from_invalid)?,
            ),
        };
        let page = self.comments.list(&query, PageRequest { size, after });
        let page = page.await.map_err(|error| failure::from_error(&error))?;
        let next = page.next.map(|next| page_token::write(&query, next));
        let comments = page.comments.into_iter();
        Ok(Response::new(v1::ListCommentsResponse {
            comments: comments.map(convert::comment_to_message).collect(),
            next_page_token: next.unwrap_or_default(),
        }))
    }

    async fn update_comment(
        &self,
        request: Request<v1::UpdateCommentRequest>,
    ) -> Result<Response<v1::Comment>, Status> {
        // Over HTTP, the keys of the JSON body are the mask.
        let keys = request.extensions().get::<Mask>().cloned();
        let v1::UpdateCommentRequest { comment, update_mask } =
            request.into_inner();
        let sent = comment.ok_or_else(|| missing("comment"))?;
        let CommentName { subject, comment: id } =
            names::comment("comment.name", &sent.name)
                .map_err(failure::from_invalid)?;
        let version = convert::version_of_etag(&sent.etag)
            .map_err(failure::from_invalid)?;
        let sent = convert::to_dynamic(&sent);
        let mask = match keys {
            Some(mask) => Ok(mask),
            None => Mask::of_request(update_mask.as_ref(), &sent),
        };
        let mask = mask.map_err(|error| failure::from_mask(&error))?;
        let change = |stored: &Comment| apply(stored, &sent, &mask);
        let updated = self.comments.update(&subject, id, version, change);
        let updated = updated.await.map_err(|Refused(status)| status)?;
        Ok(Response::new(convert::comment_to_message(updated)))
    }

    async fn delete_comment(
        &self,
        request: Request<v1::DeleteCommentRequest>,
    ) -> Result<Response<()>, Status> {
        let CommentName { subject, comment } =
            names::comment("name", &request.get_ref().name)
                .map_err(failure::from_invalid)?;
        let deleted = self.comments.delete(&subject, comment).await;
        deleted.map_err(|error| failure::from_error(&error))?;
        Ok(Response::new(()))
    }

    async fn like_comment(
        &self,
        request: Request<v1::LikeCommentRequest>,
    ) -> Result<Response<v1::LikeCommentResponse>, Status> {
        let v1::LikeCommentRequest { name, user } = request.get_ref();
        let CommentName { subject, comment } =
            names::comment("name", name).map_err(failure::from_invalid)?;
        let likes = self.likes.like(&subject, comment, user).await;
        let like_count = likes.map_err(|error| failure::from_error(&error))?;
        Ok(Response::new(v1::LikeCommentResponse { like_count }))
    }
}

/// The answer to an update that is refused.
struct Refused(Status);

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self(failure::from_error(&error))
    }
}

/// Returns `stored` with the fields of `sent` that the mask selects.
fn apply(
    stored: &Comment,
    sent: &DynamicMessage,
    mask: &Mask,
) -> Result<Comment, Refused> {
    let message = convert::comment_to_message(stored.clone());
    let changed = convert::masked(&message, sent, mask)
        .map_err(|error| Refused(failure::from_mask(&error)))?;
    convert::changed_comment(stored, changed)
        .map_err(|invalid| Refused(failure::from_invalid(invalid)))
}

fn query(request: &v1::ListCommentsRequest) -> Result<Query, Invalid> {
    let subject = names::subject("parent", &request.parent)?;
    let reply_to = names::reply_to("reply_to", &request.reply_to, &subject)?;
    let order = match request.order_by.as_str() {
        "" | "create_time desc" => Order::Newest,
        "create_time" | "create_time asc" => Order::Oldest,
        "like_count desc" => Order::MostLiked,
        _ => {
            let problem = "expected `create_time desc`, `create_time` or \
                           `like_count desc`";
            return Err(Invalid { field: "order_by", problem });
        }
    };
    Ok(Query { subject, reply_to, order })
}

fn missing(field: &'static str) -> Status {
    let problem = "expected a value";
    failure::from_invalid(Invalid { field, problem })
}
