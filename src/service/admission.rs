//! Who calls, and whether they may call this method at all: asked before anything of the call is read.
//!
//! What a token is bound to, a tenant, a plan or a task, is looked at where that is known: by [`named`] and
//! [`check_bound`].

use std::borrow::Cow;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};

use hyper::body::Frame;
use prost::bytes::Bytes;
use tokio::sync::watch;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{Body as HttpBody, BoxFuture, Service};
use tonic::server::NamedService;
use tonic::{Extensions, Status};

use super::standing::{Ends, Shown, Standing};
use super::tenants::OpenStream;
use super::{Peer, Served, convert, status};
use crate::config::Limits;
use crate::coordinator::{Clock, plan_name};
use crate::engine::{Spec, Violation};
use crate::identity::{Authority, BoundTask, Caller, Role};
use crate::reconcile::record::ReadRecord;

/// The roles of which each method needs one; of several, a refusal names the first. One that is not here needs a caller, and
/// nothing else. Of a registered plan, Reconcile needs more than is said here.
const NEEDED: [(&str, &[Role]); 17] = [
    ("Plan", &[Role::Plan]),
    ("PlanStream", &[Role::Plan]),
    ("SealPlan", &[Role::Plan]),
    ("CancelPlan", &[Role::Plan]),
    ("DeletePlan", &[Role::Plan]),
    ("SubmitRecord", &[Role::Submit]),
    ("SubmitRecords", &[Role::Submit]),
    ("Reconcile", &[Role::Watch, Role::Plan]),
    ("WatchPlan", &[Role::Watch]),
    ("GetPlan", &[Role::Watch]),
    ("ListPlans", &[Role::Watch]),
    ("GetTask", &[Role::Watch]),
    ("ListTasks", &[Role::Watch]),
    ("ExplainTask", &[Role::Watch]),
    ("ListQuarantine", &[Role::Operate]),
    ("RematchRecord", &[Role::Operate]),
    ("DiscardRecord", &[Role::Operate]),
];

/// Methods that open a stream.
const STREAMS: [&str; 3] = ["SubmitRecord", "WatchPlan", "PlanStream"];

/// Who is believed, from now on.
pub struct Admission(watch::Sender<Arc<Authority>>);

impl Admission {
    /// Believes this authority.
    #[must_use]
    pub fn new(authority: Authority) -> Self {
        Self(watch::Sender::new(Arc::new(authority)))
    }

    /// Believes another authority from now on. Calls that are open end if it would not let them in.
    pub fn replace(&self, authority: Authority) {
        self.0.send_replace(Arc::new(authority));
    }
}

/// The service, for those who may call it.
#[derive(Clone)]
pub struct Admitted {
    served: Served,
    /// Nothing where nobody has to say who they are.
    admission: Option<Arc<Admission>>,
    clock: Clock,
}

impl Admitted {
    /// The service for everybody, or for those whom this believes.
    #[must_use]
    pub fn new(served: Served, admission: Option<Arc<Admission>>, clock: Clock) -> Self {
        Self {
            served,
            admission,
            clock,
        }
    }

    /// Finds out who calls, and puts that into the request. Answers when they may not go on, if they have to say who they are,
    /// and the place of the stream that the call opens, if it does.
    fn let_in(
        &self,
        request: &mut Request<Body>,
    ) -> Result<(Option<Standing>, Option<OpenStream>), Status> {
        let opens_stream = STREAMS.contains(&method(request));
        let standing = match &self.admission {
            Some(admission) => Some(self.admit(admission, request)?),
            None if !opens_stream => return Ok((None, None)),
            None => None,
        };
        let caller = match &standing {
            Some(standing) => Arc::clone(&standing.caller),
            None => caller(request.extensions()),
        };
        let open = || self.served.tenants().open_stream(&caller.tenant);
        let place = opens_stream.then(open).transpose()?;
        request.extensions_mut().insert(caller);
        Ok((standing, place))
    }

    fn admit(&self, admission: &Admission, request: &Request<Body>) -> Result<Standing, Status> {
        let mut authority = admission.0.subscribe();
        let believed = Arc::clone(&authority.borrow_and_update());
        let peer = request.extensions().get::<Arc<Peer>>();
        let shown = Shown::of(request.headers(), peer).ok_or_else(status::unauthenticated)?;
        let caller = shown.caller(&believed, self.clock.now());
        let caller = caller.map_err(|_| status::unauthenticated())?;
        let method = method(request);
        let needed = NEEDED.iter().find(|(name, _)| *name == method);
        let roles = match needed {
            Some((_, roles)) if !roles.iter().any(|role| caller.may(*role)) => {
                let first = roles.first().map_or("", |role| role.name());
                return Err(status::role_required(first));
            }
            Some((_, roles)) => *roles,
            // It has no plan, so it cannot be told whose.
            None if caller.task.is_some() => {
                return Err(status::role_required(Role::Watch.name()));
            }
            None => &[],
        };
        Ok(Standing {
            caller,
            shown,
            roles,
            authority,
            clock: self.clock,
        })
    }
}

/// The name of the method that is called.
fn method(request: &Request<Body>) -> &str {
    request.uri().path().rsplit('/').next().unwrap_or_default()
}

impl NamedService for Admitted {
    const NAME: &'static str = Served::NAME;
}

impl Service<Request<Body>> for Admitted {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.served.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let (standing, place) = match self.let_in(&mut request) {
            Ok(let_in) => let_in,
            Err(refused) => return Box::pin(async move { Ok(refused.into_http()) }),
        };
        let answer = self.served.call(request);
        if standing.is_none() && place.is_none() {
            return answer;
        }
        let mut ends: Option<Ends> = standing.map(|standing| Box::pin(standing.ends()) as Ends);
        Box::pin(async move {
            let response = match &mut ends {
                None => answer.await?,
                // What was begun on a task of its own is finished; nothing else is begun.
                Some(ends) => tokio::select! {
                    biased;
                    why = ends => return Ok(why.into_http()),
                    response = answer => response?,
                },
            };
            Ok(response.map(|body| {
                Body::new(Bounded {
                    body: Some((body, place)),
                    ends,
                })
            }))
        })
    }
}

/// An answer that has its place among the tenant's streams until it is over, and is over when its caller may not go on.
struct Bounded {
    body: Option<(Body, Option<OpenStream>)>,
    ends: Option<Ends>,
}

impl HttpBody for Bounded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Self { body, ends } = &mut *self;
        let Some((streaming, _)) = body else {
            return Poll::Ready(None);
        };
        if let Some(ends) = ends
            && let Poll::Ready(why) = ends.as_mut().poll(context)
        {
            *body = None;
            return Poll::Ready(Some(status::trailers(&why)));
        }
        Pin::new(streaming).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        let body = self.body.as_ref();
        body.is_none_or(|(body, _)| body.is_end_stream())
    }
}

/// Who calls.
pub(super) fn caller(extensions: &Extensions) -> Arc<Caller> {
    static ANYBODY: LazyLock<Arc<Caller>> = LazyLock::new(|| Arc::new(Caller::anybody()));
    let caller = extensions.get::<Arc<Caller>>();
    Arc::clone(caller.unwrap_or(&ANYBODY))
}

/// The name of the caller's plan among those of all tenants.
///
/// # Errors
/// The id is none, or of a plan that their token is not for: then what is answered is what is answered where there is no
/// such plan.
pub(super) fn named<'p>(
    caller: &Caller,
    plan_id: &'p str,
    limits: &Limits,
) -> Result<Cow<'p, str>, Status> {
    let plan_id = convert::required_plan_id(plan_id, limits)?;
    if caller
        .plan_id
        .as_deref()
        .is_some_and(|bound| bound != plan_id)
    {
        return Err(status::no_plan(plan_id));
    }
    Ok(plan_name(&caller.tenant, plan_id))
}

/// Checks that a record is for the task that its sender's token is for, and for no other: not in any of its keys, so that
/// no answer tells of others, and no session of others is taken.
pub(super) fn check_bound(
    bound: &BoundTask,
    spec: &Spec,
    record: &ReadRecord<'_>,
) -> Result<(), Violation> {
    let keys = &record.keys;
    let names_it = [&keys.task_id, &keys.id]
        .into_iter()
        .filter(|key| !key.is_empty());
    let task = spec.index.task(&bound.task_id);
    let group_key = task.map(|task| spec.group_key(task));
    let session = bound.session.as_deref().unwrap_or_default();
    let is_its_own = names_it.clone().next().is_some()
        && names_it.clone().all(|key| **key == *bound.task_id)
        && (keys.group_key.is_empty()
            || group_key.is_some_and(|own| own.as_str() == Some(&*keys.group_key)))
        && (keys.sandbox_session_id.is_empty() || *keys.sandbox_session_id == *session);
    if is_its_own {
        return Ok(());
    }
    Err(Violation {
        field: "task_id",
        description:
            "the token is for one task: task_id or id has to name it, and no other key another"
                .to_owned(),
        reason: "NOT_PERMITTED",
        limit: 0,
        quota: false,
    })
}
