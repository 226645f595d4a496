//! Connections that leave the runtime.

use std::io::{ErrorKind, Read, Write};
use std::thread;

use super::*;
use crate::error::DWCPError;

const MANY: usize = 5 << 20;

/// A TLS connection between threads: the end that connected, and the end that was accepted.
fn pair() -> (Blocking, Blocking) {
    let authority = Authority::new("authority");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (server, client) = runtime.block_on(async {
        let tls = authority.sign(&["127.0.0.1"]).server(None);
        let listener = Listener::bind(&any_port(), Some(tls)).await.unwrap();
        let address = listener.local_address().clone();
        let tls = authority.client();
        let client = thread::spawn(move || Blocking::connect(&address, Some(&tls), LONG));
        let server = listener.accept().await.unwrap().handshake(LONG).await;
        (server.unwrap().into_blocking().unwrap(), client)
    });
    (client.join().unwrap().unwrap(), server)
}

fn pattern(seed: u8) -> Vec<u8> {
    (0..MANY).map(|at| (at as u8).wrapping_mul(seed)).collect()
}

#[test]
fn one_thread_reads_while_another_writes() {
    let (mut one, mut other) = pair();
    assert!(one.is_encrypted() && one.is_local() && one.direct().is_none());
    assert_eq!(one.peer_certificate_name().as_deref(), Some("127.0.0.1"));
    thread::scope(|scope| {
        for (end, own, theirs) in [(&mut one, 3, 5), (&mut other, 5, 3)] {
            let mut writer = end.try_clone().unwrap();
            scope.spawn(move || writer.write_all(&pattern(own)).unwrap());
            scope.spawn(move || {
                let mut got = vec![0; MANY];
                end.read_exact(&mut got).unwrap();
                assert!(got == pattern(theirs));
            });
        }
    });
}

#[test]
fn a_thread_that_waits_is_ended_by_another() {
    let (mut one, other) = pair();
    let stopper = one.try_clone().unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(move || one.read(&mut [0; 8]));
        stopper.shutdown().unwrap();
        // The end of its own connection, which the peer did not announce.
        let ended = waiting.join().unwrap();
        assert!(
            matches!(&ended, Err(e) if e.kind() == ErrorKind::UnexpectedEof),
            "{ended:?}"
        );
    });
    // The peer sees an orderly end.
    let mut other = other;
    assert_eq!(other.read(&mut [0; 8]).unwrap(), 0);

    // A writer that waits for a peer that does not read.
    let (mut one, other) = pair();
    let stopper = one.try_clone().unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(move || {
            loop {
                if let Err(error) = one.write(&[0; 64 << 10]) {
                    return error;
                }
            }
        });
        stopper.shutdown().unwrap();
        waiting.join().unwrap();
    });
    drop(other);
}

#[test]
fn an_end_without_a_goodbye_is_an_error() {
    use std::os::fd::AsFd;
    let (one, mut other) = pair();
    let raw = socket2::SockRef::from(&one.as_fd()).try_clone().unwrap();
    raw.shutdown(std::net::Shutdown::Both).unwrap();
    let error = other.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    drop(one);

    let (one, mut other) = pair();
    drop(one);
    assert_eq!(other.read(&mut [0; 8]).unwrap(), 0, "dropping says goodbye");
}

#[test]
fn a_changed_byte_is_noticed() {
    use std::os::fd::AsFd;
    let (one, mut other) = pair();
    // A record that nobody with the keys made.
    let forged = [&[0x17, 3, 3, 0, 32][..], &[7; 32]].concat();
    let raw = socket2::SockRef::from(&one.as_fd()).try_clone().unwrap();
    raw.send(&forged).unwrap();
    let error = other.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    assert!(other.read(&mut [0; 8]).is_err());
}

#[tokio::test]
async fn what_was_read_ahead_is_not_lost() {
    let authority = Authority::new("authority");
    let tls = authority.sign(&["127.0.0.1"]).server(None);
    for tls in [None, Some(tls)] {
        let client = tls.as_ref().map(|_| authority.client());
        let (server, client) = ends(tls, client.as_ref()).await;
        let (mut server, mut client) = (server.unwrap(), client.unwrap());
        client
            .write_all(b"a frame, and what follows it")
            .await
            .unwrap();
        client.flush().await.unwrap();
        // The first read takes more than the frame.
        let mut taken = [0; 12];
        server.read_exact(&mut taken).await.unwrap();
        let mut server = server.into_blocking().unwrap();
        let plain = !server.is_encrypted();
        assert_eq!(server.direct().is_some(), plain);
        server.put_back(bytes::Bytes::copy_from_slice(&taken[7..]));
        assert!(server.direct().is_none(), "not before they are read");
        client.shutdown().await.unwrap();
        let rest = tokio::task::spawn_blocking(move || {
            let mut rest = String::new();
            server.read_to_string(&mut rest).map(|_| (rest, server))
        });
        let (rest, server) = rest.await.unwrap().unwrap();
        assert_eq!(rest, ", and what follows it");
        assert_eq!(server.direct().is_some(), plain);
    }
    let (one, _other) = Stream::pair(1);
    let error = one.into_blocking().unwrap_err();
    assert!(matches!(error, DWCPError::Unsupported(_)), "{error}");
}

#[test]
fn connecting_ends_in_time() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::from(silent.local_addr().unwrap());
    let tls = Authority::new("authority").client();
    let limit = Duration::from_millis(50);
    let error = Blocking::connect(&address, Some(&tls), limit).unwrap_err();
    assert!(matches!(error, DWCPError::Timeout(_)), "{error}");
    drop(silent);
    let error = Blocking::connect(&address, None, limit).unwrap_err();
    assert!(matches!(error, DWCPError::Connection(_)), "{error}");
}
