//! The entry of fuzzing, and of a test that does the same with fewer bytes.

use std::mem::discriminant;

use super::{
    AuthReply, ItemKind, Profile, Reply, Request, Style, decode_credit, decode_error, decode_item,
    decode_outcome, encode_base_error, encode_base_refusal, encode_credit, encode_error,
    encode_item, encode_outcome,
};
use crate::action::Action;
use crate::wire::frame::FrameType;

const TYPES: [FrameType; 18] = [
    FrameType::Auth,
    FrameType::Vm,
    FrameType::Stream,
    FrameType::Migration,
    FrameType::Health,
    FrameType::Metrics,
    FrameType::Config,
    FrameType::Snapshot,
    FrameType::Ok,
    FrameType::Error,
    FrameType::Item,
    FrameType::End,
    FrameType::Cancel,
    FrameType::Credit,
    FrameType::Ping,
    FrameType::Pong,
    FrameType::GoAway,
    FrameType::Data,
];

const REPLIES: [Reply; 13] = [
    Reply::Done,
    Reply::VM,
    Reply::VMs,
    Reply::Page,
    Reply::Metrics,
    Reply::Guest,
    Reply::Migration,
    Reply::Migrations,
    Reply::Plan,
    Reply::Snapshot,
    Reply::Snapshots,
    Reply::Health,
    Reply::Node,
];

const ITEMS: [ItemKind; 4] = [
    ItemKind::Event,
    ItemKind::Metrics,
    ItemKind::Migration,
    ItemKind::Console,
];

/// Reads the bytes behind the first one, which chooses as what, in every way there is. What can be
/// read can be written and read again; a request is the same then.
///
/// # Panics
///
/// Where that is not so.
pub(crate) fn fuzz_messages(data: &[u8]) {
    let Some((&choice, payload)) = data.split_first() else {
        return;
    };
    let choose = |count: usize| usize::from(choice) % count;
    let frame_type = TYPES[choose(TYPES.len())];
    for profile in [Profile::Base, Profile::Extended] {
        match Request::decode(frame_type, payload, profile) {
            Ok(request) => fuzz_request(&request),
            Err(error) => {
                let refusal = encode_base_refusal(&error, frame_type, payload);
                assert!(!refusal.is_empty());
                decode_error(&encode_error(&error, "1"));
            }
        }
    }
    fuzz_reply(REPLIES[choose(REPLIES.len())], payload);
    fuzz_item(ITEMS[choose(ITEMS.len())], payload);
    if let Ok(credit) = decode_credit(payload) {
        let again = decode_credit(&encode_credit(credit.0, credit.1));
        assert_eq!(again, Ok(credit));
    }
    if let Ok(reply) = AuthReply::decode(payload) {
        let again = reply
            .encode()
            .and_then(|payload| AuthReply::decode(&payload));
        assert_eq!(again, Ok(reply));
    }
    decode_error(payload);
}

fn fuzz_request(request: &Request) {
    if matches!(request, Request::Peer) {
        return;
    }
    let again = request
        .encode()
        .and_then(|(frame_type, payload)| Request::decode(frame_type, &payload, Profile::Extended));
    assert_eq!(again.as_ref(), Ok(request));
    if let Request::Call { action, .. } = request {
        fuzz_action(action);
    }
}

fn fuzz_action(action: &Action) {
    // Neither of them panics.
    let error = action.validate().err();
    let error = error.unwrap_or(crate::error::DWCPError::Internal(String::new()));
    assert!(!encode_base_error(&error, Some(action)).is_empty());
}

fn fuzz_reply(reply: Reply, payload: &[u8]) {
    let Ok(outcome) = decode_outcome(reply, payload) else {
        return;
    };
    for (create, camel_case) in [(false, false), (true, true)] {
        let base = encode_outcome(&outcome, Style::Base { create, camel_case });
        assert!(base.is_ok_and(|base| !base.is_empty()));
    }
    // Fractions are read to the last digit but one, so the two need not be equal.
    let again = encode_outcome(&outcome, Style::Extended)
        .and_then(|payload| decode_outcome(reply, &payload));
    assert_eq!(
        again.map(|again| discriminant(&again)),
        Ok(discriminant(&outcome))
    );
}

fn fuzz_item(kind: ItemKind, payload: &[u8]) {
    if let Ok(item) = decode_item(kind, payload) {
        let again = encode_item(&item).and_then(|payload| decode_item(kind, &payload));
        assert_eq!(
            again.map(|again| discriminant(&again)),
            Ok(discriminant(&item))
        );
    }
}
