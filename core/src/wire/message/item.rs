//! What streams carry: items, and the credit for them.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::action::{Item, Subscription};
use crate::error::{DWCPError, Result};
use crate::model::{LostEvents, Timestamp, VMEvent, VMEventType};

/// What the items of a stream are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ItemKind {
    Event,
    Metrics,
    Migration,
    Console,
}

impl ItemKind {
    /// What a subscription gives.
    pub(crate) const fn of(subscription: &Subscription) -> ItemKind {
        match subscription {
            Subscription::Watch { .. } => ItemKind::Event,
            Subscription::Metrics { .. } => ItemKind::Metrics,
            Subscription::MigrationProgress { .. } => ItemKind::Migration,
            Subscription::Console { .. } => ItemKind::Console,
        }
    }
}

/// An event that tells of others only: there is no VM to it.
#[derive(Serialize)]
struct Lost<'a> {
    #[serde(rename = "type")]
    event_type: VMEventType,
    #[serde(flatten)]
    lost: LostEvents,
    seq: u64,
    timestamp: Timestamp,
    message: &'a str,
}

/// Writes an item: JSON, but for what a console prints, which is as it is.
pub(crate) fn encode_item(item: &Item) -> Result<Vec<u8>> {
    Ok(match item {
        Item::Event(event) => match event.lost {
            Some(lost) if event.event_type == VMEventType::Lost => serde_json::to_vec(&Lost {
                event_type: VMEventType::Lost,
                lost,
                seq: event.seq,
                timestamp: event.timestamp,
                message: &event.message,
            })?,
            _ => serde_json::to_vec(event)?,
        },
        Item::Metrics(metrics) => serde_json::to_vec(metrics)?,
        Item::Migration(status) => serde_json::to_vec(status)?,
        Item::Console(bytes) => bytes.to_vec(),
    })
}

/// Reads an item.
///
/// # Errors
///
/// `invalid_message` for what is no such item.
pub(crate) fn decode_item(kind: ItemKind, payload: &[u8]) -> Result<Item> {
    Ok(match kind {
        ItemKind::Event => {
            let mut event: VMEvent = read(payload)?;
            if let (0, Some(lost)) = (event.seq, event.lost) {
                // Whoever says no more than what is lost means that all before `next` is known now.
                event.seq = lost.next.saturating_sub(1);
            }
            Item::Event(Box::new(event))
        }
        ItemKind::Metrics => Item::Metrics(Box::new(read(payload)?)),
        ItemKind::Migration => Item::Migration(Box::new(read(payload)?)),
        ItemKind::Console => Item::Console(Bytes::copy_from_slice(payload)),
    })
}

fn read<T: DeserializeOwned>(payload: &[u8]) -> Result<T> {
    serde_json::from_slice(payload)
        .map_err(|error| DWCPError::Protocol(format!("the node's item: {error}")))
}

/// Writes the payload of CREDIT: more items, and more bytes of DATA.
pub(crate) fn encode_credit(items: u32, bytes: u32) -> Vec<u8> {
    let mut payload = items.to_be_bytes().to_vec();
    if bytes > 0 {
        payload.extend_from_slice(&bytes.to_be_bytes());
    }
    payload
}

/// Reads it.
///
/// # Errors
///
/// `invalid_message` for another length than that of one number or two.
pub(crate) fn decode_credit(payload: &[u8]) -> Result<(u32, u32)> {
    match *payload {
        [a, b, c, d] => Ok((u32::from_be_bytes([a, b, c, d]), 0)),
        [a, b, c, d, e, f, g, h] => Ok((
            u32::from_be_bytes([a, b, c, d]),
            u32::from_be_bytes([e, f, g, h]),
        )),
        _ => Err(DWCPError::Protocol(format!(
            "a CREDIT of {} bytes, not 4 or 8",
            payload.len()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{MigrationState, MigrationStatus, VM, VMMetrics, VMState};

    #[test]
    fn every_item_survives() {
        let event = VMEvent {
            seq: 41,
            event_type: VMEventType::Started,
            vm: VM {
                id: "7".into(),
                state: VMState::Running,
                ..VM::default()
            },
            message: "runs".into(),
            ..VMEvent::default()
        };
        let metrics = VMMetrics {
            cpu_usage: 12.5,
            steal_time_us: Some(3),
            ..VMMetrics::default()
        };
        let status = MigrationStatus {
            state: MigrationState::Running,
            round: 2,
            ..MigrationStatus::default()
        };
        for (kind, item) in [
            (ItemKind::Event, Item::Event(Box::new(event))),
            (ItemKind::Metrics, Item::Metrics(Box::new(metrics))),
            (ItemKind::Migration, Item::Migration(Box::new(status))),
            (
                ItemKind::Console,
                Item::Console(Bytes::from_static(b"\xff{")),
            ),
            (ItemKind::Console, Item::Console(Bytes::new())),
        ] {
            let payload = encode_item(&item).unwrap();
            assert_eq!(decode_item(kind, &payload).unwrap(), item);
            if kind != ItemKind::Console {
                for cut in 0..payload.len() {
                    assert!(decode_item(kind, &payload[..cut]).is_err(), "{cut}");
                }
            }
        }
    }

    #[test]
    fn what_is_lost_has_no_vm() {
        let event = VMEvent {
            seq: 39,
            event_type: VMEventType::Lost,
            message: "7 events are no longer kept".into(),
            lost: Some(LostEvents { count: 7, next: 40 }),
            ..VMEvent::default()
        };
        let item = Item::Event(Box::new(event.clone()));
        let payload = encode_item(&item).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&payload).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "type": "lost", "count": 7, "next": 40, "seq": 39,
                "timestamp": event.timestamp.to_string(), "message": event.message,
            })
        );
        assert_eq!(decode_item(ItemKind::Event, &payload).unwrap(), item);
        let least = decode_item(ItemKind::Event, br#"{"type":"lost","count":7,"next":40}"#);
        let Item::Event(least) = least.unwrap() else {
            panic!("an event");
        };
        assert_eq!((least.seq, least.lost), (39, event.lost));
    }

    proptest! {
        #[test]
        fn credit_survives(items: u32, bytes: u32) {
            prop_assert_eq!(decode_credit(&encode_credit(items, bytes)).unwrap(), (items, bytes));
        }

        #[test]
        fn only_one_or_two_numbers_are_credit(payload in proptest::collection::vec(any::<u8>(), 0..12)) {
            let read = decode_credit(&payload);
            prop_assert_eq!(read.is_ok(), matches!(payload.len(), 4 | 8));
        }
    }
}
