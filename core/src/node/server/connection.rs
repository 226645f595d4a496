//! One connection: bytes between its stream and its session, and requests between the session and the
//! node.
//!
//! One task does it all. A request that can be answered at once is answered within it, so that a
//! batch of requests costs one wake-up and leaves in one write; what has to wait runs as a task of its
//! own and hands its answer back.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::Tide;
use super::streams::{Pump, Typist};
use crate::action::{Action, Item, Outcome, Role, Subscription};
use crate::client::ItemStream;
use crate::error::{DWCPError, Result};
use crate::migration::Greeting;
use crate::model::limits::KEY_LEN_MAX;
use crate::node::keys::Principal;
use crate::node::{Shared, migrations};
use crate::transport::{Blocking, Stream};
use crate::wire::message::{AuthRequest, NodeName};
use crate::wire::session::{Accepted, Id, ServerConfig, ServerEvent, ServerSession};

/// Bytes read at a time, into a buffer that all connections of a thread share.
const READ_SIZE: usize = 64 << 10;
/// Answers on their way to the connection; those who have more wait.
const ANSWERS: usize = 64;
/// Capacity that a connection keeps for what it sends: the answer to a usual request.
const KEPT_OUTPUT: usize = 4 << 10;
/// A peer that was refused has so long, and may send so much, to learn why before it is cut off.
const DRAIN_TIME: Duration = Duration::from_secs(5);
const DRAIN_BYTES: usize = 1 << 20;

/// What comes back to the connection from tasks.
#[derive(Debug)]
pub(super) enum Answer {
    Reply(Id, Result<Outcome>),
    Opened(Id, Option<Typist>, Result<ItemStream>),
    Item(Id, Item),
    End(Id, Option<DWCPError>),
    /// So many bytes were typed on a console.
    Typed(Id, usize),
}

struct Connection {
    /// Tells it apart from others.
    id: String,
    shared: Arc<Shared>,
    session: ServerSession,
    principal: Option<Principal>,
    answers: mpsc::Sender<Box<Answer>>,
    /// Calls that only read, which can be given up.
    reads: HashMap<Id, AbortHandle>,
    streams: HashMap<Id, Pump>,
    /// The last event.
    over: Option<Option<DWCPError>>,
    /// A peer's first message, which takes the connection over.
    peer: Option<Greeting>,
}

/// Serves a connection until its end. `principal`: who the peer is, if that is known without AUTH.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut stream: Stream,
    principal: Option<Principal>,
) -> Result<()> {
    let config = ServerConfig {
        auth_required: principal.is_none(),
        ..shared.server.config.clone()
    };
    let mut tide = shared.server.tide.subscribe();
    let (answers, mut inbox) = mpsc::channel(ANSWERS);
    let mut connection = Connection {
        id: crate::model::new_uuid(),
        session: ServerSession::new(config, Instant::now()),
        shared,
        principal,
        answers,
        reads: HashMap::new(),
        streams: HashMap::new(),
        over: None,
        peer: None,
    };
    let end = connection.serve(&mut stream, &mut inbox, &mut tide).await;
    connection.give_up();
    match end? {
        End::Over(reason) => {
            leave(&mut stream, connection.session.transmit()).await;
            reason.map_or(Ok(()), Err)
        }
        End::HandOver(greeting) => {
            let Connection {
                shared, session, ..
            } = connection;
            let rest = session.into_rest();
            hand_over(shared, greeting, rest, stream).await
        }
    }
}

/// How serving ends.
enum End {
    Over(Option<DWCPError>),
    HandOver(Greeting),
}

impl Connection {
    async fn serve(
        &mut self,
        stream: &mut Stream,
        inbox: &mut mpsc::Receiver<Box<Answer>>,
        tide: &mut watch::Receiver<Tide>,
    ) -> Result<End> {
        // Armed for a time at which, or before which, something is due.
        let mut armed = Instant::now() + Duration::from_secs(3600);
        let timer = tokio::time::sleep_until(armed.into());
        tokio::pin!(timer);
        self.heed(*tide.borrow_and_update());
        loop {
            self.settle().await;
            if let Some(reason) = self.over.take() {
                return Ok(End::Over(reason));
            }
            if self.peer.is_some()
                && self.session.transmit().is_empty()
                && let Some(greeting) = self.peer.take()
            {
                return Ok(End::HandOver(greeting));
            }
            if let Some(due) = self.session.timeout()
                && due < armed
            {
                armed = due;
                timer.as_mut().reset(armed.into());
            }
            tokio::select! {
                biased;
                moved = exchange(stream, &mut self.session) => moved.map_err(lost)?,
                answer = inbox.recv() => {
                    if let Some(answer) = answer {
                        self.answered(*answer);
                    }
                    // Those that came meanwhile leave with it.
                    while let Ok(answer) = inbox.try_recv() {
                        self.answered(*answer);
                    }
                }
                () = &mut timer => {
                    let now = Instant::now();
                    self.session.handle_timeout(now);
                    armed = self.session.timeout().unwrap_or(now + Duration::from_secs(3600));
                    timer.as_mut().reset(armed.into());
                }
                changed = tide.changed() => {
                    let tide = *tide.borrow_and_update();
                    if changed.is_err() || tide == Tide::Closed {
                        return Ok(End::Over(Some(DWCPError::Unavailable("the node is over".into()))));
                    }
                    self.heed(tide);
                }
            }
            if self.going() && self.session.is_idle() && self.session.transmit().is_empty() {
                return Ok(End::Over(None));
            }
        }
    }

    /// The node is about to end.
    fn heed(&mut self, tide: Tide) {
        if tide != Tide::Closing {
            return;
        }
        self.session.go_away("the node is shutting down");
        let draining = DWCPError::Unavailable("draining: the node is shutting down".into());
        for id in std::mem::take(&mut self.streams).into_keys() {
            self.session.end(&id, Some(&draining));
        }
    }

    fn going(&self) -> bool {
        *self.shared.server.tide.borrow() == Tide::Closing
    }

    /// Does what the session asks for, until it asks for nothing.
    async fn settle(&mut self) {
        while let Some(event) = self.session.poll_event() {
            match event {
                ServerEvent::Auth(request) => self.auth(&request),
                ServerEvent::Call {
                    id,
                    action,
                    deadline,
                } => self.call(id, action, deadline).await,
                ServerEvent::Subscribe {
                    id,
                    subscription,
                    deadline,
                } => self.subscribe(id, subscription, deadline).await,
                ServerEvent::Cancel { id } => self.cancel(&id),
                ServerEvent::Credit { id } => self.push(&id),
                ServerEvent::Data { id, bytes } => self.typed(id, bytes),
                ServerEvent::Peer { frame } => {
                    let id: Id = frame.id.as_str().into();
                    let greeting = self
                        .check("a message between nodes", Role::Node)
                        .and_then(|()| Greeting::parse(&frame));
                    match greeting {
                        Ok(greeting) => self.peer = Some(greeting),
                        Err(error) => self.session.reply(&id, Err(&error)),
                    }
                }
                ServerEvent::Close { reason } => self.over = Some(reason),
            }
        }
    }

    fn auth(&mut self, request: &AuthRequest) {
        let now = Instant::now();
        let keys = &self.shared.keys;
        let key = request.api_key.as_deref().filter(|key| !key.is_empty());
        let found = match (key, &self.principal) {
            // Where none is needed, one that is sent is not looked at; nor is it kept.
            (_, Some(known)) if known.open => Ok(known.clone()),
            (Some(key), _) => keys.principal(key),
            (None, Some(known)) => Ok(known.clone()),
            (None, None) => Err(DWCPError::Authentication(
                "this node needs an API key".into(),
            )),
        };
        match found {
            Ok(principal) => {
                let principal = principal.on_behalf(request.on_behalf);
                let shared = &self.shared;
                let accepted = Accepted {
                    session: self.id.clone(),
                    node: NodeName {
                        name: shared.name.clone(),
                        uuid: shared.uuid.clone(),
                        version: env!("CARGO_PKG_VERSION").into(),
                    },
                    role: principal.role,
                    message: format!("welcome to {}", shared.name),
                };
                self.principal = Some(principal);
                self.session.accept(accepted, now);
            }
            Err(error) => self.session.refuse(&error, now),
        }
    }

    fn check(&self, what: &str, needed: Role) -> Result<()> {
        match &self.principal {
            Some(principal) => principal.check(what, needed),
            None => Err(DWCPError::Authentication("AUTH comes first".into())),
        }
    }

    /// Makes a request's idempotency key, and who types, those of its sender.
    fn scoped(&self, mut action: Action) -> Action {
        if let (Action::ConsoleWrite { writer, .. }, Some(principal)) =
            (&mut action, &self.principal)
        {
            principal.sign(writer, &self.id);
        }
        if let Action::Create { key, .. }
        | Action::Migrate { key, .. }
        | Action::Snapshot { key, .. } = &mut action
            && let (Some(own), Some(principal)) = (key.as_mut(), &self.principal)
            // One that is too long, or none, is refused as it is.
            && (1..=KEY_LEN_MAX).contains(&own.len())
        {
            *own = principal.scoped(own);
        }
        action
    }

    async fn call(&mut self, id: Id, action: Action, deadline: Option<Duration>) {
        if let Err(error) = self.check(action.name(), action.required_role()) {
            return self.session.reply(&id, Err(&error));
        }
        let reads = action.is_read_only();
        let name = action.name();
        let action = self.scoped(action);
        let shared = Arc::clone(&self.shared);
        let mut call = Box::pin(async move { shared.call(action).await });
        // Most are answered at once.
        if let Poll::Ready(result) = poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await {
            return self.session.reply(&id, result.as_ref());
        }
        let (answers, own) = (self.answers.clone(), Arc::clone(&id));
        let task = tokio::spawn(async move {
            // What changes something is not given up half-way: its real outcome is told, however late.
            let result = match deadline.filter(|_| reads) {
                Some(limit) => tokio::time::timeout(limit, call)
                    .await
                    .unwrap_or_else(|_| Err(late(name, limit))),
                None => call.await,
            };
            // The connection may be gone.
            let _ = answers.send(Box::new(Answer::Reply(own, result))).await;
        });
        if reads {
            self.reads.insert(id, task.abort_handle());
        }
    }

    async fn subscribe(
        &mut self,
        id: Id,
        mut subscription: Subscription,
        deadline: Option<Duration>,
    ) {
        if let Err(error) = self.check(subscription.name(), subscription.required_role()) {
            return self.session.reply(&id, Err(&error));
        }
        let console = match (&mut subscription, &self.principal) {
            (Subscription::Console { vm_id, writer }, Some(principal)) => {
                principal.sign(writer, &self.id);
                Some(Typist {
                    vm_id: vm_id.clone(),
                    writer: writer.clone(),
                })
            }
            _ => None,
        };
        let name = subscription.name();
        let shared = Arc::clone(&self.shared);
        let mut open = Box::pin(async move { shared.open_anywhere(subscription).await });
        if let Poll::Ready(result) = poll_fn(|cx| Poll::Ready(open.as_mut().poll(cx))).await {
            return self.answered(Answer::Opened(id, console, result));
        }
        let (answers, own) = (self.answers.clone(), Arc::clone(&id));
        let task = tokio::spawn(async move {
            let result = match deadline {
                Some(limit) => tokio::time::timeout(limit, open)
                    .await
                    .unwrap_or_else(|_| Err(late(name, limit))),
                None => open.await,
            };
            // The connection may be gone.
            let _ = answers
                .send(Box::new(Answer::Opened(own, console, result)))
                .await;
        });
        self.reads.insert(id, task.abort_handle());
    }

    fn cancel(&mut self, id: &Id) {
        let cancelled = || DWCPError::Cancelled("as was asked".into());
        if self.streams.remove(id).is_some() {
            self.session.end(id, Some(&cancelled()));
        } else if let Some(read) = self.reads.remove(id) {
            read.abort();
            self.session.reply(id, Err(&cancelled()));
        }
    }

    fn answered(&mut self, answer: Answer) {
        match answer {
            Answer::Reply(id, result) => {
                self.reads.remove(&id);
                self.session.reply(&id, result.as_ref());
            }
            Answer::Opened(id, console, result) => {
                self.reads.remove(&id);
                match result {
                    Ok(stream) => {
                        self.session.opened(&id);
                        if self.session.is_live(&id) {
                            let own = Arc::clone(&id);
                            let answers = self.answers.clone();
                            let pump = Pump::start(own, stream, answers, console);
                            self.streams.insert(id, pump);
                        }
                    }
                    Err(error) => self.session.reply(&id, Err(&error)),
                }
            }
            Answer::Item(id, item) => {
                if let Some(pump) = self.streams.get_mut(&id) {
                    pump.item(item);
                    self.push(&id);
                }
            }
            Answer::End(id, error) => {
                if let Some(pump) = self.streams.get_mut(&id) {
                    pump.over(error);
                    self.push(&id);
                }
            }
            Answer::Typed(id, bytes) => self.session.data_taken(&id, bytes),
        }
    }

    /// Sends what a stream has, as far as it may be sent.
    fn push(&mut self, id: &Id) {
        if let Some(pump) = self.streams.get_mut(id)
            && pump.send(id, &mut self.session)
        {
            self.streams.remove(id);
        }
    }

    /// Bytes for a console.
    fn typed(&mut self, id: Id, data: Bytes) {
        let typist = self.streams.get(&id).and_then(|pump| pump.types_on.clone());
        let Some(Typist { vm_id, writer }) = typist else {
            return;
        };
        let allowed = self.check("typing on a console", Role::Operator);
        let (shared, answers) = (Arc::clone(&self.shared), self.answers.clone());
        tokio::spawn(async move {
            let length = data.len();
            let typed = async {
                allowed?;
                let write = Action::ConsoleWrite {
                    vm_id,
                    data,
                    writer,
                };
                shared.call(write).await
            };
            let answer = match typed.await {
                Ok(_) => Answer::Typed(id, length),
                Err(error) => Answer::End(id, Some(error)),
            };
            // The connection may be gone.
            let _ = answers.send(Box::new(answer)).await;
        });
    }

    /// Ends what only this connection waits for.
    fn give_up(&mut self) {
        self.streams.clear();
        for (_, read) in self.reads.drain() {
            read.abort();
        }
    }
}

fn late(what: &str, limit: Duration) -> DWCPError {
    DWCPError::Timeout(format!("{what}: took longer than {limit:?}"))
}

fn lost(error: io::Error) -> DWCPError {
    DWCPError::Connection(format!("the connection broke: {error}"))
}

thread_local! {
    /// Where all connections of a thread read into; what is kept of it the session copies.
    static INPUT: std::cell::RefCell<Box<[u8]>> =
        std::cell::RefCell::new(vec![0; READ_SIZE].into_boxed_slice());
}

/// Sends and receives what can be, and returns after either; else waits.
async fn exchange(stream: &mut Stream, session: &mut ServerSession) -> io::Result<()> {
    poll_fn(|cx| {
        let mut moved = false;
        let output = session.transmit();
        while !output.is_empty() {
            match Pin::new(&mut *stream).poll_write(cx, output)? {
                Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(sent) => output.advance(sent),
                Poll::Pending => break,
            }
            moved = true;
        }
        if output.is_empty() && output.capacity() > KEPT_OUTPUT {
            *output = BytesMut::new();
        }
        // With TLS, what was written may still be on its way; there is nothing to wait for.
        let _ = Pin::new(&mut *stream).poll_flush(cx)?;
        if session.wants_input() {
            let read = INPUT.with_borrow_mut(|input| {
                let mut buffer = ReadBuf::new(input);
                match Pin::new(&mut *stream).poll_read(cx, &mut buffer)? {
                    Poll::Ready(()) if buffer.filled().is_empty() => {
                        session.receive_end(Instant::now());
                    }
                    Poll::Ready(()) => session.receive(buffer.filled(), Instant::now()),
                    Poll::Pending => return Ok::<bool, io::Error>(false),
                }
                Ok(true)
            })?;
            moved |= read;
        }
        if moved {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    })
    .await
}

/// Sends what is left, and gives the peer time to read why before the connection is closed.
async fn leave(stream: &mut Stream, output: &mut BytesMut) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let leaving = async {
        stream.write_all_buf(output).await?;
        stream.shutdown().await?;
        let mut left = DRAIN_BYTES;
        let mut ignored = [0; 1024];
        while left > 0 {
            let read = stream.read(&mut ignored).await?;
            if read == 0 {
                break;
            }
            left = left.saturating_sub(read);
        }
        Ok::<(), io::Error>(())
    };
    // A peer that is gone, or that goes on, has had its chance.
    let _ = tokio::time::timeout(DRAIN_TIME, leaving).await;
}

/// Gives the connection to the migration that its first frame is about.
async fn hand_over(
    shared: Arc<Shared>,
    greeting: Greeting,
    rest: Bytes,
    stream: Stream,
) -> Result<()> {
    let mut stream: Blocking = stream.into_blocking()?;
    stream.put_back(rest);
    let runtime = shared.runtime.clone();
    let handed = runtime.spawn_blocking(move || migrations::greeted(&shared, greeting, stream));
    handed
        .await
        .map_err(|e| DWCPError::Internal(format!("a task of the node: {e}")))?
}
