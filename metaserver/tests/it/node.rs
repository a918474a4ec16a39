//! A metaserver in this process, and everything one can ask it; the databases it runs on.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use qmq_daemon::process::Running;
use qmq_daemon::settings::Settings;
use qmq_mariadb::MariaDb;
use qmq_metaserver::{MetaserverConfig, RunningMetaserver, start};
use qmq_model::{BrokerGroup, BrokerRole, BrokerState};
use qmq_protocol::command::broker_register::{BrokerRegisterRequest, BrokerRequestType};
use qmq_protocol::command::client_register::{
    ClientRegisterRequest, ClientRegisterResponse, ClientRequestType, ClientType,
};
use qmq_protocol::{CommandCode, Decode, Encode, Frame};
use qmq_remoting::{Client, ClientConfig};
use sqlx::{AnyConnection, AnyPool, Executor};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// Longest wait for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The token that is valid.
pub(crate) const TOKEN: &str = "secret";
const VERSION: i16 = 9;

/// Makes two tests of each function, one on SQLite and one on MariaDB. One that is not listed is
/// never used, which the compiler says.
macro_rules! on_each_database {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                Box::pin(super::$name(crate::node::Place::new())).await;
            })+
        }
        mod mariadb {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                Box::pin(super::$name(crate::node::Place::on_mariadb())).await;
            })+
        }
    };
}

/// A database of its own and a folder with tokens; nodes run on it.
pub(crate) struct Place {
    folder: TempDir,
    database: Database,
}

enum Database {
    Sqlite,
    MariaDb(Server, String),
}

#[derive(Clone)]
enum Server {
    Shared(&'static MariaDb),
    Own(Arc<MariaDb>),
}

impl Deref for Server {
    type Target = MariaDb;

    fn deref(&self) -> &MariaDb {
        match self {
            Self::Shared(server) => server,
            Self::Own(server) => server,
        }
    }
}

impl Place {
    /// On SQLite.
    pub(crate) fn new() -> Self {
        Self::of(Database::Sqlite)
    }

    /// On MariaDB.
    pub(crate) fn on_mariadb() -> Self {
        let server = MariaDb::shared().unwrap_or_else(|error| panic!("{error}"));
        let name = server.create_database().unwrap();
        Self::of(Database::MariaDb(Server::Shared(server), name))
    }

    /// On a MariaDB that only this test uses, and may stop.
    pub(crate) fn on_own_mariadb() -> (Self, Arc<MariaDb>) {
        let server = Arc::new(MariaDb::start().unwrap());
        let name = server.create_database().unwrap();
        let own = Server::Own(Arc::clone(&server));
        (Self::of(Database::MariaDb(own, name)), server)
    }

    /// A new one of the same kind.
    pub(crate) fn another(&self) -> Self {
        match &self.database {
            Database::Sqlite => Self::new(),
            Database::MariaDb(..) => Self::on_mariadb(),
        }
    }

    fn of(database: Database) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tokens.properties"), "secret=tests\n").unwrap();
        Self { folder, database }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn tokens(&self) -> PathBuf {
        self.path().join("tokens.properties")
    }

    /// The setting `jdbc.url`.
    pub(crate) fn jdbc_url(&self) -> String {
        match &self.database {
            Database::Sqlite => format!("sqlite:{}", self.file().display()),
            Database::MariaDb(server, name) => server.jdbc_url(name),
        }
    }

    fn file(&self) -> PathBuf {
        self.path().join("data/metaserver.db")
    }

    /// Whether columns hold only so many characters.
    pub(crate) fn has_widths(&self) -> bool {
        matches!(self.database, Database::MariaDb(..))
    }

    /// The time now as the columns of times take it.
    pub(crate) fn now(&self) -> &'static str {
        match &self.database {
            Database::Sqlite => "unixepoch() * 1000",
            Database::MariaDb(..) => "NOW()",
        }
    }

    /// The time now in ms.
    pub(crate) fn now_ms(&self) -> &'static str {
        match &self.database {
            Database::Sqlite => "CAST(unixepoch('subsec') * 1000 AS INTEGER)",
            Database::MariaDb(..) => "CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)",
        }
    }

    /// Quick timers, nobody waits for a first route, everything else as in production.
    pub(crate) fn config(&self) -> MetaserverConfig {
        let url = self.jdbc_url();
        let pairs = [
            ("jdbc.url", url.as_str()),
            ("jdbc.username", qmq_mariadb::USER),
            ("jdbc.password", qmq_mariadb::PASSWORD),
            ("meta.server.port", "0"),
            ("meta.server.discover.port", "0"),
            ("qmq.ip", "127.0.0.1"),
            ("first.route.wait.ms", "0"),
        ];
        let settings = Settings::of_pairs("metaserver", &pairs);
        let config = MetaserverConfig::from_settings(&settings).unwrap();
        MetaserverConfig {
            tokens_file: Some(self.tokens()),
            refresh_period: Duration::from_millis(20),
            ..config
        }
    }

    pub(crate) async fn start(&self) -> Node {
        self.start_with(self.config()).await
    }

    pub(crate) async fn start_with(&self, config: MetaserverConfig) -> Node {
        let stop = CancellationToken::new();
        let settings = Settings::of_pairs("metaserver", &[]);
        let running = start(config, settings, stop.clone()).await.unwrap();
        let client = Client::connect(local(running.tcp_addr()), ClientConfig::default())
            .await
            .unwrap();
        Node {
            running,
            stop,
            client,
        }
    }

    /// The database, past the metaserver.
    pub(crate) async fn sql(&self) -> AnyPool {
        sqlx::any::install_default_drivers();
        let url = match &self.database {
            Database::Sqlite => format!("sqlite:{}", self.file().display()),
            Database::MariaDb(server, name) => server.driver_url(name),
        };
        AnyPool::connect(&url).await.unwrap()
    }

    /// Keeps everybody from writing, not from reading, until it is released.
    pub(crate) async fn hold_writes(&self) -> HeldWrites {
        let mut holder = self.sql().await.acquire().await.unwrap().detach();
        let (hold, release) = match &self.database {
            Database::Sqlite => ("BEGIN IMMEDIATE", "ROLLBACK"),
            Database::MariaDb(..) => (
                "LOCK TABLES broker_group READ, subject_route READ, client_meta_info READ, \
                 qmq_broker_liveness READ",
                "UNLOCK TABLES",
            ),
        };
        holder.execute(sqlx::raw_sql(hold)).await.unwrap();
        HeldWrites { holder, release }
    }
}

/// See [`Place::hold_writes`].
pub(crate) struct HeldWrites {
    holder: AnyConnection,
    release: &'static str,
}

impl HeldWrites {
    pub(crate) async fn release(mut self) {
        self.holder
            .execute(sqlx::raw_sql(self.release))
            .await
            .unwrap();
    }
}

fn local(address: std::net::SocketAddr) -> String {
    format!("127.0.0.1:{}", address.port())
}

/// A running metaserver and a connection to it.
pub(crate) struct Node {
    running: RunningMetaserver,
    stop: CancellationToken,
    client: Client,
}

/// An answer to a client, owned.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) code: i16,
    pub(crate) timestamp_ms: i64,
    pub(crate) subject: String,
    pub(crate) consumer_group: String,
    pub(crate) is_online: bool,
    pub(crate) client_type: i8,
    pub(crate) groups: Vec<BrokerGroup>,
}

impl Answer {
    fn read(frame: &Frame) -> Self {
        let code = frame.header.code;
        let response = (code == 0).then(|| {
            ClientRegisterResponse::decode(VERSION, &frame.body).expect("a whole response")
        });
        let Some(response) = response else {
            assert!(frame.body.is_empty());
            return Self {
                code,
                timestamp_ms: 0,
                subject: String::new(),
                consumer_group: String::new(),
                is_online: true,
                client_type: 0,
                groups: Vec::new(),
            };
        };
        Self {
            code,
            timestamp_ms: response.timestamp_ms,
            subject: response.subject.to_owned(),
            consumer_group: response.consumer_group.to_owned(),
            is_online: response.state as i8 == 0,
            client_type: response.client_type_code,
            groups: response.groups,
        }
    }

    pub(crate) fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self
            .groups
            .iter()
            .map(|group| group.name.as_str())
            .collect();
        names.sort_unstable();
        names
    }
}

/// A question of a client with nothing special about it.
pub(crate) fn question(subject: &str, client_type: ClientType) -> ClientRegisterRequest<'_> {
    ClientRegisterRequest {
        subject,
        client_type_code: i32::from(client_type.code()),
        request_type: ClientRequestType::Online,
        client_id: "client-1",
        app_code: "app",
        consumer_group: if client_type == ClientType::Consumer {
            "group"
        } else {
            ""
        },
        ldc: "",
    }
}

/// Asks over a connection.
pub(crate) async fn ask(client: &Client, question: ClientRegisterRequest<'_>) -> Answer {
    let write = |out: &mut BytesMut| question.encode(VERSION, out);
    let code = CommandCode::ClientRegister;
    Answer::read(&client.request(code, write, PATIENCE).await.unwrap())
}

/// A broker master as it reports itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Master {
    pub(crate) group: &'static str,
    pub(crate) address: &'static str,
    pub(crate) role: BrokerRole,
}

/// A group of realtime brokers.
pub(crate) const G1: Master = Master {
    group: "g1",
    address: "10.0.0.1:20881",
    role: BrokerRole::Master,
};
/// Another one.
pub(crate) const G2: Master = Master {
    group: "g2",
    address: "10.0.0.2:20881",
    role: BrokerRole::Master,
};

impl Node {
    pub(crate) fn http(&self) -> String {
        format!("http://{}", local(self.running.http_addr()))
    }

    pub(crate) fn tcp(&self) -> String {
        local(self.running.tcp_addr())
    }

    pub(crate) async fn request(
        &self,
        code: CommandCode,
        write: impl FnOnce(&mut BytesMut),
    ) -> Frame {
        self.client.request(code, write, PATIENCE).await.unwrap()
    }

    pub(crate) async fn ask(&self, question: ClientRegisterRequest<'_>) -> Answer {
        ask(&self.client, question).await
    }

    /// Its connection, to share.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Waits for a line of its metrics.
    pub(crate) async fn count_until(&self, line: &str) {
        let url = format!("{}/metrics", self.http());
        let look = async {
            while !http()
                .get(&url)
                .send()
                .await
                .unwrap()
                .text()
                .await
                .unwrap()
                .contains(line)
            {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, look)
            .await
            .expect("the metric must come");
    }

    /// Waits until `/readyz` answers with this status; returns its text.
    pub(crate) async fn ready_until(&self, status: u16) -> String {
        let url = format!("{}/readyz", self.http());
        let look = async {
            loop {
                let reply = http().get(&url).send().await.unwrap();
                if reply.status() == status {
                    return reply.text().await.unwrap();
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, look)
            .await
            .expect("the status must come")
    }

    /// Asks until the answer is as wanted.
    pub(crate) async fn ask_until(
        &self,
        question: ClientRegisterRequest<'_>,
        condition: impl Fn(&Answer) -> bool,
    ) -> Answer {
        let ask = async {
            loop {
                let answer = self.ask(question).await;
                if condition(&answer) {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, ask)
            .await
            .expect("the answer must come")
    }

    /// Sends a report of a master; returns the result code.
    pub(crate) async fn report(
        &self,
        master: Master,
        what: BrokerRequestType,
        state: BrokerState,
    ) -> i16 {
        self.send_report(BrokerRegisterRequest {
            request_type_code: what.code(),
            group_name: master.group,
            broker_address: master.address,
            role_code: master.role.code(),
            state_code: i32::from(state.code()),
        })
        .await
    }

    /// A heartbeat of a realtime master that can be read and written.
    pub(crate) async fn beat(&self, group: &str, address: &str) -> i16 {
        self.send_report(BrokerRegisterRequest {
            request_type_code: BrokerRequestType::Heartbeat.code(),
            group_name: group,
            broker_address: address,
            role_code: BrokerRole::Master.code(),
            state_code: i32::from(BrokerState::ReadWrite.code()),
        })
        .await
    }

    async fn send_report(&self, request: BrokerRegisterRequest<'_>) -> i16 {
        let write = |out: &mut BytesMut| request.encode(VERSION, out);
        self.request(CommandCode::BrokerRegister, write)
            .await
            .header
            .code
    }

    /// Adds a broker over HTTP and reports it online.
    pub(crate) async fn bring_online(&self, master: Master) {
        let (ip, port) = master.address.split_once(':').unwrap();
        let role = master.role.code().to_string();
        let sync_port = (port.parse::<u16>().unwrap() + 10_000).to_string();
        let reply = self
            .manage(&[
                ("action", "AddBroker"),
                ("brokerGroup", master.group),
                ("role", &role),
                ("hostname", master.group),
                ("ip", ip),
                ("servePort", port),
                ("syncPort", &sync_port),
            ])
            .await;
        assert!(reply.starts_with("{\"status\":0,"), "{reply}");
        let code = self
            .report(master, BrokerRequestType::Online, BrokerState::ReadWrite)
            .await;
        assert_eq!(code, 0);
    }

    /// A management call with the valid token; returns the body of the reply.
    pub(crate) async fn manage(&self, form: &[(&str, &str)]) -> String {
        let request = self.post(form).header("X-Api-Token", TOKEN);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        response.text().await.unwrap()
    }

    /// A management call about one subject and one broker group.
    pub(crate) async fn change_route(&self, action: &str, subject: &str, group: &str) -> String {
        let form = [
            ("action", action),
            ("subject", subject),
            ("brokerGroup", group),
        ];
        self.manage(&form).await
    }

    /// A management call without a token, ready to send.
    pub(crate) fn post(&self, form: &[(&str, &str)]) -> reqwest::RequestBuilder {
        let mut body = form_urlencoded::Serializer::new(String::new());
        body.extend_pairs(form);
        http()
            .post(format!("{}/management", self.http()))
            .header(
                "Content-Type",
                "application/x-www-form-urlencoded; charset=UTF-8",
            )
            .body(body.finish())
    }

    /// Takes its database away: later statements fail at once.
    pub(crate) async fn lose_database(&self) {
        self.running.db().close().await;
    }

    /// An orderly stop.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.running.ended().await.unwrap();
    }
}

/// A client that ignores proxies of the environment.
pub(crate) fn http() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}
