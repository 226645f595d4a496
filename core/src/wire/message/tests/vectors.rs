//! The vectors of `core/tests/vectors`, read and written.

use serde_json::Value;

use crate::action::Role;
use crate::error::ErrorCode;
use crate::wire::frame::{Frame, FrameType, LENGTH_MAX};
use crate::wire::message::*;

macro_rules! vectors {
    ($file:literal) => {
        serde_json::from_str::<Value>(include_str!(concat!("../../../../tests/vectors/", $file)))
            .unwrap()
    };
}

fn rows(value: &Value) -> &[Value] {
    value.as_array().expect("a list of rows")
}

fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    row[key]
        .as_str()
        .unwrap_or_else(|| panic!("{key} of {row}"))
}

fn bytes(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).unwrap()
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

fn frame_type(row: &Value) -> FrameType {
    match text(row, "type") {
        "auth" => FrameType::Auth,
        "vm" => FrameType::Vm,
        "stream" => FrameType::Stream,
        "migration" => FrameType::Migration,
        "health" => FrameType::Health,
        "metrics" => FrameType::Metrics,
        "config" => FrameType::Config,
        "snapshot" => FrameType::Snapshot,
        "ok" => FrameType::Ok,
        other => panic!("{other}"),
    }
}

#[test]
fn frames() {
    let vectors = vectors!("frames.json");
    for row in rows(&vectors) {
        let hex = text(row, "hex");
        let bytes: Vec<u8> = (0..hex.len() / 2)
            .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
            .collect();
        let frame = Frame::decode(&bytes[4..]).unwrap();
        assert_eq!(frame.frame_type, frame_type(row), "{row}");
        assert_eq!(row["timestamp"], frame.timestamp);
        assert_eq!(&*frame.id, text(row, "id"));
        assert_eq!(&frame.payload[..], text(row, "payload").as_bytes());
        assert_eq!(&frame.encode(LENGTH_MAX).unwrap()[..], &bytes[..], "{row}");
        let extended = Request::decode(frame.frame_type, &frame.payload, Profile::Extended);
        assert!(extended.is_ok(), "{row}: {extended:?}");
    }
}

#[test]
fn requests() {
    let vectors = vectors!("requests.json");
    for row in rows(&vectors) {
        let frame_type = frame_type(row);
        let ours = Request::decode(frame_type, &bytes(&row["extended"]), Profile::Extended)
            .unwrap_or_else(|error| panic!("{error}: {row}"));
        let (written_type, written) = ours.encode().unwrap();
        assert_eq!(written_type, frame_type, "{row}");
        assert_eq!(json(&written), row["extended"], "{row}");
        for base in rows(&row["base"]) {
            for profile in [Profile::Base, Profile::Extended] {
                let read = Request::decode(frame_type, &bytes(base), profile);
                assert_eq!(read.as_ref(), Ok(&ours), "{base}");
            }
        }
        let in_base = Request::decode(frame_type, &bytes(&row["extended"]), Profile::Base);
        if rows(&row["base"]).is_empty() {
            // What the base profile lacks, it lacks by name.
            let error = in_base.expect_err(text(row, "name"));
            let names = error.message();
            assert!(
                names.starts_with("operation: ")
                    || names.starts_with("limit: ")
                    || names.starts_with("page: "),
                "{error}"
            );
        } else {
            assert_eq!(in_base, Ok(ours), "{row}");
        }
    }
}

/// Every operation that is known has a vector, so none can be forgotten by the reader or the writer.
#[test]
fn every_operation_has_a_vector() {
    let vectors = vectors!("requests.json");
    let told: std::collections::BTreeSet<(String, String)> = rows(&vectors)
        .iter()
        .map(|row| {
            (
                text(row, "type").to_owned(),
                text(&row["extended"], "operation").to_owned(),
            )
        })
        .collect();
    for (frame_type, name) in [
        ("vm", FrameType::Vm),
        ("migration", FrameType::Migration),
        ("snapshot", FrameType::Snapshot),
        ("metrics", FrameType::Metrics),
        ("health", FrameType::Health),
        ("stream", FrameType::Stream),
    ]
    .iter()
    .flat_map(|(word, frame_type)| {
        let names = crate::wire::message::decode::names(*frame_type);
        names.map(move |name| (*word, name))
    }) {
        let told = told.contains(&(frame_type.to_owned(), name.to_owned()));
        assert!(told, "{frame_type} {name}");
    }
}

#[test]
fn refusals() {
    let vectors = vectors!("refusals.json");
    for row in rows(&vectors) {
        let profile = match text(row, "profile") {
            "base" => Profile::Base,
            _ => Profile::Extended,
        };
        let (frame_type, payload) = (frame_type(row), bytes(&row["payload"]));
        let error = Request::decode(frame_type, &payload, profile).expect_err("refused");
        let code = error.code().map(ErrorCode::name);
        assert_eq!(code, row["error"].as_str(), "{error}: {row}");
        assert!(
            error.message().starts_with(text(row, "message")),
            "{error}: {row}"
        );
        if let Some(is_text) = row["base_text"].as_bool() {
            let refusal = encode_base_refusal(&error, frame_type, &payload);
            let told: Result<Value, _> = serde_json::from_slice(&refusal);
            assert_eq!(told.is_err(), is_text, "{row}");
        }
    }
}

fn reply(word: &str) -> Reply {
    match word {
        "done" => Reply::Done,
        "vm" => Reply::VM,
        "vms" => Reply::VMs,
        "page" => Reply::Page,
        "metrics" => Reply::Metrics,
        "guest" => Reply::Guest,
        "migration" => Reply::Migration,
        "migrations" => Reply::Migrations,
        "plan" => Reply::Plan,
        "snapshot" => Reply::Snapshot,
        "snapshots" => Reply::Snapshots,
        "health" => Reply::Health,
        "node" => Reply::Node,
        other => panic!("{other}"),
    }
}

#[test]
fn replies() {
    let vectors = vectors!("replies.json");
    let mut styles = [0; 4];
    for row in rows(&vectors) {
        let reply = reply(text(row, "reply"));
        let outcome = decode_outcome(reply, &bytes(&row["extended"]))
            .unwrap_or_else(|error| panic!("{error}: {row}"));
        for (index, (key, style)) in [
            ("extended", Style::Extended),
            ("base", base(false, false)),
            ("base_camel", base(false, true)),
            ("base_create", base(true, false)),
        ]
        .into_iter()
        .enumerate()
        {
            if let Some(expected) = row.get(key) {
                let written = encode_outcome(&outcome, style).unwrap();
                assert_eq!(&json(&written), expected, "{row}");
                styles[index] += 1;
            }
        }
        let half = bytes(&row["extended"]);
        assert!(decode_outcome(reply, &half[..half.len() / 2]).is_err());
    }
    assert!(styles.iter().all(|count| *count > 1), "{styles:?}");
}

const fn base(create: bool, camel_case: bool) -> Style {
    Style::Base { create, camel_case }
}

#[test]
fn errors() {
    let vectors = vectors!("errors.json");
    assert_eq!(rows(&vectors).len(), ErrorCode::ALL.len());
    for row in rows(&vectors) {
        let error = decode_error(&bytes(&row["extended"]));
        assert_eq!(json(&encode_error(&error, "7")), row["extended"]);
        let base = encode_base_error(&error, None);
        assert_eq!(std::str::from_utf8(&base), Ok(text(row, "base_text")));
    }
}

#[test]
fn items() {
    let vectors = vectors!("items.json");
    for row in rows(&vectors) {
        let kind = match text(row, "kind") {
            "event" => ItemKind::Event,
            "metrics" => ItemKind::Metrics,
            _ => ItemKind::Migration,
        };
        let item = decode_item(kind, &bytes(&row["payload"])).unwrap();
        assert_eq!(json(&encode_item(&item).unwrap()), row["payload"]);
    }
}

#[test]
fn auth() {
    let vectors = vectors!("auth.json");
    for row in rows(&vectors["requests"]) {
        let payload = bytes(&row["payload"]);
        let request = Request::decode(FrameType::Auth, &payload, Profile::Base).unwrap();
        let (frame_type, written) = request.encode().unwrap();
        assert_eq!(
            (frame_type, json(&written)),
            (FrameType::Auth, row["payload"].clone())
        );
        let Request::Auth(auth) = request else {
            panic!("{row}");
        };
        assert_eq!(row["extended"], auth.wants_extended());
    }
    for row in rows(&vectors["replies"]) {
        let reply = AuthReply::decode(&bytes(row)).unwrap();
        assert_eq!(json(&reply.encode().unwrap()), *row);
    }
    let extended = AuthReply {
        success: true,
        message: "welcome".into(),
        features: vec![EXTENDED.into()],
        session: Some("s-1".into()),
        node: Some(NodeName {
            name: "node-01".into(),
            uuid: "0a1b2c3d-0000-4000-8000-00000000000c".into(),
            version: "3.0.0".into(),
        }),
        limits: Some(SessionLimits {
            max_frame: 16 << 20,
            max_streams: 100,
            max_inflight: 1024,
        }),
        role: Some(Role::Operator),
        token: None,
    };
    let last = rows(&vectors["replies"]).last().map(bytes).unwrap();
    assert_eq!(AuthReply::decode(&last), Ok(extended));
}
