//! A client against nodes that are scripted here: real sessions over pairs in memory, with time that
//! passes when nobody has anything to do.

mod calls;
mod networks;
mod streams;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::*;
use crate::action::{Item, Role};
use crate::client::Client;
use crate::model::VM;
use crate::transport::Stream;
use crate::wire::message::NodeName;
use crate::wire::session::{Accepted, Id, ServerConfig, ServerEvent, ServerSession};

/// The store of the scripted node.
const STORE: &str = "11111111-1111-4111-8111-111111111111";

fn config() -> ClientConfig {
    ClientConfig::new("node-01").with_api_key("k")
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// Where the clients of a test connect to.
struct Node {
    dialled: mpsc::UnboundedReceiver<Stream>,
    config: ServerConfig,
    store: &'static str,
}

/// A client, which connects when it is used, and the node it connects to.
fn node(config: &ClientConfig) -> (Client, Node) {
    let (dialled, streams) = mpsc::unbounded_channel();
    let dial: Dial = Arc::new(move |_| {
        let (here, there) = Stream::pair(64 << 10);
        // Without a node there is nobody at the other end.
        let sent = dialled.send(there);
        let refused = || DWCPError::Connection("nobody listens".into());
        Box::pin(std::future::ready(
            sent.map(|()| here).map_err(|_| refused()),
        ))
    });
    let remote = Remote::over(config, Arc::default(), dial).unwrap();
    let node = Node {
        dialled: streams,
        config: ServerConfig::default(),
        store: STORE,
    };
    (Client::remote(remote), node)
}

impl Node {
    /// The next connection, as bytes.
    async fn stream(&mut self) -> Stream {
        self.dialled.recv().await.unwrap()
    }

    /// The next connection, let in.
    async fn peer(&mut self) -> Peer {
        let stream = self.stream().await;
        Peer::accept(stream, self.config.clone(), self.store).await
    }
}

/// The node's end of a connection.
struct Peer {
    stream: Stream,
    session: ServerSession,
    ended: bool,
}

impl Peer {
    fn new(stream: Stream, config: ServerConfig) -> Peer {
        Peer {
            stream,
            session: ServerSession::new(config, now()),
            ended: false,
        }
    }

    async fn accept(stream: Stream, config: ServerConfig, store: &str) -> Peer {
        let mut peer = Peer::new(stream, config);
        let ServerEvent::Auth(auth) = peer.event().await else {
            panic!("a client begins with AUTH");
        };
        assert_eq!(auth.api_key.as_deref(), Some("k"));
        let accepted = Accepted {
            session: "s".into(),
            node: NodeName {
                name: "node-01".into(),
                uuid: store.into(),
                version: "3".into(),
            },
            role: Role::Admin,
            message: "welcome".into(),
        };
        peer.session.accept(accepted, now());
        peer.flush().await;
        peer
    }

    async fn flush(&mut self) {
        let bytes = self.session.transmit().split();
        // A client that has gone is seen when reading.
        let _ = self.stream.write_all(&bytes).await;
    }

    async fn event(&mut self) -> ServerEvent {
        let mut buffer = [0; 4096];
        loop {
            if let Some(event) = self.session.poll_event() {
                return event;
            }
            self.flush().await;
            match self.stream.read(&mut buffer).await {
                Ok(0) | Err(_) if self.ended => return ServerEvent::Close { reason: None },
                Ok(0) | Err(_) => {
                    self.ended = true;
                    self.session.receive_end(now());
                }
                Ok(count) => self.session.receive(&buffer[..count], now()),
            }
        }
    }

    async fn call(&mut self) -> (Id, Action) {
        match self.event().await {
            ServerEvent::Call { id, action, .. } => (id, action),
            other => panic!("a call was expected: {other:?}"),
        }
    }

    async fn subscribed(&mut self) -> (Id, Subscription) {
        match self.event().await {
            ServerEvent::Subscribe {
                id, subscription, ..
            } => {
                self.session.opened(&id);
                (id, subscription)
            }
            other => panic!("a stream was expected: {other:?}"),
        }
    }

    async fn reply(&mut self, id: &Id, result: Result<Outcome>) {
        self.session.reply(id, result.as_ref());
        self.flush().await;
    }

    async fn item(&mut self, id: &Id, item: Item) {
        assert!(self.session.item(id, &item), "no credit");
        self.flush().await;
    }

    /// Answers calls until the client has gone; how many there were.
    async fn answer(mut self, mut with: impl FnMut(&Action) -> Result<Outcome>) -> usize {
        let mut calls = 0;
        loop {
            match self.event().await {
                ServerEvent::Call { id, action, .. } => {
                    calls += 1;
                    self.session.reply(&id, with(&action).as_ref());
                }
                ServerEvent::Close { .. } => return calls,
                _ => {}
            }
        }
    }
}

fn vm(id: &str) -> VM {
    VM {
        id: id.to_owned(),
        ..VM::default()
    }
}

fn unavailable() -> DWCPError {
    DWCPError::Unavailable("busy".into())
}
