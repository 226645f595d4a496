//! What is tried, in the order in which it is.

mod pulse;

use std::pin::Pin;

use crate::options::Options;

/// What a scenario ends with: a note on what was seen, or what was wrong.
pub(crate) type Played = Result<String, String>;

/// One scenario.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) play: fn(&Options) -> Pin<Box<dyn Future<Output = Played> + '_>>,
}

/// All of them.
pub(crate) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "pulse",
    about: "the built-in guest runs and moves on this KVM as on any other",
    play: |options| Box::pin(pulse::play(options)),
}];
