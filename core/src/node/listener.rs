//! The node's listeners: where peers reach it to move VMs here.
//!
//! Only loopback addresses in this version: there are no credentials yet, and a node without them
//! refuses to listen elsewhere. A connection is a hand-over's control connection or one of its bulk
//! channels, as its first frame says; either goes to a thread of the migration it belongs to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::{Shared, migrations};
use crate::error::{DWCPError, Result};
use crate::migration::{FRAME_MAX, Greeting};
use crate::model::Timestamp;
use crate::wire::frame::{Frame, FrameType};

/// Time for a connection to say what it is.
const GREETING_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections that have not said what they are: each holds at most one frame.
const GREETING_MAX: usize = 64;

/// Binds the addresses; the sockets, and where the first of them listens.
///
/// # Errors
///
/// `unsupported` for what is no loopback address, `connection` for one that cannot be bound.
pub(super) async fn bind(addresses: &[String]) -> Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for text in addresses {
        let address: SocketAddr = text.parse().map_err(|_| {
            DWCPError::Config(format!(
                "listen: `{text}` is no address and port, such as 127.0.0.1:9000"
            ))
        })?;
        if !address.ip().is_loopback() {
            return Err(DWCPError::Unsupported(format!(
                "listen: {address} is not a loopback address; beyond this host, a node needs \
                 credentials and TLS, which are not built yet"
            )));
        }
        let listener = TcpListener::bind(address).await;
        listeners.push(listener.map_err(|e| {
            DWCPError::Connection(format!("listen: cannot listen on {address}: {e}"))
        })?);
    }
    Ok(listeners)
}

/// Serves a listener until the task is aborted.
pub(super) async fn serve(shared: Arc<Shared>, listener: TcpListener) {
    let waiting = Arc::new(Semaphore::new(GREETING_MAX));
    loop {
        // When there are too many, the next ones wait in the kernel's queue.
        let Ok(permit) = Arc::clone(&waiting).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    if let Err(error) = greet(&shared, stream).await {
                        tracing::debug!(%peer, %error, "a connection was refused");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                // Most likely out of descriptors: give those that are open a chance to end.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Reads the first frame and hands the connection to whom it is for.
async fn greet(shared: &Arc<Shared>, mut stream: TcpStream) -> Result<()> {
    let silent = |_| DWCPError::Timeout("it did not say what it is".into());
    let frame = tokio::time::timeout(GREETING_TIMEOUT, read_frame(&mut stream));
    let greeted = match frame.await.map_err(silent)? {
        Ok(frame) => Greeting::parse(&frame),
        Err(error) => Err(error),
    };
    match greeted {
        Ok(greeting) => {
            let stream = stream.into_std()?;
            stream.set_nonblocking(false)?;
            let shared = Arc::clone(shared);
            let runtime = shared.runtime.clone();
            let handed = runtime
                .spawn_blocking(move || migrations::greeted(&shared, greeting, stream.into()));
            handed
                .await
                .map_err(|e| DWCPError::Internal(format!("a task of the node: {e}")))?
        }
        Err(error) => {
            // So that whoever came to the wrong place learns why; it may not be listening.
            let _ = stream.write_all(&error_frame(&error)?).await;
            Err(error)
        }
    }
}

async fn read_frame(stream: &mut TcpStream) -> Result<Frame> {
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix).await?;
    let length = Frame::length(prefix, FRAME_MAX)?;
    let mut body = Vec::new();
    let read = stream.take(length as u64).read_to_end(&mut body).await?;
    if read < length {
        return Err(DWCPError::Connection(
            "it ended within its first frame".into(),
        ));
    }
    Frame::decode(&body)
}

/// An error as a frame of the extended profile.
pub(super) fn error_frame(error: &DWCPError) -> Result<Vec<u8>> {
    let code = error.code().unwrap_or(crate::error::ErrorCode::Internal);
    let payload = serde_json::json!({
        "code": code.number(),
        "name": code.name(),
        "message": error.message(),
        "retryable": error.is_retryable(),
    });
    let frame = Frame {
        frame_type: FrameType::Error,
        timestamp: u64::try_from(Timestamp::now().as_unix_micros() / 1000).unwrap_or(0),
        id: String::new(),
        payload: serde_json::to_vec(&payload)?,
    };
    frame.encode(FRAME_MAX)
}
