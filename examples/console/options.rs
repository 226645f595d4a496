//! The command line.

use std::path::PathBuf;

use dwcp::Backend;

/// What `--help` prints.
pub(crate) const HELP: &str = "\
Boots a VM and shows its console in this terminal. Ctrl-] leaves; the VM is then destroyed.
Any number of clients may show a console; one of them types, the first that does, until it leaves.

  --image NAME          what it boots: an image of the node       [dwcp/pulse]
  --import PATH         a folder with an image.toml on the node's host, brought in first, as NAME
                        where --image is given; it is what boots then
  --cmdline WORDS       added to the kernel's command line
  --memory MIB          its memory                                [512]
  --cpus N              its vCPUs                                 [1]
  --name NAME           its name                                  [console]
  --read-only           leaves the keyboard to others

A node in this process:
  --backend kvm|sim     what runs the VM                          [kvm]
  --data-dir PATH       where its images are kept                 [nowhere]

Or one that runs elsewhere:
  --connect HOST:PORT   where it listens
  --api-key KEY         a key it knows; --import needs one of an admin
  --ca-file PATH        its authority's certificate; without, no TLS
  --attach VM           the console of a VM that runs there, or has failed, by its id; it stays as it is
  --help
";

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) image: Option<String>,
    pub(crate) import: Option<String>,
    pub(crate) cmdline: String,
    /// In bytes.
    pub(crate) memory: u64,
    pub(crate) cpus: u32,
    pub(crate) name: String,
    pub(crate) read_only: bool,
    pub(crate) backend: Backend,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) connect: Option<(String, u16)>,
    pub(crate) api_key: Option<String>,
    pub(crate) ca_file: Option<PathBuf>,
    /// The id of a VM that is there.
    pub(crate) attach: Option<String>,
}

impl Options {
    /// `None` where help was asked for.
    pub(crate) fn parse(args: impl IntoIterator<Item = String>) -> Result<Option<Options>, String> {
        let mut options = Options {
            image: None,
            import: None,
            cmdline: String::new(),
            memory: 512 << 20,
            cpus: 1,
            name: "console".into(),
            read_only: false,
            backend: Backend::Kvm,
            data_dir: None,
            connect: None,
            api_key: None,
            ca_file: None,
            attach: None,
        };
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} needs a value"));
            match arg.as_str() {
                "--help" | "-h" => return Ok(None),
                "--image" => options.image = Some(value()?),
                "--import" => options.import = Some(value()?),
                "--cmdline" => options.cmdline = value()?,
                "--memory" => {
                    let text = value()?;
                    let mib: u32 = text
                        .parse()
                        .map_err(|_| format!("--memory is in MiB, not {text}"))?;
                    options.memory = u64::from(mib) << 20;
                }
                "--cpus" => {
                    let text = value()?;
                    options.cpus = text
                        .parse()
                        .map_err(|_| format!("--cpus is a number, not {text}"))?;
                }
                "--name" => options.name = value()?,
                "--read-only" => options.read_only = true,
                "--backend" => {
                    options.backend = match value()?.as_str() {
                        "kvm" => Backend::Kvm,
                        "sim" => Backend::Sim,
                        other => return Err(format!("--backend is kvm or sim, not {other}")),
                    };
                }
                "--data-dir" => options.data_dir = Some(value()?.into()),
                "--connect" => options.connect = Some(address(&value()?)?),
                "--api-key" => options.api_key = Some(value()?),
                "--ca-file" => options.ca_file = Some(value()?.into()),
                "--attach" => options.attach = Some(value()?),
                other => return Err(format!("unknown option {other}; --help lists them")),
            }
        }
        if options.attach.is_some() && options.connect.is_none() {
            return Err("--attach needs --connect: a VM of this process would be a new one".into());
        }
        Ok(Some(options))
    }
}

/// `HOST:PORT`.
fn address(text: &str) -> Result<(String, u16), String> {
    let parts = text.rsplit_once(':');
    let parts = parts.and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)));
    parts.ok_or_else(|| format!("--connect is HOST:PORT, not {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<Options>, String> {
        Options::parse(text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn every_option_is_understood() {
        let text = "--image mini --import /images/mini --cmdline quiet --memory 64 --cpus 2 --name n \
                    --backend sim --data-dir d --connect ::1:9000 --api-key k --ca-file ca.pem --read-only --attach vm";
        let options = parse(text).unwrap().unwrap();
        assert_eq!(options.connect, Some(("::1".into(), 9000)));
        assert_eq!((options.memory, options.cpus), (64 << 20, 2));
        assert_eq!(options.import.as_deref(), Some("/images/mini"));
        assert!(options.read_only && options.attach.as_deref() == Some("vm"));
        assert!(parse("--help").unwrap().is_none());
        assert_eq!(parse("").unwrap().unwrap().image, None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, word) in [
            ("--image", "--image"),
            ("--what", "--what"),
            ("--connect here", "HOST:PORT"),
            ("--attach vm", "--connect"),
            ("--backend qemu", "qemu"),
            ("--memory much", "much"),
            ("--cpus -1", "-1"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
