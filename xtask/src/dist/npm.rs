//! The TypeScript package: what `npm pack` makes of its folder, the addon included.

#![forbid(unsafe_code)]

use std::{fs, path::Path, process::Command};

use serde_json::Value;

use super::{
    project::Project,
    tryout::{self, Scratch, command, run},
};

const FOLDER: &str = "bindings/node";
const NAME: &str = "@novacron/dwcp-sdk";
/// What the package's `files` names the addon.
const ADDON: &str = "dwcp.linux-x64-gnu.node";
/// The compiler, in the package's folder.
const TSC: &str = "node_modules/typescript/bin/tsc";
/// How its users may compile a program; the types of Node.js are those that the package is compiled with.
const STRICT: &[&str] = &[
    "--strict",
    "--target",
    "ES2022",
    "--lib",
    "ES2023,ESNext.Disposable",
    "--module",
    "NodeNext",
    "--types",
    "node",
    "--outDir",
    "build",
];

/// Makes the archive, and gives its name and its bytes.
///
/// # Errors
///
/// What is wrong with the sources or the library.
pub(super) fn pack(project: &Project, scratch: &Scratch) -> Result<(String, Vec<u8>), String> {
    let (addon, _) = project.shared(&project.libraries.node, scratch)?;
    let sources = project.path(FOLDER);
    run(npm(&sources).args(["ci", "--ignore-scripts", "--loglevel=error"]))?;

    let folder = scratch.folder("npm-package")?;
    run(Command::new("node")
        .current_dir(&sources)
        .args([TSC, "-p", ".", "--outDir"])
        .arg(folder.join("dist")))?;
    let put = |name: &str, bytes: Vec<u8>| {
        fs::write(folder.join(name), bytes).map_err(|error| format!("{name}: {error}"))
    };
    for name in ["package.json", "README.md"] {
        put(name, project.read(&format!("{FOLDER}/{name}"))?)?;
    }
    put("LICENSE", project.read("LICENSE")?)?;
    put(ADDON, addon)?;

    let said = run(npm(&folder).args(["pack", "--json", "--ignore-scripts", "--loglevel=error"]))?;
    let (name, files) = packed(&said)?;
    for file in [
        "LICENSE",
        "README.md",
        "dist/index.d.ts",
        "dist/index.js",
        ADDON,
    ] {
        if !files.iter().any(|other| other == file) {
            return Err(format!(
                "{name} has no {file}: see `files` in {FOLDER}/package.json"
            ));
        }
    }
    let bytes = fs::read(folder.join(&name)).map_err(|error| format!("{name}: {error}"))?;
    Ok((name, bytes))
}

/// Installs the archive into a project that has nothing else, from no registry, and compiles and runs the first example
/// of its README and the story.
///
/// # Errors
///
/// What did not work.
pub(super) fn try_out(
    project: &Project,
    package: &Path,
    scratch: &Scratch,
) -> Result<String, String> {
    let folder = scratch.folder("npm")?;
    let put = |name: &str, text: &str| {
        fs::write(folder.join(name), text).map_err(|error| format!("{name}: {error}"))
    };
    put("package.json", "{\"private\":true,\"type\":\"module\"}\n")?;
    run(npm(&folder)
        .args(["install", "--offline", "--loglevel=error"])
        .arg(package))?;
    let listed = run(npm(&folder).args(["ls", "--all", "--json"]))?;
    only(&listed, &project.version)?;

    let readme = project.text(&format!("{FOLDER}/README.md"))?;
    put("first.ts", first_example(&readme)?)?;
    put("story.ts", &project.text("examples/typescript/story.ts")?)?;
    let sources = project.path(FOLDER);
    let mut tsc = command("node", &folder);
    tsc.arg(sources.join(TSC)).args(STRICT).arg("--typeRoots");
    run(tsc
        .arg(sources.join("node_modules/@types"))
        .args(["first.ts", "story.ts"]))?;

    let node = || command("node", &folder);
    let version = format!("import {{ version }} from '{NAME}'; console.log(version)");
    let said = run(node().args(["--input-type=module", "--eval", &version]))?;
    tryout::same_version("the addon", &said, &project.version)?;
    run(node()
        .arg("build/first.js")
        .env("DWCP_BACKEND", tryout::backend()))?;
    tryout::story(node().arg("build/story.js"))?;
    Ok(format!(
        "npm install in an empty project, npm ls, the README's first example and story.ts on {}",
        tryout::backend()
    ))
}

/// `npm` in a folder, without what it tells and asks on its own.
fn npm(folder: &Path) -> Command {
    let mut npm = command("npm", folder);
    for name in ["audit", "fund", "update_notifier"] {
        npm.env(format!("npm_config_{name}"), "false");
    }
    npm
}

/// The name of the archive and of the files in it, as `npm pack --json` says them.
fn packed(said: &str) -> Result<(String, Vec<String>), String> {
    let told = || format!("`npm pack` said something else than which file it made: {said}");
    let json: Value = serde_json::from_str(said).map_err(|_| told())?;
    let name = json[0]["filename"].as_str().ok_or_else(told)?;
    let files = json[0]["files"].as_array().ok_or_else(told)?;
    let files = files.iter().filter_map(|file| file["path"].as_str());
    Ok((name.to_owned(), files.map(str::to_owned).collect()))
}

/// Sees to it that a project, as `npm ls --all --json` lists it, has our package and nothing else.
fn only(listed: &str, version: &str) -> Result<(), String> {
    let json: Value = serde_json::from_str(listed).map_err(|error| format!("npm ls: {error}"))?;
    let ours = &json["dependencies"][NAME];
    let alone = json["dependencies"].as_object().map(serde_json::Map::len) == Some(1);
    if !alone
        || ours.is_null()
        || ours["dependencies"]
            .as_object()
            .is_some_and(|own| !own.is_empty())
    {
        return Err(format!(
            "the project has other packages than {NAME}: {listed}"
        ));
    }
    let said = ours["version"].as_str().unwrap_or_default();
    tryout::same_version(NAME, said, version)
}

/// The first program of a README.
fn first_example(readme: &str) -> Result<&str, String> {
    readme
        .split_once("```ts\n")
        .and_then(|(_, behind)| behind.split_once("```"))
        .map(|(program, _)| program)
        .ok_or_else(|| format!("{FOLDER}/README.md has no example in TypeScript"))
}

#[cfg(test)]
mod tests {
    use super::{first_example, only, packed};

    #[test]
    fn npm_says_which_file_it_made_and_what_is_in_it() {
        let said =
            r#"[{"filename":"a-1.tgz","files":[{"path":"LICENSE"},{"path":"dist/index.js"}]}]"#;
        let (name, files) = packed(said).unwrap();
        assert_eq!(name, "a-1.tgz");
        assert_eq!(files, ["LICENSE", "dist/index.js"]);
        for said in ["", "[]", "{}", r#"[{"filename":1}]"#] {
            assert!(packed(said).is_err(), "{said}");
        }
    }

    #[test]
    fn a_project_has_our_package_and_nothing_else() {
        let alone = r#"{"dependencies":{"@novacron/dwcp-sdk":{"version":"3.0.0"}}}"#;
        assert_eq!(only(alone, "3.0.0"), Ok(()));
        assert!(only(alone, "3.0.1").unwrap_err().contains("3.0.1"));
        for listed in [
            "{}",
            r#"{"dependencies":{"other":{"version":"3.0.0"}}}"#,
            r#"{"dependencies":{"@novacron/dwcp-sdk":{"version":"3.0.0"},"other":{}}}"#,
            r#"{"dependencies":{"@novacron/dwcp-sdk":{"version":"3.0.0","dependencies":{"other":{}}}}}"#,
        ] {
            assert!(only(listed, "3.0.0").is_err(), "{listed}");
        }
    }

    #[test]
    fn the_first_example_of_a_readme_is_found() {
        let readme = "# a\n\n```sh\nnpm\n```\n\n```ts\none();\n```\n\n```ts\ntwo();\n```\n";
        assert_eq!(first_example(readme), Ok("one();\n"));
        assert!(first_example("# a\n").is_err());
    }
}
