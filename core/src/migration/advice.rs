//! What an operator is told of a migration that did not end as it should: what happened, what is the
//! case now, and what to do.

#![forbid(unsafe_code)]

use super::protocol::source::Why;

/// Why a VM stayed, and what to do about it, for an operator.
pub(crate) fn advice(why: &Why) -> String {
    let what_to_do = match why {
        Why::Cancelled => return why.to_string(),
        Why::DowntimeLimit => {
            "raise max_downtime, or migrate again when the link is faster or the guest writes less"
        }
        Why::Unfit(_) => "choose another target, or change what does not fit",
        Why::Failed(_) | Why::Refused(_) => "it can be migrated again",
        Why::Forced => {
            return format!(
                "{why}. Should the target come back, it is told, and stops the VM if it runs it"
            );
        }
    };
    format!("{why}. The VM is here as it was; {what_to_do}")
}

/// Why nobody can tell who has a VM that was granted.
pub(crate) enum Unresolved<'a> {
    /// The destination does not answer.
    Silent,
    /// Who answers in its place does not count, for this reason.
    Stranger(&'a str),
    /// This node cannot write down what the destination says.
    NotWritten,
}

impl Unresolved<'_> {
    /// What an operator is told: what happened, what is the case, what can be done.
    pub(crate) fn text(&self, target: &str, migration: &str) -> String {
        let why = match self {
            Self::Silent => format!("the node {target} was let take the VM and does not answer"),
            Self::Stranger(why) => {
                format!("the node {target} was let take the VM and cannot be believed: {why}")
            }
            Self::NotWritten => {
                "this node's store does not take what became of the hand-over; see its health"
                    .into()
            }
        };
        format!(
            "unresolved: {why}. The VM runs on {target} if that node took it, and nowhere else; here it \
             does not run. {target} is asked again and again; `resolve_migration {migration}` asks at \
             once, and with `force` takes the VM back, for when {target} is gone for good"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_that_stayed_says_why_and_what_to_do() {
        let why = |text: &str| text.to_owned();
        for (reason, words) in [
            (
                Why::Unfit(vec![why("no room")]),
                ["no room", "another target"],
            ),
            (Why::Failed(why("it broke")), ["it broke", "migrated again"]),
            (Why::Refused(why("no disk")), ["no disk", "migrated again"]),
            (
                Why::DowntimeLimit,
                ["limit on downtime", "raise max_downtime"],
            ),
        ] {
            let text = advice(&reason);
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
            assert!(text.contains("here as it was"), "{text}");
        }
        assert!(advice(&Why::Forced).contains("stops the VM if it runs it"));
        // Whoever cancelled it knows what to do.
        assert_eq!(advice(&Why::Cancelled), "it was cancelled");
    }

    #[test]
    fn what_is_unresolved_says_why_and_which_call_resolves_it() {
        for (why, word) in [
            (Unresolved::Silent, "does not answer"),
            (
                Unresolved::Stranger("it was reinstalled"),
                "it was reinstalled",
            ),
            (Unresolved::NotWritten, "this node's store"),
        ] {
            let text = why.text("node-02", "m-1");
            let call = "`resolve_migration m-1`";
            for word in [
                "unresolved: ",
                "node-02",
                word,
                "nowhere else",
                call,
                "`force`",
            ] {
                assert!(text.contains(word), "{word}: {text}");
            }
        }
    }
}
