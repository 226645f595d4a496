//! What went wrong in TLS, in words that say what to do.

use std::fmt::Write;
use std::io;

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

use super::ClientTls;
use crate::error::DWCPError;

/// Which side of a handshake this is.
pub(in crate::transport) enum Side<'a> {
    /// It connected.
    Client(&'a ClientTls),
    /// It was connected to.
    #[cfg_attr(
        not(all(feature = "node", target_os = "linux", target_arch = "x86_64")),
        expect(dead_code, reason = "only a node listens")
    )]
    Server,
}

impl Side<'_> {
    fn peer(&self) -> &'static str {
        match self {
            Side::Client(_) => "server",
            Side::Server => "client",
        }
    }
}

/// Whether a peer's first bytes are those of a TLS record (RFC 8446, 5.1): what a client that does
/// not speak TLS gets from a server that does.
pub(crate) fn is_tls_record(bytes: &[u8]) -> bool {
    matches!(bytes, [0x14..=0x17, 0x03, 0x00..=0x04, ..])
}

/// The error for a handshake that failed. `peer` is where the other side is.
pub(in crate::transport) fn handshake_failed(
    side: &Side<'_>,
    peer: &str,
    error: &io::Error,
) -> DWCPError {
    let who = side.peer();
    let Some(cause) = tls_error(error) else {
        return match side {
            Side::Client(_) => DWCPError::Connection(format!(
                "{peer} ended the connection in place of a TLS handshake ({error}); if the server does \
                 not speak TLS on this port, connect with tls_enabled(false)"
            )),
            Side::Server => DWCPError::Connection(format!(
                "{peer} ended the connection during the TLS handshake: {error}"
            )),
        };
    };
    match cause {
        Error::InvalidCertificate(why) => DWCPError::Authentication(format!(
            "the certificate of the {who} {peer} {}",
            certificate(side, why)
        )),
        Error::AlertReceived(alert) => alerted(who, peer, *alert),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            DWCPError::Protocol(match side {
                Side::Client(_) => format!(
                    "the server {peer} does not speak TLS on this port; with tls_enabled(false) the \
                     connection is made without, and is not encrypted"
                ),
                Side::Server => format!(
                    "the client {peer} does not speak TLS, which this port requires: it has to \
                     connect with tls_enabled(true)"
                ),
            })
        }
        Error::PeerIncompatible(why) => DWCPError::Protocol(format!(
            "the {who} {peer} cannot speak TLS as this side does (TLS 1.3): {why:?}"
        )),
        other => DWCPError::Protocol(format!("TLS with the {who} {peer}: {other}")),
    }
}

/// The error for a connection that broke: with TLS, a server says only after the handshake that it
/// does not accept the client's certificate.
pub(crate) fn lost(what: &str, error: &io::Error) -> DWCPError {
    match tls_error(error) {
        Some(Error::AlertReceived(alert)) => alerted("peer", what, *alert),
        Some(cause) => DWCPError::Protocol(format!("{what}: TLS: {cause}")),
        None => DWCPError::Connection(format!("{what}: {error}")),
    }
}

fn tls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// What the peer objected to.
fn alerted(who: &str, peer: &str, alert: AlertDescription) -> DWCPError {
    use AlertDescription as A;
    let own = match alert {
        A::CertificateRequired => {
            return DWCPError::Authentication(format!(
                "the {who} {peer} requires a certificate of this side: pass client_cert and client_key"
            ));
        }
        A::UnknownCA => "it does not know the authority that signed it",
        A::CertificateExpired => "it has expired",
        A::CertificateRevoked => "it is revoked",
        A::DecryptError => "it is not signed by the authority it names",
        A::BadCertificate | A::UnsupportedCertificate | A::CertificateUnknown | A::AccessDenied => {
            "it is not to be trusted, or not for this use"
        }
        A::ProtocolVersion => {
            return DWCPError::Protocol(format!("the {who} {peer} does not speak TLS 1.3"));
        }
        other => {
            return DWCPError::Protocol(format!("the {who} {peer} ended TLS: alert {other:?}"));
        }
    };
    DWCPError::Authentication(format!(
        "the {who} {peer} does not accept this side's certificate: {own}"
    ))
}

/// What a certificate is refused for; goes on after "the certificate of …".
fn certificate(side: &Side<'_>, why: &CertificateError) -> String {
    use CertificateError as C;
    match why {
        C::Expired => "has expired: it has to be renewed".into(),
        C::ExpiredContext { not_after, .. } => format!(
            "has expired on {}: it has to be renewed (or this machine's clock is wrong)",
            date(*not_after)
        ),
        C::NotValidYet => "is not valid yet: is this machine's clock right?".into(),
        C::NotValidYetContext { not_before, .. } => format!(
            "is not valid before {}: is this machine's clock right?",
            date(*not_before)
        ),
        C::UnknownIssuer => match side {
            Side::Client(tls) => format!(
                "is signed by an authority that is not among {}: pass ca_file (or ca_pem) with the \
                 certificate of that authority; a node that made its own keeps it as ca.pem",
                tls.trusted()
            ),
            Side::Server => {
                "is signed by an authority that is not the tls_client_ca of this node".into()
            }
        },
        C::NotValidForName => "is for another name: connect by its name, or set server_name".into(),
        C::NotValidForNameContext {
            expected,
            presented,
        } => {
            let mut text = format!("is not for `{}` but for ", expected.to_str());
            if presented.is_empty() {
                text.push_str("no name at all");
            }
            for (index, name) in presented.iter().enumerate() {
                let comma = if index == 0 { "" } else { ", " };
                let _ = write!(text, "{comma}`{}`", bare(name));
            }
            text.push_str(": connect by one of its names, or set server_name to it");
            text
        }
        C::BadSignature => {
            "is not signed by the authority it names: pass the ca_file that belongs to it".into()
        }
        C::Revoked => "is revoked".into(),
        C::InvalidPurpose | C::InvalidPurposeContext { .. } => {
            "is not made for this use (extended key usage)".into()
        }
        C::BadEncoding => "cannot be read".into(),
        other => format!("is not to be trusted: {other}"),
    }
}

/// `DnsName("localhost")` as `localhost`.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').map_or(name, |(_, inner)| inner);
    inner.trim_end_matches(')').trim_matches('"')
}

fn date(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_second(seconds) {
        Ok(time) => time.to_string(),
        Err(_) => "a day beyond the calendar".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_told_from_frames() {
        // An alert, a client's hello; a frame's length, text.
        assert!(is_tls_record(&[0x15, 3, 3, 0, 2, 2, 10]));
        assert!(is_tls_record(&[0x16, 3, 1, 2, 0]));
        assert!(!is_tls_record(&[0, 0, 0, 0x4f, 3, 1]));
        assert!(!is_tls_record(b"HTTP/1.1"));
        assert!(!is_tls_record(&[0x15]));
    }

    #[test]
    fn a_refusal_after_the_handshake_says_whose_certificate() {
        let alert = |alert| {
            let error = io::Error::new(io::ErrorKind::InvalidData, Error::AlertReceived(alert));
            lost("receiving", &error)
        };
        let required = alert(AlertDescription::CertificateRequired);
        assert!(matches!(required, DWCPError::Authentication(_)));
        assert!(required.message().contains("client_cert"), "{required}");
        let unknown = alert(AlertDescription::UnknownCA);
        assert!(matches!(unknown, DWCPError::Authentication(_)), "{unknown}");
        let reset = lost("receiving", &io::ErrorKind::ConnectionReset.into());
        assert!(matches!(reset, DWCPError::Connection(_)), "{reset}");
    }
}
