//! What the side that connects brings: whom it trusts, and who it is.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};

use super::{VERSIONS, authorities, certificates, pair_refused, private_key, provider, read_file};
use crate::error::{DWCPError, Result};

/// How to connect over TLS; the fields are those of the public `ClientConfig`.
#[derive(Clone, Debug, Default)]
pub(crate) struct TlsOptions {
    /// The authorities that the server's certificate is checked against; together with `ca_pem`, both
    /// count. Neither: the platform's, or those in `SSL_CERT_FILE` and `SSL_CERT_DIR`.
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) ca_pem: Option<String>,
    /// This side's own certificate and key, for a server that asks.
    pub(crate) client_cert: Option<PathBuf>,
    pub(crate) client_key: Option<PathBuf>,
    /// Name that the server's certificate has to carry. `None`: the host in the address.
    pub(crate) server_name: Option<String>,
}

/// Makes TLS connections. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ClientTls {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
    /// Where the trusted authorities came from, for messages.
    trusted: Arc<str>,
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls")
            .field("trusted", &self.trusted)
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

impl ClientTls {
    /// Reads files, the platform's authorities among them: not for a moment in a hurry.
    ///
    /// # Errors
    ///
    /// `invalid_config` that begins with the field's name.
    pub(crate) fn new(options: &TlsOptions) -> Result<Self> {
        let (roots, trusted) = trusted(options)?;
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)
            .map_err(|e| DWCPError::Internal(format!("TLS: {e}")))?
            .with_root_certificates(roots);
        let mut config = match (&options.client_cert, &options.client_key) {
            (Some(certificate), Some(key)) => {
                let chain = certificates("client_cert", &read_file("client_cert", certificate)?)?;
                let key = private_key("client_key", &read_file("client_key", key)?)?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|e| pair_refused("client_cert", "client_key", &e))?
            }
            (None, None) => builder.with_no_client_auth(),
            (Some(_), None) => {
                return Err(DWCPError::Config(
                    "client_cert: only together with client_key".into(),
                ));
            }
            (None, Some(_)) => {
                return Err(DWCPError::Config(
                    "client_key: only together with client_cert".into(),
                ));
            }
        };
        config.resumption = Resumption::disabled();
        let server_name = options.server_name.as_deref();
        Ok(Self {
            config: Arc::new(config),
            server_name: server_name
                .map(|name| named("server_name", name))
                .transpose()?,
            trusted: trusted.into(),
        })
    }

    pub(in crate::transport) fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// The name that the certificate of the server at `host` has to carry.
    pub(in crate::transport) fn name_for(&self, host: &str) -> Result<ServerName<'static>> {
        match &self.server_name {
            Some(name) => Ok(name.clone()),
            None => named("address", host),
        }
    }

    /// Where the trusted authorities came from.
    pub(super) fn trusted(&self) -> &str {
        &self.trusted
    }
}

fn named(field: &str, name: &str) -> Result<ServerName<'static>> {
    if let Ok(ip) = name.parse::<IpAddr>() {
        return Ok(ServerName::IpAddress(ip.into()));
    }
    ServerName::try_from(name.to_owned()).map_err(|_| {
        DWCPError::Config(format!(
            "{field}: `{name}` is not a name that a certificate can carry; set server_name to one of \
             those in the server's"
        ))
    })
}

/// The trusted authorities, and where they came from.
fn trusted(options: &TlsOptions) -> Result<(RootCertStore, String)> {
    let mut roots = RootCertStore::empty();
    let mut origins = Vec::new();
    if let Some(path) = &options.ca_file {
        roots.extend(authorities("ca_file", &read_file("ca_file", path)?)?.roots);
        origins.push(format!("ca_file {}", path.display()));
    }
    if let Some(pem) = &options.ca_pem {
        roots.extend(authorities("ca_pem", pem.as_bytes())?.roots);
        origins.push("ca_pem".to_owned());
    }
    if origins.is_empty() {
        let platform = rustls_native_certs::load_native_certs();
        // Platforms carry certificates that are older than the rules for them: those do not count.
        let (added, _) = roots.add_parsable_certificates(platform.certs);
        for error in &platform.errors {
            tracing::debug!(%error, "some of the platform's certificates cannot be read");
        }
        if added == 0 {
            let why = match platform.errors.first() {
                Some(error) => format!(": {error}"),
                None => String::new(),
            };
            return Err(DWCPError::Config(format!(
                "ca_file: is required here, for this machine has no certificates of authorities \
                 (SSL_CERT_FILE names none either){why}"
            )));
        }
        origins.push("the authorities this machine knows".to_owned());
    }
    Ok((roots, origins.join(" and ")))
}
