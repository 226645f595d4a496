//! A client, held by another language.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use dwcp::{Action, Client, ClientMetrics, Outcome, Subscription};

use crate::failure::{Failure, Result};
use crate::options::ClientOptions;
use crate::runtime::Local;
use crate::stream::StreamHandle;

/// A client, of this process only. Cheap to clone; the clones are one.
#[derive(Clone)]
pub struct ClientHandle(Arc<Local<Client>>);

impl fmt::Debug for ClientHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl ClientHandle {
    pub(crate) fn new(client: Client) -> ClientHandle {
        ClientHandle(Arc::new(Local::new(client)))
    }

    /// Connects to the node that the options name.
    ///
    /// # Errors
    ///
    /// As [`Client::new`].
    pub async fn connect(options: ClientOptions) -> Result<ClientHandle> {
        let client = Client::new(options.into()).await;
        Ok(ClientHandle::new(client.map_err(|error| {
            Failure::from(error).about("connect", None)
        })?))
    }

    /// The client itself.
    ///
    /// # Errors
    ///
    /// `forked` in another process than the one that made it.
    pub fn client(&self) -> Result<&Client> {
        self.0.get()
    }

    /// Asks for something.
    ///
    /// # Errors
    ///
    /// `forked`. What else can go wrong is the future's.
    pub fn call(
        &self,
        action: Action,
    ) -> Result<impl Future<Output = Result<Outcome>> + Send + use<>> {
        let client = self.client()?.clone();
        Ok(async move {
            let (operation, concerns) = (action.name(), concerns(&action).map(str::to_owned));
            let answer = client.call(action).await;
            answer.map_err(|error| Failure::from(error).about(operation, concerns.as_deref()))
        })
    }

    /// Opens a stream.
    ///
    /// # Errors
    ///
    /// As [`call`](ClientHandle::call).
    pub fn subscribe(
        &self,
        subscription: Subscription,
    ) -> Result<impl Future<Output = Result<StreamHandle>> + Send + use<>> {
        let client = self.client()?.clone();
        Ok(async move {
            let operation = subscription.name();
            let concerns = match &subscription {
                Subscription::MigrationProgress { migration_id } => Some(migration_id.clone()),
                other => other.vm_id().map(str::to_owned),
            };
            match client.subscribe(subscription).await {
                Ok(items) => Ok(StreamHandle::new(items, operation, concerns)),
                Err(error) => Err(Failure::from(error).about(operation, concerns.as_deref())),
            }
        })
    }

    /// Ends its connection, for whatever is under way too; returns when it is closed.
    ///
    /// # Errors
    ///
    /// `forked`.
    pub fn close(&self) -> Result<impl Future<Output = Result<()>> + Send + use<>> {
        let client = self.client()?.clone();
        Ok(async move {
            client.close().await;
            Ok(())
        })
    }

    /// Whether requests can reach the node; never in another process than the one that made it.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.client().is_ok_and(Client::is_connected)
    }

    /// Whether the node has accepted it.
    #[must_use]
    pub fn is_authenticated(&self) -> bool {
        self.client().is_ok_and(Client::is_authenticated)
    }

    /// Its counters.
    ///
    /// # Errors
    ///
    /// `forked`.
    pub fn metrics(&self) -> Result<ClientMetrics> {
        Ok(self.client()?.metrics())
    }
}

/// The id of what a request is about.
fn concerns(action: &Action) -> Option<&str> {
    match action {
        Action::MigrationStatus { migration_id }
        | Action::CancelMigration { migration_id }
        | Action::ResolveMigration { migration_id, .. } => Some(migration_id),
        Action::RestoreSnapshot { snapshot_id, .. } | Action::DeleteSnapshot { snapshot_id } => {
            Some(snapshot_id)
        }
        other => other.vm_id(),
    }
}
