//! Certificates that a node makes for itself.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;
use crate::error::DWCPError;

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn read(dir: &Path, name: &str) -> String {
    fs::read_to_string(dir.join(name)).unwrap()
}

/// Connects with the authority that `dir` holds.
async fn reach(dir: &Path, server: ServerTls) -> Result<Stream> {
    let client = ClientTls::new(&TlsOptions {
        ca_file: Some(dir.join("ca.pem")),
        ..TlsOptions::default()
    });
    ends(Some(server), Some(&client.unwrap())).await.1
}

#[tokio::test]
async fn it_is_made_once_and_kept() {
    let home = tempfile::tempdir().unwrap();
    let dir = &home.path().join("tls");
    let wanted = names(&["Node-01", "localhost", "127.0.0.1", "::1", "127.0.0.1"]);
    let first = ServerTls::development(dir, &wanted).unwrap();
    let stream = reach(dir, first).await.unwrap();
    assert_eq!(stream.peer_certificate_name().as_deref(), Some("node-01"));
    for (name, mode) in [
        ("ca.key", 0o600),
        ("server.key", 0o600),
        ("ca.pem", 0o644),
        ("server.pem", 0o644),
    ] {
        let found = fs::metadata(dir.join(name)).unwrap().permissions().mode();
        assert_eq!(found & 0o777, mode, "{name}");
    }
    assert_eq!(
        fs::read_dir(dir).unwrap().count(),
        4,
        "nothing is left over"
    );

    let before = (read(dir, "ca.pem"), read(dir, "server.pem"));
    let again = ServerTls::development(dir, &wanted).unwrap();
    assert_eq!((read(dir, "ca.pem"), read(dir, "server.pem")), before);
    reach(dir, again).await.unwrap();
}

#[tokio::test]
async fn it_is_made_anew_when_it_is_no_longer_good() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    let wanted = names(&["127.0.0.1"]);
    ServerTls::development(dir, &wanted).unwrap();
    let authority = read(dir, "ca.pem");
    let anew = async |why: &str, names: &[String]| {
        let before = read(dir, "server.pem");
        let server = ServerTls::development(dir, names).unwrap();
        assert_ne!(read(dir, "server.pem"), before, "{why}");
        assert_eq!(read(dir, "ca.pem"), authority, "{why}: the authority stays");
        reach(dir, server).await.unwrap();
    };
    anew("another name", &names(&["127.0.0.1", "node-01"])).await;
    anew("a name less", &wanted).await;

    // By a stranger, with a key that fits.
    let stranger = Authority::new("x").sign(&["127.0.0.1"]);
    fs::write(dir.join("server.pem"), &stranger.certificate).unwrap();
    fs::write(dir.join("server.key"), &stranger.key).unwrap();
    anew("a strange authority", &wanted).await;
    // Cut short between the two files.
    fs::write(dir.join("server.key"), &stranger.key).unwrap();
    anew("a key that does not fit", &wanted).await;
    fs::write(dir.join("server.pem"), "-----BEGIN").unwrap();
    anew("damage", &wanted).await;
}

#[tokio::test]
async fn an_expired_certificate_is_renewed() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    // An authority that somebody brought, with a certificate by it that has expired.
    let authority = Authority::new("brought along");
    let pair = authority.sign_between(&["127.0.0.1"], 2020, 2021);
    fs::write(dir.join("ca.pem"), &authority.pem).unwrap();
    fs::write(dir.join("server.pem"), &pair.certificate).unwrap();
    fs::write(dir.join("server.key"), &pair.key).unwrap();
    let wanted = names(&["127.0.0.1"]);
    let error = ServerTls::development(dir, &wanted).unwrap_err();
    assert!(error.message().contains("ca.key is missing"), "{error}");
    // One that is good needs no key of the authority.
    let pair = authority.sign(&["127.0.0.1"]);
    fs::write(dir.join("server.pem"), &pair.certificate).unwrap();
    fs::write(dir.join("server.key"), &pair.key).unwrap();
    let server = ServerTls::development(dir, &wanted).unwrap();
    reach(dir, server).await.unwrap();
    assert_eq!(read(dir, "server.pem"), pair.certificate);
}

#[test]
fn starting_at_once_makes_one_authority() {
    let home = tempfile::tempdir().unwrap();
    let authorities: Vec<String> = std::thread::scope(|scope| {
        let start = || {
            scope.spawn(|| {
                ServerTls::development(home.path(), &names(&["127.0.0.1"])).unwrap();
                read(home.path(), "ca.pem")
            })
        };
        let started: Vec<_> = (0..4).map(|_| start()).collect();
        started.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(authorities.iter().all(|pem| *pem == authorities[0]));
}

#[test]
fn what_is_no_name_is_refused_before_anything_is_made() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("tls");
    for wrong in [&["my node"][..], &[""], &[]] {
        let error = ServerTls::development(&dir, &names(wrong)).unwrap_err();
        assert!(matches!(error, DWCPError::Config(_)), "{error}");
    }
    assert!(!dir.exists());
}
