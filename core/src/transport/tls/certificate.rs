//! The few fields of an X.509 certificate (RFC 5280) that nobody else reads for us: the subject's
//! common name, and the names it is for. The certificate has been checked before; what is not shaped
//! as expected has no name.

use std::net::IpAddr;

/// DER tags.
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_IDENTIFIER: u8 = 0x06;
const OCTET_STRING: u8 = 0x04;
const BOOLEAN: u8 = 0x01;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;
/// `[0]`, `[3]` around version and extensions of a certificate.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// `[2]` and `[7]` in a list of names: a host name, an IP address.
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;

/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// 2.5.29.17
const SUBJECT_ALTERNATIVE_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// The subject's common name. One with several has none: nobody shall be taken for another.
pub(super) fn common_name(certificate: &[u8]) -> Option<String> {
    let mut subject = Fields::of(certificate)?.subject;
    let mut found = None;
    while !subject.0.is_empty() {
        let mut set = Reader(subject.expect(SET)?);
        while !set.0.is_empty() {
            let mut attribute = Reader(set.expect(SEQUENCE)?);
            if attribute.expect(OBJECT_IDENTIFIER)? != COMMON_NAME {
                continue;
            }
            let (tag, value) = attribute.next()?;
            if found.is_some() || !matches!(tag, UTF8_STRING | PRINTABLE_STRING | IA5_STRING) {
                return None;
            }
            found = Some(String::from_utf8(value.to_vec()).ok()?);
        }
    }
    found.filter(|name| !name.is_empty())
}

/// The host names and IP addresses that it is for.
#[cfg_attr(
    not(all(feature = "node", target_os = "linux", target_arch = "x86_64")),
    expect(dead_code, reason = "only who makes certificates asks")
)]
pub(super) fn names(certificate: &[u8]) -> Option<Vec<String>> {
    let Some(extensions) = Fields::of(certificate)?.extensions else {
        return Some(Vec::new());
    };
    let mut list = Reader(extensions);
    let mut list = Reader(list.expect(SEQUENCE)?);
    while !list.0.is_empty() {
        let mut extension = Reader(list.expect(SEQUENCE)?);
        if extension.expect(OBJECT_IDENTIFIER)? != SUBJECT_ALTERNATIVE_NAME {
            continue;
        }
        let value = match extension.next()? {
            (BOOLEAN, _) => extension.expect(OCTET_STRING)?,
            (OCTET_STRING, value) => value,
            _ => return None,
        };
        let mut names = Reader(Reader(value).expect(SEQUENCE)?);
        let mut found = Vec::new();
        while !names.0.is_empty() {
            match names.next()? {
                (DNS_NAME, name) => found.push(String::from_utf8(name.to_vec()).ok()?),
                (IP_ADDRESS, bytes) => found.push(ip(bytes)?.to_string()),
                _ => {}
            }
        }
        return Some(found);
    }
    Some(Vec::new())
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    v4().or_else(|_| v6()).ok()
}

/// What is read of a certificate.
struct Fields<'a> {
    subject: Reader<'a>,
    extensions: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    fn of(certificate: &'a [u8]) -> Option<Self> {
        let mut body = Reader(Reader(certificate).expect(SEQUENCE)?);
        let mut body = Reader(body.expect(SEQUENCE)?);
        if body.0.first() == Some(&VERSION) {
            body.next()?;
        }
        // Serial number, signature algorithm, issuer, validity.
        for _ in 0..4 {
            body.next()?;
        }
        let subject = Reader(body.expect(SEQUENCE)?);
        let mut extensions = None;
        while !body.0.is_empty() {
            match body.next()? {
                (EXTENSIONS, value) => extensions = Some(value),
                _ => continue,
            }
        }
        Some(Self {
            subject,
            extensions,
        })
    }
}

/// Reads DER values one after the other.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The next value and its tag.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, first], rest) = self.0.split_first_chunk::<2>()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            // Certificates are shorter than 16 MiB.
            0x81..=0x83 => {
                let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                let value = length
                    .iter()
                    .fold(0, |all, &byte| all << 8 | usize::from(byte));
                (value, rest)
            }
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, value))
    }

    /// The next value, which must have this tag.
    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        match self.next()? {
            (found, value) if found == tag => Some(value),
            _ => None,
        }
    }
}

#[cfg(test)]
#[cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn certificate(common_names: &[&str], names: &[&str]) -> Vec<u8> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "o".repeat(200));
        for &name in common_names {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn names_are_found() {
        let der = certificate(&["node-01"], &["node-01", "127.0.0.1", "::1", "a.b.c"]);
        assert_eq!(common_name(&der).as_deref(), Some("node-01"));
        assert_eq!(
            names(&der).unwrap(),
            ["node-01", "127.0.0.1", "::1", "a.b.c"]
        );
        let bare = certificate(&[], &[]);
        assert_eq!(common_name(&bare), None);
        assert_eq!(names(&bare).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn several_common_names_are_none() {
        // rcgen does not make such a certificate: the organisation becomes a second common name.
        let der = certificate(&["node-01"], &[]);
        let at = der.windows(3).position(|w| w == [0x55, 0x04, 0x0a]);
        let twice: Vec<u8> = {
            let mut der = der.clone();
            let mut from = at.unwrap();
            loop {
                der[from + 2] = 0x03;
                match der[from + 3..]
                    .windows(3)
                    .position(|w| w == [0x55, 0x04, 0x0a])
                {
                    Some(next) => from += 3 + next,
                    None => break der,
                }
            }
        };
        assert_eq!(common_name(&twice), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(at in 0usize..700, byte in any::<u8>(), cut in 0usize..700, noise in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut der = certificate(&["n"], &["n", "10.0.0.1"]);
            let len = der.len();
            der[at % len] = byte;
            for bytes in [&der[..], &der[..cut % len], &noise[..]] {
                let _ = common_name(bytes);
                let _ = names(bytes);
            }
        }
    }
}
