//! Streams: credit, windows, and ids.

use serde_json::{Value, json};

use super::support::raw::{Frame, Raw, frame, kind, request};
use super::{OPERATOR, Target, VIEWER, is_error};

fn credit(items: u32, bytes: u32) -> Vec<u8> {
    [items.to_be_bytes(), bytes.to_be_bytes()].concat()
}

fn watch(vm_id: &str, credit: u32) -> Value {
    json!({"operation": "watch", "vm_id": vm_id, "credit": credit})
}

/// Opens a stream; its id, when it is open.
fn open(raw: &mut Raw, payload: &Value) -> String {
    let id = raw.ask(kind::STREAM, payload);
    let opened = raw.next();
    assert_eq!((opened.kind, &opened.id), (kind::OK, &id), "{opened:?}");
    id
}

/// The only frame that is left before the end: the error of a connection.
fn is_violation(mut raw: Raw, what: &str) {
    let answers = raw.rest();
    let errors: Vec<_> = answers
        .iter()
        .map(|frame| (frame.kind, frame.id.as_str(), frame.error()))
        .collect();
    assert_eq!(
        errors,
        [(kind::ERROR, "", Some(0x1001))],
        "{what}: {answers:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_sends_no_more_items_than_were_credited() {
    let target = Target::start().await;
    let vms = target.vms();
    let id = &target.stopped.id;
    let mut raw = Raw::extended(&target.address, Some(VIEWER));
    let stream = open(&mut raw, &watch(id, 1));
    assert_eq!(raw.next().json()["type"], "current");
    for round in 0..5 {
        let labels = std::collections::BTreeMap::from([("round".to_owned(), round.to_string())]);
        vms.update(id, Some(labels), None).await.unwrap();
    }
    // All there is to be sent is sent before the answer to this.
    let health = raw.call(kind::HEALTH, &json!({}));
    assert_eq!(health.kind, kind::OK);
    raw.send(&frame(kind::CREDIT, &stream, &2_u32.to_be_bytes()));
    let mut rounds = Vec::new();
    for _ in 0..2 {
        let item = raw.next();
        assert_eq!((item.kind, &item.id), (kind::ITEM, &stream), "{item:?}");
        rounds.push(item.json()["vm"]["labels"]["round"].clone());
    }
    assert_eq!(rounds, ["0", "1"]);
    assert_eq!(raw.call(kind::HEALTH, &json!({})).kind, kind::OK);
    // More than can be counted is as much as can be counted.
    for _ in 0..3 {
        raw.send(&frame(kind::CREDIT, &stream, &u32::MAX.to_be_bytes()));
    }
    for round in ["2", "3", "4"] {
        assert_eq!(raw.next().json()["vm"]["labels"]["round"], round);
    }
    raw.send(&frame(kind::CANCEL, &stream, b""));
    is_error(&raw.next(), 0x100d, "");
    // Twice is once, and what there is not is ignored.
    raw.send(&frame(kind::CANCEL, &stream, b""));
    raw.send(&frame(kind::CANCEL, "no-such-id", b""));
    raw.send(&frame(kind::CREDIT, &stream, &1_u32.to_be_bytes()));
    raw.send(&frame(kind::DATA, &stream, b"x"));
    assert_eq!(raw.call(kind::HEALTH, &json!({})).kind, kind::OK);
    raw.half_close();
    assert_eq!(raw.rest(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credit_that_is_none_ends_the_connection() {
    let target = Target::start().await;
    let before = target.state().await;
    let id = &target.running.id;
    let payloads: &[(&str, Vec<u8>)] = &[
        ("nothing", vec![]),
        ("three bytes", vec![0, 0, 1]),
        ("five bytes", vec![0, 0, 0, 1, 0]),
        ("nine bytes", vec![0; 9]),
        ("bytes for a stream of items", credit(1, 1)),
    ];
    for (what, payload) in payloads {
        let mut raw = Raw::extended(&target.address, Some(VIEWER));
        let stream = open(&mut raw, &watch(id, 0));
        raw.send(&frame(kind::CREDIT, &stream, payload));
        is_violation(raw, what);
    }
    // Data on a stream that takes none.
    let mut raw = Raw::extended(&target.address, Some(OPERATOR));
    let stream = open(&mut raw, &watch(id, 0));
    raw.send(&frame(kind::DATA, &stream, b"x"));
    is_violation(raw, "data on a watch");
    assert_eq!(target.state().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_beyond_the_window_ends_the_connection() {
    let target = Target::start().await;
    let before = target.state().await;
    let console = json!({"operation": "console", "vm_id": target.running.id, "credit": 0});
    let mut raw = Raw::extended(&target.address, Some(OPERATOR));
    let stream = open(&mut raw, &console);
    let window = raw.next();
    assert_eq!((window.kind, &window.id), (kind::CREDIT, &stream));
    assert_eq!(window.payload, credit(0, 64 << 10));
    raw.send(&frame(kind::DATA, &stream, &vec![b'x'; (64 << 10) + 1]));
    is_violation(raw, "one byte more");

    // Before the window was granted, there is none.
    let mut raw = Raw::extended(&target.address, Some(OPERATOR));
    raw.send(
        &[
            request(kind::STREAM, "s", &console),
            frame(kind::DATA, "s", b"x"),
        ]
        .concat(),
    );
    let answers = raw.rest();
    let last = answers.last().map(Frame::error);
    assert_eq!(last, Some(Some(0x1001)), "{answers:?}");
    assert_eq!(target.state().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_has_so_many_streams_and_no_more() {
    let target = Target::start().await;
    let mut raw = Raw::extended(&target.address, Some(VIEWER));
    let most = 100;
    let streams: Vec<String> = (0..most)
        .map(|_| open(&mut raw, &watch(&target.running.id, 0)))
        .collect();
    let refused = raw.call(kind::STREAM, &watch(&target.running.id, 0));
    is_error(&refused, 0x1003, "max_streams");
    // One that ends makes room for one.
    raw.send(&frame(kind::CANCEL, &streams[0], b""));
    is_error(&raw.next(), 0x100d, "");
    open(&mut raw, &watch(&target.running.id, 0));
    // The base profile has none.
    let mut base = Raw::base(&target.address, Some(VIEWER));
    let refused = base.call(kind::STREAM, &watch(&target.running.id, 0));
    is_error(&refused, 0x1009, "");
}
