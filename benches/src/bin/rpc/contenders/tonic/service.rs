//! The service `bench.Node` with its one method, `Get`, as a generator would write it.

use std::{
    convert::Infallible,
    future::{self, Future, Ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tonic::{
    Request, Response, Status,
    body::Body,
    client,
    codegen::{Service, http, http::uri::PathAndQuery},
    server::{self, NamedService, UnaryService},
    transport::Channel,
};
use tonic_prost::ProstCodec;

use super::message::{GetRequest, Vm};

const GET: &str = "/bench.Node/Get";

/// Asks the service.
#[derive(Clone)]
pub(super) struct NodeClient {
    inner: client::Grpc<Channel>,
}

impl NodeClient {
    pub(super) fn new(channel: Channel) -> Self {
        Self {
            inner: client::Grpc::new(channel),
        }
    }

    pub(super) async fn get(&mut self, request: GetRequest) -> Result<Vm, Status> {
        self.inner
            .ready()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let codec = ProstCodec::<GetRequest, Vm>::default();
        let path = PathAndQuery::from_static(GET);
        let reply = self.inner.unary(Request::new(request), path, codec).await?;
        Ok(reply.into_inner())
    }
}

/// Answers with the one VM it has.
#[derive(Clone)]
pub(super) struct NodeServer {
    vm: Arc<Vm>,
}

impl NodeServer {
    pub(super) fn new(vm: Vm) -> Self {
        Self { vm: Arc::new(vm) }
    }
}

impl NamedService for NodeServer {
    const NAME: &'static str = "bench.Node";
}

/// The method itself.
struct Get(Arc<Vm>);

impl UnaryService<GetRequest> for Get {
    type Response = Vm;
    type Future = Ready<Result<Response<Vm>, Status>>;

    fn call(&mut self, request: Request<GetRequest>) -> Self::Future {
        future::ready(if request.get_ref().vm_id == self.0.id {
            // tonic takes messages by value.
            Ok(Response::new(Vm::clone(&self.0)))
        } else {
            Err(Status::not_found("no such VM"))
        })
    }
}

impl Service<http::Request<Body>> for NodeServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != GET {
            let status = Status::unimplemented("there is only Get");
            return Box::pin(future::ready(Ok(status.into_http())));
        }
        let method = Get(Arc::clone(&self.vm));
        Box::pin(async move {
            let mut grpc = server::Grpc::new(ProstCodec::<Vm, GetRequest>::default());
            Ok(grpc.unary(method, request).await)
        })
    }
}
