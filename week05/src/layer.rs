//! Puts a policy around a service: one trait for the policies of this week, and
//! one tower layer for all of them.
//!
//! A [`Policy`] admits a request or refuses it. The [`Layer`] asks it before it
//! touches the inner service, holds the permit while the request is in flight,
//! and then tells the policy the outcome. The layer keeps the error type of the
//! inner service: a function of the user turns a refusal into a response, or into
//! an error of that type.
//!
//! A refused request neither polls nor calls the inner service. The decision
//! needs the request, and a request is known only in `call`. So `poll_ready` is
//! always ready, and the inner service is polled for readiness in the future of
//! the call, after admission. Callers see no backpressure: they see refusals.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::time::Instant as TokioInstant;
use tower_service::Service;

/// Decides which requests are admitted.
pub trait Policy<Key>: Send + Sync {
    /// Held while the request is in flight. Dropping it cancels the request.
    type Permit<'a>: Permit + Send
    where
        Self: 'a;

    /// The reason of a refusal.
    type Rejected: Send;

    /// Admits a request that arrives `now`. `key` is the part of it that the
    /// policy needs, and `rand` is random in `0.0..1.0`.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the request was never admitted.
    fn admit(
        &self,
        key: Key,
        now: Instant,
        rand: f64,
    ) -> impl Future<Output = Result<Self::Permit<'_>, Self::Rejected>> + Send;
}

/// What an admitted request holds.
pub trait Permit {
    /// Ends the request. If the permit is dropped instead, the request was
    /// cancelled, or has panicked.
    fn end(self, outcome: Outcome, now: Instant);
}

/// How an admitted request has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The service has done its work. An answer "not found" is a success.
    Success,
    /// The service was not able to answer.
    Failure,
}

/// A tower layer that asks a policy.
///
/// A request ends with its response. If the body of the response is sent
/// afterwards, as in HTTP, the permit is released before the body is complete.
#[derive(Debug, Clone)]
pub struct Layer<P, Key, Judge, Refuse> {
    /// The policy that decides about each request. Each service of the layer,
    /// and each clone of a service, has a clone of it: use an [`Arc`].
    pub policy: P,
    /// Returns the part of a request that the policy needs.
    pub key: Key,
    /// Returns the outcome of a result of the inner service.
    pub judge: Judge,
    /// Turns a refusal into a result of the inner service's type.
    pub refuse: Refuse,
}

/// A service behind a policy. See [`Layer`].
#[derive(Debug, Clone)]
pub struct Guarded<S, P, Key, Judge, Refuse> {
    inner: S,
    layer: Layer<P, Key, Judge, Refuse>,
}

impl<S, P, Key, Judge, Refuse> tower_layer::Layer<S>
    for Layer<P, Key, Judge, Refuse>
where
    Self: Clone,
{
    type Service = Guarded<S, P, Key, Judge, Refuse>;

    fn layer(&self, inner: S) -> Self::Service {
        Guarded { inner, layer: self.clone() }
    }
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl<S, Request, P, K, Key, Judge, Refuse> Service<Request>
    for Guarded<S, P, Key, Judge, Refuse>
where
    S: Service<Request> + Clone + Send + 'static,
    S::Future: Send,
    S::Response: Send,
    S::Error: Send,
    Request: Send + 'static,
    P: Policy<K> + Clone + 'static,
    K: Send + 'static,
    Key: Fn(&Request) -> K,
    Judge:
        Fn(&Result<S::Response, S::Error>) -> Outcome + Clone + Send + 'static,
    Refuse: Fn(P::Rejected) -> Result<S::Response, S::Error>
        + Clone
        + Send
        + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<Result<S::Response, S::Error>>;

    fn poll_ready(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let key = (self.layer.key)(&request);
        let policy = self.layer.policy.clone();
        let (judge, refuse) =
            (self.layer.judge.clone(), self.layer.refuse.clone());
        // A clone has a readiness of its own: it is polled below.
        let mut inner = self.inner.clone();
        Box::pin(async move {
            let admitted = policy.admit(key, now(), fastrand::f64());
            let permit = match admitted.await {
                Ok(permit) => permit,
                Err(rejected) => return refuse(rejected),
            };
            // From here on, a drop or a panic drops the permit.
            let result = match poll_fn(|cx| inner.poll_ready(cx)).await {
                Ok(()) => inner.call(request).await,
                Err(error) => Err(error),
            };
            permit.end(judge(&result), now());
            result
        })
    }
}

/// Returns the time. In a test with paused time, it is tokio's.
fn now() -> Instant {
    TokioInstant::now().into_std()
}

impl<Key: Send, P: Policy<Key>> Policy<Key> for Arc<P> {
    type Permit<'a>
        = P::Permit<'a>
    where
        P: 'a;
    type Rejected = P::Rejected;

    async fn admit(
        &self,
        key: Key,
        now: Instant,
        rand: f64,
    ) -> Result<P::Permit<'_>, P::Rejected> {
        (**self).admit(key, now, rand).await
    }
}

/// For policies whose permits hold nothing.
impl Permit for () {
    fn end(self, _: Outcome, _: Instant) {}
}
