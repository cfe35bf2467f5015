//! Settings of who is believed.

use std::convert::Infallible;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use hyper::Uri;

use super::duration;

/// Who may call. Without any of these files nobody has to say who they are.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Who may call")]
pub struct Auth {
    /// A file of callers (TOML). `[[token]]`: name, sha256 (of the token), roles (submit, lease, plan, watch, operate), and, if
    /// need be, a tenant, the plan, the task and the session that it is for, and when it expires. `[[certificate]]`: the same,
    /// with a uri or a dns name of the client's certificate instead of sha256; needs --tls-client-ca. A call that brings a
    /// token is its token's.
    #[arg(long, env = "FANOUT_TOKENS", value_name = "FILE")]
    pub tokens: Option<PathBuf>,
    /// A file of keys (a JSON Web Key Set) whose signed tokens are believed, or the https:// URL where the issuer publishes
    /// it: RS256, ES256 or EdDSA. What a token allows is in its claim `fanout`.
    #[arg(
        long,
        env = "FANOUT_JWKS",
        value_name = "FILE|URL",
        requires = "jwt_issuer"
    )]
    pub jwks: Option<KeySet>,
    /// A PEM file of authorities: the server of that URL has to have its certificate from one of them, instead of one of the
    /// system's.
    #[arg(
        long = "jwks-ca",
        id = "jwks_ca",
        env = "FANOUT_JWKS_CA",
        value_name = "FILE",
        requires = "jwks"
    )]
    pub jwks_authorities: Option<PathBuf>,
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
    /// How often the files and the URL are looked at. What has changed holds for calls that are open, too: those end whose
    /// callers may not make them any more. What cannot be had or used changes nothing.
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

/// Where an issuer's keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySet {
    /// In a file.
    In(PathBuf),
    /// Where the issuer publishes them.
    At(Uri),
}

impl FromStr for KeySet {
    type Err = String;

    /// A URL if it begins as one, else a path. Without TLS keys could be anybody's, so http:// is for this machine only.
    fn from_str(text: &str) -> Result<Self, String> {
        if !text.starts_with("https://") && !text.starts_with("http://") {
            let Ok::<_, Infallible>(path) = text.parse();
            return Ok(Self::In(path));
        }
        let url: Uri = text
            .parse()
            .map_err(|error| format!("is no URL: {error}"))?;
        let authority = url.authority().map_or("", |authority| authority.as_str());
        if authority.contains('@') {
            return Err("has a name or a password in it, which is not supported".to_owned());
        }
        let host = url.host().unwrap_or_default();
        let address = host.trim_start_matches('[').trim_end_matches(']');
        let is_here = host == "localhost"
            || address
                .parse()
                .is_ok_and(|address: IpAddr| address.is_loopback());
        if url.scheme_str() == Some("http") && !is_here {
            return Err("has to be https://, as it is not on this machine".to_owned());
        }
        Ok(Self::At(url))
    }
}

impl fmt::Display for KeySet {
    /// As everybody may read it: without what a URL [asks](without_query).
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::In(path) => path.display().fmt(to),
            Self::At(url) => without_query(url).fmt(to),
        }
    }
}

/// A URL as everybody may read it: its query may be a secret.
pub fn without_query(url: &Uri) -> String {
    let text = url.to_string();
    match text.split_once('?') {
        Some((before, _)) => format!("{before}?***"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::KeySet;

    #[test]
    fn a_key_set_is_a_file_or_a_url_that_nobody_on_the_way_can_change() {
        let read = |text: &str| text.parse::<KeySet>();
        assert_eq!(
            read("keys/set.json"),
            Ok(KeySet::In("keys/set.json".into()))
        );
        for (url, shown) in [
            (
                "https://issuer.example/keys?v=1",
                "https://issuer.example/keys?***",
            ),
            ("http://127.0.0.1:8080/keys", "http://127.0.0.1:8080/keys"),
            ("http://[::1]/keys", "http://[::1]/keys"),
            ("http://localhost/keys", "http://localhost/keys"),
        ] {
            let at = read(url);
            assert_eq!(at, Ok(KeySet::At(hyper::Uri::from_static(url))));
            assert_eq!(at.map(|at| at.to_string()).as_deref(), Ok(shown));
        }
        for (url, said) in [
            ("http://issuer.example/keys", "has to be https://"),
            ("http://127.0.0.1.example/keys", "has to be https://"),
            (
                "https://user:secret@issuer.example/",
                "has a name or a password",
            ),
            ("https://", "is no URL"),
        ] {
            let problem = read(url).err().unwrap_or_default();
            assert!(problem.starts_with(said), "{url}: {problem}");
        }
    }
}
