//! A certificate authority of a test's own, and servers that it vouches for, by openssl.

use super::process::Folder;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

/// The authority.
pub(crate) struct Authority(Folder);

impl Authority {
    pub(crate) fn new() -> Self {
        let authority = Self(Folder::new("authority"));
        authority.openssl(&format!(
            "req -x509 {KEY} -keyout ca.key -out ca.pem -days 2 -subj /CN=Authority \
             -addext basicConstraints=critical,CA:TRUE"
        ));
        authority
    }

    /// What clients are to trust.
    pub(crate) fn file(&self) -> PathBuf {
        self.0.file("ca.pem")
    }

    /// A server of this name (`IP:127.0.0.1`, `DNS:localhost`).
    pub(crate) fn server(&self, name: &str) -> Arc<ServerConfig> {
        self.openssl(&format!(
            "req {KEY} -keyout key.pem -out request.pem -subj /CN=receiver \
             -addext subjectAltName={name}"
        ));
        self.openssl(
            "x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
             -copy_extensions copy -out certificate.pem",
        );
        let certificate = CertificateDer::from_pem_file(self.0.file("certificate.pem"));
        let key = PrivateKeyDer::from_pem_file(self.0.file("key.pem")).expect("a key");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions of TLS")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.expect("a certificate")], key);
        Arc::new(config.expect("they belong together"))
    }

    fn openssl(&self, arguments: &str) {
        let mut openssl = Command::new("openssl");
        let told = openssl.args(arguments.split_whitespace()).current_dir(self.0.path()).output();
        let told = told.expect("openssl runs: the Debian package `openssl`");
        assert!(told.status.success(), "{arguments}: {told:?}");
    }
}

/// A new key that nothing seals.
const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
