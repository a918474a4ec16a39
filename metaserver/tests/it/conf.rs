//! The samples in `conf/` load, name only keys that exist, and show the defaults.

use std::path::{Path, PathBuf};

use qmq_daemon::process::ProcessConfig;
use qmq_daemon::settings::{Environment, Settings, SettingsArgs, file};
use qmq_metaserver::MetaserverConfig;

fn conf() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf")
}

fn load(path: &Path) -> Settings {
    let args = SettingsArgs {
        file: Some(path.to_owned()),
        ..SettingsArgs::default()
    };
    let environment = Environment::default();
    Settings::load_in(&environment, "metaserver", &["datasource"], &args).unwrap()
}

/// The sample with every key in effect: `#key = value` lines lose their `#`.
fn uncommented(name: &str) -> String {
    let text = std::fs::read_to_string(conf().join(name)).unwrap();
    let lines = text.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) => rest,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn samples_are_the_defaults_and_every_key_in_them_exists() {
    let sample = load(&conf().join("metaserver.properties"));
    let config = MetaserverConfig::from_settings(&sample).unwrap();
    assert!(sample.unknown().is_empty(), "{:?}", sample.unknown());
    let defaults = Settings::of_pairs("metaserver", &[]);
    let defaults = MetaserverConfig::from_settings(&defaults).unwrap();
    let shown = |config: &MetaserverConfig| {
        format!(
            "{:?}",
            MetaserverConfig {
                tokens_file: None,
                slave_ports_file: None,
                ..config.clone()
            }
        )
    };
    assert_eq!(shown(&config), shown(&defaults));

    let folder = tempfile::tempdir().unwrap();
    for name in ["metaserver.properties", "datasource.properties"] {
        std::fs::write(folder.path().join(name), uncommented(name)).unwrap();
    }
    let all = load(&folder.path().join("metaserver.properties"));
    MetaserverConfig::from_settings(&all).unwrap();
    ProcessConfig::from_settings(&all).unwrap();
    let unknown = all.unknown();
    assert!(unknown.is_empty(), "{unknown:?}");
}

/// A sample must not hand out a token that works.
#[test]
fn the_sample_of_tokens_holds_none() {
    let tokens = file::read(&conf().join("valid-api-tokens.properties")).unwrap();
    assert_eq!(tokens.properties, []);
}

/// What the install document of the Java servers tells operators to write.
#[test]
fn takes_the_file_of_a_java_metaserver() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metaserver.properties");
    let text = "# the port of /meta/address\nmeta.server.discover.port=8080\n\
                meta.server.port=20880\nrefresh.period.seconds=5\nheartbeat.timeout.ms=30000\n\
                min.group.num=2\nmeta.server.load.balance=random\n";
    std::fs::write(&path, text).unwrap();
    let settings = load(&path);
    MetaserverConfig::from_settings(&settings).unwrap();
    assert!(settings.unknown().is_empty(), "{:?}", settings.unknown());
    let datasource = "jdbc.driverClassName=com.mysql.jdbc.Driver\n\
                      jdbc.url=jdbc:mysql://10.0.0.1:3306/qmq?useUnicode=true\n\
                      jdbc.username=root\njdbc.password=root\npool.size.max=10\n";
    std::fs::write(folder.path().join("datasource.properties"), datasource).unwrap();
    let settings = load(&path);
    let config = MetaserverConfig::from_settings(&settings).unwrap();
    assert_eq!(config.database.to_string(), "mysql://10.0.0.1:3306/qmq");
    assert!(settings.unknown().is_empty(), "{:?}", settings.unknown());
}
