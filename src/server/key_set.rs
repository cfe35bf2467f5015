//! The keys of an issuer, fetched from where it publishes them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::Uri;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use prost::bytes::Bytes;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::certificates::Content;
use crate::config::without_query;

/// Largest set of keys.
const KEY_SET_BYTES_MAX: usize = 1 << 20;
/// How long it may take to fetch one.
const FETCH_TIME_MAX: Duration = Duration::from_secs(10);

/// Fetches the keys at this URL, whose server one of these authorities (of the system's, if there is no file) vouches for.
/// Nothing is kept between two times: they are minutes apart, and the authorities may have changed.
pub(super) async fn fetch(url: &Uri, authorities: Option<&Path>) -> Result<String, String> {
    let failed = |problem: &dyn std::fmt::Display| format!("{}: {problem}", without_query(url));
    let authorities = authorities.map(Path::to_owned);
    let trust = tokio::task::spawn_blocking(move || trust(authorities)).await;
    let trust = trust.map_err(|panic| failed(&panic))??;
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(trust)
        .https_or_http()
        .enable_http1()
        .build();
    let client = Client::builder(TokioExecutor::new()).build::<_, Empty<Bytes>>(connector);
    let fetched = async {
        let answer = client.get(url.clone()).await;
        let answer = answer.map_err(|error| failed(&in_full(&error)))?;
        if !answer.status().is_success() {
            return Err(failed(&format_args!("answers {}", answer.status())));
        }
        let body = Limited::new(answer.into_body(), KEY_SET_BYTES_MAX).collect();
        let body = body.await.map_err(|error| failed(&error))?;
        String::from_utf8(body.to_bytes().into()).map_err(|error| failed(&error))
    };
    let fetched = tokio::time::timeout(FETCH_TIME_MAX, fetched).await;
    fetched.unwrap_or_else(|_| Err(failed(&format_args!("no answer in {FETCH_TIME_MAX:?}"))))
}

/// Whom to trust.
fn trust(authorities: Option<PathBuf>) -> Result<ClientConfig, String> {
    let roots = match authorities {
        Some(path) => {
            let read = Content::read("--jwks-ca", &path).and_then(|content| content.roots());
            read.map_err(|error| error.to_string())?
        }
        None => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            roots
        }
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// An error with all that is behind it.
fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}
