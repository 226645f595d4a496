//! Streams: over one connection, and over many.

use futures::StreamExt;

use super::*;
use crate::model::{
    Filters, LostEvents, MigrationState, MigrationStatus, VMEvent, VMEventType, VMMetrics,
};

/// What a node remembers of its VM `a`: the event with `seq` n is at n − 1.
#[derive(Clone)]
struct Log {
    store: &'static str,
    events: Vec<VMEvent>,
    /// Whether there is a VM to begin with.
    current: bool,
}

impl Log {
    fn new(current: bool) -> Log {
        Log {
            store: STORE,
            events: Vec::new(),
            current,
        }
    }

    fn push(&mut self, count: usize) {
        for _ in 0..count {
            self.events.push(VMEvent {
                seq: self.events.len() as u64 + 1,
                event_type: VMEventType::Updated,
                vm: vm("a"),
                ..VMEvent::default()
            });
        }
    }

    /// Answers what asks for the present state, where it may be missing.
    async fn list(&self, peer: &mut Peer, id: &Id, action: &Action) {
        assert!(matches!(action, Action::List { .. }), "{action:?}");
        let vms = self.current.then(|| vm("a")).into_iter().collect();
        peer.reply(id, Ok(Outcome::VMs(vms))).await;
    }

    /// All that a watch has now, as a node answers it.
    fn open(&self, watch: &Subscription) -> Vec<Item> {
        let Subscription::Watch { since, store, .. } = watch else {
            panic!("a watch was expected: {watch:?}");
        };
        let last = self.events.len() as u64;
        let mut items = Vec::new();
        let from = match since {
            Some(since)
                if *since <= last && store.as_deref().is_none_or(|store| store == self.store) =>
            {
                *since
            }
            refused => {
                if refused.is_some() {
                    items.push(VMEvent {
                        seq: last,
                        event_type: VMEventType::Lost,
                        lost: Some(LostEvents {
                            count: 7,
                            next: last + 1,
                        }),
                        ..VMEvent::default()
                    });
                }
                items.extend(self.current.then(|| VMEvent {
                    seq: last,
                    vm: vm("a"),
                    ..VMEvent::default()
                }));
                last
            }
        };
        items.extend_from_slice(&self.events[usize::try_from(from).unwrap()..]);
        items
            .into_iter()
            .map(|event| Item::Event(Box::new(event)))
            .collect()
    }
}

fn seqs(events: &[VMEvent]) -> Vec<(String, u64)> {
    events
        .iter()
        .map(|event| (event.event_type.to_string(), event.seq))
        .collect()
}

fn updated(seqs: std::ops::RangeInclusive<u64>) -> impl Iterator<Item = (String, u64)> {
    seqs.map(|seq| ("updated".to_owned(), seq))
}

/// Serves a watch over connections that are cut after so many items, within a frame, while the log
/// grows; then to its end.
async fn serve(node: &mut Node, log: &mut Log, cuts: &[usize]) {
    for &cut in cuts {
        let mut peer = node.peer().await;
        let (id, watch) = loop {
            match peer.event().await {
                ServerEvent::Subscribe {
                    id, subscription, ..
                } => break (id, subscription),
                ServerEvent::Call { id, action, .. } => log.list(&mut peer, &id, &action).await,
                other => panic!("a stream was expected: {other:?}"),
            }
        };
        peer.session.opened(&id);
        let items = log.open(&watch);
        for item in items.iter().take(cut) {
            peer.item(&id, item.clone()).await;
        }
        if let Some(next) = items.get(cut) {
            assert!(peer.session.item(&id, next));
            let bytes = peer.session.transmit().split();
            peer.stream
                .write_all(&bytes[..bytes.len() / 2])
                .await
                .unwrap();
        }
        peer.flush().await;
        drop(peer);
        log.push(3);
    }
    let mut peer = node.peer().await;
    loop {
        match peer.event().await {
            ServerEvent::Subscribe {
                id, subscription, ..
            } => {
                peer.session.opened(&id);
                for item in log.open(&subscription) {
                    peer.item(&id, item).await;
                }
                peer.session.end(&id, None);
            }
            ServerEvent::Call { id, action, .. } => log.list(&mut peer, &id, &action).await,
            ServerEvent::Close { .. } => return,
            _ => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_shows_every_event_once_over_many_connections() {
    let (client, mut node) = node(&config());
    let mut log = Log::new(true);
    log.push(5);
    // Before the first item, after it, before and after events, and several times without any.
    let cuts = [
        0, 1, 0, 0, 2, 5, 1, 1, 0, 3, 7, 2, 0, 0, 0, 4, 9, 1, 2, 6, 1,
    ];
    let events = async {
        let mut events = client.vm().watch("a").await.unwrap();
        drop(client);
        let shown: Vec<_> = events.by_ref().collect().await;
        (shown, events.error())
    };
    let ((shown, error), ()) = tokio::join!(events, serve(&mut node, &mut log, &cuts));
    assert_eq!(error, None);
    let last = log.events.len() as u64;
    let shown = seqs(&shown);
    // The first connection was cut before it said anything, and three events later the second began.
    let expected: Vec<_> = std::iter::once(("current".to_owned(), 8))
        .chain(updated(9..=last))
        .collect();
    assert_eq!(shown, expected);
}

#[tokio::test(start_paused = true)]
async fn a_watch_of_all_loses_nothing_that_happens_before_its_first_item() {
    for present in [false, true] {
        let (client, mut node) = node(&config());
        let mut log = Log::new(present);
        log.push(5);
        let events = async {
            let mut events = client.vm().watch_all(()).await.unwrap();
            drop(client);
            events.by_ref().collect::<Vec<_>>().await
        };
        // `lost` with the cursor has come, and nothing else.
        let (shown, ()) = tokio::join!(events, serve(&mut node, &mut log, &[1, 0, 2]));
        let last = log.events.len() as u64;
        let current = present.then(|| ("current".to_owned(), 5));
        let expected: Vec<_> = current.into_iter().chain(updated(6..=last)).collect();
        let mut shown = seqs(&shown);
        // Its present state may be fetched after events that came with the cursor.
        shown.sort_by_key(|(_, seq)| *seq);
        assert_eq!(shown, expected, "{present}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_with_another_store_says_what_is_lost() {
    let (client, mut node) = node(&config());
    let mut log = Log::new(true);
    log.push(5);
    let events = async {
        let mut events = client.vm().watch("a").await.unwrap();
        drop(client);
        events.by_ref().collect::<Vec<_>>().await
    };
    let server = async {
        serve_once(&mut node, &log, 1).await;
        // Installed anew, with less to tell.
        let mut log = Log::new(true);
        log.store = "22222222-2222-4222-8222-222222222222";
        node.store = log.store;
        log.push(2);
        serve(&mut node, &mut log, &[2, 1]).await;
    };
    let (shown, ()) = tokio::join!(events, server);
    let begin = [("current", 5), ("lost", 2), ("current", 2)];
    let expected: Vec<_> = begin
        .map(|(kind, seq)| (kind.to_owned(), seq))
        .into_iter()
        .chain(updated(3..=8))
        .collect();
    assert_eq!(seqs(&shown), expected);
}

/// Serves a watch over one connection that is cut after so many items.
async fn serve_once(node: &mut Node, log: &Log, cut: usize) {
    let mut peer = node.peer().await;
    let (id, watch) = peer.subscribed().await;
    for item in log.open(&watch).into_iter().take(cut) {
        peer.item(&id, item).await;
    }
    peer.flush().await;
}

#[tokio::test(start_paused = true)]
async fn more_items_than_fit_come_as_they_are_taken() {
    let (client, mut node) = node(&config());
    let mut log = Log::new(false);
    log.push(2000);
    let server = async {
        let mut peer = node.peer().await;
        let (id, watch) = peer.subscribed().await;
        let mut held = 0;
        for item in log.open(&watch) {
            while !peer.session.item(&id, &item) {
                held += 1;
                assert_eq!(
                    peer.event().await,
                    ServerEvent::Credit { id: Id::clone(&id) }
                );
            }
        }
        peer.session.end(&id, None);
        peer.flush().await;
        while !matches!(peer.event().await, ServerEvent::Close { .. }) {}
        assert!(held >= 2000 / connection::WINDOW, "{held}");
    };
    let events = async {
        let mut events = client.vm().watch_since(None, (), 0).await.unwrap();
        drop(client);
        events.by_ref().collect::<Vec<_>>().await
    };
    let (shown, ()) = tokio::join!(events, server);
    assert_eq!(seqs(&shown), updated(1..=2000).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn streams_of_a_node_that_drains_go_on_elsewhere_and_others_end_with_its_error() {
    let (client, mut node) = node(&config());
    let events = async {
        let mut events = client.vm().watch_since(None, (), 0).await.unwrap();
        let shown: Vec<_> = events.by_ref().collect().await;
        (shown, events.error())
    };
    let moved = DWCPError::Unavailable("VM a moved to the node node-02".into());
    let server = async {
        let mut log = Log::new(false);
        log.push(2);
        for end in [unavailable(), moved.clone()] {
            let mut peer = node.peer().await;
            let (id, watch) = peer.subscribed().await;
            for item in log.open(&watch) {
                peer.item(&id, item).await;
            }
            if end == unavailable() {
                peer.session.go_away("restart");
            }
            peer.session.end(&id, Some(&end));
            peer.flush().await;
            log.push(2);
        }
    };
    let ((shown, error), ()) = tokio::join!(events, server);
    assert_eq!(seqs(&shown), updated(1..=4).collect::<Vec<_>>());
    assert_eq!(error, Some(moved));
}

#[tokio::test(start_paused = true)]
async fn figures_and_progress_go_on_and_a_console_does_not() {
    let (client, mut node) = node(&config());
    let vms = client.vm();
    let status = |progress, state| MigrationStatus {
        id: "m".into(),
        progress,
        state,
        ..MigrationStatus::default()
    };
    let last = status(100.0, MigrationState::Completed);
    let half = status(50.0, MigrationState::Running);
    let server = async {
        for round in 0..2 {
            let mut peer = node.peer().await;
            for _ in 0..if round == 0 { 3 } else { 2 } {
                let (id, asked) = peer.subscribed().await;
                let items = match asked {
                    Subscription::Metrics { .. } => vec![Item::Metrics(Box::default())],
                    Subscription::Console { .. } => vec![Item::Console("login: ".into())],
                    _ if round == 0 => vec![Item::Migration(Box::new(half.clone()))],
                    _ => vec![&half, &last]
                        .into_iter()
                        .map(|status| Item::Migration(Box::new(status.clone())))
                        .collect(),
                };
                for item in items {
                    peer.item(&id, item).await;
                }
                if round == 1 && matches!(asked, Subscription::Metrics { .. }) {
                    peer.session.end(&id, None);
                }
            }
            peer.flush().await;
        }
    };
    let streams = async {
        let figures = vms
            .stream_metrics("a", Duration::from_secs(1))
            .await
            .unwrap();
        let progress = vms.migration_progress("m").await.unwrap();
        let mut console = vms.console("a").await.unwrap();
        let printed: Vec<_> = console.by_ref().collect().await;
        assert_eq!(printed, ["login: "]);
        let error = console.error().unwrap();
        assert!(
            matches!(&error, DWCPError::Connection(text) if text.contains("console")),
            "{error}"
        );
        assert_eq!(
            figures.collect::<Vec<_>>().await,
            [VMMetrics::default(), VMMetrics::default()]
        );
        // The connection is gone after the last status, and that is the end.
        assert_eq!(
            progress.collect::<Vec<_>>().await,
            [half.clone(), last.clone()]
        );
    };
    tokio::join!(server, streams);
}

#[tokio::test(start_paused = true)]
async fn a_stream_gives_up_when_its_node_stays_away() {
    let (client, mut node) = node(&config().with_request_timeout(Duration::from_secs(20)));
    let server = async {
        serve_once(&mut node, &Log::new(true), 1).await;
        drop(node);
    };
    let events = async {
        let mut events = client.vm().watch("a").await.unwrap();
        let begin = Instant::now();
        assert_eq!(events.by_ref().collect::<Vec<_>>().await.len(), 1);
        assert!(
            begin.elapsed() <= Duration::from_secs(20),
            "{:?}",
            begin.elapsed()
        );
        assert!(matches!(events.error(), Some(DWCPError::Connection(_))));
    };
    tokio::join!(server, events);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_dropped_is_cancelled_and_there_are_so_many_at_a_time() {
    let (client, mut node) = node(&config().with_max_streams(1));
    let server = async {
        let mut peer = node.peer().await;
        let (id, asked) = peer.subscribed().await;
        assert!(
            matches!(&asked, Subscription::Watch { filters, .. } if *filters == Filters::new())
        );
        peer.flush().await;
        assert_eq!(peer.event().await, ServerEvent::Cancel { id });
        let (id, _) = peer.subscribed().await;
        peer.session.end(&id, None);
        peer.flush().await;
        peer
    };
    let streams = async {
        let vms = client.vm();
        let events = vms.watch("a").await.unwrap();
        let error = vms.watch("a").await.unwrap_err();
        assert!(error.message().starts_with("max_streams:"), "{error}");
        drop(events);
        // Its place is free as soon as its task has seen that.
        let mut again = loop {
            match vms.watch("a").await {
                Ok(events) => break events,
                Err(DWCPError::ResourceLimit(_)) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(again.next().await, None);
    };
    tokio::join!(server, streams);
}
