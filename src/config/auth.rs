//! Settings of who is believed.

use std::path::PathBuf;
use std::time::Duration;

use super::duration;

/// Who may call. Without any of these files nobody has to say who they are.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Who may call")]
pub struct Auth {
    /// A file of tokens, by their hashes (TOML): name, sha256, roles (submit, lease, plan, watch, operate), and, if need be, a
    /// tenant, the plan, the task and the session that a token is for, and when it ends.
    #[arg(long, env = "FANOUT_TOKENS", value_name = "FILE")]
    pub tokens: Option<PathBuf>,
    /// A file of keys (a JSON Web Key Set) whose signed tokens are believed: RS256, ES256 or EdDSA. What a token allows is in
    /// its claim `fanout`.
    #[arg(
        long,
        env = "FANOUT_JWKS",
        value_name = "FILE",
        requires = "jwt_issuer"
    )]
    pub jwks: Option<PathBuf>,
    /// Who signs them: their claim `iss`.
    #[arg(
        long,
        env = "FANOUT_JWT_ISSUER",
        value_name = "ISSUER",
        requires = "jwks"
    )]
    pub jwt_issuer: Option<String>,
    /// Whom they are for: their claim `aud`.
    #[arg(
        long,
        env = "FANOUT_JWT_AUDIENCE",
        default_value = "fanout",
        value_name = "AUDIENCE"
    )]
    pub jwt_audience: String,
    /// How often the files are looked at. What has changed holds for calls that begin then.
    #[arg(
        long,
        env = "FANOUT_AUTH_RELOAD_INTERVAL",
        default_value = "30s",
        value_name = "TIME",
        value_parser = duration
    )]
    pub auth_reload_interval: Duration,
}

impl Auth {
    /// Whether callers have to say who they are.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.tokens.is_some() || self.jwks.is_some()
    }
}
