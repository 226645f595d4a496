//! A client against a service that is written out here.

use std::pin::Pin;
use std::sync::Mutex;
use std::task::Poll;
use std::time::Duration;

use futures::StreamExt;

use super::*;
use crate::action::Item;
use crate::model::{VM, VMConfig, VMEvent, VMMetrics};

/// Answers with what it was given, and remembers what it was asked.
#[derive(Debug, Default)]
struct Scripted {
    asked: Mutex<Vec<String>>,
    sinks: Mutex<Vec<ItemSink>>,
}

impl Service for Scripted {
    fn call(&self, action: Action) -> BoxFuture<Result<Outcome>> {
        self.asked.lock().unwrap().push(action.name().to_owned());
        let answer = match action {
            Action::Get { .. } => Ok(Outcome::VM(Box::default())),
            Action::List { .. } => Ok(Outcome::VMs(vec![VM::default()])),
            Action::Start { .. } => Err(DWCPError::VMNotFound("x".into())),
            Action::Metrics { .. } => Ok(Outcome::Metrics(Box::default())),
            _ => Ok(Outcome::Done),
        };
        Box::pin(std::future::ready(answer))
    }

    fn subscribe(&self, subscription: Subscription) -> BoxFuture<Result<ItemStream>> {
        let (sink, items) = ItemStream::channel();
        self.asked
            .lock()
            .unwrap()
            .push(subscription.name().to_owned());
        self.sinks.lock().unwrap().push(sink);
        Box::pin(std::future::ready(Ok(items)))
    }

    fn is_open(&self) -> bool {
        true
    }
}

fn client() -> (Arc<Scripted>, Client) {
    let service = Arc::new(Scripted::default());
    (Arc::clone(&service), Client::of(service))
}

#[tokio::test]
async fn answers_are_unpacked_and_counted() {
    let (service, client) = client();
    let vms = client.vm();
    assert_eq!(vms.get("x").await, Ok(VM::default()));
    assert_eq!(vms.list([("env", "prod")]).await.unwrap().len(), 1);
    assert_eq!(
        vms.get_metrics("x", Duration::from_secs(1)).await,
        Ok(VMMetrics::default())
    );
    vms.stop("x", true).await.unwrap();
    let error = vms.start("x").await.unwrap_err();
    assert_eq!(error, DWCPError::VMNotFound("x".into()));
    // The kind of an answer is checked.
    let error = vms.create(config()).await.unwrap_err();
    assert!(
        matches!(&error, DWCPError::Protocol(text) if text.contains("with Done")),
        "{error}"
    );
    let asked = service.asked.lock().unwrap().join(" ");
    assert_eq!(asked, "get list get_metrics stop start create");
    let metrics = client.metrics();
    assert_eq!((metrics.messages_sent, metrics.messages_received), (6, 6));
    assert_eq!((metrics.errors_total, metrics.connections_total), (2, 1));
}

fn config() -> VMConfig {
    VMConfig::builder().name("web").build().unwrap()
}

#[tokio::test]
async fn what_is_never_allowed_is_not_sent() {
    let (service, client) = client();
    let error = client.vm().create(VMConfig::default()).await.unwrap_err();
    assert!(error.message().starts_with("name:"), "{error}");
    let error = client.vm().stream_metrics("x", Duration::ZERO).await;
    assert!(error.unwrap_err().message().starts_with("interval:"));
    assert!(service.asked.lock().unwrap().is_empty());
    assert_eq!(client.metrics().messages_sent, 0);
}

#[tokio::test]
async fn a_closed_client_says_so() {
    let (_, client) = client();
    let other = client.clone();
    assert!(client.is_connected() && client.is_authenticated());
    client.close().await;
    assert!(!other.is_connected() && !other.is_authenticated());
    let error = other.vm().get("x").await.unwrap_err();
    assert!(matches!(error, DWCPError::Connection(_)), "{error}");
}

#[tokio::test]
async fn a_stream_keeps_the_error_that_ended_it() {
    let (service, client) = client();
    let mut events = client.vm().watch("x").await.unwrap();
    let sink = service.sinks.lock().unwrap().pop().unwrap();
    sink.send(Ok(Item::Event(Box::default()))).await.unwrap();
    sink.send(Err(DWCPError::Unavailable("gone".into())))
        .await
        .unwrap();
    assert_eq!(events.next().await, Some(VMEvent::default()));
    assert_eq!(events.error(), None);
    assert_eq!(events.next().await, None);
    assert_eq!(events.next().await, None, "it stays ended");
    assert_eq!(events.error(), Some(DWCPError::Unavailable("gone".into())));
    assert!(sink.is_closed());
}

#[tokio::test]
async fn dropping_a_stream_ends_its_producer_and_a_stream_is_bounded() {
    let (service, client) = client();
    let figures = client
        .vm()
        .stream_metrics("x", Duration::from_secs(1))
        .await
        .unwrap();
    let sink = service.sinks.lock().unwrap().pop().unwrap();
    let mut sent = 0;
    while sink.try_send(Ok(Item::Metrics(Box::default()))).is_ok() {
        sent += 1;
    }
    assert!((1..100).contains(&sent), "{sent}");
    drop(figures);
    sink.closed().await;
}

#[tokio::test]
async fn an_item_of_another_kind_ends_a_stream() {
    let (service, client) = client();
    let mut events = client.vm().watch_all(()).await.unwrap();
    let sink = service.sinks.lock().unwrap().pop().unwrap();
    sink.send(Ok(Item::Metrics(Box::default()))).await.unwrap();
    assert_eq!(events.next().await, None);
    assert!(matches!(events.error(), Some(DWCPError::Protocol(_))));
}

#[tokio::test]
async fn a_console_reads_and_writes() {
    let (service, client) = client();
    let mut console = client.vm().console("x").await.unwrap();
    let sink = service.sinks.lock().unwrap().pop().unwrap();
    sink.send(Ok(Item::Console("login: ".into())))
        .await
        .unwrap();
    drop(sink);
    console.write(b"root\n").await.unwrap();
    console.writer().write(b"x").await.unwrap();
    assert_eq!(console.next().await.unwrap(), "login: ");
    assert_eq!(console.next().await, None);
    assert_eq!(console.error(), None);
}

#[tokio::test]
async fn what_cannot_be_connected_to_is_said() {
    let new = |config| async { Client::new(config).await.unwrap_err() };
    let error = new(ClientConfig::new("wss://node")).await;
    assert!(matches!(error, DWCPError::Unsupported(_)), "{error}");
    let error = new(ClientConfig::new("localhost").with_pool_size(0)).await;
    assert!(error.message().starts_with("pool_size:"), "{error}");
    // A port that was free a moment ago.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let config = ClientConfig::new("127.0.0.1").with_port(port);
    let error = new(config.with_tls_enabled(false)).await;
    assert!(matches!(error, DWCPError::Connection(_)), "{error}");
}

#[test]
fn streams_are_unpin_and_clients_go_anywhere() {
    fn check<T: Unpin + Send>() {}
    check::<Events>();
    check::<MetricsStream>();
    check::<MigrationProgress>();
    check::<Console>();
    check::<Items>();
    fn shared<T: Clone + Send + Sync>() {}
    shared::<Client>();
    shared::<VMClient>();
    // A stream with nothing to say is pending, not ended.
    let (service, client) = client();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let mut items = runtime
        .block_on(client.subscribe(Subscription::Console {
            vm_id: "x".into(),
            writer: None,
        }))
        .unwrap();
    let waker = std::task::Waker::noop();
    let polled = futures_core::Stream::poll_next(
        Pin::new(&mut items),
        &mut std::task::Context::from_waker(waker),
    );
    assert!(matches!(polled, Poll::Pending));
    drop(service);
}
