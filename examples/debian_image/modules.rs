//! Debian's kernels on this host: where they are, their modules, and what each module needs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The modules of one kernel.
#[derive(Debug)]
pub(crate) struct Modules {
    /// By name, with the names of those that come before it.
    loadable: BTreeMap<String, Module>,
    built_in: BTreeSet<String>,
}

/// One module.
#[derive(Clone, Debug)]
pub(crate) struct Module {
    pub(crate) name: String,
    path: PathBuf,
    needs: Vec<String>,
}

impl Modules {
    /// Those of the kernel with that release.
    pub(crate) fn read(release: &str) -> Result<Modules, String> {
        let folder = Path::new("/lib/modules").join(release);
        let text = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
        };
        let mut loadable = BTreeMap::new();
        for line in text("modules.dep")?.lines() {
            let Some((path, needs)) = line.split_once(':') else {
                continue;
            };
            let module = Module {
                name: name_of(path),
                path: folder.join(path),
                needs: needs.split_whitespace().map(name_of).collect(),
            };
            loadable.insert(module.name.clone(), module);
        }
        let built_in = text("modules.builtin")?.lines().map(name_of).collect();
        Ok(Modules { loadable, built_in })
    }

    /// Those names with all that they need, in an order in which they can be loaded.
    pub(crate) fn in_order(&self, names: &[&str]) -> Result<Vec<Module>, String> {
        let mut order = Vec::new();
        for name in names {
            self.add(name, &mut order)?;
        }
        Ok(order)
    }

    fn add(&self, name: &str, order: &mut Vec<Module>) -> Result<(), String> {
        if self.built_in.contains(name) || order.iter().any(|module| module.name == name) {
            return Ok(());
        }
        let module = self
            .loadable
            .get(name)
            .ok_or_else(|| format!("this kernel has no module {name}"))?;
        // The list is complete: what those need in turn stands in it as well, last things first.
        for need in module.needs.iter().rev() {
            self.add(need, order)?;
        }
        order.push(module.clone());
        Ok(())
    }
}

impl Module {
    /// Its bytes, unpacked.
    pub(crate) fn content(&self) -> Result<Vec<u8>, String> {
        let path = self.path.display();
        let unpack = match self.path.extension().and_then(|e| e.to_str()) {
            Some("xz") => "xz",
            Some("gz") => "gzip",
            Some("zst") => "zstd",
            _ => return fs::read(&self.path).map_err(|error| format!("{path}: {error}")),
        };
        let output = Command::new(unpack).arg("-dc").arg(&self.path).output();
        match output {
            Ok(output) if output.status.success() => Ok(output.stdout),
            Ok(output) => Err(format!("{path}: {unpack}: {}", output.status)),
            Err(error) => Err(format!("{path}: cannot run {unpack}: {error}")),
        }
    }
}

/// What the kernel calls the module in that file: `virtio_rng` for `…/virtio-rng.ko.xz`.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let name = file.split(".ko").next().unwrap_or(file);
    name.replace('-', "_")
}

/// The newest of Debian's cloud kernels.
pub(crate) fn newest_kernel() -> Result<PathBuf, String> {
    let folder = Path::new("/boot");
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names
        .filter(|name| name.starts_with(PREFIX) && name.ends_with("-cloud-amd64"))
        .max_by_key(|name| numbers(name))
        .map(|name| folder.join(name))
        .ok_or_else(|| {
            format!(
                "{}: no cloud kernel; apt-get install linux-image-cloud-amd64",
                folder.display()
            )
        })
}

/// The release of a kernel, which is in its name.
pub(crate) fn release(kernel: &Path) -> Result<String, String> {
    let name = kernel.file_name().and_then(|name| name.to_str());
    name.and_then(|name| name.strip_prefix(PREFIX))
        .map(str::to_owned)
        .ok_or_else(|| format!("{}: is not called {PREFIX}<release>", kernel.display()))
}

const PREFIX: &str = "vmlinuz-";

/// The numbers in a name, so that 6.1.0-9 comes before 6.1.0-56.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}
