//! How long a node waits for the other in a hand-over, and how a silent peer is noticed.
//!
//! A peer that is stopped, or behind a network that loses everything, closes no connection. So each
//! side asks on the control connection whether the other is there: a PING now and then, which is
//! answered with a PONG by the thread that reads, whatever the driver waits for. Neither needs to know
//! how patient the other is.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use super::link::write_frame;
use crate::error::Result;
use crate::transport::Blocking;
use crate::wire::frame::FrameType;

/// How long a peer may be silent, and what follows from that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patience(Duration);

impl Patience {
    /// Where nothing else is said: a switch that reboots its port, or a host that swaps, comes back
    /// within it.
    pub(crate) const DEFAULT: Duration = Duration::from_secs(10);
    /// Less is less than a busy host may need to answer.
    pub(crate) const MIN: Duration = Duration::from_millis(100);
    /// More is as good as for ever.
    pub(crate) const MAX: Duration = Duration::from_secs(600);

    /// `silence` is limited to [`MIN`](Self::MIN) and [`MAX`](Self::MAX).
    pub(crate) fn new(silence: Duration) -> Self {
        Self(silence.clamp(Self::MIN, Self::MAX))
    }

    /// A peer of which nothing is heard for so long is lost. As long it may take to accept a connection
    /// or to answer at once, and so long at most is waited before it is asked again.
    pub(crate) fn silence(self) -> Duration {
        self.0
    }

    /// The time between two questions whether it is there: some may be late.
    fn ask_every(self) -> Duration {
        self.0 / 5
    }

    /// Time for a peer to go on, of which nothing is known but that it came.
    pub(crate) fn moment(self) -> Duration {
        self.0 / 5
    }

    /// How long a destination goes on telling a verdict to a source that does not answer, before it leaves
    /// it to the source to ask: as long as a host takes to start again.
    pub(crate) fn verdict(self) -> Duration {
        self.0 * 30
    }

    /// Time for work that a peer does before it answers: making room for a VM, placing the pages that are
    /// on their way.
    pub(crate) fn work(self) -> Duration {
        self.0 * 3
    }
}

impl Default for Patience {
    fn default() -> Self {
        Self::new(Self::DEFAULT)
    }
}

/// The writing side of a control connection: the driver's messages, and between them PING and PONG.
#[derive(Debug)]
pub(super) struct Speaker {
    pub(super) stream: Blocking,
    /// A message was said. What a connection begins with is no PING.
    pub(super) begun: bool,
}

/// The reading side of a control connection. Its reads end when the peer is silent for too long.
#[derive(Debug)]
pub(super) struct Attentive {
    stream: Blocking,
    speaker: Arc<Mutex<Speaker>>,
    patience: Patience,
    heard: Instant,
    asked: Instant,
    /// The peer has said something.
    met: bool,
}

impl Attentive {
    pub(super) fn new(
        stream: Blocking,
        speaker: Arc<Mutex<Speaker>>,
        patience: Patience,
    ) -> Result<Self> {
        stream.set_read_timeout(Some(patience.ask_every()))?;
        // Who does not read what little is said here is silent as well.
        stream.set_write_timeout(Some(patience.silence()))?;
        let now = Instant::now();
        Ok(Self {
            stream,
            speaker,
            patience,
            heard: now,
            asked: now,
            met: false,
        })
    }

    /// Answers a PING.
    pub(super) fn answer(&self) -> Result<()> {
        self.say(FrameType::Pong, true)
    }

    /// Ends both directions.
    pub(super) fn shutdown(&self) -> io::Result<()> {
        self.stream.shutdown()
    }

    fn ask_if_due(&mut self) -> io::Result<()> {
        if self.asked.elapsed() < self.patience.ask_every() {
            return Ok(());
        }
        self.asked = Instant::now();
        self.say(FrameType::Ping, self.met)
            .map_err(io::Error::other)
    }

    /// Who writes a message at this moment says enough with it, and must not be waited for: only this
    /// thread can find out that nobody reads it.
    fn say(&self, what: FrameType, met: bool) -> Result<()> {
        let mut speaker = match self.speaker.try_lock() {
            Ok(speaker) => speaker,
            Err(TryLockError::Poisoned(poisoned)) => PoisonError::into_inner(poisoned),
            Err(TryLockError::WouldBlock) => return Ok(()),
        };
        if !speaker.begun && !met {
            return Ok(());
        }
        write_frame(&mut speaker.stream, what, Vec::new())
    }
}

impl Read for Attentive {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            self.ask_if_due()?;
            match self.stream.read(out) {
                // The kernel reports an exceeded limit as "would block".
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    // This process may itself have stood still: what came meanwhile was read first.
                    if self.heard.elapsed() >= self.patience.silence() {
                        return Err(io::Error::new(
                            io::ErrorKind::TimedOut,
                            format!("nothing was heard for {:?}", self.patience.silence()),
                        ));
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                read => {
                    (self.heard, self.met) = (Instant::now(), true);
                    return read;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc::{self, Receiver, RecvTimeoutError};

    use super::super::link::{Envelope, Link, read_frame};
    use super::super::protocol::message::{Body, Message};
    use super::*;

    /// Time for what must come.
    const LONG: Duration = Duration::from_secs(60);

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    /// A link, and what it hears.
    fn link(stream: TcpStream, patience: Duration) -> (Link, Receiver<Option<Envelope>>) {
        let (told, heard) = mpsc::channel();
        let patience = Patience::new(patience);
        let link = Link::start(stream.into(), "own", patience, move |one| {
            // The test may be over.
            let _ = told.send(one);
        });
        (link.unwrap(), heard)
    }

    fn message() -> Message {
        Message {
            session: "m".into(),
            epoch: 1,
            body: Body::Pending,
        }
    }

    #[test]
    fn a_peer_that_says_nothing_is_lost_whether_or_not_it_is_spoken_to() {
        for speaks in [false, true] {
            let (near, far) = pair();
            let began = Instant::now();
            let (mut link, heard) = link(near, Patience::MIN);
            if speaks {
                link.send(message(), None).unwrap();
            }
            assert_eq!(heard.recv_timeout(LONG).unwrap(), None);
            assert!(began.elapsed() >= Patience::MIN);
            // Its connection was open all the time.
            drop(far);
        }
    }

    #[test]
    fn a_peer_that_has_nothing_to_say_is_not() {
        let (near, far) = pair();
        let patience = Duration::from_millis(500);
        let (mut a, a_heard) = link(near, patience);
        let (mut b, b_heard) = link(far, patience);
        a.send(message(), None).unwrap();
        assert_eq!(
            b_heard.recv_timeout(LONG).unwrap().unwrap().message,
            message()
        );
        // Only one asks here, and both live: who is asked hears as well.
        let quiet = a_heard.recv_timeout(patience * 3);
        assert_eq!(quiet, Err(RecvTimeoutError::Timeout));
        b.send(message(), None).unwrap();
        assert_eq!(
            a_heard.recv_timeout(LONG).unwrap().unwrap().message,
            message()
        );
        drop(a);
        assert_eq!(b_heard.recv_timeout(LONG).unwrap(), None);
    }

    #[test]
    fn a_connection_begins_with_a_message() {
        let (near, mut far) = pair();
        let patience = Patience::new(LONG);
        let mut link = Link::start(near.into(), "own", patience, |_| {}).unwrap();
        let speaker = Arc::clone(link.speaker());
        let other = far.try_clone().unwrap().into();
        let mut reading = Attentive::new(other, speaker, patience).unwrap();
        for speaks in [false, true] {
            if speaks {
                link.send(message(), None).unwrap();
            }
            // As if the time had come.
            reading.asked -= LONG;
            reading.ask_if_due().unwrap();
        }
        for expected in [FrameType::Migration, FrameType::Ping] {
            let frame = read_frame(&mut far).unwrap().unwrap();
            assert_eq!(frame.frame_type, expected);
        }
    }

    #[test]
    fn patience_has_bounds() {
        assert_eq!(Patience::new(Duration::ZERO).silence(), Patience::MIN);
        assert_eq!(Patience::new(Duration::MAX).silence(), Patience::MAX);
        let usual = Patience::default();
        assert!(usual.moment() < usual.silence() && usual.silence() < usual.work());
    }
}
