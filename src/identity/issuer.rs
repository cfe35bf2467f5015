//! Tokens that are signed (JWT): whose signature is believed, and what they must say.

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::{Deserialize, Serialize};

use super::tokens::bound;
use super::{Caller, Role};
use crate::engine::Timestamp;

/// What a key may be used with. Nothing that takes the same key for signing and for checking.
const ALGORITHMS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];
/// Most keys of an issuer.
const KEYS_MAX: usize = 100;

/// Whose tokens are believed.
pub struct Issuer {
    keys: Vec<Key>,
    issuer: String,
    audience: String,
}

struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// What a token is made of beside its keys.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Who made it.
    pub issuer: String,
    /// Whom it is for.
    pub audience: String,
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who made it.
    pub iss: String,
    /// Whom it is for.
    pub aud: Audience,
    /// Who has it, for logs.
    pub sub: String,
    /// When it ends: seconds since 1970-01-01T00:00:00Z.
    pub exp: u64,
    /// When it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    /// What it allows.
    pub fanout: Grant,
}

/// One audience, or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Audience {
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
}

/// What a token allows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Whose plans.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tenant: String,
    /// What may be done.
    pub roles: Vec<Role>,
    /// The only plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// The only task of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The session that works on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
}

impl Grant {
    /// The caller that this makes of somebody.
    ///
    /// # Errors
    /// What it allows makes no sense.
    pub(super) fn caller(&self, name: &str, expires: Option<Timestamp>) -> Result<Caller, String> {
        let bounds = [&self.plan, &self.task, &self.session].map(Option::as_deref);
        bound(name, &self.tenant, &self.roles, bounds, expires)
    }
}

impl Issuer {
    /// Believes these keys, a JSON Web Key Set.
    ///
    /// # Errors
    /// It is none, or has a key that cannot be used.
    pub fn read(key_set: &str, terms: Terms) -> Result<Self, String> {
        let set: JwkSet = serde_json::from_str(key_set).map_err(|error| error.to_string())?;
        if set.keys.len() > KEYS_MAX {
            return Err(format!("there are more than {KEYS_MAX} keys"));
        }
        let mut keys = Vec::new();
        for (nth, jwk) in set.keys.iter().enumerate() {
            let wrong = |problem: &str| format!("key {}: {problem}", nth + 1);
            let algorithm = jwk
                .common
                .key_algorithm
                .map(|algorithm| algorithm.to_string());
            let algorithm = algorithm.ok_or_else(|| wrong("has no alg"))?;
            let algorithm = ALGORITHMS
                .into_iter()
                .find(|known| format!("{known:?}") == algorithm)
                .ok_or_else(|| wrong("alg is not RS256, ES256 or EdDSA"))?;
            let key = DecodingKey::from_jwk(jwk).map_err(|error| wrong(&error.to_string()))?;
            keys.push(Key {
                id: jwk.common.key_id.clone(),
                algorithm,
                key,
            });
        }
        Ok(Self {
            keys,
            issuer: terms.issuer,
            audience: terms.audience,
        })
    }

    /// Whose token it is; nothing if it is not one of this issuer, or not yet, or not any more.
    pub(super) fn caller(&self, token: &str, now: Timestamp) -> Option<Caller> {
        let id = jsonwebtoken::decode_header(token).ok()?.kid;
        let likely = self.keys.iter().filter(|key| id.is_none() || key.id == id);
        // The token does not say how it is to be checked: its key does.
        let claims = likely.filter_map(|key| self.claims(key, token)).next()?;
        let seconds = now.0 / 1_000;
        if claims.exp <= seconds || claims.nbf.is_some_and(|begin| begin > seconds) {
            return None;
        }
        let expires = Timestamp(claims.exp.checked_mul(1_000)?);
        claims.fanout.caller(&claims.sub, Some(expires)).ok()
    }

    fn claims(&self, key: &Key, token: &str) -> Option<Claims> {
        let mut checked = Validation::new(key.algorithm);
        // The time is the caller's to know.
        checked.validate_exp = false;
        checked.validate_nbf = false;
        checked.set_audience(&[&self.audience]);
        checked.set_issuer(&[&self.issuer]);
        checked.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let decoded = jsonwebtoken::decode::<Claims>(token, &key.key, &checked);
        decoded.ok().map(|decoded| decoded.claims)
    }
}
