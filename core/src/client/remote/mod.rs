//! A node that is reached over connections.
//!
//! `connection` drives one of them, `feed` is a stream over it; `pool` has them all and makes them.
//! `retry` says what may be repeated and when, `breaker` when a node is left alone. `resume` knows where
//! a stream is, and `streams` has the task that carries it from one connection to the next. `retry`,
//! `breaker` and `resume` have no I/O and no clock.

mod breaker;
mod connection;
mod feed;
mod pool;
mod resume;
mod retry;
mod streams;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use self::breaker::{Breakers, Kind, Verdict};
use self::feed::Feed;
use self::pool::{Dial, Pool, Recipe};
use self::resume::Resume;
use self::retry::{Failure, Policy};
use self::streams::{FOREVER, Pump};
use super::config::ClientConfig;
use super::counters::Counters;
use super::service::{BoxFuture, ItemStream, Service};
use crate::action::{Action, Outcome, Role, Subscription};
use crate::error::{DWCPError, Result};
use crate::transport::{Address, ClientTls, TlsOptions, connect};
use crate::wire::frame::LENGTH_MAX;
use crate::wire::session::ClientSessionConfig;

/// Least and most bytes of a connection's read buffer: a frame's head should fit, and more than this is
/// never there at once.
const BUFFER_MIN: usize = 4 << 10;
const BUFFER_MAX: usize = 4 << 20;
/// How this client names itself.
const NAME: &str = "dwcp-rust";

/// A node that is reached over connections.
#[derive(Debug)]
pub(super) struct Remote(Arc<Shared>);

/// What its calls and streams share.
struct Shared {
    pool: Arc<Pool>,
    breakers: Arc<Mutex<Breakers>>,
    policy: Policy,
    request_timeout: Duration,
    /// Streams that may still be opened.
    streams: Arc<Semaphore>,
    max_streams: u32,
    counters: Arc<Counters>,
    runtime: Handle,
    /// Where it leads, for people.
    target: String,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

impl Remote {
    /// Reads the config, and the files that it names; connects to nothing.
    ///
    /// # Errors
    ///
    /// `Config` naming the field; `Unsupported` for an address of a kind that is not; `Io` for a
    /// file that cannot be read; `Other` outside of a Tokio runtime.
    pub(super) fn new(config: &ClientConfig) -> Result<Remote> {
        config.validate()?;
        let address = Address::parse(&config.address, config.effective_port())?;
        let tls = match &address {
            Address::Tcp { .. } if config.tls_enabled => Some(ClientTls::new(&TlsOptions {
                ca_file: config.ca_file.clone(),
                ca_pem: config.ca_pem.clone(),
                client_cert: config.client_cert.clone(),
                client_key: config.client_key.clone(),
                server_name: config.server_name.clone(),
            })?),
            _ => None,
        };
        let dial: Dial = Arc::new(move |timeout| {
            let (address, tls) = (address.clone(), tls.clone());
            Box::pin(async move { connect(&address, tls.as_ref(), timeout).await })
        });
        Remote::over(config, Arc::default(), dial)
    }

    /// For a node that asks another on behalf of somebody with that role.
    #[cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
    pub(super) fn forwarding(
        address: Address,
        tls: Option<ClientTls>,
        api_key: Option<String>,
        role: Role,
    ) -> Result<Remote> {
        let config = ClientConfig {
            api_key,
            ..ClientConfig::new(address.to_string())
        };
        let dial: Dial = Arc::new(move |timeout| {
            let (address, tls) = (address.clone(), tls.clone());
            Box::pin(async move { connect(&address, tls.as_ref(), timeout).await })
        });
        Remote::with(&config, Some(role), Arc::default(), dial)
    }

    /// A node at the other end of what `dial` makes.
    fn over(config: &ClientConfig, breakers: Arc<Mutex<Breakers>>, dial: Dial) -> Result<Remote> {
        Remote::with(config, None, breakers, dial)
    }

    fn with(
        config: &ClientConfig,
        on_behalf: Option<Role>,
        breakers: Arc<Mutex<Breakers>>,
        dial: Dial,
    ) -> Result<Remote> {
        let runtime = Handle::try_current()
            .map_err(|error| DWCPError::Other(format!("a client needs a runtime: {error}")))?;
        let counters = Arc::new(Counters::of_frames());
        let recipe = Recipe {
            dial,
            session: ClientSessionConfig {
                api_key: config.api_key.clone(),
                on_behalf,
                client_name: NAME.to_owned(),
                client_version: env!("CARGO_PKG_VERSION").to_owned(),
                keep_alive: config.keep_alive.then_some(config.keep_alive_period),
                max_frame: LENGTH_MAX,
                stream_credit: connection::WINDOW,
                accept_base: config.accept_base,
            },
            buffer_size: config.buffer_size.clamp(BUFFER_MIN, BUFFER_MAX),
            connect_timeout: config.connect_timeout.min(FOREVER),
            counters: Arc::clone(&counters),
            runtime: runtime.clone(),
        };
        Ok(Remote(Arc::new(Shared {
            pool: Pool::new(recipe, config.pool_size),
            breakers,
            policy: Policy {
                attempts: config.retry_attempts,
                backoff: config.retry_backoff,
            },
            request_timeout: config.request_timeout.min(FOREVER),
            streams: Arc::new(Semaphore::new(config.max_streams as usize)),
            max_streams: config.max_streams,
            counters,
            runtime,
            target: config.target(),
        })))
    }

    /// Has the counters of its connections.
    pub(super) fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.0.counters)
    }
}

impl Service for Remote {
    fn call(&self, mut action: Action) -> BoxFuture<Result<Outcome>> {
        let shared = Arc::clone(&self.0);
        retry::give_key(&mut action);
        Box::pin(async move { shared.call(&action).await })
    }

    fn subscribe(&self, subscription: Subscription) -> BoxFuture<Result<ItemStream>> {
        let shared = Arc::clone(&self.0);
        Box::pin(async move { shared.subscribe(subscription).await })
    }

    fn is_open(&self) -> bool {
        self.0.pool.is_connected()
    }

    fn connect(&self) -> BoxFuture<Result<()>> {
        let pool = Arc::clone(&self.0.pool);
        Box::pin(async move {
            let deadline = Instant::now() + FOREVER;
            pool.get(deadline)
                .await
                .map(drop)
                .map_err(|failure| failure.error)
        })
    }

    fn close(&self) -> BoxFuture<()> {
        let connections = self.0.pool.close();
        Box::pin(async move {
            for connection in connections {
                connection.over().await;
            }
        })
    }
}

/// With the last client and the last stream, the connections end.
impl Drop for Shared {
    fn drop(&mut self) {
        self.pool.close();
    }
}

impl Shared {
    /// Fails after the client was closed.
    fn check_open(&self) -> Result<()> {
        self.pool.check_open()
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.request_timeout
    }

    async fn call(self: &Arc<Self>, action: &Action) -> Result<Outcome> {
        let harmless = retry::is_harmless(action);
        let deadline = self.deadline();
        self.repeat(harmless, deadline, || self.call_once(action, deadline))
            .await
    }

    async fn subscribe(self: Arc<Self>, subscription: Subscription) -> Result<ItemStream> {
        let permit = Arc::clone(&self.streams).try_acquire_owned();
        let permit = permit.map_err(|_| {
            DWCPError::ResourceLimit(format!(
                "max_streams: this client has {} streams open, which is its limit",
                self.max_streams
            ))
        })?;
        let mut resume = Resume::new(subscription);
        let request = resume.request();
        let deadline = self.deadline();
        let open = || self.subscribe_once(&request, deadline);
        let feed = self.repeat(true, deadline, open).await?;
        resume.opened(feed.store());
        let (sink, items) = ItemStream::channel();
        let runtime = self.runtime.clone();
        let pump = Pump {
            shared: self,
            resume,
            sink,
            permit,
        };
        runtime.spawn(pump.run(feed));
        Ok(items)
    }

    /// Tries, and tries again where that can help and do no harm.
    async fn repeat<T, F>(
        &self,
        harmless: bool,
        deadline: Instant,
        try_once: impl Fn() -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut number = 0;
        loop {
            let failure = match try_once().await {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            self.check_open()?;
            if number >= self.policy.attempts || !failure.may_repeat(harmless) {
                return Err(failure.error);
            }
            let pause = self.policy.pause(number, retry::random());
            if Instant::now() + pause >= deadline {
                return Err(failure.error);
            }
            tokio::time::sleep(pause).await;
            number += 1;
        }
    }

    /// One try of a request.
    async fn call_once(&self, action: &Action, deadline: Instant) -> Result<Outcome, Failure> {
        let patient = retry::waits_for_guest(action);
        self.guarded(Kind::of(action), patient, async {
            let connection = self.pool.get(deadline).await?;
            connection.call(action, deadline).await
        })
        .await
    }

    /// One try of opening a stream.
    async fn subscribe_once(
        &self,
        subscription: &Subscription,
        deadline: Instant,
    ) -> Result<Feed, Failure> {
        self.guarded(Kind::Read, false, async {
            let connection = self.pool.get(deadline).await?;
            connection.subscribe(subscription, deadline).await
        })
        .await
    }

    /// Does something where the breaker lets it, and tells the breaker.
    async fn guarded<T>(
        &self,
        kind: Kind,
        patient: bool,
        request: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let trial = Trial::begin(&self.breakers, kind)?;
        let result = request.await;
        trial.end(retry::verdict(&result, patient));
        result
    }
}

/// A request that a breaker has admitted. One that is dropped says nothing of the node.
struct Trial<'a> {
    breakers: &'a Mutex<Breakers>,
    kind: Kind,
    verdict: Verdict,
}

impl<'a> Trial<'a> {
    fn begin(breakers: &'a Mutex<Breakers>, kind: Kind) -> Result<Trial<'a>, Failure> {
        let now = Instant::now().into_std();
        let admitted = lock(breakers).admit(kind, now);
        admitted.map_err(Failure::refused)?;
        Ok(Trial {
            breakers,
            kind,
            verdict: Verdict::Unknown,
        })
    }

    fn end(mut self, verdict: Verdict) {
        self.verdict = verdict;
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        let now = Instant::now().into_std();
        lock(self.breakers).record(self.kind, self.verdict, now);
    }
}

fn lock(breakers: &Mutex<Breakers>) -> std::sync::MutexGuard<'_, Breakers> {
    breakers.lock().unwrap_or_else(PoisonError::into_inner)
}
