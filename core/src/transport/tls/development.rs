//! Certificates for those who bring none: an authority of the node's own, and a certificate by it.
//!
//! Everything is kept in one directory, keys readable by their owner only. Files appear whole, under
//! their final name, or not at all; where two processes start at once, both use the first one's
//! authority.

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};

use super::{authorities, certificate, certificates, private_key, provider};
use crate::error::{DWCPError, Result};

const AUTHORITY: &str = "ca.pem";
const AUTHORITY_KEY: &str = "ca.key";
const CERTIFICATE: &str = "server.pem";
const KEY: &str = "server.key";

const DAY: u64 = 24 * 60 * 60;
/// How long an authority is good for: longer than anybody develops.
const AUTHORITY_DAYS: u64 = 20 * 365;
/// How long a certificate is good for: the longest that Apple's platforms accept is 825 days.
const CERTIFICATE_DAYS: u64 = 820;
/// A certificate is made anew when it has less than this left: a node may run for long.
const RENEW_DAYS: u64 = 90;
/// How far clocks of other hosts may be behind.
const SKEW_DAYS: u64 = 2;

/// PEM texts.
pub(super) struct Made {
    pub(super) authority: String,
    pub(super) certificate: String,
    pub(super) key: String,
}

/// Loads authority, certificate and key from `dir`, and makes what is missing or no longer good.
pub(super) fn load_or_make(dir: &Path, names: &[String]) -> Result<Made> {
    let names = checked(names)?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| failed("make the directory", dir, &e))?;
    let authority = load_or_make_authority(dir)?;
    if let (Some(certificate), Some(key)) = (load(dir, CERTIFICATE)?, load(dir, KEY)?) {
        match still_good(&authority, &certificate, &key, &names) {
            Ok(()) => {
                return Ok(Made {
                    authority,
                    certificate,
                    key,
                });
            }
            Err(why) => {
                tracing::info!(%why, dir = %dir.display(), "the certificate is made anew");
            }
        }
    }
    let signer = authority_key(dir)?.ok_or_else(|| {
        DWCPError::Config(format!(
            "tls: a certificate has to be made in {}, but {AUTHORITY_KEY} is missing there: put it back, \
             or remove {AUTHORITY} to start over with a new authority",
            dir.display()
        ))
    })?;
    let key = KeyPair::generate().map_err(|e| refused(&e))?;
    let certificate = server_params(&names)?
        .signed_by(&key, &Issuer::new(authority_params(&signer), signer))
        .map_err(|e| refused(&e))?
        .pem();
    let key = key.serialize_pem();
    // A crash in between leaves a pair that does not match, which is found and made anew.
    store(dir, KEY, &key, 0o600, Place::Replace)?;
    store(dir, CERTIFICATE, &certificate, 0o644, Place::Replace)?;
    Ok(Made {
        authority,
        certificate,
        key,
    })
}

/// Names as they stand in certificates: lower case, addresses in their canonical form, each once.
fn checked(names: &[String]) -> Result<Vec<String>> {
    let mut checked: Vec<String> = Vec::new();
    for name in names {
        let name = match name.parse::<IpAddr>() {
            Ok(ip) => ip.to_string(),
            Err(_) => name.to_ascii_lowercase(),
        };
        if ServerName::try_from(name.as_str()).is_err() {
            return Err(DWCPError::Config(format!(
                "tls: `{name}` is neither a host name nor an IP address, so no certificate can be for it"
            )));
        }
        if !checked.contains(&name) {
            checked.push(name);
        }
    }
    if checked.is_empty() {
        return Err(DWCPError::Config(
            "tls: a certificate has to be for one name at least".into(),
        ));
    }
    Ok(checked)
}

fn load_or_make_authority(dir: &Path) -> Result<String> {
    if let Some(pem) = load(dir, AUTHORITY)? {
        return Ok(pem);
    }
    let key = match authority_key(dir)? {
        Some(key) => key,
        None => {
            let key = KeyPair::generate().map_err(|e| refused(&e))?;
            store(
                dir,
                AUTHORITY_KEY,
                &key.serialize_pem(),
                0o600,
                Place::First,
            )?;
            // Another process may have been faster: then its key counts.
            authority_key(dir)?.ok_or_else(|| {
                failed(
                    "read",
                    &dir.join(AUTHORITY_KEY),
                    &io::ErrorKind::NotFound.into(),
                )
            })?
        }
    };
    // Whoever makes it from this key makes one that checks the same certificates.
    let authority = authority_params(&key).self_signed(&key);
    let pem = authority.map_err(|e| refused(&e))?.pem();
    store(dir, AUTHORITY, &pem, 0o644, Place::First)?;
    Ok(load(dir, AUTHORITY)?.unwrap_or(pem))
}

fn authority_key(dir: &Path) -> Result<Option<KeyPair>> {
    let Some(pem) = load(dir, AUTHORITY_KEY)? else {
        return Ok(None);
    };
    let key = KeyPair::from_pem(&pem).map_err(|e| {
        DWCPError::Config(format!(
            "tls: {}: is no private key: {e}",
            dir.join(AUTHORITY_KEY).display()
        ))
    })?;
    Ok(Some(key))
}

/// An authority's name contains its key's digest: two of them must not be taken for one.
fn authority_params(key: &KeyPair) -> CertificateParams {
    let digest = Sha256::digest(key.der_bytes());
    let short: String = digest.iter().take(4).map(|b| format!("{b:02x}")).collect();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let name = format!("DWCP development authority {short}");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for(&mut params, AUTHORITY_DAYS);
    params
}

fn server_params(names: &[String]) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(names).map_err(|e| refused(&e))?;
    params.distinguished_name = DistinguishedName::new();
    let first = names.first().cloned().unwrap_or_default();
    params.distinguished_name.push(DnType::CommonName, first);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // A node also connects: to its peers, with the same certificate.
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    valid_for(&mut params, CERTIFICATE_DAYS);
    Ok(params)
}

fn valid_for(params: &mut CertificateParams, days: u64) {
    let now = UnixTime::now().as_secs();
    // A clock that is beyond the calendar gets certificates that others find invalid, and say so.
    if let Some((from, until)) = day(now - SKEW_DAYS * DAY).zip(day(now + days * DAY)) {
        params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
        params.not_after = rcgen::date_time_ymd(until.0, until.1, until.2);
    }
}

fn day(seconds: u64) -> Option<(i32, u8, u8)> {
    let time = jiff::Timestamp::from_second(i64::try_from(seconds).ok()?).ok()?;
    let date = time.to_zoned(jiff::tz::TimeZone::UTC).date();
    let (month, day) = (date.month().try_into().ok()?, date.day().try_into().ok()?);
    Some((date.year().into(), month, day))
}

/// Whether a certificate can be used for some time yet; else the reason why not.
fn still_good(authority: &str, certificate: &str, key: &str, names: &[String]) -> Result<()> {
    let not = |why: &str| Err(DWCPError::Config(format!("{CERTIFICATE}: {why}")));
    let chain = certificates(CERTIFICATE, certificate.as_bytes())?;
    let key = provider()
        .key_provider
        .load_private_key(private_key(KEY, key.as_bytes())?)
        .map_err(|e| refused(&e))?;
    let leaf = chain[0].clone();
    CertifiedKey::new(chain, key)
        .keys_match()
        .map_err(|e| refused(&e))?;
    let mut is_for = certificate::names(&leaf).unwrap_or_default();
    let common_name = certificate::common_name(&leaf);
    let mut wanted = names.to_vec();
    is_for.sort_unstable();
    wanted.sort_unstable();
    if is_for != wanted || common_name.as_ref() != names.first() {
        return not("is for other names");
    }
    let roots = Arc::new(authorities(AUTHORITY, authority.as_bytes())?);
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider())
        .build()
        .map_err(|e| refused(&e))?;
    let name = ServerName::try_from(names[0].as_str()).map_err(|e| refused(&e))?;
    let later = UnixTime::now().as_secs() + RENEW_DAYS * DAY;
    let later = UnixTime::since_unix_epoch(Duration::from_secs(later));
    match verifier.verify_server_cert(&leaf, &[], &name, &[], later) {
        Ok(_) => Ok(()),
        Err(error) => not(&error.to_string()),
    }
}

fn load(dir: &Path, name: &str) -> Result<Option<String>> {
    match fs::read_to_string(dir.join(name)) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed("read", &dir.join(name), &e)),
    }
}

/// What becomes of a file that is there already.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Replace,
    /// It stays.
    First,
}

fn store(dir: &Path, name: &str, text: &str, mode: u32, place: Place) -> Result<()> {
    let path = dir.join(name);
    let failed = |e: io::Error| failed("write", &path, &e);
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|e| refused(&e))?;
    let draft = dir.join(format!(".{name}.{:016x}", u64::from_ne_bytes(random)));
    let written = || -> io::Result<()> {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&draft)?;
        // The process's mask may have taken bits away that readers of certificates need.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        if place == Place::Replace {
            return fs::rename(&draft, &path);
        }
        match fs::hard_link(&draft, &path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            linked => linked?,
        }
        fs::remove_file(&draft)
    };
    written().map_err(|e| {
        // Not there where it was renamed, or could not be made.
        let _ = fs::remove_file(&draft);
        failed(e)
    })
}

fn failed(what: &str, path: &Path, error: &io::Error) -> DWCPError {
    DWCPError::Io(format!("tls: cannot {what} {}: {error}", path.display()))
}

fn refused(error: &dyn std::fmt::Display) -> DWCPError {
    DWCPError::Internal(format!("tls: making a certificate: {error}"))
}
