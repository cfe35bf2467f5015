//! Who is behind a token: one of those that are listed, or one that an issuer has signed.

use std::collections::HashMap;
use std::sync::Arc;

use super::Caller;
use super::issuer::Issuer;
use super::tokens::{self, TOKEN_BYTES_MAX, digest};
use crate::engine::Timestamp;

/// Nobody is behind a token, or nobody any more. Why is nobody's business who has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// Knows who is behind a token.
#[derive(Default)]
pub struct Authority {
    tokens: HashMap<[u8; 32], Arc<Caller>>,
    issuer: Option<Issuer>,
}

impl Authority {
    /// Believes the tokens of this file, and those of this issuer.
    ///
    /// # Errors
    /// What is wrong with the file, and where.
    pub fn new(tokens: Option<&str>, issuer: Option<Issuer>) -> Result<Self, String> {
        Ok(Self {
            tokens: tokens.map(tokens::read).transpose()?.unwrap_or_default(),
            issuer,
        })
    }

    /// How many tokens are listed.
    #[must_use]
    pub fn listed(&self) -> usize {
        self.tokens.len()
    }

    /// Who is behind a token.
    ///
    /// # Errors
    /// Nobody.
    pub fn caller(&self, token: &str, now: Timestamp) -> Result<Arc<Caller>, Refused> {
        if token.is_empty() || token.len() > TOKEN_BYTES_MAX {
            return Err(Refused);
        }
        let listed = self.tokens.get(&digest(token));
        let caller = match (listed, &self.issuer) {
            (Some(listed), _) => Arc::clone(listed),
            (None, Some(issuer)) => Arc::new(issuer.caller(token, now).ok_or(Refused)?),
            (None, None) => return Err(Refused),
        };
        match caller.expires {
            Some(expires) if expires <= now => Err(Refused),
            _ => Ok(caller),
        }
    }
}
