//! Peers that try to make a node hold more than its limits: measured on a node in a process of its own.

use std::collections::BTreeSet;
use std::time::Duration;

use dwcp::Backend;
use serde_json::json;

use super::support::node_process::{Idle, NodeProcess, python_is_there};
use super::support::raw::{Raw, extended_auth, frame, kind, request};
use super::support::skipped;
use super::{ADMIN, is_served};

const MIB: u64 = 1 << 20;

fn node() -> NodeProcess {
    NodeProcess::start(Backend::Sim, &["--api-key", &format!("{ADMIN}:admin")])
}

/// Uses it once, so that what is made only once is there.
fn warm(node: &NodeProcess) {
    for _ in 0..4 {
        is_served(&node.address, Some(ADMIN));
    }
}

/// 5,000 connections that say nothing, from another process, after each was let in.
#[test]
fn five_thousand_idle_connections_cost_little() {
    let test = "five_thousand_idle_connections_cost_little";
    if let Err(reason) = python_is_there() {
        return skipped(test, &reason);
    }
    let wanted = 5000;
    for (arguments, key) in [
        (&[] as &[&str], None),
        (&["--api-key", "the-key-of-an-admin:admin"], Some(ADMIN)),
    ] {
        let node = NodeProcess::start(Backend::Sim, arguments);
        for _ in 0..4 {
            is_served(&node.address, key);
        }
        let before = node.resident();
        let idle = Idle::open(&node.address, wanted, key);
        let cost = node.resident().saturating_sub(before);
        eprintln!("{} idle connections: {} KiB", idle.open, cost >> 10);
        assert!(idle.open > 0);
        let allowed = 64 * MIB * idle.open as u64 / wanted as u64;
        assert!(
            cost <= allowed,
            "{} connections cost {cost} bytes, where {allowed} are the limit",
            idle.open
        );
        // The next one is served as well.
        is_served(&node.address, key);
        if idle.open < wanted {
            let reason = format!("this host allows {} descriptors only", idle.open);
            skipped(&format!("{test} with {wanted}"), &reason);
        }
    }
}

/// Who announces much and sends little costs what was sent.
#[test]
fn a_slow_sender_holds_what_it_sent() {
    let node = node();
    warm(&node);
    let before = node.resident();
    let connections = 200;
    let long = |mut bytes: Vec<u8>, length: u32| {
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        let payload = length - 16 - 1;
        bytes[17..21].copy_from_slice(&payload.to_be_bytes());
        bytes
    };
    let mut slow: Vec<Raw> = Vec::new();
    for _ in 0..connections {
        // A stranger that announces all it may, and a peer that does.
        let mut raw = Raw::connect(&node.address);
        raw.send(&long(frame(kind::AUTH, "a", b"{"), 64 << 10));
        slow.push(raw);
        let mut raw = Raw::extended(&node.address, Some(ADMIN));
        raw.send(&long(frame(kind::VM, "a", b"{"), 16 << 20));
        slow.push(raw);
    }
    // A byte at a time, of an AUTH that is good in the end.
    let auth = request(kind::AUTH, "a", &extended_auth(Some(ADMIN)));
    let mut drop_by_drop = Raw::connect(&node.address);
    for byte in &auth[..auth.len() - 1] {
        drop_by_drop.send(&[*byte]);
        for raw in slow.iter_mut().take(4) {
            raw.send(b" ");
        }
    }
    is_served(&node.address, Some(ADMIN));
    let cost = node.resident().saturating_sub(before);
    // 16 KiB each is far from the 3 GiB that they announced.
    assert!(cost <= (connections * 2 * 16) << 10, "{cost} bytes");
    drop_by_drop.send(&auth[auth.len() - 1..]);
    assert_eq!(drop_by_drop.next().json()["success"], true);
}

/// Strangers that send all that one may, but for the last byte.
#[test]
fn strangers_hold_no_more_than_their_limit() {
    let node = node();
    warm(&node);
    let before = node.resident();
    let connections: u64 = 200;
    let auth = frame(kind::AUTH, "a", &vec![b' '; (64 << 10) - 17]);
    let mut strangers = Vec::new();
    for _ in 0..connections {
        let mut raw = Raw::connect(&node.address);
        raw.send(&auth[..auth.len() - 1]);
        strangers.push(raw);
    }
    is_served(&node.address, Some(ADMIN));
    let cost = node.resident().saturating_sub(before);
    // 64 KiB each, as a buffer that grows by doubling has it.
    let allowed = connections * (128 << 10) + 8 * MIB;
    assert!(cost <= allowed, "{cost} bytes, where {allowed} are allowed");
}

/// A byte of AUTH now and then: others are served meanwhile. Where there is time, as long as it takes:
/// whoever does not finish AUTH in 30 s is sent away without a frame.
#[test]
fn a_slow_auth_ends_in_time() {
    let long = std::env::var_os("DWCP_LONG").is_some();
    let node = node();
    let mut silent = Raw::connect(&node.address);
    let mut slow = Raw::connect(&node.address);
    let patience = Some(Duration::from_secs(40));
    silent.stream.set_read_timeout(patience).unwrap();
    slow.stream.set_read_timeout(patience).unwrap();
    let auth = request(kind::AUTH, "a", &extended_auth(Some(ADMIN)));
    let pause = Duration::from_secs(u64::from(long));
    for byte in &auth[..35] {
        if !slow.try_send(&[*byte]) {
            break;
        }
        std::thread::sleep(pause);
        is_served(&node.address, Some(ADMIN));
    }
    if long {
        assert_eq!(silent.rest(), []);
        assert!(slow.next_or_end().is_err());
    } else {
        slow.send(&auth[35..]);
        assert_eq!(slow.next().json()["success"], true);
        silent.send(&auth);
        assert_eq!(silent.next().json()["success"], true);
    }
}

/// Readers that ask for lists of nearly 16 MiB, again and again, and read nothing.
#[test]
fn a_reader_that_never_reads_is_held_to_its_limits() {
    let node = node();
    let mut raw = Raw::extended(&node.address, Some(ADMIN));
    let notes: serde_json::Map<_, _> = (0..4)
        .map(|number| (format!("note-{number}"), json!("x".repeat(63 << 10))))
        .collect();
    for number in 0..30 {
        let config = json!({
            "name": format!("big-{number}"), "memory": 32 << 20, "cpus": 1, "annotations": notes,
        });
        let create = json!({"operation": "create", "request": {"config": config}});
        let answer = raw.call(kind::VM, &create);
        assert_eq!(answer.kind, kind::OK, "{}", answer.text());
    }
    let list = json!({"operation": "list"});
    let bytes = raw.call(kind::VM, &list).payload.len() as u64;
    assert!(bytes > 14 * MIB, "a list has {bytes} bytes");
    let mut base = Raw::base(&node.address, Some(ADMIN));
    assert!(base.call(kind::VM, &list).json().is_array());
    let before = node.resident();

    let hostile: u64 = 4;
    let mut readers = Vec::new();
    let mut asked = BTreeSet::new();
    for number in 0..hostile {
        let mut raw = match number % 2 {
            0 => Raw::extended(&node.address, Some(ADMIN)),
            _ => Raw::base(&node.address, Some(ADMIN)),
        };
        for _ in 0..500 {
            let id = raw.ask(kind::VM, &list);
            // Those of the one that reads in the end.
            if number == 0 {
                asked.insert(id);
            }
        }
        readers.push(raw);
    }
    for raw in &readers {
        // The node has come to what it asked for.
        assert_eq!(raw.stream.peek(&mut [0]).unwrap(), 1);
    }
    // Others are served meanwhile.
    for _ in 0..4 {
        is_served(&node.address, Some(ADMIN));
    }
    let cost = node.resident().saturating_sub(before);
    let peak = node.peak().saturating_sub(before);
    eprintln!("never reads: {} MiB, peak {} MiB", cost / MIB, peak / MIB);
    // Each has 8 MiB that wait, and the answer that went beyond it, which is written twice and as a
    // buffer that grows by doubling has it; and the allocator keeps some of what was given back. Held
    // without a limit it would be 30 GiB.
    let allowed = hostile * (8 * MIB + 3 * bytes) + 64 * MIB;
    assert!(cost <= allowed, "{cost} bytes, where {allowed} are allowed");

    // Who reads after all gets an answer to each: the list, or that too much waits to be read.
    let mut late = readers.swap_remove(0);
    for _ in 0..500 {
        let answer = late.next();
        assert!(asked.remove(&answer.id), "{} was not asked", answer.id);
        match answer.error() {
            None => assert!(answer.payload.len() as u64 >= bytes - MIB),
            Some(code) => assert_eq!(code, 0x1003, "{}", answer.text()),
        }
    }
}
