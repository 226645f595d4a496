//! What the side that listens brings: its certificate, and whose clients' certificates it believes.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};

use super::{
    VERSIONS, authorities, certificates, development, pair_refused, private_key, provider,
    read_file,
};
use crate::error::{DWCPError, Result};

/// Answers TLS connections. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ServerTls {
    config: Arc<ServerConfig>,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}

impl ServerTls {
    /// Takes a certificate (with those between it and its authority) and its key. With `client_ca`,
    /// clients are asked for a certificate of that authority; one that shows none is served too, and
    /// has no name: whether it needs another credential is for the node to say.
    ///
    /// # Errors
    ///
    /// `invalid_config` that begins with `tls_cert`, `tls_key` or `tls_client_ca`.
    pub(crate) fn from_pem(
        certificate: &[u8],
        key: &[u8],
        client_ca: Option<&[u8]>,
    ) -> Result<Self> {
        let chain = certificates("tls_cert", certificate)?;
        let key = private_key("tls_key", key)?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)
            .map_err(|e| DWCPError::Internal(format!("TLS: {e}")))?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let roots = Arc::new(authorities("tls_client_ca", pem)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
                    .allow_unauthenticated()
                    .build()
                    .map_err(|e| DWCPError::Config(format!("tls_client_ca: {e}")))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|e| pair_refused("tls_cert", "tls_key", &e))?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self {
            config: Arc::new(config),
        })
    }

    /// As [`from_pem`](Self::from_pem), of files.
    pub(crate) fn from_files(
        certificate: &Path,
        key: &Path,
        client_ca: Option<&Path>,
    ) -> Result<Self> {
        let client_ca = client_ca.map(|path| read_file("tls_client_ca", path));
        Self::from_pem(
            &read_file("tls_cert", certificate)?,
            &read_file("tls_key", key)?,
            client_ca.transpose()?.as_deref(),
        )
    }

    /// A certificate for `names` (host names and IP addresses; the first is its common name) by an
    /// authority of its own, both kept in `dir` as `ca.pem`, `ca.key`, `server.pem` and `server.key`.
    /// They are made where they are missing; the certificate is made anew where it is about to
    /// expire, is not of that authority, or is for other names. Clients reach the node with `ca.pem`
    /// as their `ca_file`. The certificate is good for connecting to other nodes as well, and clients
    /// are asked for one of the same authority.
    ///
    /// # Errors
    ///
    /// `invalid_config` for what is no name, `i/o` where the files cannot be read or written.
    pub(crate) fn development(dir: &Path, names: &[String]) -> Result<Self> {
        let made = development::load_or_make(dir, names)?;
        Self::from_pem(
            made.certificate.as_bytes(),
            made.key.as_bytes(),
            Some(made.authority.as_bytes()),
        )
    }

    pub(in crate::transport) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }
}
