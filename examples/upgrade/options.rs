//! The command line.

use std::path::PathBuf;

use dwcp::Backend;

/// What `--help` prints.
pub(crate) const HELP: &str = "\
Exchanges a node's program while its VMs run.

  upgrade serve      runs a node until it is told to end (SIGTERM)
  upgrade take-over  has all VMs of a running one handed over, prints how long each stood still, tells the
                     other to end, and goes on as `serve` does

  --data DIR             for both: their states and the disks of their VMs are below
  --listen ADDRESS       where it is reached, such as unix:/run/vms-1.sock
  --name NAME            its name                                   [the first: old; who takes over: new]
  --next NAME=ADDRESS    who may take over from it, when that is there
  --from ADDRESS         take-over: where the old one is reached
  --vms N                serve: guests to begin with                [0]
  --backend kvm|sim      what runs the VMs                          [kvm]
  --help

  upgrade serve --data d --listen unix:/tmp/old.sock --next new=unix:/tmp/new.sock --vms 3 &
  upgrade take-over --data d --listen unix:/tmp/new.sock --from unix:/tmp/old.sock
";

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Serve { vms: u32 },
    TakeOver { from: String },
}

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) command: Command,
    pub(crate) data: PathBuf,
    pub(crate) listen: String,
    pub(crate) name: String,
    pub(crate) next: Option<(String, String)>,
    pub(crate) backend: Backend,
}

impl Options {
    /// `None` where help was asked for.
    pub(crate) fn parse(args: impl IntoIterator<Item = String>) -> Result<Option<Options>, String> {
        let mut args = args.into_iter();
        let command = args.next().unwrap_or_default();
        let serves = match command.as_str() {
            "serve" => true,
            "take-over" => false,
            "--help" | "-h" => return Ok(None),
            other => {
                return Err(format!(
                    "`{other}` is not serve or take-over; --help says more"
                ));
            }
        };
        let (mut data, mut listen, mut name, mut next) = (None, None, None, None);
        let (mut from, mut vms, mut backend) = (None, 0, Backend::Kvm);
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} needs a value"));
            match arg.as_str() {
                "--help" | "-h" => return Ok(None),
                "--data" => data = Some(value()?.into()),
                "--listen" => listen = Some(value()?),
                "--name" => name = Some(value()?),
                "--next" => {
                    let text = value()?;
                    let peer = text.split_once('=');
                    let (name, address) =
                        peer.ok_or(format!("--next is NAME=ADDRESS, not {text}"))?;
                    next = Some((name.to_owned(), address.to_owned()));
                }
                "--from" if !serves => from = Some(value()?),
                "--vms" if serves => {
                    let text = value()?;
                    vms = text
                        .parse()
                        .map_err(|_| format!("--vms is a number, not {text}"))?;
                }
                "--backend" => {
                    backend = match value()?.as_str() {
                        "kvm" => Backend::Kvm,
                        "sim" => Backend::Sim,
                        other => return Err(format!("--backend is kvm or sim, not {other}")),
                    };
                }
                other => return Err(format!("unknown option {other}; --help lists them")),
            }
        }
        let missing = |what: &str| format!("{command} needs {what}");
        Ok(Some(Options {
            data: data.ok_or_else(|| missing("--data"))?,
            listen: listen.ok_or_else(|| missing("--listen"))?,
            name: name.unwrap_or_else(|| if serves { "old" } else { "new" }.to_owned()),
            command: match serves {
                true => Command::Serve { vms },
                false => Command::TakeOver {
                    from: from.ok_or_else(|| missing("--from"))?,
                },
            },
            next,
            backend,
        }))
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
        let text = "serve --data d --listen unix:/a --next b=unix:/b --vms 2 --backend sim";
        let options = parse(text).unwrap().unwrap();
        assert_eq!(options.command, Command::Serve { vms: 2 });
        assert_eq!(
            (options.name.as_str(), options.backend),
            ("old", Backend::Sim)
        );
        assert_eq!(options.next, Some(("b".into(), "unix:/b".into())));
        let text = "take-over --data d --listen unix:/b --from unix:/a --name b";
        let options = parse(text).unwrap().unwrap();
        let from = "unix:/a".into();
        assert_eq!(options.command, Command::TakeOver { from });
        assert_eq!(
            (options.name.as_str(), options.listen.as_str()),
            ("b", "unix:/b")
        );
        assert!(parse("--help").unwrap().is_none());
        assert!(parse("serve --help").unwrap().is_none());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, word) in [
            ("", "take-over"),
            ("stop", "stop"),
            ("serve --listen a", "--data"),
            ("serve --data d", "--listen"),
            ("serve --data d --listen a --from b", "--from"),
            ("take-over --data d --listen a", "--from"),
            ("take-over --vms 2", "--vms"),
            ("serve --next a", "NAME=ADDRESS"),
            ("serve --vms few", "few"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
