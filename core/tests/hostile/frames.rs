//! What is no frame, or none that may come now.

use serde_json::json;

use super::support::raw::{Frame, Raw, extended_auth, frame, kind, request};
use super::{ADMIN, OPERATOR, Target, VIEWER, is_error, is_served};

/// A frame whose length field says this, whatever follows.
fn claiming(length: u32, mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    bytes
}

fn list(id: &str) -> Vec<u8> {
    request(kind::VM, id, &json!({"operation": "list"}))
}

/// A frame, changed at one place.
fn with(mut bytes: Vec<u8>, at: usize, new: &[u8]) -> Vec<u8> {
    bytes[at..at + new.len()].copy_from_slice(new);
    bytes
}

/// Bytes that end a connection, the error they get, and whether their id can be read.
fn refused_bytes(frame_max: u32) -> Vec<(&'static str, Vec<u8>, u32, bool)> {
    let long_id = "x".repeat(129);
    vec![
        ("too long", claiming(frame_max + 1, list("r")), 0x1003, true),
        ("4 GiB", claiming(u32::MAX, list("r")), 0x1003, true),
        ("too short", claiming(15, list("r")), 0x1001, false),
        ("no length", claiming(0, list("r")), 0x1001, false),
        ("version 2", with(list("r"), 4, &[2]), 0x1001, false),
        ("version 0", with(list("r"), 4, &[0]), 0x1001, false),
        ("type 0", frame(0, "r", b"{}"), 0x1001, true),
        ("type 9", frame(9, "r", b"{}"), 0x1001, true),
        ("type 255", frame(255, "r", b"{}"), 0x1001, true),
        (
            "an id too long",
            frame(kind::VM, &long_id, b"{}"),
            0x1001,
            false,
        ),
        (
            "an id that is no text",
            with(list("r"), 16, &[0xff]),
            0x1001,
            false,
        ),
        // The payload's length says one byte more, and one less, than the frame's.
        (
            "a payload too long",
            with(list("r"), 17, &[0, 0, 1, 0]),
            0x1001,
            true,
        ),
        (
            "a payload too short",
            with(list("r"), 17, &[0, 0, 0, 1]),
            0x1001,
            true,
        ),
        // What only a node sends.
        ("OK", frame(kind::OK, "r", b"{}"), 0x1001, true),
        ("ERROR", frame(kind::ERROR, "r", b"{}"), 0x1001, true),
        ("ITEM", frame(kind::ITEM, "r", b"{}"), 0x1001, true),
        ("END", frame(kind::END, "r", b"{}"), 0x1001, true),
        ("GOAWAY", frame(kind::GOAWAY, "r", b"{}"), 0x1001, true),
        (
            "a long PING",
            frame(kind::PING, "r", &[0; 65]),
            0x1001,
            true,
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_frame_ends_its_connection_and_nothing_else() {
    let target = Target::start().await;
    let before = target.state().await;
    let mut neighbour = Raw::extended(&target.address, Some(ADMIN));
    let max = 16 << 20;
    for (what, bytes, code, has_id) in refused_bytes(max) {
        // What comes behind it is not read as anything.
        let destroy = json!({"operation": "destroy", "vm_id": target.stopped.id});
        let bytes = [bytes, request(kind::VM, "after", &destroy)].concat();

        let mut raw = Raw::extended(&target.address, Some(ADMIN));
        raw.send(&bytes);
        let answers = raw.rest();
        let [error] = answers.as_slice() else {
            panic!("{what}: {answers:?}");
        };
        assert_eq!(error.kind, kind::ERROR, "{what}: {error:?}");
        assert_eq!(error.error(), Some(code), "{what}: {}", error.text());
        assert_eq!(error.id, if has_id { "r" } else { "" }, "{what}");

        // A base client is sent no frame that it did not ask for.
        let mut raw = Raw::base(&target.address, Some(ADMIN));
        raw.send(&bytes);
        let answers = raw.rest();
        if has_id {
            let [error] = answers.as_slice() else {
                panic!("{what}: {answers:?}");
            };
            assert_eq!((error.kind, error.id.as_str()), (kind::VM, "r"), "{what}");
            assert_eq!(error.error(), Some(code), "{what}: {}", error.text());
            assert!(error.text().starts_with("DWCP error 0x"), "{what}");
        } else {
            assert_eq!(answers, [], "{what}");
        }
        assert_eq!(neighbour.call(kind::HEALTH, &json!({})).kind, kind::OK);
    }
    assert_eq!(target.state().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_may_send_less() {
    let target = Target::start().await;
    let before = target.state().await;
    // More than 64 KiB is refused before it arrives, from whoever has not said who it is.
    let mut raw = Raw::connect(&target.address);
    raw.send(&claiming((64 << 10) + 1, list("r")));
    let answers = raw.rest();
    assert_eq!(answers.len(), 1, "{answers:?}");
    is_error(&answers[0], 0x1003, "65537");
    // And so is a key of that size, while one that is long and no more is just not known.
    let mut raw = Raw::connect(&target.address);
    let answer = raw.call(
        kind::AUTH,
        &json!({"api_key": "x".repeat(10_000), "version": 3}),
    );
    assert_eq!(answer.json()["success"], false, "{answer:?}");
    assert_eq!(raw.rest(), []);
    assert_eq!(target.state().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_served_without_a_key_and_nothing_after_a_refusal() {
    let target = Target::start().await;
    let before = target.state().await;
    let create = json!({"operation": "create", "request": {"config": {"name": "sneaked-in"}}});
    let refusals = [
        json!({"api_key": "not-the-key-at-all", "version": 3}),
        json!({"api_key": "", "version": 3}),
        json!({"api_key": null, "version": 3}),
        json!({"version": 3}),
        json!({"api_key": OPERATOR, "version": 2}),
        json!({"api_key": 7, "version": 3}),
        json!([]),
        // Close to a key, and in another case.
        json!({"api_key": &OPERATOR[1..], "version": 3}),
        json!({"api_key": OPERATOR.to_uppercase(), "version": 3}),
        extended_auth(Some("not-the-key-at-all")),
        extended_auth(None),
    ];
    for auth in refusals {
        let mut raw = Raw::connect(&target.address);
        let requests = [
            request(kind::AUTH, "a", &auth),
            request(kind::VM, "b", &create),
            request(kind::AUTH, "c", &json!({"api_key": OPERATOR, "version": 3})),
            request(kind::VM, "d", &create),
        ];
        raw.send(&requests.concat());
        let answers = raw.rest();
        let [answer] = answers.as_slice() else {
            panic!("{auth}: {answers:?}");
        };
        assert_eq!((answer.kind, answer.id.as_str()), (kind::VM, "a"));
        assert_eq!(answer.json()["success"], false, "{auth}: {answer:?}");
        assert!(answer.json()["message"].is_string(), "{auth}: {answer:?}");
    }
    // Requests before AUTH.
    for kind in [
        kind::VM,
        kind::STREAM,
        kind::MIGRATION,
        kind::HEALTH,
        kind::CONFIG,
    ] {
        let mut raw = Raw::connect(&target.address);
        raw.send(&request(kind, "r", &create));
        raw.try_send(&request(
            kind::AUTH,
            "a",
            &json!({"api_key": OPERATOR, "version": 3}),
        ));
        let answers = raw.rest();
        let codes: Vec<_> = answers.iter().map(Frame::error).collect();
        assert_eq!(codes, [Some(0x1000)], "type {kind}: {answers:?}");
    }
    assert_eq!(target.state().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn auth_comes_once() {
    let target = Target::start().await;
    let auth = json!({"api_key": ADMIN, "version": 3});
    for mut raw in [
        Raw::base(&target.address, Some(OPERATOR)),
        Raw::extended(&target.address, Some(OPERATOR)),
    ] {
        let answer = raw.call(kind::AUTH, &auth);
        assert_eq!(answer.error(), Some(0x1001), "{}", answer.text());
        // It is still who it was.
        let force = json!({"operation": "resolve", "migration_id": super::NOBODY, "force": true});
        assert_eq!(
            raw.call(kind::VM, &json!({"operation": "list"})).error(),
            None
        );
        let _ = raw.call(kind::MIGRATION, &force);
    }
    // Not after another request either, where none is needed.
    let open = Target::open().await;
    let mut raw = Raw::connect(&open.address);
    assert!(
        raw.call(kind::VM, &json!({"operation": "list"}))
            .json()
            .is_array()
    );
    raw.half_close();
    assert_eq!(raw.rest(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_id_is_not_given_twice() {
    let target = Target::start().await;
    let before = target.state().await;
    // A stream has its id until it ends.
    let mut raw = Raw::extended(&target.address, Some(ADMIN));
    let watch = json!({"operation": "watch", "credit": 0});
    raw.send(&request(kind::STREAM, "one", &watch));
    assert_eq!(raw.next().kind, kind::OK);
    raw.send(&list("one"));
    let answers = raw.rest();
    let errors: Vec<_> = answers.iter().map(|f| (f.id.as_str(), f.error())).collect();
    assert_eq!(errors, [("", Some(0x1001))], "{answers:?}");

    // And so has a call. Two frames in one write are there before the first is answered.
    for extended in [true, false] {
        let mut raw = match extended {
            true => Raw::extended(&target.address, Some(ADMIN)),
            false => Raw::base(&target.address, Some(ADMIN)),
        };
        raw.send(&[list("one"), list("one")].concat());
        let answers = raw.rest();
        assert!(answers.iter().all(|f| f.id.is_empty()), "{answers:?}");
        assert_eq!(answers.len(), usize::from(extended), "{answers:?}");
    }

    // When it was answered it is free.
    let mut raw = Raw::extended(&target.address, Some(ADMIN));
    for _ in 0..3 {
        raw.send(&list("one"));
        assert_eq!(raw.next().kind, kind::OK);
    }
    assert_eq!(target.state().await, before);
}

/// A frame that ends at every byte of it, and then nothing more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncated_frame_does_nothing() {
    let target = Target::start().await;
    let before = target.state().await;
    let destroy = json!({"operation": "destroy", "vm_id": target.stopped.id});
    let bytes = request(kind::VM, "r", &destroy);
    for cut in 0..bytes.len() {
        let mut raw = Raw::base(&target.address, Some(ADMIN));
        raw.send(&bytes[..cut]);
        raw.half_close();
        assert_eq!(raw.rest(), [], "cut at {cut}");
    }
    assert_eq!(target.state().await, before);
}

/// Bytes of a generator with a known seed, what other protocols say first, and payloads that are none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_does_nothing() {
    let target = Target::start().await;
    let before = target.state().await;
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed.to_le_bytes()
    };
    let mut all: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".into(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(),
        b"SSH-2.0-OpenSSH_9.2\r\n".into(),
        [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice(),
            &[7; 500],
        ]
        .concat(),
        vec![0; 4096],
        vec![0xff; 4096],
    ];
    for _ in 0..60 {
        all.push((0..64).flat_map(|_| random()).collect());
        // Behind a head that is right, so that it gets further.
        let payload: Vec<u8> = (0..16).flat_map(|_| random()).collect();
        all.push(frame(random()[0] % 26, "r", &payload));
    }
    for bytes in all {
        for key in [None, Some(ADMIN)] {
            let mut raw = match key {
                None => Raw::connect(&target.address),
                Some(_) => Raw::extended(&target.address, key),
            };
            raw.try_send(&bytes);
            // It may have closed already.
            let _ = raw.stream.shutdown(std::net::Shutdown::Write);
            for answer in raw.rest() {
                let refused = answer.is_refusal();
                assert!(refused || answer.kind == kind::PONG, "{answer:?}");
            }
        }
    }
    is_served(&target.address, Some(VIEWER));
    assert_eq!(target.state().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_that_is_none_is_answered() {
    let target = Target::start().await;
    let before = target.state().await;
    let deep = "[".repeat(100_000);
    let payloads: &[&[u8]] = &[
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b"\xff\xfe",
        b"{\"operation\"",
        deep.as_bytes(),
        br#"{"operation":"get","vm_id":"\ud800"}"#,
        br#"{"operation":18446744073709551616}"#,
    ];
    let kinds = [
        kind::VM,
        kind::STREAM,
        kind::MIGRATION,
        kind::METRICS,
        kind::SNAPSHOT,
    ];
    let mut base = Raw::base(&target.address, Some(ADMIN));
    let mut extended = Raw::extended(&target.address, Some(ADMIN));
    for kind in kinds {
        for payload in payloads {
            for raw in [&mut base, &mut extended] {
                raw.send(&frame(kind, "r", payload));
                let answer = raw.next();
                assert_eq!(answer.id, "r");
                assert!(
                    matches!(answer.error(), Some(0x1001 | 0x1009)),
                    "type {kind}: {payload:.40?}: {}",
                    answer.text()
                );
            }
        }
    }
    // One that is too long for a request, though not for a frame.
    let long = json!({"operation": "get", "vm_id": "x".repeat(3 << 20)});
    for raw in [&mut base, &mut extended] {
        let answer = raw.call(kind::VM, &long);
        assert!(matches!(answer.error(), Some(0x1003)), "{answer:?}");
    }
    assert_eq!(target.state().await, before);
}
