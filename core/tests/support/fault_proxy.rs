//! A proxy between two nodes that knows the messages of a hand-over, and does to them what a test
//! wants: it cuts, half-closes, drops, changes, doubles, holds, delays and slows at any message or byte.
//!
//! Node A reaches B at [`FaultProxy::to_b`], and B reaches A at [`FaultProxy::to_a`]; whoever opens a
//! connection, messages are told apart by the way they go. Without TLS: it reads what it carries.
//!
//! A message is named by its operation: `prepare`, `prepared`, `attach`, `attached`, `ready`,
//! `commit`, `running`, `done` and the others of a control connection; `pages`, `zeros`, `round_end`,
//! `ack`, `state`, `missing`, `want` and the others of a bulk channel; `ping` for what only says that a
//! node is there; `frame-2` and so on for frames of other types.

mod carry;
mod names;
pub mod random;

use std::fmt;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use self::carry::Connection;

/// Which way a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    AToB,
    BToA,
}

impl Way {
    /// The other one.
    pub fn back(self) -> Way {
        match self {
            Way::AToB => Way::BToA,
            Way::BToA => Way::AToB,
        }
    }
}

/// What a fault does beside the proxy, such as to a process. Runs while the message waits.
pub type Hook = Box<dyn FnOnce() + Send>;

/// What happens at a message.
pub enum Fault {
    /// Its connection ends before it, both ways.
    Cut,
    /// The same by a reset, which also discards what was delivered and not read.
    Reset,
    /// So many bytes of it pass, then its connection ends.
    CutWithin(usize),
    /// Its connection ends before it, in that way only: who reads there finds its end, and what is
    /// sent there is lost.
    HalfClose(Way),
    /// It is lost; what follows passes.
    Drop,
    /// A bit in its middle is another when it passes.
    Corrupt,
    /// It passes twice.
    Duplicate,
    /// It waits, with what follows on its connection, for [`FaultProxy::release`].
    Hold,
    /// It waits, with what follows on its connection, for so long.
    Delay(Duration),
    /// From it on, all that goes that way is lost, on all connections, until [`FaultProxy::heal`].
    Mute(Way),
    /// From it on, all connections together carry so many bytes a second that way.
    Slow(Way, u64),
    /// Something is done before it passes.
    Before(Hook),
    /// Something is done after it has passed.
    After(Hook),
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Cut => f.write_str("Cut"),
            Fault::Reset => f.write_str("Reset"),
            Fault::CutWithin(bytes) => write!(f, "CutWithin({bytes})"),
            Fault::HalfClose(way) => write!(f, "HalfClose({way:?})"),
            Fault::Drop => f.write_str("Drop"),
            Fault::Corrupt => f.write_str("Corrupt"),
            Fault::Duplicate => f.write_str("Duplicate"),
            Fault::Hold => f.write_str("Hold"),
            Fault::Delay(time) => write!(f, "Delay({time:?})"),
            Fault::Mute(way) => write!(f, "Mute({way:?})"),
            Fault::Slow(way, rate) => write!(f, "Slow({way:?}, {rate})"),
            Fault::Before(_) => f.write_str("Before(..)"),
            Fault::After(_) => f.write_str("After(..)"),
        }
    }
}

/// A fault, and the message at which it comes; once.
#[derive(Debug)]
pub struct Rule {
    way: Way,
    operation: String,
    /// On this bulk channel only.
    channel: Option<u32>,
    /// Not before such a message has come.
    after: Option<(Way, String)>,
    /// Messages like it that have yet to come, this one included.
    nth: usize,
    fault: Fault,
}

impl Rule {
    /// At the next message of that name that goes this way.
    pub fn at(way: Way, operation: &str, fault: Fault) -> Rule {
        Rule {
            way,
            operation: operation.to_owned(),
            channel: None,
            after: None,
            nth: 1,
            fault,
        }
    }

    /// Only what goes over that bulk channel, or asks for it.
    pub fn on(self, channel: u32) -> Rule {
        Rule {
            channel: Some(channel),
            ..self
        }
    }

    /// Only what comes to the proxy after a message of that name that goes that way.
    pub fn after(self, way: Way, operation: &str) -> Rule {
        Rule {
            after: Some((way, operation.to_owned())),
            ..self
        }
    }

    /// At the nth one, from 1.
    pub fn nth(self, nth: usize) -> Rule {
        assert!(nth > 0, "the first is number 1");
        Rule { nth, ..self }
    }
}

/// A message that came to the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub way: Way,
    pub operation: String,
    /// The connection, by its number.
    pub connection: u64,
    /// The bulk channel that it was opened as.
    pub channel: Option<u32>,
    /// Since the proxy was started.
    pub at: Duration,
    /// What was done to it.
    pub fate: Vec<String>,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arrow = match self.way {
            Way::AToB => "A -> B",
            Way::BToA => "A <- B",
        };
        let (at, fate) = (self.at.as_secs_f64(), self.fate.join(", "));
        let channel = self.channel.map(|number| format!("/{number}"));
        let name = format!("{}{}", self.operation, channel.unwrap_or_default());
        write!(
            f,
            "{at:9.3} #{:<3} {arrow} {name:<12} {fate}",
            self.connection
        )
    }
}

/// A proxy that lives until it is dropped.
pub struct FaultProxy {
    /// Where A reaches B.
    pub to_b: SocketAddr,
    /// Where B reaches A.
    pub to_a: SocketAddr,
    shared: Arc<Shared>,
    listening: Vec<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    started: Instant,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    seen: Vec<Seen>,
    /// By way.
    links: [Link; 2],
    /// New connections are closed at once.
    refusing: bool,
    /// How often what is held was told to go on.
    released: u64,
    /// Messages at which a fault is at work.
    waiting: usize,
    connections: Vec<Arc<Connection>>,
    threads: Vec<JoinHandle<()>>,
    next_connection: u64,
    over: bool,
}

/// All connections together, one way.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    muted: bool,
    /// Bytes a second, where it is slow.
    rate: Option<u64>,
    /// When what was sent so far has passed.
    free: Option<Instant>,
}

impl FaultProxy {
    /// A proxy between the nodes that listen there, or will.
    pub fn start(a: SocketAddr, b: SocketAddr) -> FaultProxy {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            started: Instant::now(),
        });
        let mut listening = Vec::new();
        let mut listen = |target: SocketAddr, way: Way| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let shared = Arc::clone(&shared);
            listening.push(std::thread::spawn(move || {
                serve(&shared, &listener, target, way);
            }));
            address
        };
        let (to_b, to_a) = (listen(b, Way::AToB), listen(a, Way::BToA));
        FaultProxy {
            to_b,
            to_a,
            shared,
            listening,
        }
    }

    /// Adds a rule. Of several that are due at one message, all are carried out, in this order.
    pub fn rule(&self, rule: Rule) {
        self.shared.lock().rules.push(rule);
    }

    /// Rules that were not due yet.
    pub fn rules_left(&self) -> usize {
        self.shared.lock().rules.len()
    }

    /// Messages at which a fault is at work at this moment: they are held, delayed, or wait for a hook.
    pub fn waiting(&self) -> usize {
        self.shared.lock().waiting
    }

    /// Lets what is held go on.
    pub fn release(&self) {
        self.shared.lock().released += 1;
        self.shared.changed.notify_all();
    }

    /// Ends all connections now.
    pub fn cut(&self) {
        let all = self.shared.lock().connections.clone();
        for connection in all {
            connection.cut();
        }
    }

    /// Closes new connections at once, or no longer.
    pub fn refuse(&self, refuse: bool) {
        self.shared.lock().refusing = refuse;
    }

    /// Loses all that goes that way, or no longer; see also [`heal`](Self::heal).
    pub fn mute(&self, way: Way, mute: bool) {
        self.shared.lock().links[way as usize].muted = mute;
        self.shared.changed.notify_all();
    }

    /// Lets all connections together carry so many bytes a second that way; `None`: as many as there
    /// are.
    pub fn slow(&self, way: Way, bytes_per_second: Option<u64>) {
        self.shared.lock().slow(way, bytes_per_second);
    }

    /// Forgets all rules, releases what is held, and carries everything as it comes.
    pub fn heal(&self) {
        let mut state = self.shared.lock();
        state.rules.clear();
        state.links = [Link::default(); 2];
        state.refusing = false;
        state.released += 1;
        drop(state);
        self.shared.changed.notify_all();
    }

    /// What came so far, but for pings; and forgets it.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.shared.lock().seen)
    }

    /// The same, and it is kept.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.lock().seen.clone()
    }

    /// Waits until a message of that name has come to the proxy since it was last forgotten what did; it
    /// may be held, or lost.
    ///
    /// # Panics
    ///
    /// When it does not come within `limit`.
    pub fn wait_for(&self, operation: &str, limit: Duration) -> Seen {
        let end = Instant::now() + limit;
        let mut state = self.shared.lock();
        loop {
            if let Some(seen) = state.seen.iter().find(|s| s.operation == operation) {
                return seen.clone();
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let seen = text(&state.seen);
                drop(state);
                panic!("no `{operation}` within {limit:?}; there were\n{seen}");
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap().0;
        }
    }
}

/// Messages, a line for each.
pub fn text(seen: &[Seen]) -> String {
    let lines: Vec<String> = seen.iter().map(Seen::to_string).collect();
    lines.join("\n")
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.lock().over = true;
        self.heal();
        self.cut();
        for address in [self.to_a, self.to_b] {
            // Wakes who listens; it may have ended.
            let _ = TcpStream::connect(address);
        }
        for thread in self.listening.drain(..) {
            let _ = thread.join();
        }
        let threads = std::mem::take(&mut self.shared.lock().threads);
        for thread in threads {
            let _ = thread.join();
        }
    }
}

/// Accepts connections whose first bytes go that way.
fn serve(shared: &Arc<Shared>, listener: &TcpListener, target: SocketAddr, way: Way) {
    loop {
        let Ok((near, _)) = listener.accept() else {
            // Out of descriptors, or the like: who connects finds out by time.
            continue;
        };
        let mut state = shared.lock();
        if state.over {
            return;
        }
        if state.refusing {
            continue;
        }
        let number = state.next_connection;
        state.next_connection += 1;
        drop(state);
        // A node that is not there refuses; so does its proxy.
        let Ok(far) = TcpStream::connect(target) else {
            continue;
        };
        carry::start(shared, Connection::new(number, way, near, far));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A hook that panicked has failed its test; the others go on.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl State {
    fn slow(&mut self, way: Way, rate: Option<u64>) {
        self.links[way as usize].rate = rate;
        self.links[way as usize].free = None;
    }

    /// Takes the rules that are due at a message.
    fn due(&mut self, way: Way, operation: &str, channel: Option<u32>) -> Vec<Fault> {
        for rule in &mut self.rules {
            if rule.after.is_none()
                && (rule.way, rule.operation.as_str()) == (way, operation)
                && (rule.channel.is_none() || rule.channel == channel)
            {
                rule.nth -= 1;
            }
            // What comes from now on is after it.
            rule.after
                .take_if(|(after, name)| (*after, name.as_str()) == (way, operation));
        }
        let (due, rest) = std::mem::take(&mut self.rules)
            .into_iter()
            .partition(|rule| rule.nth == 0);
        self.rules = rest;
        let due: Vec<Rule> = due;
        due.into_iter().map(|rule| rule.fault).collect()
    }
}
