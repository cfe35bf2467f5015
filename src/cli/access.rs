//! How the client commands are let in: certificates, and a token that goes with every call and is never shown.

use std::path::{Path, PathBuf};

use clap::Args;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::{Request, Status};

use super::Failure;
use crate::identity::TOKEN_BYTES_MAX;

/// A token, where there is no file of it. Not an argument: those are seen by everybody on the machine.
const TOKEN_VARIABLE: &str = "FANOUT_TOKEN";

/// What says where a token, a key to sign tokens with, and a certificate and its key are, or what the token is.
pub(super) const CREDENTIAL_VARIABLES: [&str; 5] = [
    TOKEN_VARIABLE,
    "FANOUT_TOKEN_FILE",
    "FANOUT_TOKEN_KEY",
    "FANOUT_CERT",
    "FANOUT_KEY",
];

/// What to show to a coordinator, and what to expect of it.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Access")]
pub(super) struct Access {
    /// A PEM file of authorities: the certificate of an https:// coordinator has to be signed by one of them, instead of
    /// one of the system's.
    #[arg(long, env = "FANOUT_CA", value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,
    /// A PEM file of a certificate to show to an https:// coordinator.
    #[arg(long, env = "FANOUT_CERT", value_name = "FILE", requires = "key")]
    pub(super) cert: Option<PathBuf>,
    /// A PEM file of its key.
    #[arg(long, env = "FANOUT_KEY", value_name = "FILE", requires = "cert")]
    pub(super) key: Option<PathBuf>,
    /// The name that the certificate of an https:// coordinator has to be for, if it is not that of its address.
    #[arg(long, env = "FANOUT_SERVER_NAME", value_name = "NAME")]
    pub(super) server_name: Option<String>,
    /// A file of a token that says who calls. Without it, what FANOUT_TOKEN holds.
    #[arg(long, env = "FANOUT_TOKEN_FILE", value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
}

impl Access {
    /// The first setting that makes sense over TLS only, if one is given.
    pub(super) fn only_over_tls(&self) -> Option<&'static str> {
        let given = [
            (self.ca.is_some(), "--ca"),
            (self.cert.is_some(), "--cert"),
            (self.server_name.is_some(), "--server-name"),
        ];
        given
            .into_iter()
            .find_map(|(given, name)| given.then_some(name))
    }

    /// The token, if there is one, as it is now.
    pub(super) fn token(&self) -> Result<Token, Failure> {
        let token = Token {
            file: self.token_file.clone(),
        };
        token.read()?;
        Ok(token)
    }
}

/// Puts the token into every call. It is read for each: it may have been renewed since the last one.
#[derive(Clone)]
pub(super) struct Token {
    file: Option<PathBuf>,
}

impl Token {
    /// What the `authorization` of a call says.
    fn read(&self) -> Result<Option<AsciiMetadataValue>, Failure> {
        let (place, text) = match &self.file {
            Some(path) => (format!("--token-file {}", path.display()), read(path)?),
            None => match std::env::var(TOKEN_VARIABLE) {
                Ok(text) => (TOKEN_VARIABLE.to_owned(), text),
                Err(std::env::VarError::NotPresent) => return Ok(None),
                Err(std::env::VarError::NotUnicode(_)) => {
                    (TOKEN_VARIABLE.to_owned(), String::new())
                }
            },
        };
        header(&text)
            .map(Some)
            .map_err(|problem| Failure::new(format!("{place}: {problem}")))
    }

    /// Whether there is one.
    pub(super) fn is_there(&self) -> bool {
        matches!(self.read(), Ok(Some(_)))
    }
}

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let token = self.read();
        if let Some(token) = token.map_err(|Failure(problem)| Status::unauthenticated(problem))? {
            request.metadata_mut().insert("authorization", token);
        }
        Ok(request)
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|error| Failure::new(format!("--token-file {}: {error}", path.display())))
}

/// A token as a header, or what is wrong with it; that does not say what it is.
fn header(text: &str) -> Result<AsciiMetadataValue, String> {
    let token = text.trim();
    if token.is_empty() {
        return Err("holds no token".to_owned());
    }
    if token.len() > TOKEN_BYTES_MAX {
        return Err(format!("a token has at most {TOKEN_BYTES_MAX} bytes"));
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("a token is one word of ASCII characters".to_owned());
    }
    let mut header: AsciiMetadataValue = format!("Bearer {token}")
        .parse()
        .map_err(|_| "is no token".to_owned())?;
    // So that what shows headers for debugging does not show it, and it is not kept for compression.
    header.set_sensitive(true);
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_word_and_is_not_shown_even_when_it_is_wrong() {
        let header = header(" \u{9}a.b-c_d\n").expect("a token");
        assert_eq!(header.as_encoded_bytes(), b"Bearer a.b-c_d");
        assert!(!format!("{header:?}").contains("a.b-c_d"));
        for (text, problem) in [
            (" \n".to_owned(), "holds no token"),
            (
                "secret\nsecret".to_owned(),
                "a token is one word of ASCII characters",
            ),
            (
                "s\u{e9}cret".to_owned(),
                "a token is one word of ASCII characters",
            ),
            ("x".repeat(8_193), "a token has at most 8192 bytes"),
        ] {
            assert_eq!(super::header(&text).expect_err("no token"), problem);
        }
        assert!(super::header(&"x".repeat(8_192)).is_ok());
    }
}
