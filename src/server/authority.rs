//! The callers who are believed: what says so is read at the start, and again and again, as it may change.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{bounded_file, key_set};
use crate::config::{Auth, KeySet};
use crate::identity::{Authority, Issuer, Terms};
use crate::service::Admission;

/// Largest file.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// What is said of them.
#[derive(Clone, Default, PartialEq, Eq)]
struct Texts {
    tokens: Option<String>,
    keys: Option<String>,
}

/// Where it is said, and what was said last.
pub(super) struct Believed {
    auth: Auth,
    /// Whether clients show certificates.
    shows_certificates: bool,
    texts: Texts,
}

impl Believed {
    /// Reads what is said.
    ///
    /// # Errors
    /// Which file is wrong, and what is wrong with it.
    pub(super) async fn read(
        auth: Auth,
        shows_certificates: bool,
    ) -> Result<(Self, Authority), String> {
        let texts = texts(&auth).await?;
        let believed = Self {
            auth,
            shows_certificates,
            texts,
        };
        let authority = believed.authority(&believed.texts)?;
        let (tokens, certificates) = authority.listed();
        tracing::info!(
            tokens,
            certificates,
            keys = believed.texts.keys.is_some(),
            "callers have to say who they are"
        );
        Ok((believed, authority))
    }

    /// Reads it again and again. What is wrong leaves everything as it is.
    pub(super) async fn follow(mut self, admission: Arc<Admission>) {
        let mut told = None;
        loop {
            tokio::time::sleep(self.auth.auth_reload_interval).await;
            let read = match texts(&self.auth).await {
                Ok(texts) if texts == self.texts => {
                    told = None;
                    continue;
                }
                Ok(texts) => self.authority(&texts).map(|authority| (texts, authority)),
                Err(problem) => Err(problem),
            };
            match read {
                Ok((texts, authority)) => {
                    let (tokens, certificates) = authority.listed();
                    tracing::info!(tokens, certificates, "who is believed has changed");
                    self.texts = texts;
                    admission.replace(authority);
                    told = None;
                }
                Err(problem) if told.as_ref() != Some(&problem) => {
                    tracing::error!(problem, "who is believed stays as it was");
                    told = Some(problem);
                }
                Err(_) => {}
            }
        }
    }

    fn authority(&self, texts: &Texts) -> Result<Authority, String> {
        let Auth { jwks, tokens, .. } = &self.auth;
        let issuer = match (&texts.keys, jwks, &self.auth.jwt_issuer) {
            (Some(keys), Some(from), Some(issuer)) => {
                let terms = Terms {
                    issuer: issuer.clone(),
                    audience: self.auth.jwt_audience.clone(),
                };
                let read = Issuer::read(keys, terms);
                let (issuer, ignored) = read.map_err(|problem| format!("{from}: {problem}"))?;
                for key in ignored {
                    tracing::warn!(key, "a key of the issuer is not used");
                }
                Some(issuer)
            }
            _ => None,
        };
        let in_list = |problem| match tokens {
            Some(path) => format!("{}: {problem}", path.display()),
            None => problem,
        };
        let authority = Authority::new(texts.tokens.as_deref(), issuer).map_err(in_list)?;
        if authority.listed().1 > 0 && !self.shows_certificates {
            let problem = "lists certificates, but no client shows one without --tls-client-ca";
            return Err(in_list(problem.to_owned()));
        }
        Ok(authority)
    }
}

async fn texts(auth: &Auth) -> Result<Texts, String> {
    let keys = match &auth.jwks {
        Some(KeySet::At(url)) => Some(key_set::fetch(url, auth.jwks_authorities.as_deref()).await?),
        Some(KeySet::In(path)) => Some(read(path).await?),
        None => None,
    };
    let tokens = match &auth.tokens {
        Some(path) => Some(read(path).await?),
        None => None,
    };
    Ok(Texts { tokens, keys })
}

async fn read(path: &Path) -> Result<String, String> {
    let file = path.to_owned();
    let read = tokio::task::spawn_blocking(move || bounded_file::text(&file, FILE_BYTES_MAX)).await;
    let read = read.unwrap_or_else(|panic| Err(io::Error::other(panic)));
    read.map_err(|error| format!("{}: {error}", path.display()))
}
