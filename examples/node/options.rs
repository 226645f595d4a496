//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use dwcp::{Backend, Role};

/// What `--help` prints.
pub(crate) const HELP: &str = "\
Runs a node until it is told to end (SIGTERM or SIGINT: it drains, then ends its guests).
Prints `READY <address>` once it serves.

  --name NAME                     its name                            [node-01]
  --listen ADDRESS                where clients and peers reach it; may be repeated
                                                                      [127.0.0.1:9000]
  --unix PATH                     a Unix socket to listen on; may be repeated
  --data-dir PATH                 where its state is kept             [in memory]
  --disk-dir PATH                 where the disks of its VMs are; nodes that hand VMs with disks
                                  over share it                       [disks/ of the data dir]
  --api-key KEY[:ROLE]            lets a client in; role viewer, operator, admin or node [admin];
                                  may be repeated. Without any, it serves this host only
  --tls-dir PATH                  TLS by an authority and a certificate that are made there
  --insecure                      listen beyond this host without TLS
  --peer NAME=ADDRESS[,KEY]       a node to move VMs to, and the key by which it knows this one;
                                  may be repeated
  --peer-timeout SECONDS          how long a peer may be silent in a migration  [10]
  --backend kvm|sim               what runs the VMs                   [kvm]
  --shutdown-timeout SECONDS      time for guests to stop             [10]
  --help
";

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) name: String,
    pub(crate) listen: Vec<String>,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) disk_dir: Option<PathBuf>,
    pub(crate) keys: Vec<(String, Role)>,
    pub(crate) tls_dir: Option<PathBuf>,
    pub(crate) insecure: bool,
    pub(crate) peers: Vec<(String, String, Option<String>)>,
    pub(crate) backend: Backend,
    pub(crate) shutdown_timeout: u64,
    pub(crate) peer_timeout: Option<Duration>,
}

impl Options {
    /// `None` where help was asked for.
    pub(crate) fn parse(args: impl IntoIterator<Item = String>) -> Result<Option<Options>, String> {
        let mut options = Options {
            name: "node-01".into(),
            listen: Vec::new(),
            data_dir: None,
            disk_dir: None,
            keys: Vec::new(),
            tls_dir: None,
            insecure: false,
            peers: Vec::new(),
            backend: Backend::Kvm,
            shutdown_timeout: 10,
            peer_timeout: None,
        };
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} needs a value"));
            match arg.as_str() {
                "--help" | "-h" => return Ok(None),
                "--name" => options.name = value()?,
                "--listen" => options.listen.push(value()?),
                "--unix" => options.listen.push(format!("unix:{}", value()?)),
                "--data-dir" => options.data_dir = Some(value()?.into()),
                "--disk-dir" => options.disk_dir = Some(value()?.into()),
                "--api-key" => options.keys.push(key(&value()?)?),
                "--tls-dir" => options.tls_dir = Some(value()?.into()),
                "--insecure" => options.insecure = true,
                "--peer" => options.peers.push(peer(&value()?)?),
                "--backend" => {
                    options.backend = match value()?.as_str() {
                        "kvm" => Backend::Kvm,
                        "sim" => Backend::Sim,
                        other => return Err(format!("--backend is kvm or sim, not {other}")),
                    };
                }
                "--shutdown-timeout" => {
                    let text = value()?;
                    options.shutdown_timeout = text
                        .parse()
                        .map_err(|_| format!("--shutdown-timeout is in seconds, not {text}"))?;
                }
                "--peer-timeout" => {
                    let text = value()?;
                    let seconds = text.parse().ok().map(Duration::try_from_secs_f64);
                    let Some(Ok(timeout)) = seconds else {
                        return Err(format!("--peer-timeout is in seconds, not {text}"));
                    };
                    options.peer_timeout = Some(timeout);
                }
                other => return Err(format!("unknown option {other}; --help lists them")),
            }
        }
        if options.listen.is_empty() {
            options.listen.push("127.0.0.1:9000".into());
        }
        Ok(Some(options))
    }
}

/// `KEY[:ROLE]`. What follows the last colon is a role only if it is one: keys may have colons.
fn key(text: &str) -> Result<(String, Role), String> {
    if let Some((key, role)) = text.rsplit_once(':')
        && let Ok(role) = role.parse()
    {
        return Ok((key.to_owned(), role));
    }
    if text.is_empty() {
        return Err("--api-key is KEY or KEY:ROLE".into());
    }
    Ok((text.to_owned(), Role::Admin))
}

/// `NAME=ADDRESS[,KEY]`.
fn peer(text: &str) -> Result<(String, String, Option<String>), String> {
    let wrong = || format!("--peer is NAME=ADDRESS or NAME=ADDRESS,KEY, not {text}");
    let (name, rest) = text.split_once('=').ok_or_else(wrong)?;
    match rest.split_once(',') {
        Some((address, key)) => Ok((name.into(), address.into(), Some(key.into()))),
        None => Ok((name.into(), rest.into(), None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<Options>, String> {
        Options::parse(text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn every_option_is_understood() {
        let text = "--name n --listen 127.0.0.1:0 --unix /tmp/s --data-dir d --api-key a:b:viewer \
                    --api-key plain --tls-dir t --insecure --peer m=h:1,k --peer o=h:2 --backend sim \
                    --shutdown-timeout 3 --peer-timeout 1.5";
        let options = parse(text).unwrap().unwrap();
        assert_eq!(options.listen, ["127.0.0.1:0", "unix:/tmp/s"]);
        assert_eq!(
            options.keys,
            [("a:b".into(), Role::Viewer), ("plain".into(), Role::Admin)]
        );
        assert_eq!(options.peers[0].2.as_deref(), Some("k"));
        assert_eq!(options.peers[1], ("o".into(), "h:2".into(), None));
        assert_eq!(options.shutdown_timeout, 3);
        assert_eq!(options.peer_timeout, Some(Duration::from_millis(1500)));
        assert!(parse("--help").unwrap().is_none());
        assert_eq!(parse("").unwrap().unwrap().listen, ["127.0.0.1:9000"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, word) in [
            ("--name", "--name"),
            ("--what", "--what"),
            ("--peer x", "NAME=ADDRESS"),
            ("--backend qemu", "qemu"),
            ("--shutdown-timeout soon", "soon"),
            ("--peer-timeout -1", "-1"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
