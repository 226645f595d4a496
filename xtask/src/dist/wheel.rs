//! The Python package: one wheel for every Python from the oldest that it is built for, after PEP 427 and PEP 600.
//!
//! It is packed here and not by maturin, which builds what it packs: what the tests try is then what they built.
//! `pip install ./bindings/python` goes through maturin, from the same `pyproject.toml`.

#![forbid(unsafe_code)]

use std::{fs, path::Path};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

use super::{
    archive::{Content, Entry, zip},
    project::Project,
    tryout::{self, Scratch, command, run},
};

const FOLDER: &str = "bindings/python";
/// The distribution, and the package in it.
const NAME: &str = "dwcp";
/// The feature of PyO3 that says which Python is the oldest begins like this.
const ABI: &str = "abi3-py3";

/// What is asked of the package once it is installed: that it is what its record says, at the version that is wanted,
/// and needs nothing.
const QUESTIONS: &str = r#"
import base64, hashlib, importlib.metadata, pathlib, sys
import dwcp
distribution = importlib.metadata.distribution("dwcp")
assert not distribution.requires, distribution.requires
here = pathlib.Path(dwcp.__file__).resolve()
assert pathlib.Path(sys.prefix).resolve() in here.parents, here
checked = 0
for file in distribution.files:
    if file.hash is not None:
        digest = hashlib.new(file.hash.mode, file.read_binary()).digest()
        assert base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == file.hash.value, file
        checked += 1
assert checked > 10, checked
assert dwcp.__version__ == distribution.version, dwcp.__version__
print(distribution.version)
"#;

/// Makes the wheel, and gives its name and its bytes.
///
/// # Errors
///
/// What is wrong with the sources or the library.
pub(super) fn pack(project: &Project, scratch: &Scratch) -> Result<(String, Vec<u8>), String> {
    let (library, linked) = project.shared(&project.libraries.python, scratch)?;
    let described = project.toml(&format!("{FOLDER}/pyproject.toml"))?;
    let manifest = project.toml(&format!("{FOLDER}/Cargo.toml"))?;
    let tag = tag(oldest(&manifest, &described)?, &linked.manylinux());
    let about = metadata(project, &described)?;

    let mut entries = Vec::new();
    for name in project.files(&format!("{FOLDER}/{NAME}"), is_source)? {
        let bytes = project.read(&format!("{FOLDER}/{NAME}/{name}"))?;
        entries.push(Entry::file(format!("{NAME}/{name}"), bytes));
    }
    entries.push(Entry::program(format!("{NAME}/_dwcp.abi3.so"), library));
    let info = format!("{NAME}-{}.dist-info", project.version);
    entries.push(Entry::file(format!("{info}/METADATA"), about));
    entries.push(Entry::file(
        format!("{info}/WHEEL"),
        format!(
            "Wheel-Version: 1.0\nGenerator: dwcp-xtask ({})\nRoot-Is-Purelib: false\nTag: {tag}\n",
            project.version
        ),
    ));
    entries.push(Entry::file(
        format!("{info}/licenses/LICENSE"),
        project.read("LICENSE")?,
    ));
    let record = record(&entries, &format!("{info}/RECORD"));
    entries.push(record);

    let name = format!("{NAME}-{}-{tag}.whl", project.version);
    let bytes = zip(&entries).map_err(|error| format!("{name}: {error}"))?;
    Ok((name, bytes))
}

/// Installs the wheel into an environment that holds nothing else, from no registry, and runs the story.
///
/// # Errors
///
/// What did not work.
pub(super) fn try_out(
    project: &Project,
    wheel: &Path,
    scratch: &Scratch,
) -> Result<String, String> {
    let folder = scratch.folder("python")?;
    run(command("python3", &folder).args(["-m", "venv", "venv"]))?;
    let python = folder.join("venv/bin/python");
    let pip = |arguments: &[&str]| {
        let mut pip = command(&python, &folder);
        pip.args(["-m", "pip", "--isolated", "--disable-pip-version-check"]);
        pip.args(arguments);
        pip
    };
    run(pip(&["install", "--quiet", "--no-index"]).arg(wheel))?;
    run(&mut pip(&["check"]))?;
    let said = run(command(&python, &folder).args(["-c", QUESTIONS]))?;
    tryout::same_version("the installed wheel", &said, &project.version)?;

    let story = folder.join("story.py");
    fs::write(&story, project.read("examples/python/story.py")?)
        .map_err(|error| format!("{}: {error}", story.display()))?;
    tryout::story(command(&python, &folder).arg(&story))?;
    Ok(format!(
        "pip install in an empty venv, pip check, every hash, story.py on {}",
        tryout::backend()
    ))
}

/// What of the package's folder goes into the wheel, beside the library.
fn is_source(name: &str) -> bool {
    let name = Path::new(name);
    name == Path::new("py.typed")
        || name
            .extension()
            .is_some_and(|kind| kind == "py" || kind == "pyi")
}

/// The oldest Python that the library is built for, which `pyproject.toml` has to ask for: the 9 of 3.9.
fn oldest(manifest: &toml::Table, described: &toml::Table) -> Result<u32, String> {
    let features = manifest
        .get("dependencies")
        .and_then(|dependencies| dependencies.get("pyo3")?.get("features")?.as_array());
    let minor: u32 = features
        .into_iter()
        .flatten()
        .find_map(|feature| feature.as_str()?.strip_prefix(ABI)?.parse().ok())
        .ok_or_else(|| {
            format!("{FOLDER}/Cargo.toml: pyo3 has no feature {ABI}N, which one wheel for all is made of")
        })?;
    let required = field(described, "requires-python")?;
    if required == format!(">=3.{minor}") {
        Ok(minor)
    } else {
        Err(format!(
            "{FOLDER}/pyproject.toml asks for Python {required}, and the library is built for 3.{minor}: make them agree"
        ))
    }
}

/// The tag of a wheel for every Python from that one.
fn tag(oldest: u32, platform: &str) -> String {
    format!("cp3{oldest}-abi3-{platform}")
}

fn field<'a>(described: &'a toml::Table, name: &str) -> Result<&'a str, String> {
    described
        .get("project")
        .and_then(|project| project.get(name)?.as_str())
        .ok_or_else(|| format!("{FOLDER}/pyproject.toml has no `{name}` in [project]: add it"))
}

/// The text of `METADATA`, with the README as the description.
fn metadata(project: &Project, described: &toml::Table) -> Result<String, String> {
    let list = |name: &str| {
        let list = described
            .get("project")
            .and_then(|project| project.get(name)?.as_array());
        list.map(Vec::as_slice).unwrap_or_default()
    };
    if !list("dependencies").is_empty() {
        return Err(format!(
            "{FOLDER}/pyproject.toml has dependencies, and packages have none: take them out"
        ));
    }
    let mut lines = vec![
        "Metadata-Version: 2.4".to_owned(),
        format!("Name: {}", field(described, "name")?),
        format!("Version: {}", project.version),
        format!("Summary: {}", field(described, "description")?),
        format!("License-Expression: {}", field(described, "license")?),
        "License-File: LICENSE".to_owned(),
        format!("Project-URL: Repository, {}", project.says("repository")?),
    ];
    let classifiers = list("classifiers").iter().filter_map(toml::Value::as_str);
    lines.extend(classifiers.map(|classifier| format!("Classifier: {classifier}")));
    lines.push(format!(
        "Requires-Python: {}",
        field(described, "requires-python")?
    ));
    lines.push("Description-Content-Type: text/markdown".to_owned());
    let readme = project.text(&format!("{FOLDER}/{}", field(described, "readme")?))?;
    Ok(format!("{}\n\n{readme}", lines.join("\n")))
}

/// The list of all files with their hashes, in which it stands itself, without one.
fn record(entries: &[Entry], path: &str) -> Entry {
    let mut lines = String::new();
    for entry in entries {
        if let Content::File(bytes) | Content::Program(bytes) = &entry.content {
            let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(bytes));
            lines += &format!("{},sha256={hash},{}\n", entry.path, bytes.len());
        }
    }
    lines += &format!("{path},,\n");
    Entry::file(path, lines)
}

#[cfg(test)]
mod tests {
    use super::{Content, Entry, is_source, metadata, oldest, record, tag};
    use crate::dist::project::tests::project;

    fn table(text: &str) -> toml::Table {
        text.parse().unwrap()
    }

    #[test]
    fn the_tag_is_that_of_the_oldest_python_and_of_the_systems() {
        let manifest = table("[dependencies]\npyo3 = { features = [\"abi3-py39\"] }\n");
        let described = table("[project]\nrequires-python = \">=3.9\"\n");
        assert_eq!(oldest(&manifest, &described), Ok(9));
        assert_eq!(
            tag(9, "manylinux_2_34_x86_64"),
            "cp39-abi3-manylinux_2_34_x86_64"
        );
        let newer = table("[project]\nrequires-python = \">=3.10\"\n");
        let told = oldest(&manifest, &newer).unwrap_err();
        assert!(told.contains(">=3.10") && told.contains("3.9"), "{told}");
        let each = table("[dependencies]\npyo3 = { features = [] }\n");
        assert!(oldest(&each, &described).unwrap_err().contains("abi3"));
    }

    #[test]
    fn the_metadata_says_what_the_project_says() {
        let project = project();
        let described = project.toml("bindings/python/pyproject.toml").unwrap();
        let text = metadata(&project, &described).unwrap();
        let (head, description) = text.split_once("\n\n").unwrap();
        let version = format!("Version: {}", project.version);
        for line in [
            "Metadata-Version: 2.4",
            "Name: dwcp",
            &version,
            "License-Expression: Apache-2.0",
            "License-File: LICENSE",
            "Classifier: Typing :: Typed",
            "Requires-Python: >=3.9",
            "Description-Content-Type: text/markdown",
        ] {
            assert!(head.lines().any(|other| other == line), "{line}\n{head}");
        }
        assert!(!head.contains("Requires-Dist"), "{head}");
        assert!(description.starts_with("# dwcp for Python"));
    }

    #[test]
    fn a_dependency_is_refused() {
        let described = table("[project]\nname = \"dwcp\"\ndependencies = [\"six\"]\n");
        let refused = metadata(&project(), &described).unwrap_err();
        assert!(refused.contains("dependencies"), "{refused}");
    }

    /// Two hashes that Python's own hashlib and base64 gave.
    #[test]
    fn the_record_holds_every_file_with_its_hash() {
        let entries = [
            Entry::file("a/__init__.py", ""),
            Entry::program("a/b.so", "b"),
        ];
        let record = record(&entries, "a.dist-info/RECORD");
        let Content::File(text) = record.content else {
            panic!("it is to be read")
        };
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "a/__init__.py,sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0\n\
             a/b.so,sha256=PiPoFgA5WUoziU9lZOGxNIu9egCI1CxKy3PurtWcAJ0,1\n\
             a.dist-info/RECORD,,\n"
        );
    }

    #[test]
    fn sources_are_packed_and_what_was_built_beside_them_is_not() {
        for name in ["client.py", "_dwcp.pyi", "py.typed"] {
            assert!(is_source(name), "{name}");
        }
        for name in ["_dwcp.abi3.so", "_dwcp.abi3.so.new", "client.pyc"] {
            assert!(!is_source(name), "{name}");
        }
    }
}
