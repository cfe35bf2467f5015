//! The callers who are believed: what says so is read at the start, and again and again, as it may change.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{bounded_file, key_set};
use crate::config::{Auth, KeySet};
use crate::identity::{Authority, Issuer, Terms};
use crate::service::Admission;

/// Largest file.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// What has changed is believed when it has stayed so for this long, or from one look to the next: a list that is read while
/// it is being written may well be a list, of too few.
const SETTLED: Duration = Duration::from_millis(100);

/// What is said of them.
#[derive(Default)]
struct Texts {
    tokens: Option<String>,
    keys: Option<String>,
}

impl Texts {
    fn of(&self, place: Place) -> &Option<String> {
        match place {
            Place::Tokens => &self.tokens,
            Place::Keys => &self.keys,
        }
    }
}

/// One of the places where it is said.
#[derive(Clone, Copy)]
enum Place {
    Tokens,
    Keys,
}

/// Where it is said, and what was said last that is believed.
pub(super) struct Believed {
    auth: Auth,
    /// Whether clients show certificates.
    shows_certificates: bool,
    texts: Mutex<Texts>,
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
        let believed = Self {
            auth,
            shows_certificates,
            texts: Mutex::default(),
        };
        let texts = Texts {
            keys: believed.text(Place::Keys).await?,
            tokens: believed.text(Place::Tokens).await?,
        };
        let authority = believed.authority(&texts)?;
        let (tokens, certificates) = authority.listed();
        tracing::info!(
            tokens,
            certificates,
            keys = texts.keys.is_some(),
            "callers have to say who they are"
        );
        *believed.texts() = texts;
        Ok((believed, authority))
    }

    /// Reads it again and again. What is wrong leaves everything as it is: neither place waits for the other.
    pub(super) async fn follow(self, admission: Arc<Admission>) {
        tokio::join!(
            self.follow_place(Place::Tokens, &admission),
            self.follow_place(Place::Keys, &admission),
        );
    }

    async fn follow_place(&self, place: Place, admission: &Admission) {
        let mut told = None;
        loop {
            tokio::time::sleep(self.auth.auth_reload_interval).await;
            let text = self.settled(place).await;
            match text.and_then(|text| self.believe(place, text, admission)) {
                Ok(()) => told = None,
                Err(problem) if told.as_ref() != Some(&problem) => {
                    tracing::error!(problem, "who is believed stays as it was");
                    told = Some(problem);
                }
                Err(_) => {}
            }
        }
    }

    /// What is said in one place, once it stays the same.
    async fn settled(&self, place: Place) -> Result<Option<String>, String> {
        let mut text = self.text(place).await?;
        while text != *self.texts().of(place) {
            tokio::time::sleep(SETTLED.min(self.auth.auth_reload_interval)).await;
            let before = std::mem::replace(&mut text, self.text(place).await?);
            if text == before {
                break;
            }
        }
        Ok(text)
    }

    /// Believes what is said in one place now, with what was said last in the other.
    fn believe(
        &self,
        place: Place,
        text: Option<String>,
        admission: &Admission,
    ) -> Result<(), String> {
        let mut texts = self.texts();
        if text == *texts.of(place) {
            return Ok(());
        }
        let changed = match place {
            Place::Tokens => Texts {
                tokens: text,
                keys: texts.keys.clone(),
            },
            Place::Keys => Texts {
                keys: text,
                tokens: texts.tokens.clone(),
            },
        };
        let authority = self.authority(&changed)?;
        let (tokens, certificates) = authority.listed();
        *texts = changed;
        admission.replace(authority);
        tracing::info!(tokens, certificates, "who is believed has changed");
        Ok(())
    }

    /// Held for one change, whose every step is whole.
    fn texts(&self) -> MutexGuard<'_, Texts> {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is said in one place.
    async fn text(&self, place: Place) -> Result<Option<String>, String> {
        let Auth { tokens, jwks, .. } = &self.auth;
        let authorities = self.auth.jwks_authorities.as_deref();
        let text = match (place, tokens, jwks) {
            (Place::Tokens, Some(path), _) | (Place::Keys, _, Some(KeySet::In(path))) => {
                read(path).await?
            }
            (Place::Keys, _, Some(KeySet::At(url))) => key_set::fetch(url, authorities).await?,
            (Place::Tokens, None, _) | (Place::Keys, _, None) => return Ok(None),
        };
        Ok(Some(text))
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
                if !issuer.has_keys() {
                    tracing::warn!("the issuer has no keys: no signed token is believed");
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

async fn read(path: &Path) -> Result<String, String> {
    let file = path.to_owned();
    let read = tokio::task::spawn_blocking(move || bounded_file::text(&file, FILE_BYTES_MAX)).await;
    let read = read.unwrap_or_else(|panic| Err(io::Error::other(panic)));
    read.map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::{Believed, Place, SETTLED};
    use crate::config::Auth;

    #[tokio::test(start_paused = true)]
    async fn a_list_that_is_read_while_it_is_written_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens");
        fs::write(&path, "# of before\n").unwrap();
        let auth = Auth {
            tokens: Some(path.clone()),
            auth_reload_interval: Duration::from_secs(30),
            ..Auth::default()
        };
        let (believed, _) = Believed::read(auth, false).await.unwrap();
        // Who writes has emptied it.
        fs::write(&path, "").unwrap();
        let write = async {
            tokio::time::sleep(SETTLED / 2).await;
            fs::write(&path, "# of now\n").unwrap();
        };
        let (settled, ()) = tokio::join!(believed.settled(Place::Tokens), write);
        assert_eq!(settled, Ok(Some("# of now\n".to_owned())));
    }
}
