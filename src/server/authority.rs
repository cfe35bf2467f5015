//! The files of those who are believed: read at the start, and again whenever they have changed.

use std::path::Path;
use std::sync::Arc;

use crate::config::Auth;
use crate::identity::{Authority, Issuer, Terms};
use crate::service::Admission;

/// Largest file.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// What the files say.
#[derive(Clone, Default, PartialEq, Eq)]
struct Texts {
    tokens: Option<String>,
    keys: Option<String>,
}

/// The files, and what they said last.
pub(super) struct Believed {
    auth: Auth,
    texts: Texts,
}

impl Believed {
    /// Reads the files.
    ///
    /// # Errors
    /// Which file is wrong, and what is wrong with it.
    pub(super) async fn read(auth: Auth) -> Result<(Self, Authority), String> {
        let texts = texts(&auth).await?;
        let authority = authority(&auth, &texts)?;
        tracing::info!(
            tokens = authority.listed(),
            keys = texts.keys.is_some(),
            "callers have to say who they are"
        );
        Ok((Self { auth, texts }, authority))
    }

    /// Reads the files again and again. What is wrong leaves everything as it is.
    pub(super) async fn follow(mut self, admission: Arc<Admission>) {
        let mut told = None;
        loop {
            tokio::time::sleep(self.auth.auth_reload_interval).await;
            let read = match texts(&self.auth).await {
                Ok(texts) if texts == self.texts => {
                    told = None;
                    continue;
                }
                Ok(texts) => authority(&self.auth, &texts).map(|authority| (texts, authority)),
                Err(problem) => Err(problem),
            };
            match read {
                Ok((texts, authority)) => {
                    tracing::info!(tokens = authority.listed(), "who is believed has changed");
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
}

async fn texts(auth: &Auth) -> Result<Texts, String> {
    Ok(Texts {
        tokens: read(auth.tokens.as_deref()).await?,
        keys: read(auth.jwks.as_deref()).await?,
    })
}

async fn read(path: Option<&Path>) -> Result<Option<String>, String> {
    let Some(path) = path else {
        return Ok(None);
    };
    let failed = |problem: &dyn std::fmt::Display| format!("{}: {problem}", path.display());
    let metadata = tokio::fs::metadata(path).await;
    if metadata.map_err(|error| failed(&error))?.len() > FILE_BYTES_MAX {
        return Err(failed(&format!("is larger than {FILE_BYTES_MAX} bytes")));
    }
    let text = tokio::fs::read_to_string(path).await;
    text.map(Some).map_err(|error| failed(&error))
}

fn authority(auth: &Auth, texts: &Texts) -> Result<Authority, String> {
    let of = |path: &Option<std::path::PathBuf>, problem: String| match path {
        Some(path) => format!("{}: {problem}", path.display()),
        None => problem,
    };
    let issuer = match (&texts.keys, &auth.jwt_issuer) {
        (Some(keys), Some(issuer)) => {
            let terms = Terms {
                issuer: issuer.clone(),
                audience: auth.jwt_audience.clone(),
            };
            Some(Issuer::read(keys, terms).map_err(|problem| of(&auth.jwks, problem))?)
        }
        _ => None,
    };
    let authority = Authority::new(texts.tokens.as_deref(), issuer);
    authority.map_err(|problem| of(&auth.tokens, problem))
}
