//! Requests: many, repeated, given up.

use super::*;
use crate::model::{Health, VMConfig};
use crate::wire::frame::{Frame, FrameType};

/// What an action asks about, as the answer.
#[allow(clippy::unnecessary_wraps, reason = "an answer")]
fn echo(action: &Action) -> Result<Outcome> {
    Ok(match action.vm_id() {
        Some(id) => Outcome::VM(Box::new(vm(id))),
        None => Outcome::Health(Box::default()),
    })
}

#[tokio::test(start_paused = true)]
async fn five_hundred_calls_share_a_connection() {
    let (client, mut node) = node(&config());
    // Fewer at a time than are asked: the rest waits.
    node.config.max_inflight = 64;
    let server = tokio::spawn(async move {
        let peer = node.peer().await;
        peer.answer(echo).await
    });
    let calls = (0..500).map(|number| {
        let vms = client.vm();
        async move {
            let id = format!("vm-{number}");
            assert_eq!(vms.get(&id).await.unwrap().id, id);
        }
    });
    futures::future::join_all(calls).await;
    let metrics = client.metrics();
    assert_eq!(metrics.connections_total, 1);
    assert_eq!(
        (metrics.messages_sent, metrics.messages_received),
        (501, 501)
    );
    assert!(metrics.bytes_sent > 500 * 20 && metrics.bytes_received > metrics.bytes_sent);
    assert_eq!(metrics.errors_total, 0);
    assert!(metrics.last_connected.is_some() && client.is_connected());
    drop(client);
    assert_eq!(
        server.await.unwrap(),
        500,
        "the last clone ends the connection"
    );
}

#[tokio::test(start_paused = true)]
async fn a_pool_has_as_many_connections_as_are_needed() {
    let (client, mut node) = node(&config().with_pool_size(3));
    let vms = client.vm();
    let (one, mut first) = (
        tokio::spawn({
            let vms = vms.clone();
            async move { vms.get("a").await }
        }),
        node.peer().await,
    );
    let (held, _) = first.call().await;
    // While the first is in use, a second is made for later.
    let two = tokio::spawn({
        let vms = vms.clone();
        async move { vms.get("b").await }
    });
    let (other, _) = first.call().await;
    let mut second = node.peer().await;
    while client.metrics().connections_total < 2 {
        tokio::task::yield_now().await;
    }
    let three = tokio::spawn(async move { vms.get("c").await });
    let (id, action) = second.call().await;
    assert_eq!(action.vm_id(), Some("c"));
    second.reply(&id, echo(&action)).await;
    for id in [held, other] {
        first.reply(&id, Ok(Outcome::VM(Box::default()))).await;
    }
    for call in [one, two, three] {
        call.await.unwrap().unwrap();
    }
    assert_eq!(client.metrics().connections_total, 2);
}

#[tokio::test(start_paused = true)]
async fn what_changes_nothing_is_repeated_with_pauses() {
    let (client, mut node) = node(&config());
    let server = tokio::spawn(async move {
        let mut left = 3;
        let peer = node.peer().await;
        peer.answer(|action| match left {
            0 => echo(action),
            _ => {
                left -= 1;
                Err(unavailable())
            }
        })
        .await
    });
    let begin = Instant::now();
    assert_eq!(client.vm().get("a").await.unwrap().id, "a");
    assert!(
        begin.elapsed() <= Duration::from_secs(7),
        "1 + 2 + 4 s at most"
    );
    drop(client);
    assert_eq!(server.await.unwrap(), 4);
}

#[tokio::test(start_paused = true)]
async fn what_changes_something_is_not_and_four_tries_are_enough() {
    let (client, mut node) = node(&config());
    let server = tokio::spawn(async move {
        let peer = node.peer().await;
        peer.answer(|_| Err(unavailable())).await
    });
    assert_eq!(client.vm().start("a").await, Err(unavailable()));
    assert_eq!(client.vm().get("a").await, Err(unavailable()));
    assert_eq!(client.metrics().errors_total, 2);
    drop(client);
    assert_eq!(server.await.unwrap(), 1 + 4);
}

#[tokio::test(start_paused = true)]
async fn a_create_whose_answer_is_lost_is_repeated_with_its_key() {
    let (client, mut node) = node(&config());
    let create = async {
        let config = VMConfig::builder().name("web").build().unwrap();
        client.vm().create(config).await
    };
    let server = async {
        let mut keys = Vec::new();
        for last in [false, true] {
            let mut peer = node.peer().await;
            let (id, action) = peer.call().await;
            keys.push(action.key().unwrap().to_owned());
            if last {
                peer.reply(&id, Ok(Outcome::VM(Box::new(vm("new"))))).await;
            }
        }
        keys
    };
    let (created, keys) = tokio::join!(create, server);
    assert_eq!(created.unwrap().id, "new");
    assert_eq!(keys[0], keys[1]);
    assert_eq!(client.metrics().connections_total, 2);
}

#[tokio::test(start_paused = true)]
async fn what_was_not_sent_is_repeated_whatever_it_is_and_what_was_is_not() {
    let (client, mut node) = node(&config());
    let starts = async {
        let vms = client.vm();
        (vms.start("a").await, vms.start("b").await)
    };
    let server = async {
        // Gone before it has let anybody in.
        drop(node.stream().await);
        let mut peer = node.peer().await;
        let (id, _) = peer.call().await;
        peer.reply(&id, Ok(Outcome::Done)).await;
        let (_, action) = peer.call().await;
        assert_eq!(action.vm_id(), Some("b"));
    };
    let ((first, second), ()) = tokio::join!(starts, server);
    assert_eq!(first, Ok(()));
    assert!(
        matches!(second, Err(DWCPError::Connection(_))),
        "{second:?}"
    );
    assert!(!client.is_connected() && !client.is_authenticated());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_goes_away_finishes_and_the_rest_goes_elsewhere() {
    let (client, mut node) = node(&config());
    let starts = async {
        let (one, other) = (client.vm(), client.vm());
        tokio::join!(one.start("a"), other.start("b"))
    };
    let server = async {
        let mut old = node.peer().await;
        let (first, action) = old.call().await;
        assert_eq!(action.vm_id(), Some("a"));
        // The second had not been begun.
        let (second, _) = old.call().await;
        old.session.go_away("restart");
        old.session.reply(&second, Err(&unavailable()));
        old.flush().await;
        let mut new = node.peer().await;
        let (id, action) = new.call().await;
        assert_eq!(action.vm_id(), Some("b"));
        new.reply(&id, Ok(Outcome::Done)).await;
        old.reply(&first, Ok(Outcome::Done)).await;
        // With its last answer the old connection ends.
        assert_eq!(old.event().await, ServerEvent::Close { reason: None });
        new
    };
    let (starts, _new) = tokio::join!(starts, server);
    assert_eq!(starts, (Ok(()), Ok(())));
    assert!(client.is_connected());
}

#[tokio::test(start_paused = true)]
async fn a_request_ends_in_its_time_and_is_taken_back() {
    let (client, mut node) = node(&config().with_request_timeout(Duration::from_secs(10)));
    let begin = Instant::now();
    let server = async {
        let mut peer = node.peer().await;
        let ServerEvent::Call { id, deadline, .. } = peer.event().await else {
            panic!("a call was expected");
        };
        // The node's own word comes first, where it has one.
        let deadline = deadline.unwrap();
        assert!(deadline < Duration::from_secs(10) && deadline > Duration::from_secs(9));
        assert_eq!(peer.event().await, ServerEvent::Cancel { id });
        assert_eq!(begin.elapsed(), Duration::from_secs(10));
        // Who drops the future takes it back too.
        let (id, _) = peer.call().await;
        assert_eq!(peer.event().await, ServerEvent::Cancel { id });
        peer
    };
    let calls = async {
        let vms = client.vm();
        let error = vms.get("a").await.unwrap_err();
        assert!(
            matches!(&error, DWCPError::Timeout(text) if text.starts_with("get:")),
            "{error}"
        );
        let call = vms.get("b");
        assert!(
            tokio::time::timeout(Duration::from_secs(1), call)
                .await
                .is_err()
        );
    };
    tokio::join!(server, calls);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_final() {
    let (client, mut node) = node(&config());
    let server = async {
        let mut peer = Peer::new(node.stream().await, ServerConfig::default());
        assert!(matches!(peer.event().await, ServerEvent::Auth(_)));
        let error = DWCPError::Authentication("unknown key".into());
        peer.session.refuse(&error, now());
        peer.flush().await;
    };
    let (health, ()) = tokio::join!(client.health(), server);
    let error = health.unwrap_err();
    assert!(
        matches!(&error, DWCPError::Authentication(text) if text.contains("unknown key")),
        "{error}"
    );
    assert!(
        node.dialled.try_recv().is_err(),
        "a second try would be refused too"
    );
    assert_eq!(client.metrics().connections_total, 0);
}

/// Lets a client in as deployed nodes do.
async fn base(stream: &mut Stream) {
    let auth = frame(stream).await;
    assert_eq!(auth.frame_type, FrameType::Auth);
    send(stream, &auth, br#"{"success":true,"message":"welcome"}"#).await;
}

async fn frame(stream: &mut Stream) -> Frame {
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix).await.unwrap();
    let mut body = vec![0; Frame::length(prefix, LENGTH_MAX).unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    Frame::decode(&body).unwrap()
}

async fn send(stream: &mut Stream, request: &Frame, payload: &[u8]) {
    let reply = Frame {
        frame_type: FrameType::Vm,
        payload: payload.to_vec(),
        ..request.clone()
    };
    let bytes = reply.encode(LENGTH_MAX).unwrap();
    stream.write_all(&bytes).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_node_of_the_base_profile_is_refused_unless_it_will_do() {
    let (client, mut refused) = node(&config());
    let server = async {
        let mut stream = refused.stream().await;
        base(&mut stream).await;
        stream
    };
    let (health, _stream) = tokio::join!(client.health(), server);
    assert!(
        matches!(health, Err(DWCPError::Unsupported(_))),
        "{health:?}"
    );

    let (client, mut accepted) = node(&config().with_accept_base(true));
    let server = async {
        let mut stream = accepted.stream().await;
        base(&mut stream).await;
        let request = frame(&mut stream).await;
        send(&mut stream, &request, br#"{"status":"healthy"}"#).await;
        // Such a node does not know keys: what makes something is not repeated.
        frame(&mut stream).await;
        drop(stream);
        assert!(accepted.dialled.try_recv().is_err());
    };
    let calls = async {
        assert!(client.health().await.is_ok());
        let config = VMConfig::builder().name("web").build().unwrap();
        client.vm().create(config).await.unwrap_err()
    };
    let (error, ()) = tokio::join!(calls, server);
    assert!(matches!(error, DWCPError::Connection(_)), "{error}");
    assert!(accepted.dialled.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn closing_ends_everything_once() {
    let (client, mut node) = node(&config());
    let mut watching = tokio::spawn({
        let vms = client.vm();
        async move { vms.watch_all(()).await }
    });
    let mut peer = node.peer().await;
    peer.subscribed().await;
    peer.flush().await;
    let mut events = (&mut watching).await.unwrap().unwrap();
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.health().await })
        })
        .collect();
    for _ in 0..20 {
        peer.call().await;
    }
    client.close().await;
    for call in calls {
        let error: Result<Health> = call.await.unwrap();
        assert!(matches!(error, Err(DWCPError::Connection(_))), "{error:?}");
    }
    assert!(futures::StreamExt::next(&mut events).await.is_none());
    assert!(
        matches!(events.error(), Some(DWCPError::Connection(_))),
        "{:?}",
        events.error()
    );
    assert!(!client.is_connected());
    let error = client.health().await.unwrap_err();
    assert_eq!(error, DWCPError::Connection("the client was closed".into()));
    assert!(node.dialled.try_recv().is_err(), "nothing is repeated");
    // Closing twice is closing.
    client.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_does_not_keep_up_is_left_alone() {
    let (client, mut node) = node(&config().with_retry_attempts(0));
    let server = tokio::spawn(async move {
        let mut answers = 0;
        let peer = node.peer().await;
        peer.answer(|action| {
            answers += 1;
            if answers <= 5 {
                Err(unavailable())
            } else {
                echo(action)
            }
        })
        .await
    });
    let vms = client.vm();
    for _ in 0..5 {
        assert_eq!(vms.get("a").await, Err(unavailable()));
    }
    let error = vms.get("a").await.unwrap_err();
    assert!(error.message().contains("circuit breaker"), "{error}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(vms.get("a").await.unwrap().id, "a");
    drop((vms, client));
    assert_eq!(server.await.unwrap(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_is_noticed() {
    let config = config().with_request_timeout(Duration::from_secs(300));
    let (client, mut node) = node(&config.with_keep_alive_period(Duration::from_secs(10)));
    let begin = Instant::now();
    let server = async {
        let mut peer = node.peer().await;
        peer.call().await;
        // It holds the connection, and neither reads nor writes.
        std::future::pending::<()>().await;
        drop(peer);
    };
    let vms = client.vm();
    let error = tokio::select! {
        error = vms.verify("a") => error.unwrap_err(),
        () = server => unreachable!(),
    };
    assert!(matches!(error, DWCPError::Connection(_)), "{error}");
    assert!(
        begin.elapsed() <= Duration::from_secs(40),
        "{:?}",
        begin.elapsed()
    );
}
