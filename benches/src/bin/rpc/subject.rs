//! The VM that every reply carries.

use dwcp::{Affinity, Backend, NetworkMode, Node, VM, VMConfig};
use dwcp_benches::Failure;

/// Memory of the VM; its guest writes to none of it.
const MEMORY: u64 = 64 << 20;
/// vCPUs of the VM: as few threads of the simulation as can be.
const CPUS: u32 = 1;

/// A node with a VM that runs, so that its replies carry all that a VM has, figures included. It is simulated: what
/// is measured is the way to it. The guest wakes once a second.
pub(crate) async fn start(listen: &[String]) -> Result<(Node, VM), Failure> {
    let mut builder = Node::builder("bench").backend(Backend::Sim);
    for address in listen {
        builder = builder.listen(address);
    }
    let node = builder.start().await?;
    let vms = node.client().vm();
    let vm = vms.create(config()?).await?;
    vms.start(&vm.id).await?;
    let vm = vms.get(&vm.id).await?;
    Ok((node, vm))
}

/// Every field that a node without special hardware takes is there.
fn config() -> dwcp::Result<VMConfig> {
    VMConfig::builder()
        .name("web-server-01")
        .memory(MEMORY)
        .memory_max(MEMORY)
        .cpus(CPUS)
        .cpu_quota(100 * CPUS)
        .image("dwcp/pulse")
        .network_mode(NetworkMode::None)
        .affinity(Affinity::default())
        .labels([
            ("env", "production"),
            ("tier", "web"),
            ("team", "platform"),
            ("release", "2025.11.2"),
        ])
        .annotations([
            ("owner", "platform@example.com"),
            ("dwcp.pulse/fill", "0"),
            ("dwcp.pulse/working-set", "0"),
            ("dwcp.pulse/dirty-pages-per-second", "1"),
            ("dwcp.pulse/beat-hz", "1"),
        ])
        .build()
}
