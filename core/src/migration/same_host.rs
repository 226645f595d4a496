//! A move within one host: the destination is handed the memory that the guest has, and not a byte of it is
//! copied.
//!
//! The source listens for this migration alone ([`Handing`]), and says in its offer which host it is on and
//! what to show there ([`HandOver`]). A destination on the same host gets the memory before it answers
//! ([`take_memory`]), and says in its answer whether it did; then only the machine's state is sent ([`Handed`]).
#![forbid(unsafe_code)]

use std::fmt;
#[cfg(test)]
use std::os::fd::AsFd;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

#[cfg(test)]
use super::faults::{Faults, HandFault};
use super::offer::Offer;
use super::progress::Progress;
use super::sender;
use super::token::{is_token, new_token};
use crate::error::{DWCPError, Result};
use crate::machine::{Machine, Work, spawn, work_as};
use crate::memory::GuestRam;
use crate::model::SameHost;
use crate::transport::{Blocking, HandSocket, HandStream};
use serde::{Deserialize, Serialize};

/// Names the host until it is started again; everybody on it may read it, and nobody elsewhere has it.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// How long each side waits for the other's message. It is on the same host and has nothing else to do.
const LIMIT: Duration = Duration::from_secs(2);
/// What the source says with the memory.
const HERE: &[u8] = b"memory";

/// How a destination on the same host gets the memory; a part of the offer.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HandOver {
    /// The host's [`BOOT_ID`].
    host: String,
    /// The name of the socket.
    socket: String,
    /// What is shown there, in hexadecimal digits.
    token: String,
    /// A destination that cannot be handed the memory is to refuse the VM.
    pub(super) required: bool,
}

/// Credentials do not belong into logs.
impl fmt::Debug for HandOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandOver")
            .field("host", &self.host)
            .field("socket", &self.socket)
            .field("token", &"…")
            .field("required", &self.required)
            .finish()
    }
}

/// The host that this process is on.
fn host() -> Result<String> {
    let text = std::fs::read_to_string(BOOT_ID)
        .map_err(|e| DWCPError::Unsupported(format!("{BOOT_ID} cannot be read: {e}")))?;
    Ok(text.trim().to_owned())
}

/// Whether the memory of a VM could be had that is on offer, for all that can be told without asking for it.
///
/// # Errors
///
/// Why not, where nothing else was asked for.
pub(crate) fn could_take_memory(offer: &Offer) -> Result<bool, String> {
    match &offer.hand_over {
        None => Ok(false),
        Some(hand_over) => match hand_over.is_here() {
            Ok(()) => Ok(true),
            Err(error) if hand_over.required => Err(required(&error)),
            Err(_) => Ok(false),
        },
    }
}

/// What is said where the memory itself is asked for, and cannot be had.
fn required(why: &DWCPError) -> String {
    format!(
        "`require` asks for the memory itself, which this node cannot have: {why}; migrate to a node on the \
         source's host, or set `same_host` to `auto`"
    )
}

impl HandOver {
    /// What is said of a VM whose memory nobody gets yet: where it is.
    fn of_plan(required: bool) -> Result<Self> {
        Ok(Self {
            host: host()?,
            socket: String::new(),
            token: String::new(),
            required,
        })
    }

    fn is_here(&self) -> Result<()> {
        if self.host == host()? {
            Ok(())
        } else {
            Err(DWCPError::Migration("it is on another host".into()))
        }
    }
}

/// A source that waits for the destination to come for the memory. Dropping it ends that.
#[derive(Debug)]
pub(super) struct Handing {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    socket: HandSocket,
    ram: Arc<GuestRam>,
    token: String,
    stage: Mutex<Stage>,
    #[cfg(test)]
    fault: Option<HandFault>,
}

#[derive(Debug, Default)]
struct Stage {
    /// Nobody is to get it any more.
    over: bool,
    /// Somebody got it.
    gone: bool,
    /// Who has come for it.
    asking: Option<HandStream>,
}

/// Offers the memory of a machine to a destination on this host, where the options and the machine allow
/// that.
///
/// # Errors
///
/// `unsupported` naming `same_host`, where that is required and cannot be.
pub(super) fn offer(
    wanted: SameHost,
    machine: Option<&Arc<Machine>>,
    offer: &mut Offer,
    #[cfg(test)] faults: &Faults,
) -> Result<Option<Handing>> {
    let Some(machine) = machine.filter(|_| wanted != SameHost::Never) else {
        return Ok(None);
    };
    let required = wanted == SameHost::Require;
    let begun = Handing::start(
        machine.ram(),
        required,
        #[cfg(test)]
        faults,
    );
    match begun {
        Ok((handing, hand_over)) => {
            offer.hand_over = Some(hand_over);
            Ok(Some(handing))
        }
        Err(error) if required => Err(DWCPError::Unsupported(format!(
            "same_host: `require` asks to hand the memory over, and it cannot be: {error}"
        ))),
        Err(error) => {
            tracing::debug!(%error, "the memory will be copied");
            Ok(None)
        }
    }
}

/// Says in an offer that nobody is to accept where the memory is, where it could be handed over.
pub(crate) fn plan_hand_over(wanted: SameHost, ram: &GuestRam, offer: &mut Offer) {
    if wanted != SameHost::Never && ram.file().is_some() {
        offer.hand_over = HandOver::of_plan(wanted == SameHost::Require).ok();
    }
}

impl Handing {
    fn start(
        ram: &Arc<GuestRam>,
        required: bool,
        #[cfg(test)] faults: &Faults,
    ) -> Result<(Self, HandOver)> {
        if ram.file().is_none() {
            return Err(DWCPError::Unsupported(
                "it is private memory of its node, for the VM has `huge_pages`".into(),
            ));
        }
        let host = host()?;
        let token = new_token();
        let shared = Arc::new(Shared {
            socket: HandSocket::open()?,
            ram: Arc::clone(ram),
            token: token.clone(),
            stage: Mutex::default(),
            #[cfg(test)]
            fault: faults.hand,
        });
        let own = Arc::clone(&shared);
        let hand_over = HandOver {
            host,
            socket: shared.socket.name().to_owned(),
            token,
            required,
        };
        #[cfg(test)]
        let hand_over = shared.spoil(hand_over);
        let thread = spawn("dwcp-hand", move || {
            work_as(Work::Control);
            own.wait();
        })?;
        let handing = Self {
            shared,
            thread: Some(thread),
        };
        Ok((handing, hand_over))
    }

    /// Nobody gets it from now on; whether somebody did.
    pub(super) fn end(mut self) -> bool {
        self.stop();
        self.shared.stage().gone
    }

    fn stop(&mut self) {
        let mut stage = self.shared.stage();
        stage.over = true;
        if let Some(stream) = stage.asking.take() {
            stream.shutdown();
        }
        drop(stage);
        self.shared.socket.shutdown();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a thread that hands memory over panicked");
        }
    }
}

impl Drop for Handing {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    /// Waits for who knows the token, and hands the memory over, once.
    fn wait(&self) {
        while let Ok(stream) = self.socket.accept(LIMIT) {
            match self.serve(&stream) {
                Ok(true) => return,
                // Somebody else, or who gave up.
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "memory was asked for, and not handed over"),
            }
        }
    }

    fn serve(&self, stream: &HandStream) -> Result<bool> {
        let mut stage = self.stage();
        if stage.over {
            return Ok(true);
        }
        stage.asking = Some(stream.try_clone()?);
        drop(stage);
        let mut shown = [0; 64];
        let came = stream.receive(&mut shown);
        let mut stage = self.stage();
        stage.asking = None;
        let (len, _) = came?;
        if stage.over || !is_token(&shown[..len], &self.token) {
            return Ok(stage.over);
        }
        let Some(file) = self.ram.file() else {
            return Ok(true);
        };
        // Said first: who has it in hand must not be taken for one who has not.
        stage.gone = true;
        self.send(stream, file)?;
        Ok(true)
    }

    #[cfg(not(test))]
    fn send(&self, stream: &HandStream, file: BorrowedFd<'_>) -> Result<()> {
        Ok(stream.send(HERE, &[file])?)
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gets the memory of a VM on offer, where it is offered and both are on one host; `None`: it is to be
/// copied. Blocks for moments, and no longer than two messages are waited for.
///
/// # Errors
///
/// Why it cannot be had, where nothing else was asked for.
pub(crate) fn take_memory(offer: &Offer) -> Result<Option<Arc<GuestRam>>, String> {
    let Some(hand_over) = offer.hand_over.as_ref().filter(|_| !offer.is_stopped()) else {
        return Ok(None);
    };
    match get(hand_over, offer.vm.config.memory) {
        Ok(ram) => Ok(Some(ram)),
        Err(error) if hand_over.required => Err(required(&error)),
        Err(error) => {
            tracing::debug!(%error, vm = offer.vm.id, "the memory is to be copied");
            Ok(None)
        }
    }
}

fn get(hand_over: &HandOver, size: u64) -> Result<Arc<GuestRam>> {
    let file = fetch(hand_over)?;
    GuestRam::handed(size, file)
}

/// The file that waits at the source.
fn fetch(hand_over: &HandOver) -> Result<OwnedFd> {
    hand_over.is_here()?;
    let failed = |what: &str, e: std::io::Error| DWCPError::Migration(format!("{what}: {e}"));
    let stream = HandStream::connect(&hand_over.socket, LIMIT)
        .map_err(|e| failed("the source's socket cannot be reached from here", e))?;
    stream
        .send(hand_over.token.as_bytes(), &[])
        .map_err(|e| failed("the source cannot be asked for it", e))?;
    let mut word = [0; HERE.len()];
    match stream.receive(&mut word) {
        Ok((len, Some(file))) if word[..len] == *HERE => Ok(file),
        Ok(_) => Err(DWCPError::Migration("the source did not give it".into())),
        Err(e) => Err(failed("the source did not give it", e)),
    }
}

/// What is left to do for a machine whose memory the destination has. It takes the place of the engine.
pub(super) struct Handed {
    machine: Arc<Machine>,
    channel: Blocking,
    progress: Arc<Progress>,
    #[cfg(test)]
    faults: Faults,
}

impl Handed {
    /// Over one channel, for the machine's state.
    pub(super) fn new(
        machine: Arc<Machine>,
        channel: Blocking,
        progress: Arc<Progress>,
        #[cfg(test)] faults: Faults,
    ) -> Self {
        Self {
            machine,
            channel,
            progress,
            #[cfg(test)]
            faults,
        }
    }

    /// There is nothing to copy. What the guest wrote to its disk is flushed, so that little is left to be in
    /// the pause.
    pub(super) fn copy(&mut self) -> Result<()> {
        #[cfg(test)]
        super::begin(&self.faults, super::Phase::Copy)?;
        self.machine.flush_disk()
    }

    /// Sends the state of the paused machine.
    pub(super) fn finish(&mut self, state: &[u8]) -> Result<()> {
        #[cfg(test)]
        super::begin(&self.faults, super::Phase::SendState)?;
        let bytes = sender::write_state(&mut self.channel, state, 0)?;
        self.progress.sent_bytes(bytes);
        Ok(())
    }
}

#[cfg(test)]
impl Shared {
    /// Makes of an offer what a test wants to be wrong with it.
    fn spoil(&self, mut hand_over: HandOver) -> HandOver {
        match self.fault {
            Some(HandFault::OtherHost) => hand_over.host = crate::model::new_uuid(),
            Some(HandFault::NoSocket) => {
                let end = hand_over.socket.len() - 8;
                hand_over.socket.replace_range(end.., "00000000");
            }
            Some(HandFault::WrongToken) => hand_over.token.replace_range(..4, "----"),
            _ => {}
        }
        hand_over
    }

    /// Hands the memory over, or what a test wants in its place.
    fn send(&self, stream: &HandStream, file: BorrowedFd<'_>) -> Result<()> {
        let memory = |size| GuestRam::allocate(size, crate::memory::Backing::Memfd);
        match self.fault {
            Some(HandFault::Silent) => std::thread::sleep(LIMIT + Duration::from_millis(100)),
            Some(HandFault::WrongSize) => {
                let other = memory(self.ram.size() + (1 << 20))?;
                stream.send(HERE, &[other.file().unwrap()])?;
            }
            Some(HandFault::Unsealed) => {
                let open = tempfile::tempfile_in("/dev/shm")?;
                open.set_len(self.ram.size())?;
                stream.send(HERE, &[open.as_fd()])?;
            }
            Some(HandFault::TwoFiles) => stream.send(HERE, &[file, file])?,
            Some(HandFault::NoFile) => stream.send(HERE, &[])?,
            _ => stream.send(HERE, &[file])?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Backing;

    const SIZE: u64 = 1 << 20;
    const LONG: Duration = Duration::from_secs(10);

    fn ram(backing: Backing) -> Arc<GuestRam> {
        GuestRam::allocate(SIZE, backing).unwrap()
    }

    fn start(ram: &Arc<GuestRam>) -> (Handing, HandOver) {
        Handing::start(ram, false, &Faults::default()).unwrap()
    }

    #[test]
    fn who_does_not_know_the_token_gets_nothing_and_keeps_nobody_from_it() {
        let ram = ram(Backing::Memfd);
        ram.write(0, b"secret").unwrap();
        let (handing, hand_over) = start(&ram);
        // Somebody who connects and says nothing, for as long as he may.
        let silent = HandStream::connect(&hand_over.socket, LONG).unwrap();
        for shown in [&b"0"[..], &[b'0'; 32], &[b'0'; 64], &[b'0'; 65]] {
            let stranger = HandStream::connect(&hand_over.socket, LONG).unwrap();
            stranger.send(shown, &[]).unwrap();
            let got = stranger.receive(&mut [0; 8]);
            assert!(matches!(got, Ok((0, None)) | Err(_)), "{got:?}");
        }
        drop(silent);
        let got = get(&hand_over, SIZE).unwrap();
        let mut word = [0; 6];
        got.read(0, &mut word).unwrap();
        assert_eq!(&word, b"secret");
        assert!(get(&hand_over, SIZE).is_err(), "it is handed over once");
        assert!(handing.end());
    }

    #[test]
    fn a_source_that_is_over_hands_nothing_over_and_waits_for_nobody() {
        let ram = ram(Backing::Memfd);
        let (handing, hand_over) = start(&ram);
        assert!(!handing.end());
        assert!(get(&hand_over, SIZE).is_err());
        // While somebody is there and says nothing.
        let (handing, hand_over) = start(&ram);
        let silent = HandStream::connect(&hand_over.socket, LONG).unwrap();
        while handing.shared.stage().asking.is_none() {
            std::thread::yield_now();
        }
        assert!(!handing.end());
        assert!(matches!(
            silent.receive(&mut [0; 8]),
            Ok((0, None)) | Err(_)
        ));
        assert_eq!(Arc::strong_count(&ram), 1, "nobody holds the memory");
    }

    #[test]
    fn an_offer_says_where_and_a_log_does_not_say_the_token() {
        let ram = ram(Backing::Memfd);
        let (_handing, hand_over) = start(&ram);
        let text = serde_json::to_string(&hand_over).unwrap();
        assert_eq!(serde_json::from_str::<HandOver>(&text).unwrap(), hand_over);
        assert!(text.contains(&hand_over.token));
        assert!(!format!("{hand_over:?}").contains(&hand_over.token));
        let other = HandOver {
            host: crate::model::new_uuid(),
            ..hand_over
        };
        let error = get(&other, SIZE).unwrap_err().to_string();
        assert!(error.contains("another host"), "{error}");
    }
}
