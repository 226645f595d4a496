//! A node in this process.

use std::ffi::{CString, c_char};
use std::mem::MaybeUninit;
use std::time::Duration;

use dwcp_bindings_support::options::NodeOptions;
use dwcp_bindings_support::{NodeHandle, Result};
use serde_json::{Value, json};

use crate::args::{handle, optional_text, text, timeout};
use crate::client::dwcp_client;
use crate::cq::Given;
use crate::document::dwcp_document;
use crate::error::{DWCP_OK, c_text, dwcp_error};
use crate::give::{give, guard, quietly, wait, wanted};
use crate::reply::{dwcp_op, dwcp_reply_to, start};

/// A node: it runs VMs in this process. Any thread may use it.
pub struct dwcp_node {
    handle: NodeHandle,
    name: CString,
    uuid: CString,
    address: Option<CString>,
}

impl dwcp_node {
    async fn start(options: NodeOptions) -> Result<dwcp_node> {
        let handle = NodeHandle::start(options).await?;
        let node = handle.node()?;
        let (name, uuid) = (c_text(node.name()), c_text(node.uuid()));
        let address = handle.address()?.map(|address| c_text(&address));
        Ok(dwcp_node {
            handle,
            name,
            uuid,
            address,
        })
    }
}

fn node_options(document: Option<&dwcp_document>) -> Result<NodeOptions> {
    let options = handle(document, "options")?.json()?;
    NodeOptions::from_json(options.to_string().as_bytes())
}

/// Starts a node. The options are a document with `name`, and as far as they are to differ from the
/// defaults: `backend` ("kvm", "sim"), `data_dir`, `disk_dir`, `listen` (a list of "address:port" and
/// "unix:/path"), `api_keys` (a list of `name`, `key`, `role`), `tls` (`dir`, or `certificate`, `key` and
/// `authority`), `insecure`, `peers` (name to address, or to `address` and `credential`), `labels`, `limits`
/// (`max_vms`, `max_memory`, `max_cpus`, `max_streams`, `max_connections`, `max_inflight`,
/// `max_migrations_out`, `max_migrations_in`), `default_image`, `event_ring`, `peer_timeout` (such as "10s").
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_node_start(
    options: Option<&dwcp_document>,
    out: Option<&mut MaybeUninit<Option<Box<dwcp_node>>>>,
    error: Option<&mut MaybeUninit<Option<Box<dwcp_error>>>>,
) -> i32 {
    guard(error, || {
        let out = wanted(out, "out")?;
        give(out, wait(None, dwcp_node::start(node_options(options)?))?)
    })
}

/// The same without waiting: the completion has the node.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_node_start_async(
    options: Option<&dwcp_document>,
    reply_to: Option<&dwcp_reply_to>,
    op: Option<&mut MaybeUninit<Option<Box<dwcp_op>>>>,
    error: Option<&mut MaybeUninit<Option<Box<dwcp_error>>>>,
) -> i32 {
    start(reply_to, op, error, || {
        let options = node_options(options)?;
        Ok(async move { dwcp_node::start(options).await.map(Given::Node) })
    })
}

/// A client that calls the node directly, without a connection.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_node_client(
    node: Option<&dwcp_node>,
    out: Option<&mut MaybeUninit<Option<Box<dwcp_client>>>>,
    error: Option<&mut MaybeUninit<Option<Box<dwcp_error>>>>,
) -> i32 {
    guard(error, || {
        let out = wanted(out, "out")?;
        give(
            out,
            dwcp_client::new(handle(node, "node")?.handle.client()?),
        )
    })
}

/// Its name. Valid until the node is freed; NULL for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_node_name(node: Option<&dwcp_node>) -> *const c_char {
    node.map_or(std::ptr::null(), |node| node.name.as_ptr())
}

/// Its UUID. Valid until the node is freed; NULL for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_node_uuid(node: Option<&dwcp_node>) -> *const c_char {
    node.map_or(std::ptr::null(), |node| node.uuid.as_ptr())
}

/// Where its first listener is, such as "127.0.0.1:9000", or NULL for a node without one. Valid until the
/// node is freed.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_node_address(node: Option<&dwcp_node>) -> *const c_char {
    let address = node.and_then(|node| node.address.as_ref());
    address.map_or(std::ptr::null(), |address| address.as_ptr())
}

/// Adds a peer, to which VMs can be moved, or gives it another address. `credential`, which may be NULL, is
/// the key of role `node` by which the peer knows this node.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_node_add_peer(
    node: Option<&dwcp_node>,
    name: *const c_char,
    address: *const c_char,
    credential: *const c_char,
    error: Option<&mut MaybeUninit<Option<Box<dwcp_error>>>>,
) -> i32 {
    guard(error, || {
        let (name, address) = (text(name, "name")?, text(address, "address")?);
        let credential = optional_text(credential, "credential")?;
        handle(node, "node")?
            .handle
            .add_peer(name, address, credential)?;
        Ok(DWCP_OK)
    })
}

/// Takes and starts no VMs from now on. There is no way back.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_node_drain(
    node: Option<&dwcp_node>,
    error: Option<&mut MaybeUninit<Option<Box<dwcp_error>>>>,
) -> i32 {
    guard(error, || {
        handle(node, "node")?.handle.drain()?;
        Ok(DWCP_OK)
    })
}

/// Names and roles of its keys. Gives a list of `name` and `role`.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_node_keys(
    node: Option<&dwcp_node>,
    out: Option<&mut MaybeUninit<Option<Box<dwcp_document>>>>,
    error: Option<&mut MaybeUninit<Option<Box<dwcp_error>>>>,
) -> i32 {
    guard(error, || {
        let out = wanted(out, "out")?;
        let keys = handle(node, "node")?.handle.keys()?;
        let keys = keys
            .iter()
            .map(|(name, role)| json!({"name": name, "role": role.as_str()}));
        let keys: Vec<Value> = keys.collect();
        give(
            out,
            dwcp_document::of_bytes(Value::from(keys).to_string().into_bytes()),
        )
    })
}

/// Adds a key with a role: "viewer", "operator", "admin" or "node".
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_node_add_key(
    node: Option<&dwcp_node>,
    name: *const c_char,
    key: *const c_char,
    role: *const c_char,
    timeout_ms: u64,
    error: Option<&mut MaybeUninit<Option<Box<dwcp_error>>>>,
) -> i32 {
    guard(error, || {
        let (name, key) = (text(name, "name")?.to_owned(), text(key, "key")?.to_owned());
        let added = handle(node, "node")?
            .handle
            .add_key(name, key, text(role, "role")?)?;
        wait(timeout(timeout_ms), added)?;
        Ok(DWCP_OK)
    })
}

/// Removes a key that was added.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_node_remove_key(
    node: Option<&dwcp_node>,
    name: *const c_char,
    timeout_ms: u64,
    error: Option<&mut MaybeUninit<Option<Box<dwcp_error>>>>,
) -> i32 {
    guard(error, || {
        let name = text(name, "name")?.to_owned();
        wait(
            timeout(timeout_ms),
            handle(node, "node")?.handle.remove_key(name)?,
        )?;
        Ok(DWCP_OK)
    })
}

/// Ends the node: its guests are asked to stop and have so long, then they are ended by force.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_node_shutdown(
    node: Option<&dwcp_node>,
    timeout_ms: u64,
    error: Option<&mut MaybeUninit<Option<Box<dwcp_error>>>>,
) -> i32 {
    guard(error, || {
        let time = Duration::from_millis(timeout_ms);
        wait(None, handle(node, "node")?.handle.shutdown(time)?)?;
        Ok(DWCP_OK)
    })
}

/// The same without waiting.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_node_shutdown_async(
    node: Option<&dwcp_node>,
    timeout_ms: u64,
    reply_to: Option<&dwcp_reply_to>,
    op: Option<&mut MaybeUninit<Option<Box<dwcp_op>>>>,
    error: Option<&mut MaybeUninit<Option<Box<dwcp_error>>>>,
) -> i32 {
    start(reply_to, op, error, || {
        let time = Duration::from_millis(timeout_ms);
        let work = handle(node, "node")?.handle.shutdown(time)?;
        Ok(async move { work.await.map(|()| Given::Nothing) })
    })
}

/// Frees it; NULL is allowed. A node that was not shut down ends at once, and its VMs with it.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_node_free(node: Option<Box<dwcp_node>>) {
    quietly((), || drop(node));
}
