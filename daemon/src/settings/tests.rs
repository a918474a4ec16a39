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

/// Every place a value can stand in, the strongest first, as documented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Layer {
    Set,
    NamedFile,
    ConfProperties,
    ConfToml,
    HomeProperties,
    HomeToml,
    HereProperties,
    HereToml,
}

const LAYERS: [Layer; 8] = [
    Layer::Set,
    Layer::NamedFile,
    Layer::ConfProperties,
    Layer::ConfToml,
    Layer::HomeProperties,
    Layer::HomeToml,
    Layer::HereProperties,
    Layer::HereToml,
];

impl Layer {
    /// The value that this layer gives.
    fn port(self) -> u16 {
        1 + self as u16
    }

    fn put(self, folders: &mut Folders, args: &mut SettingsArgs) {
        let port = self.port();
        let properties = format!("broker.port = {port}\n");
        let toml = format!("[broker]\nport = {port}\n");
        let path = match self {
            Self::Set => {
                args.set = vec![("broker.port".to_owned(), port.to_string())];
                return;
            }
            Self::NamedFile => "named.properties",
            Self::ConfProperties => "conf/broker.properties",
            Self::ConfToml => "conf/broker.toml",
            Self::HomeProperties => "home/conf/broker.properties",
            Self::HomeToml => "home/conf/broker.toml",
            Self::HereProperties => "here/conf/broker.properties",
            Self::HereToml => "here/conf/broker.toml",
        };
        let text = if path.ends_with("toml") {
            toml
        } else {
            properties
        };
        let path = folders.write(path, &text);
        let folder = |name: &str| Some(folders.temp.path().join(name));
        match self {
            Self::NamedFile => args.file = Some(path),
            Self::ConfProperties | Self::ConfToml => folders.environment.qmq_conf = folder("conf"),
            Self::HomeProperties | Self::HomeToml => folders.environment.qmq_home = folder("home"),
            _ => {}
        }
    }
}

/// All combinations of layers: the strongest one decides, and the report says where it stands.
#[test]
fn the_strongest_layer_wins_in_every_combination() {
    for chosen in 0_u32..1 << LAYERS.len() {
        let (mut folders, mut args) = (Folders::new(), SettingsArgs::default());
        let layers = LAYERS.iter().enumerate();
        let present = layers.filter(|(bit, _)| chosen & (1 << bit) != 0);
        let present: Vec<Layer> = present.map(|(_, layer)| *layer).collect();
        for layer in &present {
            layer.put(&mut folders, &mut args);
        }
        let settings = folders.load(&args).unwrap();
        let expected = present.first().map_or(20881, |layer| layer.port());
        assert_eq!(port(&settings), expected, "{present:?}");
        let origin = match present.first() {
            None => "default".to_owned(),
            Some(Layer::Set) => "--set".to_owned(),
            Some(layer) if format!("{layer:?}").ends_with("Toml") => "broker.toml:2".to_owned(),
            Some(Layer::NamedFile) => "named.properties:1".to_owned(),
            Some(_) => "broker.properties:1".to_owned(),
        };
        let report = settings.report();
        let line = report.lines().next().unwrap();
        assert!(line.ends_with(&origin), "{present:?}: {report}");
    }
}

#[test]
fn the_environment_may_name_a_file_itself() {
    let mut folders = Folders::new();
    folders.write("here/conf/broker.properties", "broker.port=1");
    folders.environment.qmq_conf = Some(folders.write("other.toml", "broker.port = 4"));
    let settings = folders.load(&SettingsArgs::default()).unwrap();
    assert_eq!(port(&settings), 4);
}

#[test]
fn of_two_files_in_one_folder_the_other_is_reported() {
    let folders = Folders::new();
    folders.write("here/conf/broker.properties", "broker.port=1");
    folders.write("here/conf/broker.toml", "broker.port = 2");
    let settings = folders.load(&SettingsArgs::default()).unwrap();
    let report = settings.report();
    assert!(report.contains("broker.toml is not read"), "{report}");
}

#[test]
fn a_missing_file_falls_through_the_chain_when_asked_to() {
    let mut folders = Folders::new();
    folders.write("here/conf/broker.properties", "broker.port=1");
    let mut args = SettingsArgs {
        file: Some(folders.temp.path().join("nowhere.properties")),
        config_fallback: true,
        ..SettingsArgs::default()
    };
    let settings = folders.load(&args).unwrap();
    assert_eq!(port(&settings), 1);
    let report = settings.report();
    assert!(report.contains("nowhere.properties"), "{report}");
    assert!(report.contains("--config-fallback"), "{report}");

    folders.environment.qmq_conf = Some(folders.temp.path().join("nothing"));
    assert_eq!(port(&folders.load(&args).unwrap()), 1);
    folders.environment.qmq_conf = Some(folders.write("conf.properties", "broker.port=3"));
    assert_eq!(port(&folders.load(&args).unwrap()), 3);

    // A file that is there is the one that is read, and one that cannot be parsed is an error.
    args.file = Some(folders.write("bad.properties", "broker.port=\\u00g0"));
    assert!(folders.load(&args).is_err());
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
    let tokens = || settings.companion_path("valid-api-tokens").unwrap();
    assert!(tokens().ends_with("here/conf/valid-api-tokens.properties"));
    folders.write("here/conf/valid-api-tokens.toml", "token = 'me'");
    assert!(tokens().ends_with("here/conf/valid-api-tokens.toml"));
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

/// Runs `follow` until the test ends it.
struct Following {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Following {
    fn start(
        settings: Settings,
        apply: impl FnMut(&Settings) -> Result<(), SettingsError> + Send + 'static,
    ) -> Self {
        let (stop, period) = (CancellationToken::new(), Duration::from_millis(1));
        let task = tokio::spawn(follow(settings, period, stop.clone(), apply));
        Self { stop, task }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

#[tokio::test]
async fn follows_a_changed_file_and_keeps_old_values_when_it_is_bad() {
    let folders = Folders::new();
    let path = folders.write("here/conf/broker.properties", "min.group.num=2");
    let settings = folders.load(&SettingsArgs::default()).unwrap();
    let (sender, mut seen) = tokio::sync::watch::channel((2, 0));
    let apply = move |settings: &Settings| {
        let value = settings.number("min.group.num", 2, 1..=100);
        sender.send_modify(|(held, refused)| match &value {
            Ok(value) => *held = *value,
            Err(_) => *refused += 1,
        });
        value.map(drop)
    };
    let following = Following::start(settings, apply);
    fs::write(&path, "min.group.num=none at all").unwrap();
    seen.wait_for(|(_, refused)| *refused == 1).await.unwrap();
    assert_eq!(seen.borrow().0, 2);
    fs::write(&path, "min.group.num=33").unwrap();
    seen.wait_for(|(held, _)| *held == 33).await.unwrap();
    following.stop().await;
}

#[tokio::test]
async fn whoever_wants_to_is_told_of_a_change() {
    let folders = Folders::new();
    let path = folders.write("here/conf/broker.toml", "log.level = 'info'");
    let mut settings = folders.load(&SettingsArgs::default()).unwrap();
    let (sender, mut seen) = tokio::sync::watch::channel(String::new());
    settings.on_change(move |settings| {
        sender.send_replace(settings.get("log.level", String::new())?);
        Ok(())
    });
    let following = Following::start(settings, |_| Ok(()));
    fs::write(&path, "log.level = 'debug'").unwrap();
    seen.wait_for(|level| level == "debug").await.unwrap();
    following.stop().await;
}

#[tokio::test]
async fn a_file_of_any_keys_may_appear_later_and_change() {
    let folders = Folders::new();
    folders.write("here/conf/broker.properties", "");
    let mut settings = folders.load(&SettingsArgs::default()).unwrap();
    let map = settings.map_file("switches");
    assert_eq!(map.values(), None);
    let following = Following::start(settings, |_| Ok(()));
    let read = async |wanted: &str| {
        loop {
            let values = map.values();
            if values.is_some_and(|values| values.get("a.b").is_some_and(|v| v == wanted)) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let path = folders.write("here/conf/switches.properties", "a.b = one \nblank=\n");
    read("one").await;
    assert_eq!(map.values().unwrap()["blank"], "");
    fs::write(&path, "a.b=\\u00g0").unwrap();
    fs::remove_file(&path).unwrap();
    read("one").await;
    folders.write("here/conf/switches.toml", "a.b = 'three'");
    read("three").await;
    following.stop().await;
}
