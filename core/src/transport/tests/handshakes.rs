//! Who connects to whom, and what each is told when it does not work.

use super::*;
use crate::error::DWCPError;

#[tokio::test]
async fn bytes_go_both_ways_over_every_kind() {
    let authority = Authority::new("authority");
    let tls = authority.sign(&["node-01", "127.0.0.1"]).server(None);

    let (server, client) = ends(None, None).await;
    let (mut server, mut client) = (server.unwrap(), client.unwrap());
    talk(&mut server, &mut client).await;
    assert!(!client.is_encrypted() && !server.is_encrypted());

    let (server, client) = ends(Some(tls), Some(&authority.client())).await;
    let (mut server, mut client) = (server.unwrap(), client.unwrap());
    talk(&mut server, &mut client).await;
    assert!(client.is_encrypted() && server.is_encrypted());
    assert_eq!(client.peer_certificate_name().as_deref(), Some("node-01"));
    assert_eq!(server.peer_certificate_name(), None);

    let (mut one, mut other) = Stream::pair(1 << 10);
    talk(&mut one, &mut other).await;
    assert!(one.peer_certificate_name().is_none());
}

#[tokio::test]
async fn a_clients_certificate_gives_its_name() {
    let (authority, clients) = (Authority::new("nodes"), Authority::new("clients"));
    let server = authority.sign(&["127.0.0.1"]).server(Some(&clients));
    let own = clients.sign(&["node-02"]);

    let (named, client) = ends(
        Some(server.clone()),
        Some(&authority.client_with(Some(&own))),
    )
    .await;
    assert_eq!(
        named.unwrap().peer_certificate_name().as_deref(),
        Some("node-02")
    );
    drop(client);
    // A client without one is served, and has no name.
    let (nameless, client) = ends(Some(server.clone()), Some(&authority.client())).await;
    assert_eq!(nameless.unwrap().peer_certificate_name(), None);
    drop(client);

    // One that anybody could have made is not believed; the client learns it with its first read.
    let forged = Authority::new("clients").sign(&["node-02"]);
    let (refused, client) = ends(Some(server), Some(&authority.client_with(Some(&forged)))).await;
    let refused = refused.unwrap_err();
    assert!(matches!(refused, DWCPError::Authentication(_)), "{refused}");
    assert!(
        refused.message().contains("the certificate of the client"),
        "{refused}"
    );
    let error = client.unwrap().read_u8().await.unwrap_err();
    let told = lost("receiving", &error);
    assert!(matches!(told, DWCPError::Authentication(_)), "{told}");
    assert!(
        told.message()
            .contains("does not accept this side's certificate"),
        "{told}"
    );
}

#[tokio::test]
async fn a_client_is_told_what_is_wrong_with_a_certificate() {
    let authority = Authority::new("authority");
    let refused = async |pair: Pair, client: ClientTls| {
        let (server, client) = ends(Some(pair.server(None)), Some(&client)).await;
        assert!(server.is_err());
        let error = client.unwrap_err();
        assert!(matches!(error, DWCPError::Authentication(_)), "{error}");
        assert!(!error.is_retryable());
        error.message().to_owned()
    };
    let local = ["127.0.0.1"];

    let stranger = refused(Authority::new("x").sign(&local), authority.client()).await;
    assert!(stranger.contains("pass ca_file"), "{stranger}");
    assert!(stranger.contains("not among ca_pem"), "{stranger}");

    let expired = refused(
        authority.sign_between(&local, 2020, 2021),
        authority.client(),
    )
    .await;
    assert!(expired.contains("has expired on 2021-01-01"), "{expired}");

    let early = refused(
        authority.sign_between(&local, 3000, 3001),
        authority.client(),
    )
    .await;
    assert!(early.contains("not valid before 3000-01-01"), "{early}");

    let other = refused(authority.sign(&["node-01", "10.9.8.7"]), authority.client()).await;
    assert!(
        other.contains("not for `127.0.0.1` but for `node-01`, `10.9.8.7`"),
        "{other}"
    );
}

#[tokio::test]
async fn another_name_is_checked_where_it_is_asked_for() {
    let authority = Authority::new("authority");
    let server = authority.sign(&["node-01"]).server(None);
    let client = |name: &str| {
        ClientTls::new(&TlsOptions {
            ca_pem: Some(authority.pem.clone()),
            server_name: Some(name.to_owned()),
            ..TlsOptions::default()
        })
    };
    let (_, right) = ends(Some(server.clone()), Some(&client("node-01").unwrap())).await;
    right.unwrap();
    let (_, wrong) = ends(Some(server), Some(&client("node-02").unwrap())).await;
    let wrong = wrong.unwrap_err();
    assert!(
        wrong
            .message()
            .contains("not for `node-02` but for `node-01`"),
        "{wrong}"
    );
    let impossible = client("no name").unwrap_err();
    assert!(
        impossible.message().starts_with("server_name: "),
        "{impossible}"
    );
}

#[tokio::test]
async fn who_does_not_speak_tls_is_named() {
    let authority = Authority::new("authority");
    let tls = || authority.sign(&["127.0.0.1"]).server(None);
    // A frame's first bytes, to a server that speaks TLS.
    let listener = Listener::bind(&any_port(), Some(tls())).await.unwrap();
    let mut plain = connect(listener.local_address(), None, LONG).await.unwrap();
    plain.write_all(&[0, 0, 0, 0x4f, 3, 1, 0, 0]).await.unwrap();
    let pending = listener.accept().await.unwrap();
    let error = pending.handshake(LONG).await.unwrap_err();
    assert!(matches!(error, DWCPError::Protocol(_)), "{error}");
    assert!(error.message().contains("does not speak TLS"), "{error}");
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).await.unwrap();
    assert!(is_tls_record(&answer), "{answer:?}");

    // A server that answers in plain text, and one that hangs up.
    for answer in [&b"\0\0\0\x10 plain"[..], b""] {
        let listener = Listener::bind(&any_port(), None).await.unwrap();
        let client = authority.client();
        let serve = async {
            let mut stream = listener
                .accept()
                .await
                .unwrap()
                .handshake(LONG)
                .await
                .unwrap();
            stream.read_u8().await.unwrap();
            stream.write_all(answer).await.unwrap();
        };
        let (result, ()) = tokio::join!(
            connect(listener.local_address(), Some(&client), LONG),
            serve
        );
        let error = result.unwrap_err();
        assert!(error.message().contains("tls_enabled(false)"), "{error}");
    }
}

#[tokio::test]
async fn a_slow_handshake_keeps_nobody_waiting() {
    let authority = Authority::new("authority");
    let tls = authority.sign(&["127.0.0.1"]).server(None);
    let listener = Listener::bind(&any_port(), Some(tls)).await.unwrap();
    let silent = connect(listener.local_address(), None, LONG).await.unwrap();
    let stuck: Pending = listener.accept().await.unwrap();
    assert!(stuck.peer_label().starts_with("127.0.0.1:"));
    // The first one's handshake has not begun to end, and the second is served.
    let client = authority.client();
    let accept = async { listener.accept().await.unwrap().handshake(LONG).await };
    let (server, client) = tokio::join!(
        accept,
        connect(listener.local_address(), Some(&client), LONG)
    );
    server.unwrap();
    client.unwrap();
    let error = stuck
        .handshake(Duration::from_millis(20))
        .await
        .unwrap_err();
    assert!(matches!(error, DWCPError::Timeout(_)), "{error}");
    drop(silent);
}

#[tokio::test]
async fn connecting_ends_in_time_and_tries_every_address() {
    // A server that accepts and says nothing.
    let listener = Listener::bind(&any_port(), None).await.unwrap();
    let client = Authority::new("authority").client();
    let limit = Duration::from_millis(50);
    let error = connect(listener.local_address(), Some(&client), limit)
        .await
        .unwrap_err();
    assert!(matches!(error, DWCPError::Timeout(_)), "{error}");

    let port = listener.socket_address().unwrap().port();
    let by_name = Address::parse("localhost", port).unwrap();
    // Where `localhost` is also ::1, that refuses, and 127.0.0.1 answers.
    connect(&by_name, None, LONG).await.unwrap();
    drop(listener);
    let error = connect(&by_name, None, LONG).await.unwrap_err();
    assert!(matches!(error, DWCPError::Connection(_)), "{error}");
    assert!(
        error.message().contains(&format!("127.0.0.1:{port}: ")),
        "{error}"
    );
}

#[tokio::test]
async fn a_connection_of_the_programs_own_is_taken_over() {
    let listener = Listener::bind(&any_port(), None).await.unwrap();
    let own = std::net::TcpStream::connect(listener.socket_address().unwrap()).unwrap();
    let mut own = Stream::of_tcp(own).unwrap();
    let accepted = listener.accept().await.unwrap().handshake(LONG).await;
    talk(&mut own, &mut accepted.unwrap()).await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let listener = Listener::bind(&any_port(), None).await.unwrap();
    let error = Listener::bind(listener.local_address(), None)
        .await
        .unwrap_err();
    assert!(matches!(error, DWCPError::AlreadyExists(_)), "{error}");
}

#[test]
fn files_that_do_not_fit_are_named() {
    let (authority, other) = (Authority::new("a"), Authority::new("b"));
    let (pair, stranger) = (authority.sign(&["a"]), other.sign(&["b"]));
    let server = |certificate: &str, key: &str, ca: Option<&str>| {
        let error = ServerTls::from_pem(
            certificate.as_bytes(),
            key.as_bytes(),
            ca.map(str::as_bytes),
        );
        error.unwrap_err().message().to_owned()
    };
    assert!(server("", &pair.key, None).starts_with("tls_cert: holds no certificate"));
    assert!(server(&pair.certificate, "", None).starts_with("tls_key: holds no private key"));
    let mixed = server(&pair.certificate, &stranger.key, None);
    assert!(mixed.starts_with("tls_key: is not the key"), "{mixed}");
    assert!(server(&pair.certificate, &pair.key, Some("x")).starts_with("tls_client_ca:"));
    let sealed =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    assert!(server(&pair.certificate, sealed, None).contains("password"));

    let nowhere = std::path::Path::new("/nowhere/cert.pem");
    let error = ServerTls::from_files(nowhere, nowhere, None).unwrap_err();
    assert!(
        error
            .message()
            .starts_with("tls_cert: cannot read /nowhere/cert.pem"),
        "{error}"
    );

    let client = |options: TlsOptions| ClientTls::new(&options).unwrap_err().message().to_owned();
    let missing = client(TlsOptions {
        ca_file: Some("/nowhere/ca.pem".into()),
        ..TlsOptions::default()
    });
    assert!(
        missing.starts_with("ca_file: cannot read /nowhere/ca.pem"),
        "{missing}"
    );
    let half = client(TlsOptions {
        ca_pem: Some(authority.pem),
        client_cert: Some("/x".into()),
        ..TlsOptions::default()
    });
    assert!(half.starts_with("client_cert:"), "{half}");
}
