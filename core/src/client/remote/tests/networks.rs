//! What there is between a client and a node.

use super::*;
use crate::client::ClientPool;

/// Answers one connection after the other.
async fn serve(mut accept: impl AsyncFnMut() -> Stream) {
    loop {
        let stream = accept().await;
        tokio::spawn(async move {
            let peer = Peer::accept(stream, ServerConfig::default(), STORE).await;
            peer.answer(|action| {
                Ok(Outcome::VM(Box::new(vm(action
                    .vm_id()
                    .unwrap_or_default()))))
            })
            .await
        });
    }
}

async fn check(config: ClientConfig) {
    let client = Client::new(config).await.unwrap();
    assert!(client.is_connected() && client.is_authenticated());
    assert_eq!(client.vm().get("a").await.unwrap().id, "a");
    client.close().await;
    assert!(!client.is_connected());
}

#[tokio::test]
async fn over_tcp_and_in_a_pool() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = serve(async || Stream::Tcp(listener.accept().await.unwrap().0));
    let config = ClientConfig::new("127.0.0.1")
        .with_port(port)
        .with_api_key("k")
        .with_tls_enabled(false);
    let clients = async {
        check(config.clone()).await;
        let none = ClientPool::new(0, config.clone()).await.unwrap_err();
        assert!(none.message().starts_with("size:"), "{none}");

        let pool = ClientPool::new(2, config.clone()).await.unwrap();
        assert_eq!(pool.size(), 2);
        let (one, other) = (pool.acquire().await, pool.acquire().await);
        assert_eq!(one.vm().get("b").await.unwrap().id, "b");
        let third = pool.acquire();
        tokio::pin!(third);
        assert!(futures::poll!(&mut third).is_pending(), "all are taken");
        // Given back twice is given back once, and a stranger is not taken.
        pool.release(one.clone());
        pool.release(one);
        pool.release(Client::new(config).await.unwrap());
        let third = third.await;
        let fourth = pool.acquire();
        tokio::pin!(fourth);
        assert!(futures::poll!(&mut fourth).is_pending());
        pool.release(third);
        fourth.await;
        pool.close().await;
        assert!(!other.is_connected());
    };
    tokio::select! {
        () = server => unreachable!(),
        () = clients => {}
    }
}

#[cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
#[tokio::test]
async fn over_tls_and_a_unix_socket() {
    use crate::transport::{Listener, ServerTls};

    let dir = tempfile::tempdir().unwrap();
    let tls = ServerTls::development(dir.path(), &["localhost".to_owned()]).unwrap();
    let tcp = Address::Tcp {
        host: "127.0.0.1".into(),
        port: 0,
    };
    let path = dir.path().join("node.sock");
    let tcp = Listener::bind(&tcp, Some(tls)).await.unwrap();
    let unix = Listener::bind(&Address::Unix(path.clone()), None)
        .await
        .unwrap();
    let accept = async |listener: &Listener| {
        loop {
            let pending = listener.accept().await.unwrap();
            // Who does not trust the certificate breaks off.
            if let Ok(stream) = pending.handshake(Duration::from_secs(10)).await {
                return stream;
            }
        }
    };
    let over_tls = serve(async || accept(&tcp).await);
    let over_unix = serve(async || accept(&unix).await);
    let clients = async {
        let port = tcp.socket_address().unwrap().port();
        let config = ClientConfig::new("127.0.0.1")
            .with_port(port)
            .with_api_key("k");
        let named = config.clone().with_server_name("localhost");
        check(named.clone().with_ca_file(dir.path().join("ca.pem"))).await;
        let pem = std::fs::read_to_string(dir.path().join("ca.pem")).unwrap();
        check(named.with_ca_pem(pem.clone())).await;
        // Another name, and another authority.
        for wrong in [
            config.clone().with_ca_pem(pem).with_server_name("node-02"),
            config,
        ] {
            let error = Client::new(wrong).await.unwrap_err();
            assert!(matches!(error, DWCPError::Authentication(_)), "{error}");
        }
        let unix = format!("unix:{}", path.display());
        check(ClientConfig::new(unix).with_api_key("k")).await;
    };
    tokio::select! {
        () = over_tls => unreachable!(),
        () = over_unix => unreachable!(),
        () = clients => {}
    }
}
