//! A call that is recorded: tonic's client and an echo server, and between them
//! a proxy that keeps all bytes.

use std::net::Ipv4Addr;
use std::time::Duration;

use futures_util::future::join_all;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tonic::{Request, Response, Status};
use week04_api::comments::v1::comment_service_client as client;
use week04_api::comments::v1::comment_service_server::{
    CommentService, CommentServiceServer,
};
use week04_api::comments::v1::*;

/// Calls an echo server at once with all requests. Returns all bytes that
/// the client has sent and received.
pub(super) async fn record(requests: &[CreateSubjectRequest]) -> [Vec<u8>; 2] {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let calls = async {
        let connected = client::CommentServiceClient::connect(address);
        let client = connected.await.unwrap();
        let calls = join_all(requests.iter().map(|request| {
            let (mut client, request) = (client.clone(), request.clone());
            async move { client.create_subject(request).await }
        }));
        for answer in calls.await {
            answer.expect("the answer of the echo server");
        }
    };
    let proxy = async {
        let (client, _) = listener.accept().await.unwrap();
        let (ours, theirs) = tokio::io::duplex(5_000);
        let echo = CommentServiceServer::new(Echo);
        let served = http2::Builder::new(TokioExecutor::new())
            .serve_connection(
                TokioIo::new(theirs),
                TowerToHyperService::new(echo),
            );
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = tokio::io::split(ours);
        let (_, sent, received) = tokio::join!(
            served,
            forward(from_client, to_server),
            forward(from_server, to_client),
        );
        [sent, received]
    };
    let both = async { tokio::join!(calls, proxy) };
    let ended = timeout(Duration::from_secs(8), both).await;
    let ((), recordings) = ended.expect("the calls end in 8 s");
    recordings
}

/// Forwards all bytes, and returns them.
async fn forward(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
) -> Vec<u8> {
    let mut recording = Vec::new();
    let mut start = 0;
    while from.read_buf(&mut recording).await.is_ok_and(|read| read > 0) {
        // The other side may have closed the connection already.
        let _ = to.write_all(&recording[start..]).await;
        start = recording.len();
    }
    let _ = to.shutdown().await;
    recording
}

struct Echo;

macro_rules! implement_only_create_subject {
    ($($method:ident: $request:ty => $response:ty,)*) => {
        #[tonic::async_trait]
        impl CommentService for Echo {
            async fn create_subject(
                &self,
                request: Request<CreateSubjectRequest>,
            ) -> Result<Response<Subject>, Status> {
                let subject = request.into_inner().subject;
                Ok(Response::new(subject.unwrap_or_default()))
            }

            $(async fn $method(
                &self,
                _request: Request<$request>,
            ) -> Result<Response<$response>, Status> {
                Err(Status::unimplemented("not part of this test"))
            })*
        }
    };
}

implement_only_create_subject! {
    get_subject: GetSubjectRequest => Subject,
    create_comment: CreateCommentRequest => Comment,
    get_comment: GetCommentRequest => Comment,
    list_comments: ListCommentsRequest => ListCommentsResponse,
    update_comment: UpdateCommentRequest => Comment,
    delete_comment: DeleteCommentRequest => (),
    like_comment: LikeCommentRequest => LikeCommentResponse,
}
