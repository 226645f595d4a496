//! The process that serves: a node, the echo and the gRPC service, on listeners of their own.

use std::{
    io::{self, Read},
    net::SocketAddr,
};

use dwcp_benches::Failure;
use serde::{Deserialize, Serialize};

use crate::{contenders, subject};

/// Where everything is, as the serving process tells the other in one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Places {
    pub(crate) raw: SocketAddr,
    /// `None` where it is not built in.
    pub(crate) tonic: Option<SocketAddr>,
    /// Bytes of the message that `tonic` replies with.
    pub(crate) tonic_reply: usize,
    pub(crate) tcp: SocketAddr,
    pub(crate) unix: String,
    /// The VM's id.
    pub(crate) vm: String,
}

/// Serves until standard input ends, which it does at the latest with the process that measures.
pub(crate) async fn run(arguments: Vec<String>) -> Result<(), Failure> {
    let [unix] = <[String; 1]>::try_from(arguments).map_err(|_| "serve takes a path")?;
    let listen = ["127.0.0.1:0".to_owned(), format!("unix:{unix}")];
    let (node, vm) = subject::start(&listen).await?;
    let (tonic, tonic_reply) = contenders::serve_tonic(&vm).await?;
    let places = Places {
        raw: contenders::serve_raw().await?,
        tonic,
        tonic_reply,
        tcp: node.address().ok_or("the node has no address")?,
        unix,
        vm: vm.id,
    };
    println!("{}", serde_json::to_string(&places)?);
    let end = tokio::task::spawn_blocking(|| io::stdin().read_to_end(&mut Vec::new()));
    end.await??;
    drop(node);
    Ok(())
}
