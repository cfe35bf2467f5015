//! TLS as a client: whom to trust, what to show, and what people can do about it when it fails.

use std::error::Error;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{self, CertificateError, ClientConfig, InvalidMessage, RootCertStore};
use tonic::codegen::http::Uri;

use super::Failure;
use super::access::Access;

/// The only protocol that is asked for.
const HTTP2: &[u8] = b"h2";

/// A coordinator that is reached over TLS.
#[derive(Clone)]
pub(super) struct Private {
    host: String,
    port: u16,
    /// Which its certificate has to be for.
    name: ServerName<'static>,
    access: Access,
    /// Why it has ended a connection.
    refusal: Arc<OnceLock<String>>,
}

impl Private {
    pub(super) fn new(uri: &Uri, access: Access) -> Result<Self, Failure> {
        // What is wrong with the files is not to be taken for a server that is away.
        config(&access)?;
        let host = uri.host().unwrap_or_default();
        // An IPv6 address stands in brackets.
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let name = access.server_name.as_ref().unwrap_or(&host);
        Ok(Self {
            name: ServerName::try_from(name.clone())
                .map_err(|_| Failure::new(format!("{name:?} is no name of a server")))?,
            port: uri.port_u16().unwrap_or(443),
            host,
            access,
            refusal: Arc::default(),
        })
    }

    /// What to do about the first of its connections that it ended with a reason, if it did.
    pub(super) fn refusal(&self) -> Option<&str> {
        self.refusal.get().map(String::as_str)
    }

    /// Opens a connection. The files are read anew each time: they may have been renewed since the last one.
    pub(super) async fn connect(self) -> io::Result<TokioIo<Heard>> {
        let access = self.access;
        let config = tokio::task::spawn_blocking(move || config(&access)).await?;
        let config = config.map_err(|Failure(problem)| io::Error::other(problem))?;
        let stream = TcpStream::connect((&*self.host, self.port)).await?;
        stream.set_nodelay(true)?;
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector.connect(self.name, stream).await?;
        if stream.get_ref().1.alpn_protocol() != Some(HTTP2) {
            return Err(io::Error::other(
                "there is TLS, but no HTTP/2 in it: this is no coordinator",
            ));
        }
        Ok(TokioIo::new(Heard {
            stream,
            refusal: self.refusal,
        }))
    }
}

/// A connection that keeps why the coordinator ended it. With TLS 1.3 that comes after the handshake; a call that was not
/// yet on its way is only told that it was cancelled.
pub(super) struct Heard {
    stream: TlsStream<TcpStream>,
    refusal: Arc<OnceLock<String>>,
}

impl AsyncRead for Heard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Poll::Ready(Err(error)) = &read
            && let Some(advice) = explain(error)
        {
            self.refusal.get_or_init(|| advice);
        }
        read
    }
}

impl AsyncWrite for Heard {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Whom to trust, and what to show.
fn config(access: &Access) -> Result<ClientConfig, Failure> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = &access.ca {
        for authority in certificates("--ca", path)? {
            roots
                .add(authority)
                .map_err(|error| wrong("--ca", path, error))?;
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match access.cert.as_ref().zip(access.key.as_ref()) {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let shown = certificates("--cert", cert)?;
            let private =
                PrivateKeyDer::from_pem_file(key).map_err(|error| wrong("--key", key, error))?;
            builder
                .with_client_auth_cert(shown, private)
                .map_err(|error| wrong("--key", key, format!("does not go with --cert: {error}")))?
        }
    };
    config.alpn_protocols = vec![HTTP2.to_vec()];
    Ok(config)
}

fn certificates(setting: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(certificates) if certificates.is_empty() => {
            Err(wrong(setting, path, "no certificate in PEM form"))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(wrong(setting, path, error)),
    }
}

fn wrong(setting: &str, path: &Path, problem: impl std::fmt::Display) -> Failure {
    Failure::new(format!("{setting} {}: {problem}", path.display()))
}

/// What an error that has to do with TLS means, and what to do about it; nothing of other errors.
pub(super) fn explain(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        let within = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        let tls = within
            .and_then(|within| within.downcast_ref())
            .or(error.downcast_ref());
        if let Some(tls) = tls {
            return Some(of_tls(tls));
        }
        if let Some(h2) = error.downcast_ref::<h2::Error>()
            && h2.reason() == Some(h2::Reason::INADEQUATE_SECURITY)
        {
            return Some("it speaks TLS only; give an https:// address".to_owned());
        }
        // What has gone through HTTP/2 is only a text.
        let text = error.to_string();
        if let Some((_, alert)) = text.split_once("received fatal alert: ") {
            return Some(of_alert(alert));
        }
        next = error.source();
    }
    None
}

fn of_tls(error: &rustls::Error) -> String {
    use CertificateError as Certificate;
    match error {
        rustls::Error::InvalidCertificate(wrong) => match wrong {
            Certificate::UnknownIssuer => {
                "no authority that is trusted here has signed its certificate; name the one that has with --ca".into()
            }
            Certificate::Expired | Certificate::ExpiredContext { .. } => {
                "its certificate has expired; renew it there (or set this machine's clock)".into()
            }
            Certificate::NotValidYet | Certificate::NotValidYetContext { .. } => {
                "its certificate is not valid yet; set this machine's clock, or wait".into()
            }
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => format!(
                "{wrong}; use a name that it has in --server, or give one with --server-name"
            ),
            wrong => format!("its certificate cannot be trusted: {wrong}"),
        },
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "it speaks no TLS; give an http:// address, or serve with --tls-cert".into()
        }
        rustls::Error::AlertReceived(alert) => of_alert(&format!("{alert:?}")),
        error => format!("no TLS with it: {error}"),
    }
}

/// What it means that the coordinator has ended the handshake, by the name of the reason that it gave.
fn of_alert(alert: &str) -> String {
    match alert {
        "CertificateRequired" => {
            "it wants to see a certificate; show one with --cert and --key".into()
        }
        "UnknownCA" => {
            "no authority that it trusts has signed the certificate of --cert; show another, or have it trust that \
             authority (its --tls-client-ca)"
                .into()
        }
        "CertificateExpired" => "the certificate of --cert has expired; renew it".into(),
        "ProtocolVersion" => "it speaks another version of TLS (its --tls-min)".into(),
        alert => format!("it has ended the TLS handshake: {alert}"),
    }
}

#[cfg(test)]
mod tests {
    use tokio_rustls::rustls::AlertDescription;

    use super::*;

    /// An error as the transport has it: in another one.
    #[derive(Debug, thiserror::Error)]
    #[error("transport error")]
    struct Within(#[source] io::Error);

    fn explained(error: impl Into<Box<dyn Error + Send + Sync>>) -> Option<String> {
        explain(&Within(io::Error::new(io::ErrorKind::InvalidData, error)))
    }

    #[test]
    fn what_fails_in_tls_says_what_to_do_about_it_however_deep_it_is() {
        use rustls::Error::{AlertReceived, InvalidCertificate};
        for (error, advice) in [
            (InvalidCertificate(CertificateError::UnknownIssuer), "--ca"),
            (InvalidCertificate(CertificateError::Expired), "renew"),
            (InvalidCertificate(CertificateError::NotValidYet), "clock"),
            (
                InvalidCertificate(CertificateError::NotValidForName),
                "--server-name",
            ),
            (
                rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType),
                "http:// address",
            ),
            (
                AlertReceived(AlertDescription::CertificateRequired),
                "--cert and --key",
            ),
            (
                AlertReceived(AlertDescription::UnknownCA),
                "--tls-client-ca",
            ),
            (AlertReceived(AlertDescription::CertificateExpired), "renew"),
            (
                AlertReceived(AlertDescription::ProtocolVersion),
                "--tls-min",
            ),
        ] {
            let explained = explained(error.clone()).unwrap_or_default();
            assert!(explained.contains(advice), "{error:?}: {explained}");
        }
    }

    #[test]
    fn what_only_the_text_says_is_read_from_the_text() {
        assert_eq!(
            explained("received fatal alert: CertificateRequired").as_deref(),
            Some("it wants to see a certificate; show one with --cert and --key")
        );
        assert_eq!(explained("Connection refused"), None);
    }
}
