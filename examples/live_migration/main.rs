//! Two nodes in this process, a VM started on one and moved to the other while it runs.
//!
//! ```text
//! cargo run --release --example live_migration
//! cargo run --release --example live_migration -- --json
//! ```
//!
//! The guest is the one that comes with the library. It fills memory with words that do not
//! compress, keeps writing a part of it, beats, and checks all of it before it leaves and after it
//! has arrived: that its memory came whole is its own word. `--help` lists what can be set.

mod options;
mod report;
mod screen;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use dwcp::{
    Backend, DWCPError, GuestReport, MigrationOptions, MigrationState, MigrationStatus, Node,
    Result, VM, VMClient, VMConfig,
};
use futures::StreamExt;

use options::{BackendChoice, Options, Parsed};
use report::Report;
use screen::Screen;

/// Far longer than the slowest heartbeat that can be asked for.
const FIRST_BEAT: Duration = Duration::from_secs(10);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let options = match options::parse(std::env::args().skip(1)) {
        Ok(Parsed::Run(options)) => options,
        Ok(Parsed::Help) => {
            print!("{}", options::HELP);
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("live_migration: {error}\n\n{}", options::HELP);
            return ExitCode::from(2);
        }
    };
    let screen = Screen::new(&options);
    match run(&options, &screen).await {
        Ok(whole) if whole => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            screen.clear();
            if options.json {
                println!("{}", report::failure(&error));
            }
            eprintln!("live_migration: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Does it all; whether every migration completed with the guest's memory whole.
async fn run(options: &Options, screen: &Screen) -> Result<bool> {
    let backend = choose_backend(options, screen).await?;
    let nodes = [
        start_node("node-01", backend).await?,
        start_node("node-02", backend).await?,
    ];
    for (node, peer) in [(0, 1), (1, 0)] {
        nodes[node].add_peer(nodes[peer].name(), address(&nodes[peer])?)?;
    }
    let vm = start_vm(&nodes[0].client().vm(), options, screen).await?;
    let mut whole = true;
    for run in 0..options.runs {
        // There, and with more runs back again.
        let (from, to) = (&nodes[run % 2], &nodes[(run + 1) % 2]);
        let report = move_vm(&vm, from, to, options, screen).await?;
        whole &= report.memory_verified && report.status.state == MigrationState::Completed;
        screen.report(&report);
    }
    for node in &nodes {
        node.shutdown(Duration::ZERO).await?;
    }
    Ok(whole)
}

/// KVM, unless the simulation was asked for or there is no KVM.
async fn choose_backend(options: &Options, screen: &Screen) -> Result<Backend> {
    match options.backend {
        BackendChoice::Kvm => Ok(Backend::Kvm),
        BackendChoice::Sim => Ok(Backend::Sim),
        BackendChoice::Auto => match Node::builder("probe").backend(Backend::Kvm).start().await {
            Ok(_) => Ok(Backend::Kvm),
            Err(error @ DWCPError::Unsupported(_)) => {
                screen.say(&format!(
                    "{error}\nUsing the simulation: no guest code runs.\n"
                ));
                Ok(Backend::Sim)
            }
            Err(error) => Err(error),
        },
    }
}

async fn start_node(name: &str, backend: Backend) -> Result<Node> {
    let node = Node::builder(name).backend(backend).listen("127.0.0.1:0");
    node.start().await
}

fn address(node: &Node) -> Result<String> {
    let address = node.address();
    let address = address.ok_or_else(|| DWCPError::Other("a node does not listen".into()))?;
    Ok(address.to_string())
}

/// A VM that runs, its memory filled and checked.
async fn start_vm(vms: &VMClient, options: &Options, screen: &Screen) -> Result<VM> {
    let config = VMConfig::builder()
        .name("traveller")
        .memory(options.memory)
        .cpus(options.cpus)
        .huge_pages(options.huge_pages)
        .annotations([
            ("dwcp.pulse/fill", options.fill.to_string()),
            ("dwcp.pulse/working-set", options.working_set.to_string()),
            (
                "dwcp.pulse/dirty-pages-per-second",
                options.dirty_rate.to_string(),
            ),
            ("dwcp.pulse/beat-hz", options.beat_hz.to_string()),
            ("dwcp.pulse/spin", options.spin.to_string()),
        ])
        .build()?;
    let vm = vms.create(config).await?;
    vms.start(&vm.id).await?;
    loop {
        let filled = vms.guest_report(&vm.id).await?.pages_filled * 4096;
        screen.bar("filling memory", filled, options.fill, "");
        if filled >= options.fill {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    screen.clear();
    Ok(vm)
}

/// Moves the VM and has the guest check its memory, before and after.
async fn move_vm(
    vm: &VM,
    from: &Node,
    to: &Node,
    options: &Options,
    screen: &Screen,
) -> Result<Report> {
    let (here, there) = (from.client().vm(), to.client().vm());
    screen.bar("checking memory", 0, 0, "");
    // Also begins the measure of the longest silence.
    check(&here.verify(&vm.id).await?)?;
    let before = here.guest_report(&vm.id).await?;
    let began = Instant::now();
    let wanted = MigrationOptions {
        max_downtime: options.max_downtime,
        parallel: options.parallel,
        verify_checksum: options.verify_checksum,
        compression: false,
        same_host: options.same_host,
        // These nodes have no certificates.
        encrypt_transport: false,
        ..MigrationOptions::default()
    };
    let migration = here.migrate(&vm.id, to.name(), wanted).await?;
    let status = follow(&here, &migration, screen).await?;
    let total = began.elapsed();
    if status.state != MigrationState::Completed {
        return Err(DWCPError::Migration(format!(
            "the migration ended {}: {}",
            status.state,
            status.error.unwrap_or_default()
        )));
    }
    let arrived = first_beat(&there, &vm.id).await?;
    let elapsed = began.elapsed();
    screen.bar("checking memory", 0, 0, "");
    let after = there.verify(&vm.id).await?;
    screen.clear();
    let written = arrived.pages_written.saturating_sub(before.pages_written);
    Ok(Report {
        backend: to.backend_name().to_owned(),
        total,
        memory_verified: after.verified,
        downtime_seen: Duration::from_micros(arrived.longest_beat_gap_us),
        switch_seen: Duration::from_micros(arrived.switch_gap_us.unwrap_or(0)),
        dirty_rate: written as f64 / elapsed.as_secs_f64(),
        faults: after.faults,
        status,
    })
}

/// What the guest says after its first beat at the destination: the silence of the switch is over then,
/// and the check that follows, which keeps its vCPU and the host busy, is no part of the move.
async fn first_beat(vms: &VMClient, id: &str) -> Result<GuestReport> {
    let deadline = Instant::now() + FIRST_BEAT;
    loop {
        let report = vms.guest_report(id).await?;
        if report.switch_gap_us.is_some() {
            return Ok(report);
        }
        if Instant::now() >= deadline {
            return Err(DWCPError::Timeout(format!(
                "the guest has not beaten within {FIRST_BEAT:?} of its arrival"
            )));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn check(report: &GuestReport) -> Result<()> {
    if report.verified {
        return Ok(());
    }
    Err(DWCPError::Other(format!(
        "the guest's memory was not right before it moved: {} faults",
        report.faults
    )))
}

/// Shows the progress until the migration ends.
async fn follow(
    vms: &VMClient,
    migration: &MigrationStatus,
    screen: &Screen,
) -> Result<MigrationStatus> {
    let mut progress = vms.migration_progress(&migration.id).await?;
    let mut last = migration.clone();
    while let Some(status) = progress.next().await {
        screen.migrating(&status);
        last = status;
    }
    screen.clear();
    match progress.error() {
        Some(error) => Err(error),
        None => Ok(last),
    }
}
