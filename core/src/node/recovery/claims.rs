//! Whether VMs that the store has are still this node's.
//!
//! A store may be older than what happened: it was restored from a backup, and the VM has moved away
//! since, and runs elsewhere. The store alone cannot tell. So before a VM runs that this node found in
//! its store, the peers are asked. One that has had the VM under a later epoch is right, and this
//! node's copy is forgotten; while a peer cannot be asked, nothing is started but by an operator, who
//! may know better.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::super::Shared;
use super::super::registry::{Change, Phase};
use crate::action::Action;
use crate::error::{DWCPError, Result};
use crate::migration::whereabouts::{self, Whereabouts};
use crate::model::{VM, VMEventType, VMState};

/// The first wait before peers that could not be asked are asked again; doubled each time.
const AGAIN_FIRST: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(30);

/// VMs that were found in the store and have not been asked about.
#[derive(Debug, Default)]
pub(in crate::node) struct Doubts(Mutex<HashSet<String>>);

impl Doubts {
    pub(super) fn about(&self, vms: impl Iterator<Item = String>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(vms);
    }

    fn has(&self, vm_id: &str) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.contains(vm_id)
    }

    /// It is known where that VM is.
    pub(in crate::node) fn settle(&self, vm_id: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(vm_id);
    }
}

/// What the peers' answers come to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Claim {
    /// Nobody else has it, or may have it; its last epoch.
    Ours { epoch: u64 },
    /// It is another node's.
    Elsewhere { node: String, epoch: u64 },
    /// Another node runs it, although what is here is not older.
    RunsElsewhere(String),
    /// It cannot be told.
    Open(String),
}

/// What a peer said of a VM, or why it said nothing.
type Said<'a> = (&'a str, Result<&'a Whereabouts, &'a str>);

/// Decides from what the peers say of a VM, of which this node, called `own`, knows `epoch`.
fn decide(own: &str, epoch: u64, said: &[Said<'_>]) -> Claim {
    let mut open = Vec::new();
    // The latest that anybody knows of, if that is later than what is known here.
    let mut latest = (epoch, None);
    for (peer, said) in said {
        let there = match said {
            Ok(there) => there,
            Err(why) => {
                open.push(format!("the node {peer} cannot be asked: {why}"));
                continue;
            }
        };
        let later = there.epoch > epoch;
        match there.state {
            Some(_) if there.arriving => {
                if later {
                    open.push(format!("it is on its way to the node {peer}"));
                }
                continue;
            }
            // It may be about to leave, and to come here.
            Some(VMState::Migrating | VMState::Unknown) if there.epoch == epoch => {
                open.push(format!("the node {peer} is moving it"));
                continue;
            }
            Some(state) if state.is_active() && there.epoch < epoch => {
                return Claim::RunsElsewhere(format!(
                    "it is {state} on the node {peer}, under the older epoch {} (here: {epoch})",
                    there.epoch
                ));
            }
            Some(state) if state.is_active() && !later => {
                return Claim::Elsewhere {
                    node: (*peer).to_owned(),
                    epoch,
                };
            }
            Some(_) if there.epoch == epoch && epoch > 0 => {
                open.push(format!("the node {peer} has it too, under the same epoch"));
            }
            _ => {}
        }
        if there.epoch > latest.0 {
            let node = match there.state {
                Some(_) => Some((*peer).to_owned()),
                None => there.moved_to.clone(),
            };
            latest = (there.epoch, Some((*peer, node)));
        }
    }
    let (epoch, found) = latest;
    match found {
        Some((_, Some(node))) if node != own => Claim::Elsewhere { node, epoch },
        Some((peer, None)) => Claim::Open(format!(
            "the node {peer} had it under the later epoch {epoch} and has it no more, so what is here \
             is old"
        )),
        _ if open.is_empty() => Claim::Ours { epoch },
        _ => Claim::Open(open.join("; ")),
    }
}

/// A VM that is to be started again.
struct Waiting {
    vm_id: String,
    /// Why it does not run.
    because: Option<String>,
    /// What was added to that.
    told: Option<String>,
}

impl Shared {
    /// Asks all peers about VMs, which are doubted; what that comes to, for each.
    async fn claims(self: &Arc<Self>, vms: &[String]) -> Vec<Claim> {
        let vms: Arc<[String]> = vms.into();
        let mut asked = Vec::new();
        for name in self.peers().into_keys() {
            let (dial, vms) = (self.dial(&name), Arc::clone(&vms));
            // All at the same time.
            let answer = self
                .runtime
                .spawn_blocking(move || whereabouts::ask(&dial?, &vms));
            asked.push((name, answer));
        }
        let mut answers = BTreeMap::new();
        for (name, answer) in asked {
            let answer = match answer.await {
                Ok(answer) => answer.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            // A list of peers may be the same on all nodes, this one included.
            if answer.as_ref().is_ok_and(|own| own.node_uuid == self.uuid) {
                continue;
            }
            answers.insert(name, answer);
        }
        let one = |(n, vm): (usize, &String)| {
            let said: Vec<Said<'_>> = answers
                .iter()
                .map(|(name, answer)| {
                    let said = answer.as_ref().map(|all| &all.vms[n]);
                    (name.as_str(), said.map_err(String::as_str))
                })
                .collect();
            decide(&self.name, self.migrations.last_epoch(vm), &said)
        };
        vms.iter().enumerate().map(one).collect()
    }

    /// Before a VM runs, as an operator asked: whether another node says that the VM is its own. Its
    /// lifecycle lock is held.
    ///
    /// # Errors
    ///
    /// `unavailable` naming the node that has it; `invalid_operation` when another node runs it.
    pub(in crate::node) async fn make_sure(self: &Arc<Self>, what: &str, vm: &VM) -> Result<()> {
        if !self.doubts.has(&vm.id) {
            return Ok(());
        }
        let claims = self.claims(std::slice::from_ref(&vm.id)).await;
        for claim in claims {
            match claim {
                Claim::Ours { epoch } => self.is_ours(&vm.id, epoch).await?,
                Claim::Elsewhere { node, epoch } => {
                    self.is_elsewhere(&vm.id, &node, epoch).await?;
                    return self.registry.find(&vm.id).map(drop);
                }
                Claim::RunsElsewhere(why) => {
                    return Err(DWCPError::InvalidOperation(format!(
                        "{what}: VM {}: {why}; end it there first",
                        vm.id
                    )));
                }
                // The one who asks decides.
                Claim::Open(why) => {
                    tracing::warn!(vm = %vm.id, why, "{what}: although it may be elsewhere");
                    self.doubts.settle(&vm.id);
                }
            }
        }
        Ok(())
    }

    /// Nobody else has a VM.
    async fn is_ours(&self, vm_id: &str, epoch: u64) -> Result<()> {
        self.migrations.learn_epoch(vm_id, epoch);
        self.registry.flush().done().await?;
        self.doubts.settle(vm_id);
        Ok(())
    }

    /// Another node has a VM: what is here is forgotten, and who asks is told where it is.
    async fn is_elsewhere(&self, vm_id: &str, node: &str, epoch: u64) -> Result<()> {
        let message = format!(
            "is on the node {node}, as it turned out when this node started: the store here is older \
             (that is epoch {epoch} of the VM, and {} was known here)",
            self.migrations.last_epoch(vm_id)
        );
        tracing::warn!(vm = vm_id, "{message}");
        self.migrations.learn_epoch(vm_id, epoch);
        if let Some(machine) = self.registry.found_elsewhere(vm_id, node, &message)? {
            self.end(machine).await?;
        }
        self.doubts.settle(vm_id);
        self.registry.flush().done().await
    }

    /// Starts those of the VMs that are this node's for certain; the others, for the next time.
    async fn start_again(self: &Arc<Self>, waiting: Vec<Waiting>) -> Vec<Waiting> {
        let ids: Vec<String> = waiting.iter().map(|one| one.vm_id.clone()).collect();
        let claims = self.claims(&ids).await;
        let mut left = Vec::new();
        for (one, claim) in waiting.into_iter().zip(claims) {
            // Somebody else started it, or removed it.
            if !self.doubts.has(&one.vm_id) {
                continue;
            }
            let settled = match claim {
                Claim::Ours { epoch } => match self.is_ours(&one.vm_id, epoch).await {
                    Ok(()) => {
                        let vm_id = one.vm_id.clone();
                        self.start(Action::Start { vm_id }).await
                    }
                    Err(error) => Err(error),
                },
                Claim::Elsewhere { node, epoch } => {
                    self.is_elsewhere_at_rest(&one.vm_id, &node, epoch).await
                }
                Claim::RunsElsewhere(why) | Claim::Open(why) => {
                    left.extend(self.waits(one, why).await);
                    continue;
                }
            };
            if let Err(error) = settled {
                // It says so itself, or somebody was faster.
                tracing::warn!(vm = one.vm_id, %error, "was not started again");
            }
        }
        left
    }

    async fn is_elsewhere_at_rest(&self, vm_id: &str, node: &str, epoch: u64) -> Result<()> {
        let (entry, _) = self.registry.find(vm_id)?;
        let _guard = entry.lock().await;
        let (_, vm) = self.registry.find(vm_id)?;
        if matches!(vm.state, VMState::Stopped | VMState::Failed) {
            self.is_elsewhere(vm_id, node, epoch).await?;
        }
        Ok(())
    }

    /// Says of a VM that it is not started, and why; it, if it still is to be started.
    async fn waits(&self, one: Waiting, why: String) -> Option<Waiting> {
        let (entry, _) = self.registry.find(&one.vm_id).ok()?;
        let _guard = entry.lock().await;
        let (_, vm) = self.registry.find(&one.vm_id).ok()?;
        if !matches!(vm.state, VMState::Stopped | VMState::Failed) {
            return None;
        }
        if one.told.as_ref() == Some(&why) {
            return Some(one);
        }
        let before = one.because.as_deref().unwrap_or("this node ended");
        let message = format!(
            "{before}. It is not started again before it is certain that no other node has it: {why}. \
             This node asks again; `start` starts it all the same, and is for who knows"
        );
        tracing::warn!(vm = %vm.id, "{message}");
        let event = match vm.state {
            VMState::Failed => VMEventType::Failed,
            _ => VMEventType::Stopped,
        };
        let change = Change::new(vm.state, event, message).because();
        if let Err(error) = self.registry.change(&vm.id, change) {
            // The node is over.
            tracing::debug!(vm = %vm.id, %error, "was not told");
            return None;
        }
        Some(Waiting {
            told: Some(why),
            ..one
        })
    }
}

/// Starts VMs again, one after the other, while the node serves already: each as soon as it is certain
/// that no peer has it.
pub(in crate::node) fn restart(shared: &Arc<Shared>, vms: Vec<String>) {
    if vms.is_empty() {
        return;
    }
    let mut waiting: Vec<Waiting> = vms
        .into_iter()
        .filter_map(|vm_id| {
            let (_, vm) = shared.registry.find(&vm_id).ok()?;
            Some(Waiting {
                vm_id,
                because: vm.reason.clone(),
                told: None,
            })
        })
        .collect();
    let node = Arc::downgrade(shared);
    shared.runtime.spawn(async move {
        let mut again = AGAIN_FIRST;
        loop {
            {
                let Some(shared) = node.upgrade() else { return };
                if shared.registry.phase() == Phase::Closed {
                    return;
                }
                waiting = shared.start_again(waiting).await;
            }
            if waiting.is_empty() {
                return;
            }
            tokio::time::sleep(again).await;
            again = (again * 2).min(AGAIN_MAX);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a peer has: its state, or where it went.
    enum Has {
        Here(VMState),
        Arriving,
        Went(&'static str),
        Nothing,
    }

    fn known(epoch: u64, has: &Has) -> Whereabouts {
        Whereabouts {
            vm_id: "vm".into(),
            epoch,
            state: match has {
                Has::Here(state) => Some(*state),
                Has::Arriving => Some(VMState::Migrating),
                _ => None,
            },
            arriving: matches!(has, Has::Arriving),
            moved_to: match has {
                Has::Went(node) => Some((*node).to_owned()),
                _ => None,
            },
        }
    }

    /// What this node, `a`, which knows epoch 3, concludes of what `b` and `c` say.
    fn concluded(said: &[(u64, Has)]) -> Claim {
        let known: Vec<_> = said.iter().map(|(epoch, has)| known(*epoch, has)).collect();
        let said: Vec<Said<'_>> = ["b", "c"].into_iter().zip(known.iter().map(Ok)).collect();
        decide("a", 3, &said)
    }

    fn elsewhere(node: &str, epoch: u64) -> Claim {
        let node = node.to_owned();
        Claim::Elsewhere { node, epoch }
    }

    #[test]
    fn what_no_peer_has_later_is_ours() {
        use Has::{Here, Nothing, Went};
        let ours = |epoch| Claim::Ours { epoch };
        assert_eq!(decide("a", 3, &[]), ours(3));
        assert_eq!(concluded(&[(0, Nothing), (0, Nothing)]), ours(3));
        // It came from there, or was there long ago.
        assert_eq!(concluded(&[(3, Went("a")), (2, Went("a"))]), ours(3));
        assert_eq!(
            concluded(&[(2, Here(VMState::Failed)), (0, Nothing)]),
            ours(3)
        );
        // It went away and came back, and the backup is of before that.
        assert_eq!(concluded(&[(5, Went("a")), (4, Went("b"))]), ours(5));
    }

    #[test]
    fn what_a_peer_had_later_is_not_run_here() {
        use Has::{Here, Nothing, Went};
        for state in [VMState::Running, VMState::Failed, VMState::Stopped] {
            let there = concluded(&[(4, Here(state)), (0, Nothing)]);
            assert_eq!(there, elsewhere("b", 4));
        }
        // It was handed over under the epoch that is known here, and runs there.
        let there = concluded(&[(0, Nothing), (3, Here(VMState::Running))]);
        assert_eq!(there, elsewhere("c", 3));
        // It went on from there; who has seen more of it is believed.
        assert_eq!(
            concluded(&[(4, Went("c")), (0, Nothing)]),
            elsewhere("c", 4)
        );
        let there = concluded(&[(5, Went("c")), (6, Went("d"))]);
        assert_eq!(there, elsewhere("d", 6));
        let there = concluded(&[(4, Went("a")), (5, Here(VMState::Paused))]);
        assert_eq!(there, elsewhere("c", 5));
        // Whoever cannot be asked does not matter then.
        let (running, silent) = (known(4, &Here(VMState::Running)), Err("no route"));
        let said = [("b", Ok(&running)), ("c", silent)];
        assert_eq!(decide("a", 3, &said), elsewhere("b", 4));
    }

    #[test]
    fn what_cannot_be_told_is_open() {
        use Has::{Arriving, Here, Nothing};
        let open = |claim: Claim, word: &str| match claim {
            Claim::Open(why) => assert!(why.contains(word), "{why}"),
            other => panic!("{other:?}"),
        };
        open(
            decide("a", 3, &[("b", Err("no route"))]),
            "b cannot be asked",
        );
        open(concluded(&[(4, Nothing), (0, Nothing)]), "has it no more");
        open(concluded(&[(4, Arriving), (0, Nothing)]), "on its way");
        open(
            concluded(&[(3, Here(VMState::Failed)), (0, Nothing)]),
            "same epoch",
        );
        for state in [VMState::Migrating, VMState::Unknown] {
            open(concluded(&[(3, Here(state)), (0, Nothing)]), "is moving it");
        }
        match concluded(&[(2, Here(VMState::Running)), (0, Nothing)]) {
            Claim::RunsElsewhere(why) => assert!(why.contains("older epoch 2"), "{why}"),
            other => panic!("{other:?}"),
        }
        // A copy that was offered under the epoch that is known here waits for this node's word.
        let offered = concluded(&[(3, Arriving), (0, Nothing)]);
        assert_eq!(offered, Claim::Ours { epoch: 3 });
    }
}
