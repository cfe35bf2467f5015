//! Making keys, and tokens that are signed with them.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use jsonwebtoken::jwk::{Jwk, JwkSet, KeyAlgorithm};
use jsonwebtoken::{Algorithm, EncodingKey, Header};

use super::issuer::Claims;

/// A new key for signing tokens: the key itself (Ed25519, PKCS#8 in PEM), which is a secret, and the key set that servers are
/// to believe.
///
/// # Errors
/// The system has no randomness.
pub fn new_key(key_id: &str) -> Result<(String, String), String> {
    let failed = |problem: &dyn std::fmt::Display| format!("a key cannot be made: {problem}");
    let pair = Ed25519KeyPair::generate().map_err(|error| failed(&error))?;
    debug_assert_eq!(pair.public_key().as_ref().len(), 32);
    let der = pair.to_pkcs8v1().map_err(|error| failed(&error))?;
    let secret = pem::encode(&pem::Pem::new("PRIVATE KEY", der.as_ref()));
    let key = EncodingKey::from_ed_pem(secret.as_bytes()).map_err(|error| failed(&error))?;
    let mut jwk = Jwk::from_encoding_key(&key, Algorithm::EdDSA).map_err(|error| failed(&error))?;
    jwk.common.key_id = Some(key_id.to_owned());
    jwk.common.key_algorithm = Some(KeyAlgorithm::EdDSA);
    let set = serde_json::to_string_pretty(&JwkSet { keys: vec![jwk] });
    Ok((secret, set.map_err(|error| failed(&error))? + "\n"))
}

/// Makes a token, signed with a key that was [made](new_key) for it.
///
/// # Errors
/// The key is none, or what the token says would not be believed.
pub fn issue(claims: &Claims, key_id: Option<&str>, key: &[u8]) -> Result<String, String> {
    claims.fanout.caller(&claims.sub, None)?;
    let key = EncodingKey::from_ed_pem(key).map_err(|error| format!("the key: {error}"))?;
    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = key_id.map(str::to_owned);
    jsonwebtoken::encode(&header, claims, &key).map_err(|error| error.to_string())
}

/// A new token for a list.
///
/// # Errors
/// The system has no randomness.
pub fn new_token() -> Result<String, String> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|error| format!("a token cannot be made: {error}"))?;
    let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
    Ok(format!("fanout_{}", digits.collect::<String>()))
}
