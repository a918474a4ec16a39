//! The samples in `conf/` against the programs that read them.

use std::path::{Path, PathBuf};
use std::process::Command;

use qmq_e2e::{programs, repository};

const SERVERS: [(&str, &str); 3] = [
    ("metaserver", "qmq-metaserver"),
    ("broker", "qmq-broker"),
    ("delay", "qmq-delay-server"),
];

/// What `--check-config` prints for this file, which is without warnings.
fn checked(program: &str, file: &Path) -> String {
    let output = Command::new(programs::path(program).unwrap())
        .arg("-c")
        .arg(file)
        .arg("--check-config")
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let file = file.display();
    assert!(output.status.success(), "{file}: {output:?}");
    assert!(!printed.contains("warning"), "{file}: {printed}");
    printed
}

fn properties_in(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let is_settings = |path: &PathBuf| path.extension().is_some_and(|e| e == "properties");
    paths.filter(is_settings).collect()
}

#[test]
fn samples_of_whole_clusters_are_understood() {
    let mut count = 0;
    for folder in ["2m-noslave", "docker"] {
        for path in properties_in(&repository::root().join("conf").join(folder)) {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let server = SERVERS.iter().find(|(server, _)| name.starts_with(server));
            if let Some((_, program)) = server {
                checked(program, &path);
                count += 1;
            }
        }
    }
    assert_eq!(count, 7);
}

#[test]
fn samples_are_understood_and_complete() {
    let conf = repository::root().join("conf");
    let mut samples = String::new();
    for path in properties_in(&conf) {
        samples += &std::fs::read_to_string(path).unwrap();
    }
    for (server, program) in SERVERS {
        let printed = checked(program, &conf.join(format!("{server}.properties")));
        let keys: Vec<&str> = printed
            .lines()
            .filter(|line| !line.starts_with("# read: "))
            .filter_map(|line| line.trim_start_matches("# ").split([' ', '=']).next())
            .collect();
        assert!(keys.len() > 10, "{server}: {printed}");
        for key in keys {
            let is_shown = samples.lines().any(|line| {
                let line = line.trim_start_matches('#').trim_start();
                line.strip_prefix(key)
                    .is_some_and(|rest| rest.trim_start().starts_with('='))
            });
            // The host name by which a metaserver is known matters to nobody.
            assert!(
                is_shown || key == "qmq.host",
                "{server}: no sample shows {key}"
            );
        }
    }
}
