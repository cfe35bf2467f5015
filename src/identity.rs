//! Who calls, and what they may do: tenants, roles, and tokens and certificates that are bound to a plan or to one task.
//!
//! Nothing here reads a file or a clock: `server` brings the text of the files, and the time.

mod authority;
mod issuer;
mod listed;
mod signing;

pub use authority::{Authority, Refused};
pub use issuer::{Audience, Claims, Grant, Issuer, Terms};
pub use listed::{TOKEN_BYTES_MAX, digest};
pub use signing::{issue, new_key, new_token};

use std::sync::Arc;

use crate::engine::Timestamp;

/// What somebody may be allowed to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Send records.
    Submit,
    /// Take tasks. Nothing needs it yet.
    Lease,
    /// Register, seal, cancel and delete plans.
    Plan,
    /// See plans, tasks and results.
    Watch,
    /// Look after records that were set aside.
    Operate,
}

impl Role {
    /// Its name, as files and errors have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Submit => "submit",
            Self::Lease => "lease",
            Self::Plan => "plan",
            Self::Watch => "watch",
            Self::Operate => "operate",
        }
    }

    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Submit,
        Self::Lease,
        Self::Plan,
        Self::Watch,
        Self::Operate,
    ];
}

/// The one task that a token is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundTask {
    /// Its id.
    pub task_id: Arc<str>,
    /// The session that works on it, if the token names one. Without it, records may name none.
    pub session: Option<Arc<str>>,
}

/// Somebody who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Whose plans they see and make; empty is a tenant, too.
    pub tenant: Arc<str>,
    /// What logs call them where they change a plan as a whole.
    pub name: Arc<str>,
    /// What they may do.
    pub roles: Vec<Role>,
    /// The only plan that they may do it to, if there is one.
    pub plan_id: Option<Arc<str>>,
    /// The only task of that plan, if there is one.
    pub task: Option<BoundTask>,
    /// When they are nobody any more.
    pub expires: Option<Timestamp>,
}

impl Caller {
    /// Where nobody has to say who they are: the empty tenant, and everything is allowed.
    #[must_use]
    pub fn anybody() -> Self {
        Self {
            tenant: "".into(),
            name: "anybody".into(),
            roles: Role::ALL.into(),
            plan_id: None,
            task: None,
            expires: None,
        }
    }

    /// Whether they have this role.
    #[must_use]
    pub fn may(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }
}
