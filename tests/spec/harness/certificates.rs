//! Certificates for a test, each from an authority of its own.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType,
    date_time_ymd,
};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

/// Signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM form.
#[derive(Clone)]
pub struct Certified {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    /// Its own certificate.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// For a server on this machine.
    pub fn server(&self) -> Certified {
        self.certify(server_params())
    }

    pub fn expired_server(&self) -> Certified {
        self.certify(expired(server_params()))
    }

    /// For a client.
    pub fn client(&self, uri: &str) -> Certified {
        self.certify(client_params(uri))
    }

    pub fn expired_client(&self, uri: &str) -> Certified {
        self.certify(expired(client_params(uri)))
    }

    fn certify(&self, params: CertificateParams) -> Certified {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Certified {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}

fn server_params() -> CertificateParams {
    CertificateParams::new(["127.0.0.1".to_owned(), "fanout.example".to_owned()]).unwrap()
}

fn client_params(uri: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    params
}

fn expired(mut params: CertificateParams) -> CertificateParams {
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2020, 1, 2);
    params
}

/// Where a server is reached over TLS by who trusts these authorities and shows this.
pub fn https(address: &str, authorities: &str, shown: Option<&Certified>) -> Endpoint {
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authorities));
    if let Some(Certified { certificate, key }) = shown {
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap();
    endpoint.tls_config(tls).unwrap()
}
