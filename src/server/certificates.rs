//! The server's certificate, its key and its clients' authorities: read from files, and read again when these change, so
//! that new connections get the new ones. What cannot be used leaves the old ones in place.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{self, InconsistentKeys, RootCertStore, ServerConfig};

use super::bounded_file;
use crate::config::{Tls, TlsVersion};

/// Largest file of certificates or of a key, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// What a client may ask to speak, what is best first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file is not there, or not what it should be.
    #[error("{setting} {}: {problem}", path.display())]
    File {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The certificate and its key are sound, but not for each other, or not for TLS.
    #[error("--tls-cert and --tls-key: {0}")]
    Unfit(String),
    /// SIGHUP cannot be waited for.
    #[error("failed to wait for SIGHUP: {0}")]
    Signal(#[source] io::Error),
}

/// What new connections are offered, and the files that it is from.
pub(super) struct Certificates {
    settings: Tls,
    files: Files,
    offered: watch::Sender<Arc<ServerConfig>>,
    /// Says that the files are to be looked at.
    hangup: Signal,
}

impl Certificates {
    /// Reads the files of these settings; nothing if they name none. From then on SIGHUP no longer ends the process. To be
    /// called in a runtime.
    ///
    /// # Errors
    /// A file cannot be read or used, or they do not fit together.
    pub(super) fn read(settings: &Tls) -> Result<Option<Self>, CertificateError> {
        let Some(files) = Files::read(settings)? else {
            return Ok(None);
        };
        let config = files.config(settings)?;
        Ok(Some(Self {
            settings: settings.clone(),
            files,
            offered: watch::Sender::new(config),
            hangup: signal(SignalKind::hangup()).map_err(CertificateError::Signal)?,
        }))
    }

    /// What to begin connections with, always as it is now.
    pub(super) fn offered(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.offered.subscribe()
    }

    /// Looks at the files when it is time to and when SIGHUP asks for it, for ever.
    pub(super) async fn keep_current(mut self) {
        let mut refused = String::new();
        loop {
            let asked = tokio::select! {
                () = tokio::time::sleep(self.settings.reload_interval) => false,
                Some(()) = self.hangup.recv() => true,
            };
            match self.look().await {
                Ok(true) => tracing::info!("new certificates are in use"),
                Ok(false) if asked => tracing::info!("the certificates are as they were"),
                Ok(false) => {}
                // Said once, not every time.
                Err(error) if !asked && error == refused => continue,
                Err(error) => {
                    tracing::error!(error, "new certificates cannot be used; the old ones stay");
                    refused = error;
                    continue;
                }
            }
            refused.clear();
        }
    }

    /// Whether there is something new, which is then in use.
    async fn look(&mut self) -> Result<bool, String> {
        let settings = self.settings.clone();
        let read = tokio::task::spawn_blocking(move || Files::read(&settings)).await;
        let read = read.map_err(|panic| panic.to_string())?;
        // By what is in them: where links to directories are swapped, times and names say little.
        let files = match read.map_err(|error| error.to_string())? {
            Some(files) if files != self.files => files,
            _ => return Ok(false),
        };
        let config = files.config(&self.settings);
        self.offered
            .send_replace(config.map_err(|error| error.to_string())?);
        self.files = files;
        Ok(true)
    }
}

/// What is in the files.
#[derive(PartialEq, Eq)]
struct Files {
    certificate: Content,
    key: Content,
    client_authorities: Option<Content>,
}

/// What is in a file.
#[derive(PartialEq, Eq)]
pub(super) struct Content {
    setting: &'static str,
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Files {
    fn read(settings: &Tls) -> Result<Option<Self>, CertificateError> {
        let (Some(certificate), Some(key)) = (&settings.certificate, &settings.key) else {
            return Ok(None);
        };
        let authorities = settings.client_authorities.as_deref();
        let authorities = authorities.map(|path| Content::read("--tls-client-ca", path));
        Ok(Some(Self {
            certificate: Content::read("--tls-cert", certificate)?,
            key: Content::read("--tls-key", key)?,
            client_authorities: authorities.transpose()?,
        }))
    }

    fn config(&self, settings: &Tls) -> Result<Arc<ServerConfig>, CertificateError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let versions = match settings.oldest {
            TlsVersion::V1_2 => &[&TLS13, &TLS12][..],
            TlsVersion::V1_3 => &[&TLS13],
        };
        let certificates = self.certificate.certificates()?;
        let key = PrivateKeyDer::from_pem_slice(&self.key.bytes).map_err(|error| {
            self.key
                .wrong(format!("no private key in PEM form: {error}"))
        })?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(unfit)?;
        let builder = match &self.client_authorities {
            None => builder.with_no_client_auth(),
            Some(authorities) => builder.with_client_cert_verifier(authorities.verifier(provider)?),
        };
        let mut config = builder.with_single_cert(certificates, key).map_err(unfit)?;
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
        if self.client_authorities.is_some() {
            // A session that is taken up again would not show its certificate again.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(Arc::new(config))
    }
}

impl Content {
    pub(super) fn read(setting: &'static str, path: &Path) -> Result<Self, CertificateError> {
        let mut content = Self {
            setting,
            path: path.to_owned(),
            bytes: Vec::new(),
        };
        match bounded_file::bytes(path, FILE_BYTES_MAX) {
            Ok(bytes) => content.bytes = bytes,
            Err(error) => return Err(content.wrong(error.to_string())),
        }
        Ok(content)
    }

    fn wrong(&self, problem: String) -> CertificateError {
        CertificateError::File {
            setting: self.setting,
            path: self.path.clone(),
            problem,
        }
    }

    /// All certificates in it; there is at least one.
    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.bytes).collect();
        match read {
            Ok(certificates) if certificates.is_empty() => {
                Err(self.wrong("no certificate in PEM form".to_owned()))
            }
            Ok(certificates) => Ok(certificates),
            Err(error) => Err(self.wrong(format!("not a certificate in PEM form: {error}"))),
        }
    }

    /// Takes clients whose certificate these have signed.
    fn verifier(
        &self,
        provider: Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>, CertificateError> {
        WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()?), provider)
            .build()
            .map_err(|error| self.wrong(error.to_string()))
    }

    /// Trusts whom these vouch for.
    pub(super) fn roots(&self) -> Result<RootCertStore, CertificateError> {
        let mut roots = RootCertStore::empty();
        for authority in self.certificates()? {
            roots
                .add(authority)
                .map_err(|error| self.wrong(error.to_string()))?;
        }
        Ok(roots)
    }
}

fn unfit(error: rustls::Error) -> CertificateError {
    CertificateError::Unfit(match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            "the key is not that of the certificate".to_owned()
        }
        error => error.to_string(),
    })
}
