//! gRPC by tonic: the same VM as a protobuf message. `message` has the messages, `service` what a generator would
//! have written of the service; both are by hand, so that no protoc is needed.

mod message;
mod service;

use std::net::SocketAddr;

use dwcp::VM;
use dwcp_benches::Failure;
use prost::Message;
use tonic::transport::{Endpoint, Server, server::TcpIncoming};

use self::{
    message::{GetRequest, Vm},
    service::{NodeClient, NodeServer},
};
use super::calls::Caller;

/// Serves the VM from a task; says where, and how long the reply's message is in bytes.
pub(super) async fn serve(vm: &VM) -> Result<(SocketAddr, usize), Failure> {
    let reply = Vm::from(vm);
    let size = reply.encoded_len();
    let incoming = TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let incoming = incoming.with_nodelay(Some(true));
    let address = incoming.local_addr()?;
    let server = Server::builder().add_service(NodeServer::new(reply));
    tokio::spawn(async move {
        if let Err(error) = server.serve_with_incoming(incoming).await {
            eprintln!("rpc: the gRPC server ended: {error}");
        }
    });
    Ok((address, size))
}

/// A channel to the service: one connection, that clones share.
#[derive(Clone)]
pub(crate) struct Tonic {
    client: NodeClient,
    id: String,
}

impl Tonic {
    /// Connects, and checks that all of the VM arrives.
    pub(super) async fn connect(address: SocketAddr, vm: &VM) -> Result<Self, Failure> {
        let channel = Endpoint::from_shared(format!("http://{address}"))?
            .tcp_nodelay(true)
            .connect()
            .await?;
        let mut client = NodeClient::new(channel);
        let request = GetRequest {
            vm_id: vm.id.clone(),
        };
        let mut reply = client.get(request).await?;
        // Those were taken at another moment.
        let mut expected = Vm::from(vm);
        if reply.metrics.take().is_none() || expected.metrics.take().is_none() {
            return Err("the VM in a reply has no figures".into());
        }
        if reply != expected {
            return Err("the gRPC service replies with another VM".into());
        }
        Ok(Self {
            client,
            id: vm.id.clone(),
        })
    }
}

impl Caller for Tonic {
    async fn call(&mut self) -> Result<(), Failure> {
        let vm_id = self.id.clone();
        let vm = self.client.get(GetRequest { vm_id }).await?;
        if vm.id == self.id {
            Ok(())
        } else {
            Err("the reply is another VM's".into())
        }
    }
}
