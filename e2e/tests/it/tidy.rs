//! The rules of the repository that no compiler checks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use qmq_e2e::repository;

/// A longer file is split by noun.
const LINES_MAX: usize = 600;

/// What each crate may depend on in what it ships. A crate that is not listed fails the test:
/// its place among the others is a decision.
const LAYERS: [(&str, &[&str]); 14] = [
    ("model", &[]),
    ("protocol", &["model"]),
    ("remoting", &["model", "protocol"]),
    ("store", &["model"]),
    ("client", &["model", "protocol", "remoting"]),
    ("daemon", &["model", "protocol", "remoting"]),
    (
        "metaserver",
        &["model", "protocol", "remoting", "client", "daemon"],
    ),
    (
        "broker",
        &["model", "protocol", "remoting", "client", "daemon", "store"],
    ),
    (
        "delay-server",
        &["model", "protocol", "remoting", "client", "daemon", "store"],
    ),
    (
        "tools",
        &["model", "protocol", "remoting", "client", "store"],
    ),
    (
        "sim",
        &["model", "protocol", "store", "broker", "delay-server"],
    ),
    (
        "benches",
        &[
            "model", "protocol", "remoting", "store", "daemon", "broker", "mariadb",
        ],
    ),
    ("mariadb", &[]),
    (
        "e2e",
        &["model", "protocol", "remoting", "client", "mariadb"],
    ),
];

/// Crates without an async runtime.
const SYNCHRONOUS: [&str; 3] = ["model", "protocol", "store"];

/// Names that say nothing: name the noun.
const EMPTY_NAMES: [&str; 7] = [
    "mod", "utils", "util", "common", "helpers", "impl", "manager",
];

/// Places that exist on one machine only. Put together so that this file does not contain them.
const MACHINE_PATHS: [&str; 6] = [
    concat!("/wor", "k/main"),
    concat!("/wor", "k/shared"),
    concat!("../sha", "red"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/tmp/tar", "get"),
];

#[test]
fn dependencies_point_one_way() {
    let layers: BTreeMap<&str, &[&str]> = LAYERS.into_iter().collect();
    let manifests = manifests();
    for (folder, _) in LAYERS {
        assert!(
            manifests.contains_key(folder),
            "{folder} is gone: take it out of LAYERS"
        );
    }
    for (folder, manifest) in &manifests {
        let allowed = layers.get(folder.as_str());
        let allowed = allowed.unwrap_or_else(|| panic!("{folder} has no place in LAYERS"));
        let shipped = dependencies(manifest, &["dependencies", "build-dependencies"]);
        for name in shipped.iter().filter_map(|name| name.strip_prefix("qmq-")) {
            assert!(
                allowed.contains(&name),
                "{folder} must not depend on {name}"
            );
        }
        let all = dependencies(
            manifest,
            &["dependencies", "build-dependencies", "dev-dependencies"],
        );
        if SYNCHRONOUS.contains(&folder.as_str()) {
            assert!(!all.contains("tokio"), "{folder} has no async runtime");
        }
    }
}

#[test]
fn versions_stand_in_the_workspace_only() {
    for (folder, manifest) in manifests() {
        for line in sections(
            &manifest,
            &["dependencies", "build-dependencies", "dev-dependencies"],
        ) {
            assert!(
                line.contains("workspace"),
                "{folder}/Cargo.toml has a version: {line}"
            );
        }
    }
}

#[test]
fn rust_files_are_short_and_say_what_they_own() {
    for (path, text) in rust_files() {
        let lines = text.lines().count();
        assert!(
            lines <= LINES_MAX,
            "{path} has {lines} lines, more than {LINES_MAX}"
        );
        assert!(
            text.starts_with("//! "),
            "{path} does not open with a //! line"
        );
        let stem = Path::new(&path)
            .file_stem()
            .unwrap()
            .to_string_lossy()
            .into_owned();
        assert!(
            !EMPTY_NAMES.contains(&stem.as_str()),
            "{path}: a name that says nothing"
        );
    }
}

/// `bin/test.sh` names the integration tests that it runs: another name would never run.
#[test]
fn integration_tests_are_where_they_are_looked_for() {
    for (folder, manifest) in manifests() {
        let tests = repository::root().join(&folder).join("tests");
        let Ok(entries) = std::fs::read_dir(tests) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            let is_target = path.extension().is_some_and(|extension| extension == "rs")
                || path.join("main.rs").try_exists().unwrap();
            assert!(
                !is_target || path.ends_with("tests/it"),
                "{}: use tests/it",
                path.display()
            );
        }
        let named = sections(&manifest, &["[test"]);
        assert!(
            named.is_empty() || folder == "e2e",
            "{folder}: a test with another name"
        );
    }
}

#[test]
fn nothing_depends_on_one_machine() {
    for (path, text) in repository::texts().unwrap() {
        for machine_path in MACHINE_PATHS {
            assert!(
                !text.contains(machine_path),
                "{path} contains {machine_path}"
            );
        }
    }
}

#[test]
fn links_of_the_documents_lead_somewhere() {
    let root = repository::root();
    let documents = repository::texts()
        .unwrap()
        .into_iter()
        .filter(|(path, _)| path.ends_with(".md"));
    for (path, text) in documents {
        let folder = root.join(&path).parent().unwrap().to_path_buf();
        for link in links(&text) {
            let target = folder.join(link);
            assert!(
                target.try_exists().unwrap(),
                "{path} links to {link}, which does not exist"
            );
        }
    }
}

/// `docs/traps.md` names the test of each trap, such as `model::names::refuses_names_that_hurt_others`.
#[test]
fn tests_named_in_the_list_of_traps_exist() {
    let texts = repository::texts().unwrap();
    let traps = texts.iter().find(|(path, _)| path == "docs/traps.md");
    let (_, traps) = traps.expect("the list of traps is there");
    let folders: Vec<&str> = LAYERS.iter().map(|(folder, _)| *folder).collect();
    let mut named = 0;
    for name in traps.split('`').skip(1).step_by(2) {
        let Some((folder, _)) = name.split_once("::") else {
            continue;
        };
        let Some((_, test)) = name.rsplit_once("::") else {
            continue;
        };
        if !folders.contains(&folder) || name.contains(' ') {
            continue;
        }
        named += 1;
        let (folder, head) = (format!("{folder}/"), format!("fn {test}("));
        let exists = texts.iter().any(|(path, text)| {
            path.starts_with(&folder) && path.ends_with(".rs") && text.contains(&head)
        });
        assert!(exists, "docs/traps.md names {name}, which is not there");
    }
    assert!(named > 50, "only {named} tests are named");
}

#[test]
fn notices_what_it_looks_for() {
    let manifest = "[package]\nname = \"qmq-x\"\n[dependencies]\nqmq-store.workspace = true\n\
                    tokio = { workspace = true }\n\n[dev-dependencies]\nrand = \"1\"\n";
    let expected: BTreeSet<String> = ["qmq-store", "tokio"].map(str::to_owned).into();
    assert_eq!(dependencies(manifest, &["dependencies"]), expected);
    assert_eq!(sections(manifest, &["dev-dependencies"]), ["rand = \"1\""]);
    let text = "[a](docs/a.md#part) [b](https://example.org) [c](#here) `x[1](y)`";
    assert_eq!(links(text), ["docs/a.md", "y"]);
}

/// Text of the manifest of each member, by folder.
fn manifests() -> BTreeMap<String, String> {
    let workspace = std::fs::read_to_string(repository::root().join("Cargo.toml")).unwrap();
    let members = workspace
        .split_once("members = [")
        .unwrap()
        .1
        .split_once(']')
        .unwrap()
        .0;
    members
        .split(',')
        .map(|member| member.trim().trim_matches('"'))
        .filter(|member| !member.is_empty())
        .map(|member| {
            let path = repository::root().join(member).join("Cargo.toml");
            (member.to_owned(), std::fs::read_to_string(path).unwrap())
        })
        .collect()
}

/// Names of the dependencies in these sections.
fn dependencies(manifest: &str, headers: &[&str]) -> BTreeSet<String> {
    sections(manifest, headers)
        .into_iter()
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .map(str::to_owned)
        .collect()
}

/// The lines of these sections that say something.
fn sections<'a>(manifest: &'a str, headers: &[&str]) -> Vec<&'a str> {
    let mut inside = false;
    let mut lines = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[') {
            inside = headers.contains(&header.trim_end_matches(']'));
        } else if inside && !line.is_empty() && !line.starts_with('#') {
            lines.push(line);
        }
    }
    lines
}

/// Targets of the links to other files, without the part after `#`.
fn links(text: &str) -> Vec<&str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .filter(|link| !link.contains("://") && !link.starts_with(['#', '<']))
        .filter_map(|link| link.split('#').next())
        .filter(|link| !link.contains(' '))
        .collect()
}

fn rust_files() -> Vec<(String, String)> {
    let files: Vec<_> = repository::texts()
        .unwrap()
        .into_iter()
        .filter(|(path, _)| path.ends_with(".rs"))
        .collect();
    assert!(files.len() > 50, "only {} files found", files.len());
    files
}
