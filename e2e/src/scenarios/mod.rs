//! What is tried, in the order in which it is.

mod boot;
mod checks;
mod clocks;
mod memory;
mod migrate;
mod pulse;
mod pvh;

use std::pin::Pin;

use dwcp::Node;

use crate::guest::text;
use crate::options::Options;

/// What a scenario ends with: a note on what was seen, or what was wrong.
pub(crate) type Played = Result<String, String>;

/// One scenario.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// What of it does not hold yet: it is played when it is asked for by name.
    pub(crate) open: Option<&'static str>,
    pub(crate) play: fn(&Options) -> Pin<Box<dyn Future<Output = Played> + '_>>,
}

/// All of them.
pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "pulse",
        about: "the built-in guest runs and moves on this KVM as on any other",
        open: None,
        play: |options| Box::pin(pulse::play(options)),
    },
    Scenario {
        name: "boot",
        about: "a stock kernel comes up, uses its disk, its balloon and randomness, and powers off",
        open: None,
        play: |options| Box::pin(boot::play(options)),
    },
    Scenario {
        name: "pvh",
        about: "the kernel of the same image, unpacked, comes up by its PVH entry, and after a reset",
        open: None,
        play: |options| Box::pin(pvh::play(options)),
    },
    Scenario {
        name: "power",
        about: "with 4 vCPUs: reboot, power button, a panic, forced stop",
        open: None,
        play: |options| Box::pin(boot::power(options)),
    },
    Scenario {
        name: "clocks",
        about: "a guest is paused for 5 s, and put back to a snapshot",
        open: None,
        play: |options| Box::pin(clocks::play(options)),
    },
    Scenario {
        name: "migrate",
        about: "a guest that writes its disk moves between processes, three times there and back",
        open: None,
        play: |options| Box::pin(migrate::play(options)),
    },
];

/// A node of its own for a scenario, which has the image.
pub(crate) async fn node(name: &str, options: &Options) -> Result<Node, String> {
    let node = Node::builder(name)
        .data_dir(options.scratch.join(name))
        .start()
        .await
        .map_err(text)?;
    let image = options.image.display().to_string();
    node.client()
        .vm()
        .import_image(&image, None)
        .await
        .map_err(text)?;
    Ok(node)
}
