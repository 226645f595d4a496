//! Whose turn it is, and what comes of it.

use std::{
    env,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    WORKERS,
    contenders::{self, Contender, Ours, Raw},
    serve::Places,
    subject,
};
use dwcp::{Client, ClientConfig};
use dwcp_benches::{
    Failure,
    figures::Samples,
    report::{Bound, Report},
};

/// Runs, where nothing else is asked.
const RUNS: u32 = 10;
/// Calls one after the other, in one turn.
const CALLS: u32 = 2_000;
/// How long a turn with several requests in flight lasts.
const TURN: Duration = Duration::from_millis(300);
/// Calls before a turn that are not measured: connections and caches are warm again.
const WARM_CALLS: u32 = 100;
/// The same, before everything: allocators and branch predictors have seen it all.
const WARM_UP: Duration = Duration::from_millis(200);
/// Requests in flight.
const WIDTHS: [usize; 4] = [1, 16, 64, 256];

/// A contender, and what was measured of it.
struct Entry {
    contender: Contender,
    sequential: Samples,
    /// One for each of [`WIDTHS`]; none for a contender without a connection.
    concurrent: Vec<Samples>,
}

impl Entry {
    fn new(contender: Contender) -> Self {
        let name = contender.name();
        let widths: &[usize] = if contender.has_connection() {
            &WIDTHS
        } else {
            &[]
        };
        let concurrent = widths
            .iter()
            .map(|width| Samples::new(format!("{name}/{width}"), "1/s"));
        Self {
            sequential: Samples::new(format!("{name}/seq"), "us"),
            concurrent: concurrent.collect(),
            contender,
        }
    }

    async fn warm_up(&mut self) -> Result<(), Failure> {
        let until = Instant::now() + WARM_UP;
        while Instant::now() < until {
            self.contender.sequential(WARM_CALLS).await?;
        }
        for width in WIDTHS.iter().take(self.concurrent.len()) {
            self.contender.concurrent(*width, WARM_UP).await?;
        }
        Ok(())
    }
}

/// Measures, and prints the report.
pub(crate) async fn run(runs: Option<u32>) -> Result<(), Failure> {
    let runs = runs.unwrap_or(RUNS);
    let mut report = Report::new("rpc");
    let folder = Folder::create()?;
    let (server, places) = start_server(&folder)?;
    let (node, vm) = subject::start(&[]).await?;

    let (contenders, sizes) = connect(&places, &node.client(), &vm.id).await?;
    if places.tonic.is_none() {
        report
            .notes
            .push("tonic is missing: built without the feature `tonic`".to_owned());
    }
    let mut entries: Vec<Entry> = contenders.into_iter().map(Entry::new).collect();

    eprintln!("rpc: warming up");
    for entry in &mut entries {
        entry.warm_up().await?;
    }
    for run in 0..runs {
        eprintln!("rpc: run {} of {runs}", run + 1);
        // Each run begins with another, so that nobody always follows the same.
        entries.rotate_left(1);
        for entry in &mut entries {
            entry.contender.sequential(WARM_CALLS).await?;
            let times = entry.contender.sequential(CALLS).await?;
            entry.sequential.add_run(times);
        }
        for (index, width) in WIDTHS.iter().enumerate() {
            for entry in &mut entries {
                let Some(samples) = entry.concurrent.get_mut(index) else {
                    continue;
                };
                entry.contender.sequential(WARM_CALLS).await?;
                let rate = entry.contender.concurrent(*width, TURN).await?;
                samples.add_run([rate]);
            }
        }
    }
    drop(node);
    drop(server);

    entries.sort_by_key(|entry| entry.contender.place());
    for entry in &entries {
        report.add(&entry.sequential);
    }
    for index in 0..WIDTHS.len() {
        for entry in &entries {
            if let Some(samples) = entry.concurrent.get(index) {
                report.add(samples);
            }
        }
    }
    judge(&mut report);
    report.set("processes", 2);
    report.set("worker_threads_each", WORKERS);
    report.set("calls_per_run", CALLS);
    report.set("reply_bytes", serde_json::to_value(sizes)?);
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

/// The payloads of the replies, in bytes.
#[derive(Debug, serde::Serialize)]
struct Sizes {
    raw: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    tonic: Option<usize>,
    dwcp: usize,
}

/// Connects all contenders to the serving process, and one to the node in this.
async fn connect(
    places: &Places,
    here: &Client,
    vm_here: &str,
) -> Result<(Vec<Contender>, Sizes), Failure> {
    let (host, port) = (places.tcp.ip().to_string(), places.tcp.port());
    let tcp = ClientConfig::new(host)
        .with_port(port)
        .with_tls_enabled(false);
    let tcp = Client::new(tcp.with_retry_attempts(0)).await?;
    let unix = ClientConfig::new(format!("unix:{}", places.unix));
    let unix = Client::new(unix.with_retry_attempts(0)).await?;

    let vm = tcp.vm().get(&places.vm).await?;
    if vm.metrics.is_none() {
        return Err("the VM in the reply has no figures".into());
    }
    // A reply to `get` carries the VM as this JSON (protocol, section 3).
    let payload = serde_json::to_vec(&vm)?.len();
    let sizes = Sizes {
        raw: payload,
        tonic: places.tonic.map(|_| places.tonic_reply),
        dwcp: payload,
    };

    let mut all = vec![Contender::Raw(Raw::connect(places.raw, payload).await?)];
    if let Some(address) = places.tonic {
        all.push(contenders::connect_tonic(address, &vm).await?);
    }
    all.push(Contender::Tcp(Ours::new(&tcp, &places.vm)));
    all.push(Contender::Unix(Ours::new(&unix, &places.vm)));
    all.push(Contender::InProcess(Ours::new(here, vm_here)));
    Ok((all, sizes))
}

/// Compares the rows, and looks at the goals.
fn judge(report: &mut Report) {
    let sequential = "dwcp-tcp/seq";
    let to_raw = report.compare(sequential, "raw/seq");
    let to_tonic = report.compare(sequential, "tonic/seq");
    report.compare("dwcp-unix/seq", "raw/seq");
    report.compare("dwcp-unix/seq", "tonic/seq");
    report.compare("dwcp-inproc/seq", "raw/seq");
    for width in WIDTHS {
        for ours in ["dwcp-tcp", "dwcp-unix"] {
            for peer in ["raw", "tonic"] {
                report.compare(&format!("{ours}/{width}"), &format!("{peer}/{width}"));
            }
        }
    }
    let wide = report
        .ratios
        .iter()
        .find(|ratio| (ratio.of.as_str(), ratio.to.as_str()) == ("dwcp-tcp/64", "tonic/64"));
    let wide = wide.map(|ratio| ratio.value);
    report.goal("p50 of dwcp-tcp/seq by raw/seq", Bound::AtMost(2.0), to_raw);
    report.goal(
        "p50 of dwcp-tcp/seq by tonic/seq",
        Bound::AtMost(0.4),
        to_tonic,
    );
    report.goal("dwcp-tcp/64 by tonic/64", Bound::AtLeast(4.0), wide);
}

/// Starts the serving process, and waits until it says where it is.
fn start_server(folder: &Folder) -> Result<(Server, Places), Failure> {
    let child = Command::new(env::current_exe()?)
        .args(["--helper", "serve"])
        .arg(folder.0.join("node.sock"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut server = Server(child);
    let output = server.0.stdout.take().ok_or("no output to read")?;
    let mut line = String::new();
    if BufReader::new(output).read_line(&mut line)? == 0 {
        return Err("the serving process ended before it said where it is".into());
    }
    let places = serde_json::from_str(&line)?;
    Ok((server, places))
}

/// The serving process; ended and waited for with the value.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // Its standard input ends, and so does it.
        drop(self.0.stdin.take());
        if let Err(error) = self.0.wait() {
            eprintln!("rpc: the serving process cannot be waited for: {error}");
        }
    }
}

/// A folder of this process's own, for the socket; gone with the value.
struct Folder(PathBuf);

impl Folder {
    fn create() -> Result<Self, Failure> {
        use std::os::unix::fs::DirBuilderExt;

        let path = env::temp_dir().join(format!("dwcp-bench-rpc-{}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left of it is a folder in the system's place for such: nothing to fail for.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
