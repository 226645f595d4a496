//! One VM at a time: its life, and its figures.

use std::time::{Duration, Instant};

use dwcp::{Client, VMClient};
use dwcp_benches::{Failure, figures::Samples, report::Report};

use crate::support::{config, first_beat, milliseconds};

/// Memory of a VM.
const MEMORY: u64 = 256 << 20;
/// Lives in a run.
const LIVES: usize = 10;
/// Calls for figures in a run, each way.
const CALLS: usize = 1_000;
/// Calls before that are not measured.
const WARM_CALLS: usize = 100;
/// The window that figures are asked over.
const WINDOW: Duration = Duration::from_secs(1);

/// What was measured of VMs one at a time.
pub(crate) struct Story {
    here: VMClient,
    there: VMClient,
    /// A VM that runs all the while, whose figures are asked for.
    steady: String,
    create: Samples,
    start: Samples,
    both: Samples,
    stop: Samples,
    stop_forced: Samples,
    destroy: Samples,
    metrics_here: Samples,
    metrics_there: Samples,
}

impl Story {
    /// With a client of the node in this process, and one over TCP.
    pub(crate) async fn new(here: &Client, there: &Client) -> Result<Self, Failure> {
        let (here, there) = (here.vm(), there.vm());
        let vm = here.create(config("steady", MEMORY)?).await?;
        here.start(&vm.id).await?;
        first_beat(&here, &vm.id).await?;
        let milliseconds = |name| Samples::new(name, "ms");
        let mut story = Self {
            here,
            there,
            steady: vm.id,
            create: milliseconds("create"),
            start: milliseconds("start-to-beat"),
            both: milliseconds("create+start-to-beat"),
            stop: milliseconds("stop"),
            stop_forced: milliseconds("stop-forced"),
            destroy: milliseconds("destroy"),
            metrics_here: Samples::new("metrics-inproc", "us"),
            metrics_there: Samples::new("metrics-tcp", "us"),
        };
        story.both.note("both of one VM, added");
        story
            .start
            .note("from the call to the first beat of the guest's own code");
        story
            .stop
            .note("graceful: the guest looks whether it is asked to at each beat, 10 a second");
        Ok(story)
    }

    /// One life whose times are not kept.
    pub(crate) async fn warm_up(&mut self) -> Result<(), Failure> {
        self.life("warm-up", false).await?;
        self.life("warm-up", true).await?;
        Ok(())
    }

    /// One run of everything.
    pub(crate) async fn run(&mut self) -> Result<(), Failure> {
        let mut lives = Vec::new();
        for number in 0..LIVES {
            // Every other one by force: stopping is measured both ways.
            lives.push(self.life("life", number % 2 == 1).await?);
        }
        let forced = |forced| {
            let lives = lives.iter().filter(move |life| life.forced == forced);
            lives.map(|life| life.stop)
        };
        self.create.add_run(lives.iter().map(|life| life.create));
        self.start.add_run(lives.iter().map(|life| life.start));
        let both = lives.iter().map(|life| life.create + life.start);
        self.both.add_run(both);
        self.stop.add_run(forced(false));
        self.stop_forced.add_run(forced(true));
        self.destroy.add_run(lives.iter().map(|life| life.destroy));
        let times = figures(&self.here, &self.steady).await?;
        self.metrics_here.add_run(times);
        let times = figures(&self.there, &self.steady).await?;
        self.metrics_there.add_run(times);
        Ok(())
    }

    async fn life(&self, name: &str, forced: bool) -> Result<Life, Failure> {
        let config = config(name, MEMORY)?;
        let began = Instant::now();
        let vm = self.here.create(config).await?;
        let create = milliseconds(began);
        let began = Instant::now();
        self.here.start(&vm.id).await?;
        first_beat(&self.here, &vm.id).await?;
        let start = milliseconds(began);
        let began = Instant::now();
        self.here.stop(&vm.id, forced).await?;
        let stop = milliseconds(began);
        let began = Instant::now();
        self.here.destroy(&vm.id).await?;
        let destroy = milliseconds(began);
        Ok(Life {
            create,
            start,
            stop,
            forced,
            destroy,
        })
    }

    /// Ends the steady VM, and hands in the rows.
    pub(crate) async fn finish(self, report: &mut Report) -> Result<(), Failure> {
        self.here.stop(&self.steady, true).await?;
        self.here.destroy(&self.steady).await?;
        for samples in [
            self.create,
            self.start,
            self.both,
            self.stop,
            self.stop_forced,
            self.destroy,
            self.metrics_here,
            self.metrics_there,
        ] {
            report.add(&samples);
        }
        Ok(())
    }
}

/// What one VM took, in milliseconds.
struct Life {
    create: f64,
    start: f64,
    stop: f64,
    /// How it was stopped.
    forced: bool,
    destroy: f64,
}

/// Asks for a VM's figures; how long each call took, in microseconds.
async fn figures(vms: &VMClient, id: &str) -> Result<Vec<f64>, Failure> {
    for _ in 0..WARM_CALLS {
        vms.get_metrics(id, WINDOW).await?;
    }
    let mut times = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let began = Instant::now();
        vms.get_metrics(id, WINDOW).await?;
        times.push(milliseconds(began) * 1e3);
    }
    Ok(times)
}
