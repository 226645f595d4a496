//! What one node knows of the epochs of one VM.
//!
//! Every hand-over of a VM has an epoch, and so has every way to become its owner without one. They
//! only go up, and what a node has seen it remembers for longer than the VM: by that an older copy, an
//! older offer and an older owner are known for what they are. Plain data; whoever holds it makes each
//! change durable before anybody is told of it.

use std::fmt;

#[cfg(test)]
use super::Mutant;

/// Highest epoch that is taken, here or from a peer.
pub(crate) const EPOCH_MAX: u64 = u64::MAX / 2;

/// The epochs of one VM, as one node has seen them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Ledger {
    last: u64,
    #[cfg(test)]
    pub(super) mutant: Option<Mutant>,
}

/// Why an epoch cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum EpochError {
    /// It was seen here, or a later one was.
    Over {
        /// The epoch.
        epoch: u64,
        /// The last that was seen.
        last: u64,
    },
    /// It is above [`EPOCH_MAX`].
    TooHigh(u64),
}

/// What it means that somebody else has the VM under some epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Meeting {
    /// It is higher than all that was seen here: whatever is here stops.
    GiveWay,
    /// It is one that was seen here: neither can say who is right, and both stop.
    Both {
        /// The last epoch that was seen here.
        last: u64,
    },
    /// A later one was seen here: the other stops.
    Stand {
        /// The last epoch that was seen here.
        last: u64,
    },
}

impl Ledger {
    /// As it was stored.
    pub(crate) fn stored(last: u64) -> Self {
        Self {
            last,
            #[cfg(test)]
            mutant: None,
        }
    }

    /// The last epoch that was seen here.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Takes a new epoch, for a VM that leaves.
    ///
    /// # Errors
    ///
    /// [`EpochError::TooHigh`] when there is none left.
    pub(crate) fn burn(&mut self) -> Result<u64, EpochError> {
        let epoch = self.last.saturating_add(1);
        if epoch > EPOCH_MAX {
            return Err(EpochError::TooHigh(epoch));
        }
        self.last = epoch;
        Ok(epoch)
    }

    /// Accepts the epoch of a VM that arrives: it must be a new one, and settles older copies.
    ///
    /// # Errors
    ///
    /// [`EpochError::Over`] when it is not, and nothing has changed.
    pub(crate) fn accept(&mut self, epoch: u64) -> Result<(), EpochError> {
        if epoch > EPOCH_MAX {
            return Err(EpochError::TooHigh(epoch));
        }
        #[cfg(test)]
        if self.mutant == Some(Mutant::EpochReused) {
            self.last = epoch;
            return Ok(());
        }
        if epoch <= self.last {
            let last = self.last;
            return Err(EpochError::Over { epoch, last });
        }
        self.last = epoch;
        Ok(())
    }

    /// Notes an epoch that this node, or another, has the VM under.
    pub(crate) fn note(&mut self, epoch: u64) {
        self.last = self.last.max(epoch);
    }

    /// Somebody else has the VM under this epoch.
    pub(crate) fn meet(&self, epoch: u64) -> Meeting {
        let last = self.last;
        match epoch.cmp(&last) {
            std::cmp::Ordering::Greater => Meeting::GiveWay,
            std::cmp::Ordering::Equal => Meeting::Both { last },
            std::cmp::Ordering::Less => Meeting::Stand { last },
        }
    }
}

impl fmt::Display for EpochError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Over { epoch, last } => {
                write!(f, "epoch {epoch} of the VM is over: {last} was seen here")
            }
            Self::TooHigh(epoch) => write!(
                f,
                "epoch {epoch} of the VM is none: the highest is {EPOCH_MAX}"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_had_once() {
        let mut ledger = Ledger::default();
        assert_eq!((ledger.burn(), ledger.burn()), (Ok(1), Ok(2)));
        for seen in [0, 1, 2] {
            let error = ledger.accept(seen).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("epoch {seen} of the VM is over: 2 was seen here")
            );
        }
        assert_eq!(ledger.last(), 2, "what is refused changes nothing");
        ledger.accept(5).unwrap();
        ledger.note(4);
        assert_eq!(ledger.burn(), Ok(6));
        ledger.note(9);
        assert_eq!(ledger.burn(), Ok(10));
    }

    #[test]
    fn there_is_a_highest_epoch() {
        let mut ledger = Ledger::default();
        let error = ledger.accept(EPOCH_MAX + 1).unwrap_err();
        assert!(error.to_string().ends_with(&EPOCH_MAX.to_string()));
        assert_eq!(ledger.last(), 0);
        ledger.accept(EPOCH_MAX).unwrap();
        assert_eq!(ledger.burn(), Err(EpochError::TooHigh(EPOCH_MAX + 1)));
        assert_eq!(
            Ledger::stored(u64::MAX).burn(),
            Err(EpochError::TooHigh(u64::MAX))
        );
    }

    #[test]
    fn the_higher_epoch_has_the_vm_and_equal_ones_stop_both() {
        let ledger = Ledger::stored(7);
        assert_eq!(ledger.meet(8), Meeting::GiveWay);
        assert_eq!(ledger.meet(7), Meeting::Both { last: 7 });
        assert_eq!(ledger.meet(6), Meeting::Stand { last: 7 });
    }
}
