//! A client: connecting, calling, subscribing.

use std::ffi::c_char;
use std::mem::MaybeUninit;
use std::time::Duration;

use dwcp::model::duration;
use dwcp_bindings_support::options::ClientOptions;
use dwcp_bindings_support::{ClientHandle, Failure, Result};
use serde_json::json;

use crate::args::{handle, optional_text, timeout};
use crate::cq::Given;
use crate::document::dwcp_document;
use crate::error::{DWCP_OK, dwcp_error};
use crate::give::{give, guard, quietly, wait, wanted};
use crate::reply::{dwcp_op, dwcp_reply_to, start};
use crate::request::dwcp_request;
use crate::stream::dwcp_stream;

/// A client of a node. Any thread may use it, several at a time.
pub struct dwcp_client(ClientHandle);

impl dwcp_client {
    pub(crate) fn new(handle: ClientHandle) -> dwcp_client {
        dwcp_client(handle)
    }
}

/// How a client reaches its node. Fill it with `dwcp_client_options_init()`, then set what is to differ.
/// NULL and 0 ask for the default, but for `retry_attempts`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct dwcp_client_options {
    /// `sizeof(dwcp_client_options)` as the caller's header has it.
    pub struct_size: usize,
    /// Host name or address, or "unix:/path". NULL: from `DWCP_ADDRESS`.
    pub address: *const c_char,
    /// Port. 0: from `DWCP_PORT`, or else 9000.
    pub port: u16,
    /// Whether the connection is encrypted. Default true.
    pub tls_enabled: bool,
    /// Whether an idle connection is kept alive. Default true.
    pub keep_alive: bool,
    /// How often a request that failed is repeated, where that can do no harm. Default 3.
    pub retry_attempts: u32,
    /// The credential. NULL: from `DWCP_API_KEY`, or else none.
    pub api_key: *const c_char,
    /// File with the certificates (PEM) that the node's is checked against. NULL: from `DWCP_CA_FILE`, or
    /// else the platform's.
    pub ca_file: *const c_char,
    /// The same, as text.
    pub ca_pem: *const c_char,
    /// File with this client's certificate (PEM), and that with its key.
    pub client_cert: *const c_char,
    /// See `client_cert`.
    pub client_key: *const c_char,
    /// Name the node's certificate has to carry. NULL: that in `address`.
    pub server_name: *const c_char,
    /// Longest time for connecting, in milliseconds. Default 30 s.
    pub connect_timeout_ms: u64,
    /// Longest time for a request with all its tries. Default 60 s.
    pub request_timeout_ms: u64,
    /// Pause before the first repetition. Default 1 s.
    pub retry_backoff_ms: u64,
    /// Silence after which a connection is kept alive. Default 30 s.
    pub keep_alive_period_ms: u64,
    /// Most streams open at once. Default 100.
    pub max_streams: u32,
    /// Most connections. Default 1.
    pub pool_size: u32,
    /// What one read takes at most, in bytes. Default 64 KiB.
    pub buffer_size: usize,
}

/// Sets the size and the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dwcp_client_options_init(
    options: *mut dwcp_client_options,
    struct_size: usize,
) {
    if options.is_null() || struct_size < size_of::<usize>() {
        return;
    }
    let mut defaults = dwcp_client_options::NOTHING;
    defaults.struct_size = struct_size;
    let known = struct_size.min(size_of::<dwcp_client_options>());
    // SAFETY: the header has the caller pass a structure of that size; no more than it has is written, and
    // no more than ours has is read.
    unsafe {
        options.cast::<u8>().write_bytes(0, struct_size);
        let defaults = (&raw const defaults).cast::<u8>();
        defaults.copy_to_nonoverlapping(options.cast(), known);
    }
}

impl dwcp_client_options {
    const NOTHING: dwcp_client_options = dwcp_client_options {
        struct_size: size_of::<dwcp_client_options>(),
        address: std::ptr::null(),
        port: 0,
        tls_enabled: true,
        keep_alive: true,
        retry_attempts: 3,
        api_key: std::ptr::null(),
        ca_file: std::ptr::null(),
        ca_pem: std::ptr::null(),
        client_cert: std::ptr::null(),
        client_key: std::ptr::null(),
        server_name: std::ptr::null(),
        connect_timeout_ms: 0,
        request_timeout_ms: 0,
        retry_backoff_ms: 0,
        keep_alive_period_ms: 0,
        max_streams: 0,
        pool_size: 0,
        buffer_size: 0,
    };

    fn options(&self) -> Result<ClientOptions> {
        if self.struct_size < size_of::<dwcp_client_options>() {
            return Err(Failure::argument(
                "options: struct_size is too small: use dwcp_client_options_init()",
            ));
        }
        let time = |millis: u64| match millis {
            0 => None,
            millis => Some(duration::format(Duration::from_millis(millis))),
        };
        let options = json!({
            "address": optional_text(self.address, "address")?,
            "port": self.port,
            "tls_enabled": self.tls_enabled,
            "keep_alive": self.keep_alive,
            "retry_attempts": self.retry_attempts,
            "api_key": optional_text(self.api_key, "api_key")?,
            "ca_file": optional_text(self.ca_file, "ca_file")?,
            "ca_pem": optional_text(self.ca_pem, "ca_pem")?,
            "client_cert": optional_text(self.client_cert, "client_cert")?,
            "client_key": optional_text(self.client_key, "client_key")?,
            "server_name": optional_text(self.server_name, "server_name")?,
            "connect_timeout": time(self.connect_timeout_ms),
            "request_timeout": time(self.request_timeout_ms),
            "retry_backoff": time(self.retry_backoff_ms),
            "keep_alive_period": time(self.keep_alive_period_ms),
            "max_streams": self.max_streams,
            "pool_size": self.pool_size,
            "buffer_size": self.buffer_size,
        });
        ClientOptions::from_json(options.to_string().as_bytes())
    }
}

fn connect(
    options: Option<&dwcp_client_options>,
) -> Result<impl Future<Output = Result<dwcp_client>> + Send + use<>> {
    let options = handle(options, "options")?.options()?;
    Ok(async move { Ok(dwcp_client(ClientHandle::connect(options).await?)) })
}

/// Connects to a node.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_client_connect(
    options: Option<&dwcp_client_options>,
    out: Option<&mut MaybeUninit<Option<Box<dwcp_client>>>>,
    error: Option<&mut MaybeUninit<Option<Box<dwcp_error>>>>,
) -> i32 {
    guard(error, || {
        let out = wanted(out, "out")?;
        give(out, wait(None, connect(options)?)?)
    })
}

/// The same without waiting: the completion has the client.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_client_connect_async(
    options: Option<&dwcp_client_options>,
    reply_to: Option<&dwcp_reply_to>,
    op: Option<&mut MaybeUninit<Option<Box<dwcp_op>>>>,
    error: Option<&mut MaybeUninit<Option<Box<dwcp_error>>>>,
) -> i32 {
    start(reply_to, op, error, || {
        let work = connect(options)?;
        Ok(async move { work.await.map(Given::Client) })
    })
}

fn call(
    client: Option<&dwcp_client>,
    request: Option<Box<dwcp_request>>,
) -> Result<impl Future<Output = Result<dwcp_document>> + Send + use<>> {
    let request = request.ok_or_else(|| Failure::argument("request: is NULL"))?;
    let action = request.action()?;
    let work = handle(client, "client")?.0.call(action)?;
    Ok(async move { Ok(dwcp_document::of_bytes(work.await?.to_json()?)) })
}

/// Asks the node, waits for the answer at most so long (`DWCP_NO_TIMEOUT`: as the options of the client
/// say), and gives it. Takes the request, whatever comes of it. `out` may be NULL where the answer does not
/// matter.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_client_call(
    client: Option<&dwcp_client>,
    request: Option<Box<dwcp_request>>,
    timeout_ms: u64,
    out: Option<&mut MaybeUninit<Option<Box<dwcp_document>>>>,
    error: Option<&mut MaybeUninit<Option<Box<dwcp_error>>>>,
) -> i32 {
    guard(error, || {
        let answer = wait(timeout(timeout_ms), call(client, request)?)?;
        match out {
            Some(out) => give(out, answer),
            None => Ok(DWCP_OK),
        }
    })
}

/// The same without waiting: the completion has the answer as its document.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_client_call_async(
    client: Option<&dwcp_client>,
    request: Option<Box<dwcp_request>>,
    reply_to: Option<&dwcp_reply_to>,
    op: Option<&mut MaybeUninit<Option<Box<dwcp_op>>>>,
    error: Option<&mut MaybeUninit<Option<Box<dwcp_error>>>>,
) -> i32 {
    start(reply_to, op, error, || {
        let work = call(client, request)?;
        Ok(async move { work.await.map(Given::Document) })
    })
}

fn subscribe(
    client: Option<&dwcp_client>,
    request: Option<Box<dwcp_request>>,
) -> Result<impl Future<Output = Result<dwcp_stream>> + Send + use<>> {
    let request = request.ok_or_else(|| Failure::argument("request: is NULL"))?;
    let subscription = request.subscription()?;
    let work = handle(client, "client")?.0.subscribe(subscription)?;
    Ok(async move { work.await.map(dwcp_stream::new) })
}

/// Opens a stream. Takes the request, whatever comes of it.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_client_subscribe(
    client: Option<&dwcp_client>,
    request: Option<Box<dwcp_request>>,
    timeout_ms: u64,
    out: Option<&mut MaybeUninit<Option<Box<dwcp_stream>>>>,
    error: Option<&mut MaybeUninit<Option<Box<dwcp_error>>>>,
) -> i32 {
    guard(error, || {
        let out = wanted(out, "out")?;
        give(out, wait(timeout(timeout_ms), subscribe(client, request)?)?)
    })
}

/// The same without waiting: the completion has the stream.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_client_subscribe_async(
    client: Option<&dwcp_client>,
    request: Option<Box<dwcp_request>>,
    reply_to: Option<&dwcp_reply_to>,
    op: Option<&mut MaybeUninit<Option<Box<dwcp_op>>>>,
    error: Option<&mut MaybeUninit<Option<Box<dwcp_error>>>>,
) -> i32 {
    start(reply_to, op, error, || {
        let work = subscribe(client, request)?;
        Ok(async move { work.await.map(Given::Stream) })
    })
}

/// Whether requests can reach the node.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_client_is_connected(client: Option<&dwcp_client>) -> bool {
    quietly(false, || {
        client.is_some_and(|client| client.0.is_connected())
    })
}

/// Whether the node has accepted the client.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_client_is_authenticated(client: Option<&dwcp_client>) -> bool {
    quietly(false, || {
        client.is_some_and(|client| client.0.is_authenticated())
    })
}

/// What it has sent and received since it was made. Gives `ClientMetrics`.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_client_metrics(
    client: Option<&dwcp_client>,
    out: Option<&mut MaybeUninit<Option<Box<dwcp_document>>>>,
    error: Option<&mut MaybeUninit<Option<Box<dwcp_error>>>>,
) -> i32 {
    guard(error, || {
        let out = wanted(out, "out")?;
        let metrics = handle(client, "client")?.0.metrics()?;
        let json = serde_json::to_vec(&metrics).map_err(dwcp::DWCPError::from)?;
        give(out, dwcp_document::of_bytes(json))
    })
}

/// Ends the connection. What is under way ends with `DWCP_ERR_CONNECTION`.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_client_close(
    client: Option<&dwcp_client>,
    timeout_ms: u64,
    error: Option<&mut MaybeUninit<Option<Box<dwcp_error>>>>,
) -> i32 {
    guard(error, || {
        wait(timeout(timeout_ms), handle(client, "client")?.0.close()?)?;
        Ok(DWCP_OK)
    })
}

/// The same without waiting.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_client_close_async(
    client: Option<&dwcp_client>,
    reply_to: Option<&dwcp_reply_to>,
    op: Option<&mut MaybeUninit<Option<Box<dwcp_op>>>>,
    error: Option<&mut MaybeUninit<Option<Box<dwcp_error>>>>,
) -> i32 {
    start(reply_to, op, error, || {
        let work = handle(client, "client")?.0.close()?;
        Ok(async move { work.await.map(|()| Given::Nothing) })
    })
}

/// Frees it; NULL is allowed. What is under way keeps what it needs, and ends once.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_client_free(client: Option<Box<dwcp_client>>) {
    quietly((), || drop(client));
}
