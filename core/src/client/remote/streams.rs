//! The task behind a stream: hands items on, and opens the stream again where its connection broke.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::Shared;
use super::feed::{End, Feed};
use super::resume::Resume;
use super::retry::{Failure, random};
use crate::action::Outcome;
use crate::client::service::ItemSink;
use crate::error::{DWCPError, Result};
use crate::model::VM;

/// What a node says at the end of the streams of a connection that it is about to close.
const DRAINING: &str = "draining";

/// Hands the items of a stream to whoever reads it, until either ends it.
pub(super) struct Pump {
    pub(super) shared: Arc<Shared>,
    pub(super) resume: Resume,
    pub(super) sink: ItemSink,
    /// One of the streams that a client may have.
    pub(super) permit: OwnedSemaphorePermit,
}

impl Pump {
    /// Begins with a stream that is open.
    pub(super) async fn run(mut self, feed: Feed) {
        let sink = self.sink.clone();
        let end = tokio::select! {
            biased;
            // Who dropped the stream needs no reason.
            () = sink.closed() => return,
            end = self.follow(feed) => end,
        };
        drop(self.permit);
        if let Err(error) = end {
            // As above.
            let _ = sink.send(Err(error)).await;
        }
    }

    /// Follows the stream over as many connections as it takes.
    async fn follow(&mut self, mut feed: Feed) -> Result<()> {
        // Repetitions since something was last heard.
        let mut tries = 0;
        loop {
            let (heard, end) = self.forward(&mut feed).await;
            if heard {
                tries = 0;
            }
            let error = match end {
                End::Said { error: None, .. } => return Ok(()),
                End::Said {
                    error: Some(error),
                    draining,
                } => {
                    let drained = matches!(&error, DWCPError::Unavailable(text)
                        if draining || text.starts_with(DRAINING));
                    if !drained {
                        return Err(error);
                    }
                    error
                }
                End::Broken(error) => error,
            };
            if self.resume.is_complete() {
                return Ok(());
            }
            if !self.resume.is_possible() {
                return Err(DWCPError::Connection(format!(
                    "{}; what a console prints cannot be continued exactly: open it again",
                    error.message()
                )));
            }
            feed = self.reopen(error, &mut tries).await?;
        }
    }

    /// Hands on what one connection has of it. Whether it had anything, and why it has no more.
    async fn forward(&mut self, feed: &mut Feed) -> (bool, End) {
        let mut heard = false;
        loop {
            match feed.next().await {
                Ok(item) => {
                    heard = true;
                    if let Some(item) = self.resume.take(item) {
                        self.show(Ok(item)).await;
                    }
                }
                Err(end) => return (heard, end),
            }
        }
    }

    async fn show(&self, item: Result<crate::action::Item>) {
        // When nobody reads any more, `run` ends all this.
        let _ = self.sink.send(item).await;
    }

    /// Opens it again, for as long as a request may take.
    async fn reopen(&mut self, why: DWCPError, tries: &mut u32) -> Result<Feed> {
        let give_up = Instant::now() + self.shared.request_timeout;
        let mut last = Failure::perhaps(why);
        loop {
            // The first time at once: most connections that break can be made again.
            if *tries > 0 {
                let pause = self.shared.policy.pause(*tries - 1, random());
                if Instant::now() + pause >= give_up {
                    return Err(last.error);
                }
                tokio::time::sleep(pause).await;
            }
            *tries = tries.saturating_add(1);
            self.shared.check_open()?;
            match self.open_again(give_up).await {
                Ok(feed) => return Ok(feed),
                Err(failure) if failure.may_repeat(true) && Instant::now() < give_up => {
                    last = failure;
                }
                Err(failure) => return Err(failure.error),
            }
        }
    }

    async fn open_again(&mut self, deadline: Instant) -> Result<Feed, Failure> {
        let request = self.resume.request();
        let feed = self.shared.subscribe_once(&request, deadline).await?;
        self.resume.opened(feed.store());
        if self.resume.lacks_currents()
            && let Some(action) = self.resume.currents()
        {
            let vms: Vec<VM> = match self.shared.call_once(&action, deadline).await {
                Ok(Outcome::VMs(vms)) => vms,
                Ok(Outcome::VM(vm)) => vec![*vm],
                Ok(_) => Vec::new(),
                // It has gone, and the stream says so.
                Err(Failure {
                    error: DWCPError::VMNotFound(_),
                    ..
                }) => Vec::new(),
                Err(failure) => return Err(failure),
            };
            for item in self.resume.complete(vms) {
                self.show(Ok(item)).await;
            }
        }
        Ok(feed)
    }
}

/// The longest time that can be added to any time: a year is not told from never.
pub(super) const FOREVER: Duration = Duration::from_secs(365 * 86_400);
