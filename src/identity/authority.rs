//! Who calls: behind a token, one of those that are listed, or one that an issuer has signed; behind a certificate, one of
//! those whose names are listed.

use std::sync::Arc;

use super::Caller;
use super::issuer::Issuer;
use super::listed::{Listed, TOKEN_BYTES_MAX, digest};
use crate::engine::Timestamp;

/// Nobody is behind a token or a certificate, or nobody any more. Why is nobody's business who has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// Knows who is behind a token, and behind a certificate.
#[derive(Default)]
pub struct Authority {
    listed: Listed,
    issuer: Option<Issuer>,
}

impl Authority {
    /// Believes the tokens and the certificates that this file lists, and the tokens of this issuer.
    ///
    /// # Errors
    /// What is wrong with the file, and where.
    pub fn new(listed: Option<&str>, issuer: Option<Issuer>) -> Result<Self, String> {
        Ok(Self {
            listed: listed.map(Listed::read).transpose()?.unwrap_or_default(),
            issuer,
        })
    }

    /// How many tokens are listed, and how many certificates.
    #[must_use]
    pub fn listed(&self) -> (usize, usize) {
        let Listed { tokens, uris, dns } = &self.listed;
        (tokens.len(), uris.len() + dns.len())
    }

    /// Who is behind a token.
    ///
    /// # Errors
    /// Nobody.
    pub fn caller(&self, token: &str, now: Timestamp) -> Result<Arc<Caller>, Refused> {
        if token.is_empty() || token.len() > TOKEN_BYTES_MAX {
            return Err(Refused);
        }
        let listed = self.listed.tokens.get(&digest(token));
        let caller = match (listed, &self.issuer) {
            (Some(listed), _) => Arc::clone(listed),
            (None, Some(issuer)) => Arc::new(issuer.caller(token, now).ok_or(Refused)?),
            (None, None) => return Err(Refused),
        };
        still(caller, now)
    }

    /// Who has shown a certificate that has these URIs and these DNS names: the first of them that is listed says it. That
    /// the certificate is valid was found before.
    ///
    /// # Errors
    /// Nobody.
    pub fn certified(
        &self,
        uris: &[String],
        dns: &[String],
        now: Timestamp,
    ) -> Result<Arc<Caller>, Refused> {
        let Listed {
            uris: by_uri,
            dns: by_dns,
            ..
        } = &self.listed;
        let by_uri = uris.iter().find_map(|uri| by_uri.get(uri));
        let by_dns = || {
            let mut names = dns.iter().map(|name| name.to_ascii_lowercase());
            names.find_map(|name| by_dns.get(&name))
        };
        let caller = by_uri.or_else(by_dns).ok_or(Refused)?;
        still(Arc::clone(caller), now)
    }
}

/// The caller, if their time is not over.
fn still(caller: Arc<Caller>, now: Timestamp) -> Result<Arc<Caller>, Refused> {
    match caller.expires {
        Some(expires) if expires <= now => Err(Refused),
        _ => Ok(caller),
    }
}
