//! Tests of layers, getters and reports.

use std::fs;

use tempfile::TempDir;

use std::time::Duration;
use tokio_util::sync::CancellationToken;

use super::*;

struct Folders {
    temp: TempDir,
    environment: Environment,
}

impl Folders {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let environment = Environment {
            current: temp.path().join("here"),
            ..Environment::default()
        };
        Self { temp, environment }
    }

    fn write(&self, path: &str, text: &str) -> PathBuf {
        let path = self.temp.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn load(&self, args: &SettingsArgs) -> Result<Settings, SettingsError> {
        Settings::load_in(&self.environment, "broker", &["datasource"], args)
    }
}

fn port(settings: &Settings) -> u16 {
    settings.get("broker.port", 20881).unwrap()
}

#[test]
fn the_nearest_layer_wins() {
    let mut folders = Folders::new();
    let none = SettingsArgs::default();
    assert_eq!(port(&folders.load(&none).unwrap()), 20881);

    folders.write("here/conf/broker.properties", "broker.port=1");
    assert_eq!(port(&folders.load(&none).unwrap()), 1);

    folders.write("home/conf/broker.properties", "broker.port=2");
    folders.environment.qmq_home = Some(folders.temp.path().join("home"));
    assert_eq!(port(&folders.load(&none).unwrap()), 2);

    folders.write("conf/broker.properties", "broker.port=3");
    folders.environment.qmq_conf = Some(folders.temp.path().join("conf"));
    assert_eq!(port(&folders.load(&none).unwrap()), 3);

    let other = folders.write("other.properties", "broker.port=4");
    folders.environment.qmq_conf = Some(other);
    assert_eq!(port(&folders.load(&none).unwrap()), 4);

    let named = folders.write("named.properties", "broker.port=5");
    let args = SettingsArgs {
        file: Some(named),
        ..SettingsArgs::default()
    };
    assert_eq!(port(&folders.load(&args).unwrap()), 5);

    let set = vec![("broker.port".to_owned(), "6".to_owned())];
    assert_eq!(
        port(&folders.load(&SettingsArgs { set, ..args }).unwrap()),
        6
    );
}

#[test]
fn a_named_file_that_is_missing_is_an_error_that_names_it() {
    let mut folders = Folders::new();
    let missing = folders.temp.path().join("nowhere.properties");
    let args = SettingsArgs {
        file: Some(missing),
        ..SettingsArgs::default()
    };
    let error = folders.load(&args).unwrap_err().to_string();
    assert!(
        error.contains("nowhere.properties") && error.contains("-c"),
        "{error}"
    );

    folders.write("conf/metaserver.properties", "");
    folders.environment.qmq_conf = Some(folders.temp.path().join("conf"));
    let error = folders
        .load(&SettingsArgs::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("conf/broker.properties") && error.contains("QMQ_CONF"),
        "{error}"
    );
}

#[test]
fn companions_come_from_the_same_folder() {
    let folders = Folders::new();
    folders.write("here/conf/broker.properties", "a=1");
    folders.write("here/conf/datasource.properties", "pool.size.max=7\n");
    let settings = folders.load(&SettingsArgs::default()).unwrap();
    assert_eq!(settings.get("pool.size.max", 10).unwrap(), 7);
    let tokens = settings.companion_path("valid-api-tokens").unwrap();
    assert!(tokens.ends_with("here/conf/valid-api-tokens.properties"));
}

#[test]
fn errors_name_key_value_and_line() {
    let folders = Folders::new();
    folders.write(
        "here/conf/broker.properties",
        "\nbroker.port=many\nsync.port=70000\nx=yes\n",
    );
    let settings = folders.load(&SettingsArgs::default()).unwrap();
    let error = settings.get("broker.port", 1_u16).unwrap_err().to_string();
    assert!(error.contains("broker.port = \"many\""), "{error}");
    assert!(error.contains("broker.properties:2"), "{error}");
    let error = settings
        .number("sync.port", 1, 1..=65535_u32)
        .unwrap_err()
        .to_string();
    assert!(error.contains("not within 1..=65535"), "{error}");
    assert!(settings.flag("x", false).is_err());
    let error = settings
        .required::<String>("meta.server.endpoint")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("meta.server.endpoint is not set in"),
        "{error}"
    );
}

#[test]
fn blank_is_absent_and_values_are_trimmed() {
    let settings = Settings::of_pairs("broker", &[("a", ""), ("b", "TRUE")]);
    assert_eq!(settings.get("a", 5).unwrap(), 5);
    assert_eq!(settings.optional::<String>("a").unwrap(), None);
    assert!(settings.flag("b", false).unwrap());
    let folders = Folders::new();
    folders.write("here/conf/broker.properties", "a = \t \nb = x \t\n");
    let settings = folders.load(&SettingsArgs::default()).unwrap();
    assert_eq!(settings.get("a", 5).unwrap(), 5);
    assert_eq!(settings.required::<String>("b").unwrap(), "x");
}

#[test]
fn reports_every_value_with_its_origin_and_masks_secrets() {
    let folders = Folders::new();
    let text = "jdbc.password=hunter2\njdbc.url=mysql://root:hunter2@h/db?password=hunter2&a=b\n\
                brokr.port=1\nold.key=1\nbroker.port=1\nbroker.port=2\n";
    folders.write("here/conf/broker.properties", text);
    let set = vec![("store.root".to_owned(), "/d".to_owned())];
    let settings = folders
        .load(&SettingsArgs {
            set,
            ..SettingsArgs::default()
        })
        .unwrap();
    settings.get("jdbc.password", String::new()).unwrap();
    settings.get("jdbc.url", String::new()).unwrap();
    settings.get("store.root", String::new()).unwrap();
    settings.get("sync.port", 20882).unwrap();
    settings.optional::<String>("qmq.ip").unwrap();
    assert_eq!(port(&settings), 2);
    settings.without_effect(&["old.key"]);
    let report = settings.report();
    assert!(!report.contains("hunter2"), "{report}");
    assert!(report.contains("store.root = /d  # --set\n"), "{report}");
    assert!(
        report.contains("sync.port = 20882  # default\n"),
        "{report}"
    );
    assert!(report.contains("# qmq.ip is not set\n"), "{report}");
    assert!(report.contains("unknown setting brokr.port ("), "{report}");
    assert!(report.contains("broker.properties:3)"), "{report}");
    assert!(
        report.contains("broker.port replaces the value of"),
        "{report}"
    );
    let unknown: Vec<String> = settings.unknown().into_iter().map(|(key, _)| key).collect();
    assert_eq!(unknown, ["brokr.port"]);
}

#[tokio::test]
async fn follows_a_changed_file_and_keeps_old_values_when_it_is_bad() {
    let folders = Folders::new();
    let path = folders.write("here/conf/broker.properties", "min.group.num=2");
    let settings = folders.load(&SettingsArgs::default()).unwrap();
    let (sender, mut seen) = tokio::sync::watch::channel(2);
    let stop = CancellationToken::new();
    let apply = move |settings: &Settings| {
        let value = settings.number("min.group.num", 2, 1..=100)?;
        sender.send_replace(value);
        Ok(())
    };
    let task = tokio::spawn(follow(
        settings,
        Duration::from_millis(1),
        stop.clone(),
        apply,
    ));
    fs::write(&path, "min.group.num=none at all").unwrap();
    fs::write(&path, "min.group.num=33").unwrap();
    seen.wait_for(|value| *value == 33).await.unwrap();
    stop.cancel();
    task.await.unwrap();
}
