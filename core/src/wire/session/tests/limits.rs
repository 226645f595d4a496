//! Credit, windows, counts and times: what a peer may make a node hold, and for how long.

use super::*;

const CONSOLE: &str = r#"{"operation":"console","vm_id":"v","credit":2}"#;

fn open_stream(raw: &mut Raw, name: &str) -> Id {
    raw.send(FrameType::Stream, name, CONSOLE);
    assert!(matches!(raw.event(), Some(ServerEvent::Subscribe { .. })));
    let stream = id(name);
    raw.server.opened(&stream);
    assert_eq!(raw.frames().len(), 2);
    stream
}

#[test]
fn items_stop_where_the_credit_does() {
    let mut raw = Raw::extended();
    raw.send(FrameType::Stream, "s", CONSOLE);
    raw.events();
    let stream = id("s");
    assert!(!raw.server.item(&stream, &printed("too early")));
    assert_eq!(raw.server.credit(&stream), 0);
    raw.server.opened(&stream);
    assert_eq!(raw.server.credit(&stream), 2);
    assert!(raw.server.item(&stream, &printed("1")));
    assert!(raw.server.item(&stream, &printed("2")));
    assert!(!raw.server.item(&stream, &printed("3")));
    assert_eq!(raw.event(), None);

    raw.send_bytes(&encoded(FrameType::Credit, "s", &[0, 0, 0, 1]));
    let again = ServerEvent::Credit { id: stream.clone() };
    assert_eq!(raw.event(), Some(again));
    raw.send_bytes(&encoded(FrameType::Credit, "s", &[0xff; 4]));
    assert_eq!(raw.event(), None, "there was credit");
    assert_eq!(raw.server.credit(&stream), u32::MAX);
    // None of it is left once the items are not wanted.
    raw.send(FrameType::Cancel, "s", "");
    assert_eq!(raw.server.credit(&stream), 0);
    raw.send_bytes(&encoded(FrameType::Credit, "s", &[0, 0, 0, 9]));
    assert_eq!(raw.server.credit(&stream), 0);
    raw.server.end(&stream, None);
    raw.send_bytes(&encoded(FrameType::Credit, "s", &[0, 0, 0, 9]));
    assert_eq!(raw.events().len(), 1);
    let types: Vec<_> = raw.frames().iter().map(|frame| frame.frame_type).collect();
    assert_eq!(
        types[2..],
        [FrameType::Item, FrameType::Item, FrameType::End]
    );
}

#[test]
fn what_was_lost_is_told_without_credit() {
    let mut pair = Pair::connected();
    let watch = Subscription::Watch {
        vm_id: None,
        filters: Default::default(),
        since: None,
        store: None,
    };
    let stream = pair.client.subscribe(&watch).unwrap();
    pair.drive();
    let id = id(&stream.to_string());
    pair.server.opened(&id);
    let event = |event_type| {
        let lost = matches!(event_type, VMEventType::Lost);
        Item::Event(Box::new(crate::model::VMEvent {
            event_type,
            lost: lost.then(Default::default),
            ..Default::default()
        }))
    };
    for _ in 0..8 {
        assert!(pair.server.item(&id, &event(VMEventType::Started)));
    }
    assert!(!pair.server.item(&id, &event(VMEventType::Started)));
    assert!(pair.server.item(&id, &event(VMEventType::Lost)));
    pair.drive();
    assert_eq!(pair.client_events.len(), 10);
    // It is none of the items that make half a window.
    pair.client.consumed(stream, 4);
    pair.drive();
    assert_eq!(pair.server.credit(&id), 4);
}

#[test]
fn there_are_so_many_calls_and_streams() {
    let mut raw = Raw::extended();
    for call in 0..5 {
        raw.send(FrameType::Health, &format!("c{call}"), "{}");
    }
    assert_eq!(raw.events().len(), 4);
    assert_eq!(raw.error("c4"), 0x1003);
    for stream in 0..3 {
        raw.send(FrameType::Stream, &format!("s{stream}"), CONSOLE);
    }
    assert_eq!(raw.events().len(), 2);
    assert_eq!(raw.error("s2"), 0x1003);
    raw.server.reply(&id("c0"), Ok(&Outcome::Done));
    raw.server.end(&id("s0"), None);
    raw.send(FrameType::Health, "c4", "{}");
    raw.send(FrameType::Stream, "s2", CONSOLE);
    assert_eq!(raw.events().len(), 2);
}

#[test]
fn big_requests_are_read_one_after_the_other() {
    let mut raw = Raw::new(ServerConfig {
        max_frame: 16 << 20,
        auth_required: false,
        max_inflight: 100,
        ..config()
    });
    // Space is as good as anything that JSON lets be.
    let mut health = b"{}".to_vec();
    health.resize(1 << 20, b' ');
    let mut sent = 0;
    while raw.server.wants_input() {
        raw.send_bytes(&encoded(FrameType::Health, &sent.to_string(), &health));
        sent += 1;
        assert!(sent < 100, "nothing stops it");
    }
    assert_eq!(sent, REQUEST_BYTES_MAX >> 20);
    assert_eq!(raw.events().len(), sent);
    raw.server.reply(&id("0"), Ok(&Outcome::Done));
    assert!(raw.server.wants_input());
}

#[test]
fn what_is_typed_has_a_window() {
    let mut raw = Raw::extended();
    let stream = open_stream(&mut raw, "s");
    let half = vec![b'x'; DATA_WINDOW as usize / 2];
    for _ in 0..2 {
        raw.send_bytes(&encoded(FrameType::Data, "s", &half));
    }
    assert_eq!(raw.events().len(), 2);
    // Nothing is granted that did not come, and nothing before it is worth a frame.
    raw.server.data_taken(&stream, half.len() - 1);
    assert!(raw.frames().is_empty());
    raw.server.data_taken(&stream, 1);
    let granted = raw.frames().remove(0);
    assert_eq!(granted.frame_type, FrameType::Credit);
    assert_eq!(granted.payload, [0, 0, 0, 0, 0, 0, 0x80, 0]);
    raw.server.data_taken(&stream, usize::MAX);
    assert_eq!(raw.frames().remove(0).payload, [0, 0, 0, 0, 0, 0, 0x80, 0]);
    raw.server.data_taken(&stream, usize::MAX);
    assert!(raw.frames().is_empty());
    for _ in 0..2 {
        raw.send_bytes(&encoded(FrameType::Data, "s", &half));
    }
    assert_eq!(raw.events().len(), 2);
    raw.send_bytes(&encoded(FrameType::Data, "s", b"x"));
    assert_eq!(raw.error(""), 0x1001);
    assert!(matches!(raw.closed(), Some(DWCPError::Protocol(_))));
}

#[test]
fn nothing_is_typed_where_nothing_can_be() {
    let progress = r#"{"operation":"migration_progress","migration_id":"m","credit":2}"#;
    for (frame_type, request) in [(FrameType::Stream, progress), (FrameType::Health, "{}")] {
        let mut raw = Raw::extended();
        raw.send(frame_type, "1", request);
        raw.server.opened(&id("1"));
        assert_eq!(raw.events().len(), 1);
        raw.frames();
        raw.send(FrameType::Data, "1", "x");
        assert_eq!(raw.error(""), 0x1001);
        assert!(matches!(raw.closed(), Some(DWCPError::Protocol(_))));
    }
    // A stream's end may have crossed it.
    let mut raw = Raw::extended();
    let stream = open_stream(&mut raw, "s");
    raw.server.end(&stream, None);
    raw.send(FrameType::Data, "s", "x");
    assert_eq!(raw.event(), None);
}

#[test]
fn who_does_not_read_is_not_read() {
    let mut raw = Raw::extended();
    let stream = open_stream(&mut raw, "s");
    raw.send_bytes(&encoded(FrameType::Credit, "s", &[0xff; 4]));
    let line = printed(&"y".repeat(1000));
    while raw.server.credit(&stream) > 0 {
        assert!(raw.server.item(&stream, &line));
    }
    let waiting = raw.server.outbound();
    assert!((64 << 10..66 << 10).contains(&waiting), "{waiting}");
    assert!(!raw.server.item(&stream, &line));
    assert!(!raw.server.wants_input());
    raw.send(FrameType::Health, "1", "{}");
    assert_eq!(raw.event(), None);
    // It has a minute, counted from when the session learns the time.
    raw.pass(Duration::from_secs(59));
    assert_eq!(raw.event(), None);
    // Whoever reads again is served again.
    raw.frames();
    let events = raw.events();
    assert_eq!(events.len(), 2);
    assert_eq!(events[1], ServerEvent::Credit { id: stream.clone() });
    assert!(raw.server.wants_input());

    while raw.server.item(&stream, &line) {}
    raw.pass(Duration::from_secs(61));
    let reason = raw.closed();
    assert!(matches!(
        reason,
        Some(DWCPError::ResourceLimit(_) | DWCPError::Connection(_))
    ));
}

#[test]
fn who_reads_slowly_is_there() {
    let mut raw = Raw::extended();
    raw.send(FrameType::Vm, "1", r#"{"operation":"list"}"#);
    assert_eq!(raw.events().len(), 1);
    let vms = vec![crate::model::VM::default(); 500];
    raw.server.reply(&id("1"), Ok(&Outcome::VMs(vms)));
    assert!(raw.server.outbound() > 200 << 10);
    for _ in 0..50 {
        raw.pass(Duration::from_secs(25));
        raw.server.transmit().advance(1000);
        assert_eq!(raw.event(), None);
    }
    assert!(!raw.server.wants_input(), "there is less than expected");
    raw.pass(Duration::from_secs(61));
    assert!(matches!(raw.closed(), Some(DWCPError::ResourceLimit(_))));
}

#[test]
fn answers_that_change_nothing_are_not_piled_up() {
    let mut raw = Raw::new(ServerConfig {
        max_frame: 100 << 10,
        max_inflight: 100,
        auth_required: false,
        ..config()
    });
    for call in 0..100 {
        let list = r#"{"operation":20,"filters":null}"#;
        raw.send(FrameType::Vm, &call.to_string(), list);
    }
    let calls = raw.events();
    assert_eq!(calls.len(), 100);
    let vms = Outcome::VMs(vec![crate::model::VM::default(); 30]);
    for call in 0..100 {
        raw.server.reply(&id(&call.to_string()), Ok(&vms));
        assert!(raw.server.outbound() < 300 << 10);
    }
    let frames = raw.frames();
    assert_eq!(frames.len(), 100);
    let refused = frames
        .iter()
        .filter(|frame| frame.payload.starts_with(b"DWCP error 0x1003"));
    assert!(refused.count() > 10);
}

#[test]
fn a_frame_that_was_begun_is_due() {
    let mut raw = Raw::extended();
    let frame = encoded(FrameType::Health, "1", &vec![b' '; 1000]);
    raw.send_bytes(&frame[..10]);
    // A few bytes now and then keep nobody waiting longer.
    for end in 11..16 {
        raw.pass(Duration::from_secs(11));
        assert_eq!(raw.event(), None);
        raw.send_bytes(&frame[end - 1..end]);
        raw.frames();
    }
    raw.pass(Duration::from_secs(5));
    assert!(matches!(raw.closed(), Some(DWCPError::Timeout(_))));
    assert_eq!(raw.error(""), 0x1006);

    // Every frame has its own time.
    let mut raw = Raw::extended();
    raw.send_bytes(&frame[..10]);
    for _ in 0..5 {
        raw.pass(Duration::from_secs(25));
        raw.send_bytes(&frame[10..]);
        assert_eq!(raw.events().len(), 0);
        assert_eq!(raw.error("1"), 0x1001);
        raw.send_bytes(&frame[..10]);
    }
}

#[test]
fn a_silent_peer_is_asked_and_given_up() {
    let mut pair = Pair::connected();
    // Both answer, for hours.
    pair.pass(Duration::from_secs(7200));
    assert!(pair.client_events.is_empty() && pair.server_events.is_empty());

    let mut raw = Raw::extended();
    raw.pass(Duration::from_secs(30));
    assert_eq!(raw.frame().0, FrameType::Ping);
    raw.pass(Duration::from_secs(30));
    assert_eq!(raw.frame().0, FrameType::Ping);
    // Anything is an answer.
    raw.send(FrameType::Cancel, "x", "");
    raw.pass(Duration::from_secs(60));
    assert_eq!(raw.frames().len(), 2);
    assert_eq!(raw.event(), None);
    raw.pass(Duration::from_secs(30));
    assert!(matches!(raw.closed(), Some(DWCPError::Connection(_))));
    assert!(raw.frames().is_empty());
}

#[test]
fn a_ping_is_answered_as_it_is() {
    let mut raw = Raw::extended();
    raw.send(FrameType::Ping, "p", "how are you");
    let pong = (FrameType::Pong, "p".to_owned(), "how are you".to_owned());
    assert_eq!(raw.frame(), pong);
    raw.send(FrameType::Pong, "q", "fine");
    assert!(raw.frames().is_empty());
    // PINGs alone fill nothing: they are not read while their answers are not.
    let ping = encoded(FrameType::Ping, "p", &[b'x'; 64]).repeat(10_000);
    raw.send_bytes(&ping);
    assert!(raw.server.outbound() < 65 << 10);
    assert!(!raw.server.wants_input());
}

#[test]
fn an_idle_connection_holds_next_to_nothing() {
    let mut raw = Raw::extended();
    let long = encoded(FrameType::Health, "1", &vec![b' '; 500 << 10]);
    for piece in long.chunks(16 << 10) {
        raw.send_bytes(piece);
    }
    raw.frames();
    for call in 0..4 {
        raw.send(FrameType::Health, &call.to_string(), "{}");
        raw.events();
        raw.server.reply(&id(&call.to_string()), Ok(&Outcome::Done));
    }
    raw.frames();
    assert!(raw.server.is_idle());
    assert!(raw.server.transmit().capacity() <= 64 << 10);
    assert!(std::mem::size_of::<ServerSession>() < 1024);
}
