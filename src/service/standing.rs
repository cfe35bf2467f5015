//! Whether a caller may go on: a stream may be longer than its token, and outlive the list that its token was in.

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::watch;
use tonic::Status;
use tonic::codegen::http::HeaderMap;
use tonic::codegen::http::header::AUTHORIZATION;

use super::{Peer, status};
use crate::coordinator::Clock;
use crate::engine::Timestamp;
use crate::identity::{Authority, Caller, Refused, Role};

/// What a caller has shown.
pub(super) enum Shown {
    Token(Box<str>),
    Certificate(Arc<Peer>),
}

impl Shown {
    /// What these headers show, or who is at the other end of the connection. A token that is not believed is not made good
    /// by a certificate.
    pub(super) fn of(headers: &HeaderMap, peer: Option<&Arc<Peer>>) -> Option<Self> {
        match (token(headers), peer) {
            (Some(token), _) => Some(Self::Token(token.into())),
            (None, Some(peer)) if !headers.contains_key(AUTHORIZATION) => {
                Some(Self::Certificate(Arc::clone(peer)))
            }
            (None, _) => None,
        }
    }

    /// Who is behind it.
    pub(super) fn caller(
        &self,
        authority: &Authority,
        now: Timestamp,
    ) -> Result<Arc<Caller>, Refused> {
        match self {
            Self::Token(token) => authority.caller(token, now),
            Self::Certificate(peer) => authority.certified(&peer.uris, &peer.names, now),
        }
    }
}

/// The token that a call brings.
fn token(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = text.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Done when a caller may not go on, with what they are told.
pub(super) type Ends = Pin<Box<dyn Future<Output = Status> + Send>>;

/// A caller who was let in.
pub(super) struct Standing {
    pub(super) caller: Arc<Caller>,
    pub(super) shown: Shown,
    /// The roles of which the call needs one.
    pub(super) roles: &'static [Role],
    /// Who is believed; what let the caller in was seen.
    pub(super) authority: watch::Receiver<Arc<Authority>>,
    pub(super) clock: Clock,
}

impl Standing {
    /// Waits until the caller is nobody any more, is somebody else, or may not do any more what they began.
    pub(super) async fn ends(mut self) -> Status {
        let mut expires = self.caller.expires;
        loop {
            let over = async {
                match expires {
                    Some(expires) => tokio::time::sleep(self.clock.until(expires)).await,
                    None => pending().await,
                }
            };
            let changed = async {
                if self.authority.changed().await.is_err() {
                    // Nobody will say anything else.
                    pending().await
                }
            };
            tokio::select! {
                biased;
                () = over => return status::unauthenticated(),
                () = changed => {}
            }
            let authority = Arc::clone(&self.authority.borrow_and_update());
            let Ok(now) = self.shown.caller(&authority, self.clock.now()) else {
                return status::unauthenticated();
            };
            if !is_the_same(&now, &self.caller) {
                return status::unauthenticated();
            }
            let had = self.roles.iter().filter(|role| self.caller.may(**role));
            if let Some(lost) = had.into_iter().find(|role| !now.may(**role)) {
                return status::role_required(lost.name());
            }
            expires = now.expires;
        }
    }
}

/// Whether what one may do is to be done to what the other may do it to.
fn is_the_same(one: &Caller, other: &Caller) -> bool {
    one.tenant == other.tenant && one.plan_id == other.plan_id && one.task == other.task
}
