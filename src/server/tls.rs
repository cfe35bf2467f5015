//! TLS: handshakes, who is at the other end, and what a peer is told that does not speak it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use prost::bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::server::TlsStream;

use super::first_words::{self, begins_preface};
use crate::service::Peer;

/// What every TLS connection begins with: the record type of handshakes.
const HANDSHAKE: u8 = 22;
/// Most bytes that are read of a peer that is only there to be told why it is refused.
const FAREWELL_BYTES_MAX: u64 = 1 << 20;
/// How long an HTTP/2 client says nothing when it waits for an answer.
const QUIET: Duration = Duration::from_millis(250);
/// What a peer without TLS is told.
const PLAIN_REFUSAL: &str = "this port speaks TLS only: use https://";

/// A connection that nobody else can read.
pub(super) struct Private {
    /// Its first words.
    pub(super) seen: Bytes,
    /// The rest of it.
    pub(super) stream: TlsStream<TcpStream>,
    /// Who is at its other end, if that was shown.
    pub(super) peer: Option<Arc<Peer>>,
}

/// Makes a connection private, and waits for its first words.
pub(super) async fn accept(
    mut stream: TcpStream,
    config: Arc<ServerConfig>,
) -> io::Result<Private> {
    let mut first = [0; 1];
    if stream.peek(&mut first).await? == 1 && first[0] != HANDSHAKE {
        refuse_plain(&mut stream).await?;
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the peer speaks no TLS",
        ));
    }
    let accepted = TlsAcceptor::from(config).accept(stream).into_fallible();
    let mut stream = match accepted.await {
        Ok(stream) => stream,
        Err((error, mut stream)) => {
            // It was told why; closed with something unread, it might not come to read it.
            let _ = part_from(&mut stream).await;
            return Err(error);
        }
    };
    let (_, session) = stream.get_ref();
    let shown = session.peer_certificates().and_then(<[_]>::first);
    let peer = shown.map(|certificate| Arc::new(named_in(certificate)));
    if let Some(peer) = &peer {
        tracing::debug!(uris = ?peer.uris, names = ?peer.names, "a client has shown its certificate");
    }
    let seen = first_words::await_of(&mut stream).await?;
    Ok(Private { seen, stream, peer })
}

/// The names in a certificate that was found valid.
fn named_in(certificate: &CertificateDer<'_>) -> Peer {
    let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else {
        return Peer::default();
    };
    Peer {
        uris: certificate.valid_uri_names().map(str::to_owned).collect(),
        names: certificate.valid_dns_names().map(str::to_owned).collect(),
    }
}

/// Tells a peer without TLS that it needs it, in the words of the protocol that it speaks.
async fn refuse_plain(stream: &mut TcpStream) -> io::Result<()> {
    let mut said = [0; 1_024];
    let length = stream.read(&mut said).await?;
    let answer = if begins_preface(&said[..length]) {
        // Not before it has asked something, or it would take the end of the connection for one that broke.
        while let Ok(read) = tokio::time::timeout(QUIET, stream.read(&mut said)).await {
            if read? == 0 {
                break;
            }
        }
        goaway(PLAIN_REFUSAL)
    } else {
        let length = PLAIN_REFUSAL.len() + 1;
        let answer = format!(
            "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n\
             content-length: {length}\r\nconnection: close\r\n\r\n{PLAIN_REFUSAL}\n"
        );
        answer.into_bytes()
    };
    stream.write_all(&answer).await?;
    part_from(stream).await
}

/// Frames of HTTP/2 that end a connection before it has begun: no settings, and GOAWAY for INADEQUATE_SECURITY.
fn goaway(why: &str) -> Vec<u8> {
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    const INADEQUATE_SECURITY: u8 = 12;
    // The last stream that was looked at, and the error.
    let mut payload = vec![0, 0, 0, 0, 0, 0, 0, INADEQUATE_SECURITY];
    payload.extend_from_slice(why.as_bytes());
    // Length, kind, flags, stream.
    let mut frames = vec![0, 0, 0, SETTINGS, 0, 0, 0, 0, 0];
    let length = u8::try_from(payload.len()).unwrap_or(u8::MAX);
    frames.extend_from_slice(&[0, 0, length, GOAWAY, 0, 0, 0, 0, 0]);
    frames.extend_from_slice(&payload[..length.into()]);
    frames
}

/// Says no more, and reads what the peer still says, so that it reads what it was told.
async fn part_from(stream: &mut TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut rest = stream.take(FAREWELL_BYTES_MAX);
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    #[test]
    fn a_peer_is_who_its_certificates_alternative_names_say_and_nothing_else() {
        let mut certificate =
            CertificateParams::new(["a.example".to_owned(), "*.b.example".into()]).expect("names");
        certificate.subject_alt_names.extend([
            SanType::URI("spiffe://example/sandbox/7".try_into().expect("a URI")),
            SanType::IpAddress("10.0.0.1".parse().expect("an address")),
            SanType::Rfc822Name("ops@a.example".try_into().expect("an address")),
        ]);
        let key = KeyPair::generate().expect("a key");
        let certificate = certificate.self_signed(&key).expect("a certificate");
        assert_eq!(
            named_in(certificate.der()),
            Peer {
                uris: vec!["spiffe://example/sandbox/7".to_owned()],
                names: vec!["a.example".to_owned(), "*.b.example".to_owned()],
            }
        );
    }

    #[test]
    fn a_goaway_is_written_as_the_standard_says() {
        assert_eq!(
            goaway("no"),
            [
                [0, 0, 0, 4, 0, 0, 0, 0, 0].as_slice(),
                &[0, 0, 10, 7, 0, 0, 0, 0, 0],
                &[0, 0, 0, 0, 0, 0, 0, 12],
                b"no",
            ]
            .concat()
        );
    }
}
