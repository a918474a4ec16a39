//! The samples in `conf/` against the programs that read them.

use std::process::Command;

use qmq_e2e::{programs, repository};

#[test]
fn samples_are_understood_and_complete() {
    let conf = repository::root().join("conf");
    let mut samples = String::new();
    for entry in std::fs::read_dir(&conf).unwrap() {
        samples += &std::fs::read_to_string(entry.unwrap().path()).unwrap();
    }
    for (server, program) in [
        ("metaserver", "qmq-metaserver"),
        ("broker", "qmq-broker"),
        ("delay", "qmq-delay-server"),
    ] {
        let output = Command::new(programs::path(program).unwrap())
            .arg("-c")
            .arg(conf.join(format!("{server}.properties")))
            .arg("--check-config")
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{server}: {printed}");
        assert!(!printed.contains("warning"), "{server}: {printed}");
        let keys: Vec<&str> = printed
            .lines()
            .filter_map(|line| line.trim_start_matches("# ").split([' ', '=']).next())
            .collect();
        assert!(keys.len() > 10, "{server}: {printed}");
        for key in keys {
            let is_shown = samples.lines().any(|line| {
                let line = line.trim_start_matches('#');
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
