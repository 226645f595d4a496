//! Several clients of one node, to be taken and given back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Client;
use super::config::ClientConfig;
use crate::error::{DWCPError, Result};

/// A number of clients of one node, each with connections of its own. Cheap to clone; clones share the
/// clients.
///
/// One [`Client`] answers many tasks at a time. A pool is for programs that want to bound how many
/// work at a time: each takes a client, and whoever finds none waits. What is taken has to be
/// [released](ClientPool::release), or the pool has one less.
///
/// # Examples
///
/// ```no_run
/// use dwcp::{ClientConfig, ClientPool};
///
/// # async fn run() -> dwcp::Result<()> {
/// let pool = ClientPool::new(10, ClientConfig::new("localhost")).await?;
/// let client = pool.acquire().await;
/// println!("{:?}", client.health().await);
/// pool.release(client);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ClientPool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    clients: Vec<Client>,
    /// Positions of those that nobody has.
    idle: Mutex<Vec<usize>>,
    free: Semaphore,
}

impl ClientPool {
    /// Connects `size` clients.
    ///
    /// # Errors
    ///
    /// [`DWCPError::Config`] for no clients at all; those of [`Client::new`] when one cannot connect.
    pub async fn new(size: usize, config: ClientConfig) -> Result<ClientPool> {
        if size == 0 {
            return Err(DWCPError::Config("size: must be at least 1".into()));
        }
        let mut connecting = JoinSet::new();
        for _ in 0..size {
            connecting.spawn(Client::new(config.clone()));
        }
        let mut clients = Vec::with_capacity(size);
        while let Some(client) = connecting.join_next().await {
            let client = client.map_err(|error| DWCPError::Internal(error.to_string()))?;
            clients.push(client?);
        }
        Ok(ClientPool::of(clients))
    }

    fn of(clients: Vec<Client>) -> ClientPool {
        ClientPool(Arc::new(Shared {
            idle: Mutex::new((0..clients.len()).collect()),
            free: Semaphore::new(clients.len()),
            clients,
        }))
    }

    /// Takes a client, waiting until there is one.
    pub async fn acquire(&self) -> Client {
        loop {
            if let Ok(permit) = self.0.free.acquire().await {
                permit.forget();
            }
            // As many are idle as there are permits, so there is one.
            if let Some(index) = self.0.idle().pop() {
                return self.0.clients[index].clone();
            }
        }
    }

    /// Gives a client back. One that is not of this pool, or was given back before, is dropped.
    pub fn release(&self, client: Client) {
        let shared = &self.0;
        let found = shared.clients.iter().position(|own| own.is_same(&client));
        let Some(index) = found else {
            return;
        };
        let mut idle = shared.idle();
        if !idle.contains(&index) {
            idle.push(index);
            drop(idle);
            shared.free.add_permits(1);
        }
    }

    /// How many clients it has, taken or not.
    #[must_use]
    pub fn size(&self) -> usize {
        self.0.clients.len()
    }

    /// Closes all clients, those that are taken too.
    pub async fn close(&self) {
        for client in &self.0.clients {
            client.close().await;
        }
    }
}

impl Shared {
    fn idle(&self) -> MutexGuard<'_, Vec<usize>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
