//! A client that knows the base profile only, written from the protocol's page in another language,
//! against a node in a process of its own: what the SDKs in the field do has to keep working.

#![cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, reason = "a helper of tests fails the test")]

mod support;

use std::path::Path;

use dwcp::Backend;
use support::node_process::{NodeProcess, backends, base_client, python_is_there, said};
use support::skipped;

/// Reaches the node as an operator does, who needs no more for the base operations.
const KEY: &str = "the-key-of-an-operator";
/// By which the two nodes know each other.
const PEER_KEY: &str = "the-key-of-a-peer";

/// Runs the whole story: with a key or without, over TLS or not, on each back end.
async fn story(test: &str, key: bool, tls: bool) {
    if let Err(reason) = python_is_there() {
        return skipped(test, &reason);
    }
    let no_kvm = |reason: &str| skipped(&format!("{test} on KVM"), &reason);
    for backend in backends(no_kvm).await {
        let directory = tempfile::tempdir().unwrap();
        run(backend, key, tls, directory.path());
    }
}

fn run(backend: Backend, key: bool, tls: bool, directory: &Path) {
    let tls_directory = directory.join("tls");
    let tls_directory = tls_directory.to_str().unwrap();
    let authority = directory.join("tls/ca.pem");
    // They share the authority; the first to start makes it.
    let with_tls = |arguments: &mut Vec<String>| {
        if tls {
            arguments.extend(["--tls-dir".into(), tls_directory.into()]);
        }
    };
    let mut arguments: Vec<String> = ["--name", "node-02"].map(String::from).into();
    if key {
        for key in [format!("{PEER_KEY}:node"), format!("{KEY}:operator")] {
            arguments.extend(["--api-key".into(), key]);
        }
    }
    with_tls(&mut arguments);
    let other = NodeProcess::start(backend, &arguments);

    let peer = match key {
        true => format!("node-02={},{PEER_KEY}", other.address),
        false => format!("node-02={}", other.address),
    };
    let data = directory.join("data");
    let data = data.to_str().unwrap();
    let mut arguments: Vec<String> = ["--name", "node-01", "--data-dir", data, "--peer", &peer]
        .map(String::from)
        .into();
    if key {
        arguments.extend(["--api-key".into(), format!("{KEY}:operator")]);
    }
    with_tls(&mut arguments);
    let mut node = NodeProcess::start(backend, &arguments);

    let mut client = base_client("run", &node.address);
    client.args(["--target", "node-02", "--target-address", &other.address]);
    if key {
        client.args(["--key", KEY]);
    }
    if tls {
        client.arg("--encrypt").arg("--ca").arg(&authority);
    }
    let output = client.output().unwrap();
    let (told, complained) = said(&output);
    assert!(output.status.success(), "{backend:?}: {told}\n{complained}");
    let last = told.lines().last().unwrap_or_default();
    let checks = last
        .strip_prefix("OK ")
        .and_then(|rest| rest.strip_suffix(" checks"))
        .map(|number| number.parse::<u32>().unwrap());
    assert!(checks.is_some_and(|checks| checks > 1000), "{told}");
    assert!(node.is_running());
    assert!(node.terminate(), "the node ends well");
    assert!(other.terminate(), "the other node ends well");
}

#[tokio::test]
async fn every_base_operation_over_tcp_without_a_key() {
    story("every_base_operation_over_tcp_without_a_key", false, false).await;
}

#[tokio::test]
async fn every_base_operation_over_tcp_with_a_key() {
    story("every_base_operation_over_tcp_with_a_key", true, false).await;
}

#[tokio::test]
async fn every_base_operation_over_tls_without_a_key() {
    story("every_base_operation_over_tls_without_a_key", false, true).await;
}

#[tokio::test]
async fn every_base_operation_over_tls_with_a_key() {
    story("every_base_operation_over_tls_with_a_key", true, true).await;
}
