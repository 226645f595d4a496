//! dwcp itself: `get` of a VM, over whatever its client goes.

use dwcp::{Client, VMClient};
use dwcp_benches::Failure;

use super::calls::Caller;

/// Asks a node for a VM.
#[derive(Clone)]
pub(crate) struct Ours {
    vms: VMClient,
    id: String,
}

impl Ours {
    /// By that client, for that VM.
    pub(crate) fn new(client: &Client, id: &str) -> Self {
        Self {
            vms: client.vm(),
            id: id.to_owned(),
        }
    }
}

impl Caller for Ours {
    async fn call(&mut self) -> Result<(), Failure> {
        let vm = self.vms.get(&self.id).await?;
        if vm.id == self.id {
            Ok(())
        } else {
            Err("the reply is another VM's".into())
        }
    }
}
