//! The command line.

use std::fmt::Display;

use dwcp::SameHost;

/// What `--help` prints.
pub(crate) const HELP: &str = "\
Starts two nodes and a VM in this process and moves the VM, live, from one to the other.

Options (sizes take K, M, G):
  --memory SIZE                   the VM's memory              [2G]
  --fill SIZE                     memory the guest fills       [1G]
  --working-set SIZE              memory it keeps writing      [64M]
  --dirty-pages-per-second N      how fast; 0: as it can       [100000]
  --beat-hz N                     its heartbeat                [1000]
  --spin                          it keeps its CPU busy        [it sleeps in between]
  --cpus N                        vCPUs                        [1]
  --huge-pages                    back its memory with huge pages
  --parallel N                    connections for its pages    [as many as processors, up to 4]
  --verify-checksum               sum every chunk in transit
  --max-downtime MS               limit on the downtime        [500]
  --same-host auto|never|require  hand its memory over, and copy nothing
                                                               [never]
  --runs N                        migrations, to and fro       [1]
  --backend auto|kvm|sim          auto: kvm where there is one [auto]
  --json                          one JSON object a migration
  --help
";

/// What runs the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BackendChoice {
    Auto,
    Kvm,
    Sim,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) memory: u64,
    pub(crate) fill: u64,
    pub(crate) working_set: u64,
    pub(crate) dirty_rate: u64,
    pub(crate) beat_hz: u64,
    pub(crate) spin: bool,
    pub(crate) cpus: u32,
    pub(crate) huge_pages: bool,
    pub(crate) parallel: u32,
    pub(crate) verify_checksum: bool,
    pub(crate) max_downtime: u64,
    pub(crate) same_host: SameHost,
    pub(crate) runs: usize,
    pub(crate) backend: BackendChoice,
    pub(crate) json: bool,
}

/// A command line that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    Run(Options),
    Help,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            memory: 2 << 30,
            fill: 1 << 30,
            working_set: 64 << 20,
            dirty_rate: 100_000,
            beat_hz: 1000,
            spin: false,
            cpus: 1,
            huge_pages: false,
            parallel: 0,
            verify_checksum: false,
            max_downtime: 500,
            same_host: SameHost::Never,
            runs: 1,
            backend: BackendChoice::Auto,
            json: false,
        }
    }
}

/// Understands a command line, or says what is wrong with it.
pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Parsed, String> {
    let mut options = Options::default();
    while let Some(word) = words.next() {
        let (name, inline) = match word.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (word, None),
        };
        let mut value = || {
            let next = inline.clone().or_else(|| words.next());
            next.ok_or_else(|| format!("{name} needs a value"))
        };
        match name.as_str() {
            "--memory" => options.memory = size(&name, &value()?)?,
            "--fill" => options.fill = size(&name, &value()?)?,
            "--working-set" => options.working_set = size(&name, &value()?)?,
            "--dirty-pages-per-second" => options.dirty_rate = number(&name, &value()?)?,
            "--beat-hz" => options.beat_hz = number(&name, &value()?)?,
            "--cpus" => options.cpus = number(&name, &value()?)?,
            "--parallel" => options.parallel = number(&name, &value()?)?,
            "--max-downtime" => options.max_downtime = number(&name, &value()?)?,
            "--same-host" => options.same_host = number(&name, &value()?)?,
            "--runs" => options.runs = number(&name, &value()?)?,
            "--backend" => {
                options.backend = match value()?.as_str() {
                    "auto" => BackendChoice::Auto,
                    "kvm" => BackendChoice::Kvm,
                    "sim" => BackendChoice::Sim,
                    other => return Err(format!("--backend: `{other}` is not auto, kvm or sim")),
                };
            }
            "--spin" => options.spin = true,
            "--huge-pages" => options.huge_pages = true,
            "--verify-checksum" => options.verify_checksum = true,
            "--json" => options.json = true,
            "--help" | "-h" => return Ok(Parsed::Help),
            other => return Err(format!("`{other}` is not an option")),
        }
    }
    Ok(Parsed::Run(options))
}

fn number<T: std::str::FromStr<Err: Display>>(name: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|e| format!("{name}: `{text}`: {e}"))
}

/// Bytes, such as `256M`.
fn size(name: &str, text: &str) -> Result<u64, String> {
    let units = [('K', 10), ('M', 20), ('G', 30)];
    let unit = units
        .iter()
        .find(|(letter, _)| text.ends_with([*letter, letter.to_ascii_lowercase()]));
    let (digits, shift) = match unit {
        Some((_, shift)) => (&text[..text.len() - 1], *shift),
        None => (text, 0),
    };
    let value: u64 = number(name, digits)?;
    value
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("{name}: `{text}` is too large"))
}
