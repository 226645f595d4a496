//! A TCP proxy between clients and a node, which breaks connections when the test wants it.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// A proxy that lives until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    /// Where clients find it.
    pub port: u16,
    shared: Arc<Shared>,
    task: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    /// Where the node is; nowhere: connections are closed as soon as they are made.
    target: Mutex<Option<SocketAddr>>,
    plan: Mutex<Plan>,
    /// How often all connections were told to end.
    broken: watch::Sender<u64>,
}

/// When connections are cut by themselves.
#[derive(Debug, Default)]
struct Plan {
    /// Bytes from the node to its clients between one cut and the next.
    after: VecDeque<usize>,
    done: usize,
}

impl Proxy {
    /// A proxy that leads to a node.
    pub async fn start(target: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            target: Mutex::new(Some(target)),
            plan: Mutex::default(),
            broken: watch::Sender::new(0),
        });
        let own = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(carry(Arc::clone(&own), client));
            }
        });
        Proxy {
            port,
            shared,
            task: task.abort_handle(),
        }
    }

    /// Where it leads from now on. Connections that there are stay.
    pub fn lead_to(&self, target: Option<SocketAddr>) {
        *self.shared.target.lock().unwrap() = target;
    }

    /// Cuts its connections after so many bytes from the node, then again after so many more.
    pub fn cut_after(&self, bytes: impl IntoIterator<Item = usize>) {
        self.shared.plan.lock().unwrap().after.extend(bytes);
    }

    /// Cuts of the plan that were made.
    pub fn cuts(&self) -> usize {
        self.shared.plan.lock().unwrap().done
    }

    /// Cuts all connections now.
    pub fn cut(&self) {
        self.shared.broken.send_modify(|times| *times += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

/// Carries one connection until either side ends it, or it is cut.
async fn carry(shared: Arc<Shared>, client: TcpStream) {
    let mut broken = shared.broken.subscribe();
    let target = *shared.target.lock().unwrap();
    let Some(target) = target else { return };
    let Ok(node) = TcpStream::connect(target).await else {
        return;
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_node, mut to_node) = node.into_split();
    let harshly = tokio::select! {
        // That a side broke is an end like any other.
        cut = down(&shared, &mut from_node, &mut to_client) => cut.unwrap_or(false),
        _ = tokio::io::copy(&mut from_client, &mut to_node) => false,
        _ = broken.changed() => false,
    };
    if harshly {
        // A reset at both sides, which discards what is on its way.
        for half in [&to_client, &to_node] {
            let socket = socket2::SockRef::from(half.as_ref());
            socket.set_linger(Some(Duration::ZERO)).unwrap();
        }
    }
}

/// From the node to the client, up to the next cut of the plan. True: the cut is to be a reset.
async fn down(
    shared: &Shared,
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
) -> io::Result<bool> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let most = shared.next_cut().unwrap_or(usize::MAX).min(buffer.len());
        let read = from.read(&mut buffer[..most]).await?;
        if read == 0 {
            return Ok(false);
        }
        to.write_all(&buffer[..read]).await?;
        if let Some(cut) = shared.carried(read) {
            return Ok(cut % 2 == 0);
        }
    }
}

impl Shared {
    /// Bytes until the next cut.
    fn next_cut(&self) -> Option<usize> {
        self.plan.lock().unwrap().after.front().copied()
    }

    /// So many more were carried; the number of the cut that is due then.
    fn carried(&self, bytes: usize) -> Option<usize> {
        let mut plan = self.plan.lock().unwrap();
        let left = plan.after.front_mut()?;
        *left = left.saturating_sub(bytes);
        if *left > 0 {
            return None;
        }
        plan.after.pop_front();
        plan.done += 1;
        Some(plan.done)
    }
}
