//! What all packages are made from: the sources, the version they have in common, the libraries that were built.

#![forbid(unsafe_code)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use super::{
    linked::Linked,
    tryout::{self, Scratch},
};

/// The libraries that packages are built around, as cargo made them.
#[derive(Debug)]
pub(crate) struct Libraries {
    /// The C ABI as a shared library.
    pub(crate) shared: PathBuf,
    /// The same as an archive.
    pub(crate) archive: PathBuf,
    /// The native module of the Python package.
    pub(crate) python: PathBuf,
    /// The addon of the TypeScript package.
    pub(crate) node: PathBuf,
    /// The folders of this machine that none of them may name, once it is packed.
    pub(crate) private: Vec<PathBuf>,
}

impl Libraries {
    /// Finds them among the files that cargo says it built, with a function that finds one.
    ///
    /// # Errors
    ///
    /// Which is missing.
    pub(crate) fn find(built: impl Fn(&str) -> Result<PathBuf, String>) -> Result<Self, String> {
        Ok(Self {
            shared: built("libdwcp.so")?,
            archive: built("libdwcp.a")?,
            python: built("lib_dwcp.so")?,
            node: built("libdwcp_node.so")?,
            private: Vec::new(),
        })
    }
}

/// What packages are made from.
#[derive(Debug)]
pub(super) struct Project {
    root: PathBuf,
    manifest: toml::Table,
    /// The version of the workspace, which is that of every package.
    pub(super) version: String,
    /// The libraries.
    pub(super) libraries: Libraries,
}

impl Project {
    /// Reads what the workspace says of itself.
    ///
    /// # Errors
    ///
    /// When it says no version.
    pub(super) fn open(root: PathBuf, libraries: Libraries) -> Result<Self, String> {
        let manifest = toml_file(&root.join("Cargo.toml"))?;
        let mut project = Self {
            root,
            manifest,
            version: String::new(),
            libraries,
        };
        project.version = project.says("version")?;
        Ok(project)
    }

    /// A path in the workspace.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// What `[workspace.package]` says under that name.
    ///
    /// # Errors
    ///
    /// When it says nothing, or no text.
    pub(super) fn says(&self, name: &str) -> Result<String, String> {
        self.manifest
            .get("workspace")
            .and_then(|workspace| workspace.get("package")?.get(name)?.as_str())
            .map(str::to_owned)
            .ok_or_else(|| format!("Cargo.toml has no `{name}` in [workspace.package]: add it"))
    }

    /// A file of the workspace.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub(super) fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        fs::read(self.path(path)).map_err(|error| format!("{path}: {error}"))
    }

    /// A text of the workspace.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is no text.
    pub(super) fn text(&self, path: &str) -> Result<String, String> {
        fs::read_to_string(self.path(path)).map_err(|error| format!("{path}: {error}"))
    }

    /// A TOML file of the workspace.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is not TOML.
    pub(super) fn toml(&self, path: &str) -> Result<toml::Table, String> {
        toml_file(&self.path(path))
    }

    /// The names of the files of a folder that `keep` takes, sorted. Folders in it are not looked into.
    ///
    /// # Errors
    ///
    /// When the folder cannot be read, or has none of them.
    pub(super) fn files(
        &self,
        folder: &str,
        keep: impl Fn(&str) -> bool,
    ) -> Result<Vec<String>, String> {
        let mut names = Vec::new();
        let told = |error| format!("{folder}: {error}");
        for entry in fs::read_dir(self.path(folder)).map_err(told)? {
            let entry = entry.map_err(told)?;
            let is_file = entry.file_type().map_err(told)?.is_file();
            if let Some(name) = entry.file_name().to_str()
                && is_file
                && keep(name)
            {
                names.push(name.to_owned());
            }
        }
        names.sort();
        if names.is_empty() {
            return Err(format!("{folder} has none of the files that are packed"));
        }
        Ok(names)
    }

    /// Sees to it that what states the version for itself states that of the workspace.
    ///
    /// # Errors
    ///
    /// The file, and what it says.
    pub(super) fn check_versions(&self) -> Result<String, String> {
        let stated: [(&str, &[&str]); 4] = [
            ("bindings/node/package.json", &["version"]),
            ("bindings/node/package-lock.json", &["version"]),
            (
                "bindings/node/package-lock.json",
                &["packages", "", "version"],
            ),
            (
                "examples/typescript/package.json",
                &["dependencies", "@novacron/dwcp-sdk"],
            ),
        ];
        for (path, keys) in stated {
            let json: Value = serde_json::from_str(&self.text(path)?)
                .map_err(|error| format!("{path}: {error}"))?;
            let said = keys.iter().fold(&json, |json, key| &json[*key]);
            tryout::same_version(path, said.as_str().unwrap_or("unknown"), &self.version)?;
        }
        Ok(self.version.clone())
    }

    /// A shared library without what only linkers and debuggers read, and what it asks of the system.
    ///
    /// # Errors
    ///
    /// When it needs more than the system has, or tells what it must not.
    pub(super) fn shared(
        &self,
        library: &Path,
        scratch: &Scratch,
    ) -> Result<(Vec<u8>, Linked), String> {
        let linked = Linked::of(library)?;
        linked
            .needs_only(&[])
            .map_err(|reason| format!("{}: {reason}", library.display()))?;
        let bytes = self.stripped(library, "--strip-unneeded", scratch)?;
        Ok((bytes, linked))
    }

    /// An archive without what only debuggers read.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or tells what it must not.
    pub(super) fn archive(&self, library: &Path, scratch: &Scratch) -> Result<Vec<u8>, String> {
        self.stripped(library, "--strip-debug", scratch)
    }

    fn stripped(&self, library: &Path, what: &str, scratch: &Scratch) -> Result<Vec<u8>, String> {
        let out = scratch.path().join("stripped");
        let mut strip = Command::new("strip");
        tryout::run(strip.arg(what).arg("-o").arg(&out).arg(library))?;
        let bytes = fs::read(&out).map_err(|error| format!("{}: {error}", out.display()))?;
        names_none(&bytes, &self.libraries.private)
            .map_err(|reason| format!("{}: {reason}", library.display()))?;
        Ok(bytes)
    }
}

fn toml_file(path: &Path) -> Result<toml::Table, String> {
    let told = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = fs::read_to_string(path).map_err(|error| told(&error))?;
    text.parse().map_err(|error| told(&error))
}

/// Sees to it that a library names none of these folders.
fn names_none(library: &[u8], folders: &[PathBuf]) -> Result<(), String> {
    for folder in folders {
        let name = folder.as_os_str().as_encoded_bytes();
        if library.windows(name.len()).any(|window| window == name) {
            return Err(format!(
                "it names {}, which is a folder of this machine alone",
                folder.display()
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::PathBuf;

    use super::{Libraries, Project, names_none};
    use crate::process;

    /// The workspace, with libraries that nobody built.
    pub(in super::super) fn project() -> Project {
        let libraries = Libraries::find(|name| Ok(PathBuf::from(name))).unwrap();
        Project::open(process::workspace_root(), libraries).unwrap()
    }

    #[test]
    fn one_version_is_everywhere() {
        let project = project();
        assert_eq!(project.version, env!("CARGO_PKG_VERSION"));
        assert_eq!(project.check_versions(), Ok(project.version.clone()));
    }

    #[test]
    fn another_version_is_told_with_its_file() {
        let mut project = project();
        project.version = "9.9.9".into();
        let told = project.check_versions().unwrap_err();
        assert!(
            told.contains("package.json") && told.contains("9.9.9"),
            "{told}"
        );
    }

    #[test]
    fn a_library_that_is_missing_is_named() {
        let found = Libraries::find(|name| match name {
            "libdwcp_node.so" => Err(format!("cargo built no {name}")),
            other => Ok(other.into()),
        });
        assert!(found.unwrap_err().contains("libdwcp_node.so"));
    }

    #[test]
    fn a_folder_that_a_library_names_is_told() {
        let folders = [PathBuf::from("/home/me"), PathBuf::from("/home/me/.cargo")];
        assert_eq!(names_none(b"\0/dwcp/core/src/lib.rs\0", &folders), Ok(()));
        let told = names_none(b"\0/home/me/dwcp/core/src/lib.rs\0", &folders).unwrap_err();
        assert!(told.contains("/home/me"), "{told}");
        assert_eq!(names_none(b"\0/home/me/lib.rs\0", &[]), Ok(()));
    }

    #[test]
    fn files_are_sorted_and_some_must_be_there() {
        let names = project().files("include", |_| true).unwrap();
        assert_eq!(names, ["dwcp.h"]);
        assert!(project().files("include", |_| false).is_err());
        assert!(project().files("no-such-folder", |_| true).is_err());
    }
}
