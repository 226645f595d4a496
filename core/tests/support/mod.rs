//! What the tests of the library from outside share.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test binary uses a part, and a helper of tests fails the test"
)]

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write;

use dwcp::{Backend, DWCPError, Node, NodeBuilder};

/// Says that a test, or a part of one, cannot run on this host: one line in the file that
/// `DWCP_SKIP_LOG` names, as CONTRIBUTING.md has it.
pub fn skipped(test: &str, reason: &dyn Display) {
    let Some(path) = std::env::var_os("DWCP_SKIP_LOG") else {
        eprintln!("SKIPPED {test}: {reason}");
        return;
    };
    let line = format!("{test}\t{reason}\n");
    let mut log = OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .unwrap();
    log.write_all(line.as_bytes()).unwrap();
}

/// A node for each back end that this host has, set up by `with`.
pub async fn nodes(test: &str, with: impl Fn(NodeBuilder) -> NodeBuilder) -> Vec<Node> {
    let mut nodes = Vec::new();
    for backend in [Backend::Sim, Backend::Kvm] {
        match with(Node::builder("node-01"))
            .backend(backend)
            .start()
            .await
        {
            Ok(node) => nodes.push(node),
            Err(DWCPError::Unsupported(reason)) if backend == Backend::Kvm => {
                skipped(&format!("{test} on KVM"), &reason);
            }
            Err(error) => panic!("{backend:?}: {error}"),
        }
    }
    nodes
}
