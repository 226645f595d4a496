//! Unix sockets.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use super::*;
use crate::error::DWCPError;

fn at(dir: &tempfile::TempDir) -> (PathBuf, Address) {
    let path = dir.path().join("dwcp.sock");
    (path.clone(), Address::Unix(path))
}

#[tokio::test]
async fn it_is_for_its_owner_and_goes_with_the_listener() {
    let dir = tempfile::tempdir().unwrap();
    let (path, address) = at(&dir);
    let listener = Listener::bind(&address, None).await.unwrap();
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    // TLS is not spoken here, whoever asks for it.
    let tls = Authority::new("authority").client();
    let (pending, client) = tokio::join!(listener.accept(), connect(&address, Some(&tls), LONG));
    let mut server = pending.unwrap().handshake(LONG).await.unwrap();
    let mut client = client.unwrap();
    talk(&mut server, &mut client).await;
    assert!(!client.is_encrypted());
    drop(listener);
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        0,
        "nothing is left over"
    );
    let error = connect(&address, None, LONG).await.unwrap_err();
    assert!(matches!(error, DWCPError::Connection(_)), "{error}");
}

#[tokio::test]
async fn only_what_nobody_uses_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (path, address) = at(&dir);
    // Left behind by a process that was killed.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let listener = Listener::bind(&address, None).await.unwrap();
    // In use.
    let error = Listener::bind(&address, None).await.unwrap_err();
    assert!(matches!(error, DWCPError::AlreadyExists(_)), "{error}");
    connect(&address, None, LONG).await.unwrap();
    drop(listener);
    // Not a socket.
    fs::write(&path, "precious").unwrap();
    let error = Listener::bind(&address, None).await.unwrap_err();
    assert!(matches!(error, DWCPError::AlreadyExists(_)), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        1,
        "nothing is left over"
    );
}

#[tokio::test]
async fn of_many_that_start_at_once_one_listens() {
    let dir = tempfile::tempdir().unwrap();
    let (path, address) = at(&dir);
    drop(UnixListener::bind(&path).unwrap());
    let started = (0..8).map(|_| Listener::bind(&address, None));
    let started = futures::future::join_all(started).await;
    let listening: Vec<Listener> = started.into_iter().flatten().collect();
    assert_eq!(listening.len(), 1);
    let (accepted, client) = tokio::join!(listening[0].accept(), connect(&address, None, LONG));
    accepted.unwrap();
    client.unwrap();
}

#[tokio::test]
async fn a_listener_that_was_replaced_leaves_the_file_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (path, address) = at(&dir);
    let first = Listener::bind(&address, None).await.unwrap();
    fs::remove_file(&path).unwrap();
    let second = Listener::bind(&address, None).await.unwrap();
    drop(first);
    connect(&address, None, LONG).await.unwrap();
    drop(second);
}

#[test]
fn threads_reach_it_too() {
    use std::io::{Read, Write};
    let dir = tempfile::tempdir().unwrap();
    let (path, address) = at(&dir);
    let listener = UnixListener::bind(path).unwrap();
    let mut near = Blocking::connect(&address, None, LONG).unwrap();
    let mut far = Blocking::from(listener.accept().unwrap().0);
    assert!(near.direct().is_some() && near.is_local() && !near.is_encrypted());
    near.write_all(b"word").unwrap();
    near.shutdown().unwrap();
    let mut heard = String::new();
    far.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "word");
}
