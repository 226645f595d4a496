//! The nodes that a node knows, and how it reaches them.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::PoisonError;

use super::Shared;
use super::builder::MAX_ADDRESS;
use crate::error::{DWCPError, Result};
use crate::migration::Dial;
use crate::model::validate;
use crate::transport::{Address, ClientTls, ServerTls, TlsOptions};

/// Default port.
const PORT: u16 = 9000;
/// Longest credential in bytes: as long as a key may be.
const MAX_CREDENTIAL: usize = 512;

/// A node that is known.
#[derive(Clone)]
pub(super) struct Peer {
    pub(super) address: String,
    /// The key by which it knows this node.
    credential: Option<String>,
}

/// Credentials do not belong into logs.
impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Peer {
    pub(super) fn new(address: impl Into<String>, credential: Option<String>) -> Peer {
        Peer {
            address: address.into(),
            credential,
        }
    }

    /// # Errors
    ///
    /// `invalid_config` for what is no name of a node, no address, or no credential.
    pub(super) fn check(&self, name: &str) -> Result<()> {
        validate::name("peer", name)?;
        validate::text("peer", &self.address, MAX_ADDRESS)?;
        Address::parse(&self.address, PORT)
            .map_err(|e| DWCPError::Config(format!("peer: {}", e.message())))?;
        match &self.credential {
            Some(credential) => validate::text("credential", credential, MAX_CREDENTIAL),
            None => Ok(()),
        }
    }
}

/// How a node proves who it is.
#[derive(Clone, Debug)]
pub(super) enum Tls {
    /// A directory with an authority of its own.
    Development(PathBuf),
    /// PEM files.
    Files {
        certificate: PathBuf,
        key: PathBuf,
        authority: Option<PathBuf>,
    },
}

impl Tls {
    /// For serving, and for dialling peers.
    pub(super) fn load(&self, node: &str, listen: &[String]) -> Result<(ServerTls, ClientTls)> {
        match self {
            Tls::Development(dir) => {
                let serve = ServerTls::development(dir, &names(node, listen))?;
                let options = TlsOptions {
                    ca_file: Some(dir.join("ca.pem")),
                    client_cert: Some(dir.join("server.pem")),
                    client_key: Some(dir.join("server.key")),
                    ..TlsOptions::default()
                };
                Ok((serve, ClientTls::new(&options)?))
            }
            Tls::Files {
                certificate,
                key,
                authority,
            } => {
                let serve = ServerTls::from_files(certificate, key, authority.as_deref())?;
                let options = TlsOptions {
                    ca_file: authority.clone(),
                    client_cert: Some(certificate.clone()),
                    client_key: Some(key.clone()),
                    ..TlsOptions::default()
                };
                Ok((serve, ClientTls::new(&options)?))
            }
        }
    }
}

/// What clients may call a node: its name, which peers know it by, and where it listens.
fn names(node: &str, listen: &[String]) -> Vec<String> {
    let mut names = vec![node.to_owned()];
    let local = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let hosts = listen.iter().filter_map(|text| {
        match Address::parse(text, PORT) {
            // An address that stands for all names none.
            Ok(Address::Tcp { host, .. })
                if host.parse().is_ok_and(|ip: IpAddr| ip.is_unspecified()) =>
            {
                None
            }
            Ok(Address::Tcp { host, .. }) => Some(host),
            _ => None,
        }
    });
    for name in hosts.chain(local) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

impl Shared {
    /// The nodes that are known, by name.
    pub(super) fn peers(&self) -> BTreeMap<String, Peer> {
        self.peers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Takes a node into the book, or gives it another address.
    pub(super) fn add_peer(&self, name: String, peer: Peer) -> Result<()> {
        peer.check(&name)?;
        let peers = self.peers.write();
        let mut peers = peers.unwrap_or_else(PoisonError::into_inner);
        self.forwarders.forget(&name);
        peers.insert(name, peer);
        Ok(())
    }

    /// How a node is reached.
    ///
    /// # Errors
    ///
    /// `not_found` naming the nodes that are known.
    pub(super) fn dial(&self, node: &str) -> Result<Dial> {
        let peers = self.peers();
        let Some(peer) = peers.get(node) else {
            let known: Vec<_> = peers.keys().map(String::as_str).collect();
            let known = if known.is_empty() {
                "it has none".to_owned()
            } else {
                format!("they are {}", known.join(", "))
            };
            return Err(DWCPError::NotFound(format!(
                "target_node: `{node}` is not among the peers of this node; {known}"
            )));
        };
        Ok(Dial {
            address: Address::parse(&peer.address, PORT)?,
            tls: self.dial_tls.clone(),
            credential: peer.credential.clone(),
            patience: self.patience,
        })
    }

    /// Whether what goes to peers is encrypted.
    pub(super) fn dials_with_tls(&self) -> bool {
        self.dial_tls.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_carries_what_the_node_is_called() {
        let listen = [
            "0.0.0.0:9000",
            "node-01.example:9000",
            "unix:/run/dwcp",
            "10.0.0.7",
        ];
        let names = names("node-01", &listen.map(str::to_owned));
        let wanted = [
            "node-01",
            "node-01.example",
            "10.0.0.7",
            "localhost",
            "127.0.0.1",
            "::1",
        ];
        assert_eq!(names, wanted);
    }

    #[test]
    fn what_is_no_peer_is_refused() {
        assert!(Peer::new("127.0.0.1:1", None).check("node-02").is_ok());
        for (name, address) in [
            ("", "127.0.0.1:1"),
            ("a b", "127.0.0.1:1"),
            ("n", ""),
            ("n", "a:b:c"),
        ] {
            let error = Peer::new(address, None).check(name).unwrap_err();
            assert!(error.message().starts_with("peer"), "{error}");
        }
        let text = format!("{:?}", Peer::new("h", Some("secret-key".into())));
        assert!(!text.contains("secret"), "{text}");
    }
}
