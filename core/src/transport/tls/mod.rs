//! TLS 1.3, by rustls with ring.
//!
//! `client` and `server` hold what each side brings, `certificate` reads the few fields of a
//! certificate that are needed, `development` makes certificates where nobody brought any, and `words`
//! says what went wrong in a handshake. The provider is always given explicitly: a library must not
//! choose one for the whole process. Sessions are not resumed: connections are few and live long.

#![forbid(unsafe_code)]

mod certificate;
mod client;
#[cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
mod development;
#[cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
mod server;
mod words;

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{CommonState, RootCertStore, SupportedProtocolVersion};

pub(crate) use self::client::{ClientTls, TlsOptions};
#[cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
pub(crate) use self::server::ServerTls;
pub(super) use self::words::{Side, handshake_failed};
pub(crate) use self::words::{is_tls_record, lost};
use crate::error::{DWCPError, Result};

/// What is spoken: TLS 1.3 and nothing older.
const VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
/// Longest PEM file that is read: the certificates of all public authorities take 0.3 MiB.
const PEM_MAX: u64 = 4 << 20;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The common name of the peer's certificate, if it had to show one.
pub(super) fn peer_name(connection: &CommonState) -> Option<String> {
    let certificate = connection.peer_certificates()?.first()?;
    certificate::common_name(certificate)
}

/// Reads a file named by the field `field` of a configuration.
fn read_file(field: &str, path: &Path) -> Result<Vec<u8>> {
    let wrong = |why: &dyn std::fmt::Display| {
        DWCPError::Config(format!("{field}: cannot read {}: {why}", path.display()))
    };
    let size = std::fs::metadata(path).map_err(|e| wrong(&e))?.len();
    if size > PEM_MAX {
        return Err(wrong(&"it is too long for a PEM file"));
    }
    std::fs::read(path).map_err(|e| wrong(&e))
}

/// The certificates in a PEM text, of which there must be one at least.
fn certificates(field: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, pem::Error>>()
        .map_err(|e| DWCPError::Config(format!("{field}: is not PEM: {e}")))?;
    if found.is_empty() {
        return Err(DWCPError::Config(format!(
            "{field}: holds no certificate (`-----BEGIN CERTIFICATE-----`)"
        )));
    }
    Ok(found)
}

/// The private key in a PEM text.
fn private_key(field: &str, pem: &[u8]) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| {
        DWCPError::Config(match error {
            pem::Error::NoItemsFound if contains(pem, b"ENCRYPTED") => format!(
                "{field}: the key is encrypted with a password; keep it unencrypted, readable by \
                 its owner only"
            ),
            pem::Error::NoItemsFound => {
                format!("{field}: holds no private key (`-----BEGIN PRIVATE KEY-----`)")
            }
            other => format!("{field}: is not PEM: {other}"),
        })
    })
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|found| found == word)
}

/// The authorities in a PEM text.
fn authorities(field: &str, pem: &[u8]) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(field, pem)? {
        roots.add(certificate).map_err(|e| {
            DWCPError::Config(format!("{field}: a certificate cannot be read: {e}"))
        })?;
    }
    Ok(roots)
}

/// What a certificate and its key are refused for.
fn pair_refused(certificate: &str, key: &str, error: &rustls::Error) -> DWCPError {
    DWCPError::Config(match error {
        rustls::Error::InconsistentKeys(_) => {
            format!("{key}: is not the key of the certificate in {certificate}")
        }
        other => format!("{certificate}, {key}: cannot be used: {other}"),
    })
}
