//! The runs, and what comes of them.

use std::time::Duration;

use dwcp::{Backend, Client, ClientConfig};
use dwcp_benches::{
    Failure,
    figures::Samples,
    host,
    report::{Bound, Report},
};

use crate::{
    crowd, idle,
    story::Story,
    support::{self, Folder},
};

/// Runs, where nothing else is asked.
const RUNS: u32 = 10;
/// What a node may take to end whose VMs are all gone.
const SHUTDOWN: Duration = Duration::from_secs(10);

/// Measures, and prints the report.
pub(crate) async fn run(runs: Option<u32>) -> Result<(), Failure> {
    let runs = runs.unwrap_or(RUNS);
    let mut report = Report::new("lifecycle");
    if support::backend() == Backend::Sim {
        let note =
            "no usable /dev/kvm: the VMs are simulated, and the figures are the simulation's";
        report.notes.push(note.to_owned());
    }
    let folder = Folder::create()?;
    let node = support::node()
        .data_dir(folder.path())
        .listen("127.0.0.1:0")
        .start()
        .await?;
    let here = node.client();
    let address = node.address().ok_or("the node has no address")?;
    let there = ClientConfig::new(address.ip().to_string()).with_port(address.port());
    let there = Client::new(there.with_tls_enabled(false)).await?;

    let mut story = Story::new(&here, &there).await?;
    let mut overhead = Samples::new("idle-overhead-mib", "MiB");
    let mut creates = Samples::new("creates-per-s", "1/s");
    let mut starts = Samples::new("starts-per-s", "1/s");

    eprintln!("lifecycle: warming up");
    story.warm_up().await?;
    crowd::creates(&here.vm()).await?;
    for run in 0..runs {
        eprintln!("lifecycle: run {} of {runs}", run + 1);
        story.run().await?;
        creates.add_run([crowd::creates(&here.vm()).await?]);
        starts.add_run([crowd::starts(&here.vm()).await?]);
        overhead.add_run([idle::overhead().await?]);
    }

    overhead.note(format!(
        "each of {} VMs, beside the guest's memory and what the kernel keeps",
        idle::VMS
    ));
    let place = if folder.is_used() {
        let kind = host::file_system(folder.path());
        format!(
            "store in its data_dir, on {}",
            kind.as_deref().unwrap_or("unknown")
        )
    } else {
        "in memory: the node keeps nothing in its data_dir".to_owned()
    };
    creates.note(format!("{} callers, {place}", crowd::CREATORS));
    starts.note(format!(
        "{} callers, to the end of the call",
        crowd::STARTERS
    ));
    story.finish(&mut report).await?;
    for samples in [overhead, creates, starts] {
        report.add(&samples);
    }
    report.set("backend", node.backend_name());
    node.shutdown(SHUTDOWN).await?;
    judge(&mut report);
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

/// Compares the rows, and looks at the goals.
fn judge(report: &mut Report) {
    report.compare("metrics-tcp", "metrics-inproc");
    for (row, name, bound) in [
        (
            "create+start-to-beat",
            "p50 of create+start-to-beat, ms",
            Bound::AtMost(25.0),
        ),
        (
            "metrics-inproc",
            "p50 of metrics-inproc, us",
            Bound::AtMost(100.0),
        ),
        (
            "creates-per-s",
            "p50 of creates-per-s",
            Bound::AtLeast(1_000.0),
        ),
    ] {
        let value = report.p50(row);
        report.goal(name, bound, value);
    }
}
