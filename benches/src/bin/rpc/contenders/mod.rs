//! Who is measured. Each has a client with the same two methods, made of the same loops ([`calls`]), but for `raw`,
//! which has no replies to tell apart and is as fast as that allows.

mod calls;
mod ours;
mod raw;
#[cfg(feature = "tonic")]
mod tonic;

use std::{net::SocketAddr, time::Duration};

use dwcp::VM;
use dwcp_benches::Failure;

pub(crate) use self::{
    ours::Ours,
    raw::{Raw, serve as serve_raw},
};

/// One that is measured.
pub(crate) enum Contender {
    /// The floor: an echo.
    Raw(Raw),
    /// gRPC.
    #[cfg(feature = "tonic")]
    Tonic(self::tonic::Tonic),
    /// A node in the other process, over TCP.
    Tcp(Ours),
    /// The same, over a Unix socket.
    Unix(Ours),
    /// A node in this process.
    InProcess(Ours),
}

impl Contender {
    /// What its rows begin with.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Contender::Raw(_) => "raw",
            #[cfg(feature = "tonic")]
            Contender::Tonic(_) => "tonic",
            Contender::Tcp(_) => "dwcp-tcp",
            Contender::Unix(_) => "dwcp-unix",
            Contender::InProcess(_) => "dwcp-inproc",
        }
    }

    /// Where its rows stand.
    pub(crate) fn place(&self) -> u8 {
        match self {
            Contender::Raw(_) => 0,
            #[cfg(feature = "tonic")]
            Contender::Tonic(_) => 1,
            Contender::Tcp(_) => 2,
            Contender::Unix(_) => 3,
            Contender::InProcess(_) => 4,
        }
    }

    /// Whether there is a connection for many requests to share.
    pub(crate) fn has_connection(&self) -> bool {
        !matches!(self, Contender::InProcess(_))
    }

    /// So many calls, one after the other; how long each took, in microseconds.
    pub(crate) async fn sequential(&mut self, count: u32) -> Result<Vec<f64>, Failure> {
        match self {
            Contender::Raw(raw) => raw.sequential(count).await,
            #[cfg(feature = "tonic")]
            Contender::Tonic(tonic) => calls::sequential(tonic, count).await,
            Contender::Tcp(ours) | Contender::Unix(ours) | Contender::InProcess(ours) => {
                calls::sequential(ours, count).await
            }
        }
    }

    /// Always so many requests in flight, for so long; how many a second were answered.
    pub(crate) async fn concurrent(
        &mut self,
        width: usize,
        time: Duration,
    ) -> Result<f64, Failure> {
        match self {
            Contender::Raw(raw) => raw.concurrent(width, time).await,
            #[cfg(feature = "tonic")]
            Contender::Tonic(tonic) => calls::concurrent(tonic, width, time).await,
            Contender::Tcp(ours) | Contender::Unix(ours) | Contender::InProcess(ours) => {
                calls::concurrent(ours, width, time).await
            }
        }
    }
}

/// Serves the VM by gRPC, where that is built in; says where, and how long the reply's message is in bytes.
#[cfg(feature = "tonic")]
pub(crate) async fn serve_tonic(vm: &VM) -> Result<(Option<SocketAddr>, usize), Failure> {
    let (address, size) = self::tonic::serve(vm).await?;
    Ok((Some(address), size))
}

/// Nothing is served: it is not built in.
#[cfg(not(feature = "tonic"))]
#[expect(clippy::unused_async, reason = "as where it is built in")]
pub(crate) async fn serve_tonic(_vm: &VM) -> Result<(Option<SocketAddr>, usize), Failure> {
    Ok((None, 0))
}

/// Connects to the gRPC service, and checks that it replies with that VM.
#[cfg(feature = "tonic")]
pub(crate) async fn connect_tonic(address: SocketAddr, vm: &VM) -> Result<Contender, Failure> {
    Ok(Contender::Tonic(
        self::tonic::Tonic::connect(address, vm).await?,
    ))
}

/// There is nothing to connect to: it is not built in.
#[cfg(not(feature = "tonic"))]
#[expect(clippy::unused_async, reason = "as where it is built in")]
pub(crate) async fn connect_tonic(_address: SocketAddr, _vm: &VM) -> Result<Contender, Failure> {
    Err("built without the feature `tonic`".into())
}
