//! Two ends of real connections, with certificates made for each test.

#![forbid(unsafe_code)]

mod development;
mod handshakes;
mod threads;
mod unix;

use std::path::PathBuf;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::error::Result;

/// Longer than anything here takes.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// An authority, and what it signs.
pub(crate) struct Authority {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key.
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    /// A certificate for `names`, whose common name is the first.
    pub(crate) fn sign(&self, names: &[&str]) -> Pair {
        self.sign_between(names, 2020, 4000)
    }

    pub(crate) fn sign_between(&self, names: &[&str], from: i32, until: i32) -> Pair {
        let all: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(all).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, names[0]);
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        Pair {
            certificate: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    /// What trusts this authority.
    pub(crate) fn client(&self) -> ClientTls {
        self.client_with(None)
    }

    pub(crate) fn client_with(&self, own: Option<&Pair>) -> ClientTls {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| -> PathBuf {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        ClientTls::new(&TlsOptions {
            ca_pem: Some(self.pem.clone()),
            client_cert: own.map(|pair| file("cert", &pair.certificate)),
            client_key: own.map(|pair| file("key", &pair.key)),
            ..TlsOptions::default()
        })
        .unwrap()
    }
}

impl Pair {
    pub(crate) fn server(&self, client_ca: Option<&Authority>) -> ServerTls {
        ServerTls::from_pem(
            self.certificate.as_bytes(),
            self.key.as_bytes(),
            client_ca.map(|ca| ca.pem.as_bytes()),
        )
        .unwrap()
    }
}

fn any_port() -> Address {
    Address::parse("127.0.0.1:0", 0).unwrap()
}

/// A server's and a client's end, or what each of them was told.
async fn ends(
    server: Option<ServerTls>,
    client: Option<&ClientTls>,
) -> (Result<Stream>, Result<Stream>) {
    let listener = Listener::bind(&any_port(), server).await.unwrap();
    let accept = async { listener.accept().await.unwrap().handshake(LONG).await };
    tokio::join!(accept, connect(listener.local_address(), client, LONG))
}

/// Sends in both directions at once, more than any buffer holds.
async fn talk(one: &mut Stream, other: &mut Stream) {
    async fn half(stream: &mut Stream, text: u8) -> Vec<u8> {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let sent = vec![text; 3 << 20];
        let mut got = vec![0; sent.len()];
        let write = async {
            writer.write_all(&sent).await.unwrap();
            writer.flush().await.unwrap();
        };
        tokio::join!(write, async { reader.read_exact(&mut got).await.unwrap() });
        got
    }
    let (at_one, at_other) = tokio::join!(half(one, 1), half(other, 2));
    assert!(at_one.iter().all(|&byte| byte == 2));
    assert!(at_other.iter().all(|&byte| byte == 1));
}
