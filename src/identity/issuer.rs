//! Tokens that are signed (JWT): whose signature is believed, and what they must say.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::{Deserialize, Serialize};

use super::listed::bound;
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

impl Key {
    fn read(key: serde_json::Value) -> Result<Self, String> {
        let jwk: Jwk = serde_json::from_value(key).map_err(|error| error.to_string())?;
        let common = &jwk.common;
        if !matches!(common.public_key_use, None | Some(PublicKeyUse::Signature)) {
            return Err("is not for signatures".to_owned());
        }
        let operations = common.key_operations.as_ref();
        if operations.is_some_and(|they| !they.contains(&KeyOperations::Verify)) {
            return Err("key_ops does not contain verify".to_owned());
        }
        let named = common.key_algorithm.map(|algorithm| algorithm.to_string());
        let algorithm = ALGORITHMS.into_iter().find(|known| match &named {
            Some(named) => *named == format!("{known:?}"),
            None => made_for(&jwk.algorithm) == Some(*known),
        });
        let algorithm = algorithm.ok_or("alg is not RS256, ES256 or EdDSA")?;
        Ok(Self {
            id: common.key_id.clone(),
            algorithm,
            key: DecodingKey::from_jwk(&jwk).map_err(|error| error.to_string())?,
        })
    }
}

/// What a key is used with that does not say it: of its kind, the one of [`ALGORITHMS`].
fn made_for(key: &AlgorithmParameters) -> Option<Algorithm> {
    match key {
        AlgorithmParameters::RSA(_) => Some(Algorithm::RS256),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            Some(Algorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            Some(Algorithm::EdDSA)
        }
        _ => None,
    }
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
    /// Believes these keys, a JSON Web Key Set; answers, too, which of them are of no use here, and why. An issuer may have
    /// such keys for others (RFC 7517, 5). With a set that is empty, nobody is believed: all keys were withdrawn.
    ///
    /// # Errors
    /// It is none, or has keys of which none can be used.
    pub fn read(key_set: &str, terms: Terms) -> Result<(Self, Vec<String>), String> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let set: Set = serde_json::from_str(key_set).map_err(|error| error.to_string())?;
        if set.keys.len() > KEYS_MAX {
            return Err(format!("there are more than {KEYS_MAX} keys"));
        }
        let (mut keys, mut ignored) = (Vec::new(), Vec::new());
        for (nth, key) in set.keys.into_iter().enumerate() {
            match Key::read(key) {
                Ok(key) => keys.push(key),
                Err(problem) => ignored.push(format!("key {}: {problem}", nth + 1)),
            }
        }
        if let (true, Some(why)) = (keys.is_empty(), ignored.first()) {
            return Err(format!("no key can be used: {why}"));
        }
        let issuer = Self {
            keys,
            issuer: terms.issuer,
            audience: terms.audience,
        };
        Ok((issuer, ignored))
    }

    /// Whether there is any key.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Whose token it is; nothing if it is not one of this issuer, or not yet, or not any more.
    pub(super) fn caller(&self, token: &str, now: Timestamp) -> Option<Caller> {
        let header = jsonwebtoken::decode_header(token).ok()?;
        // It says that it means nothing to whoever does not understand these; nobody here does (RFC 7515, 4.1.11).
        if header.crit.is_some() {
            return None;
        }
        let id = header.kid;
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
