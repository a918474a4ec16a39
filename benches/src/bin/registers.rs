//! Measures how a metaserver with very many subjects answers clients: starts one on a MariaDB of
//! its own that holds them, asks for known subjects as fast as it answers, and prints one line of
//! JSON. Its refreshes go on meanwhile.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::BytesMut;
use clap::Parser;
use hdrhistogram::Histogram;
use qmq_mariadb::MariaDb;
use qmq_protocol::command::client_register::{
    ClientRegisterRequest, ClientRegisterResponse, ClientRequestType, ClientType,
};
use qmq_protocol::frame::BODY_BYTES_MAX;
use qmq_protocol::{CommandCode, Decode, Encode, Header, split_frame};
use serde_json::json;

const VERSION: i16 = 9;
/// Longest wait for the metaserver to start, or for an answer.
const PATIENCE: Duration = Duration::from_secs(300);
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Multiplied with a number it gives the next subject to ask for: all over the table.
const STEP: u64 = 7_919;

/// Registers of clients per second, their latency, memory and start-up time of a metaserver.
#[derive(Parser)]
struct Arguments {
    /// The program to measure.
    #[arg(long)]
    metaserver: PathBuf,
    /// Subjects that have a route of two groups.
    #[arg(long, default_value_t = 1_000_000)]
    subjects: u64,
    /// Broker groups, each with one broker.
    #[arg(long, default_value_t = 10_000)]
    groups: u64,
    /// How long it is asked. Unit: seconds.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Clients that ask.
    #[arg(long, default_value_t = 2)]
    connections: u64,
    /// Questions of each that wait for their answer.
    #[arg(long, default_value_t = 64)]
    in_flight: u32,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let folder = tempfile::tempdir()?;
    let server = MariaDb::start()?;
    let database = server.create_database()?;
    // The first start makes the tables.
    let made = Metaserver::start(&arguments, folder.path(), &server.jdbc_url(&database))?;
    made.stop()?;
    fill(&server, &database, &arguments)?;

    let begun = Instant::now();
    let metaserver = Metaserver::start(&arguments, folder.path(), &server.jdbc_url(&database))?;
    let start = begun.elapsed();
    let at_start = metaserver.resident_mib()?;
    let (latencies, took) = ask_all(&arguments, metaserver.port)?;
    let line = json!({
        "valid": true,
        "subjects": arguments.subjects,
        "groups": arguments.groups,
        "registers_per_second": latencies.len() as f64 / took.as_secs_f64(),
        "latency_us": {
            "p50": latencies.value_at_quantile(0.5),
            "p99": latencies.value_at_quantile(0.99),
            "p999": latencies.value_at_quantile(0.999),
            "max": latencies.max(),
        },
        "start_ms": start.as_secs_f64() * 1000.0,
        "resident_at_start_mib": at_start,
        "resident_mib": metaserver.resident_mib()?,
    });
    metaserver.stop()?;
    println!("{line}");
    Ok(())
}

/// Puts the rows where brokers and clients would have put them over the years.
fn fill(server: &MariaDb, database: &str, arguments: &Arguments) -> anyhow::Result<()> {
    let Arguments {
        subjects, groups, ..
    } = arguments;
    server.execute(&format!(
        "USE {database}; \
         INSERT INTO broker (group_name, hostname, ip, role, serve_port, sync_port) \
         SELECT CONCAT('group-', seq), CONCAT('host-', seq), 167772160 + seq, 0, 20881, 20882 \
         FROM seq_1_to_{groups}; \
         INSERT INTO broker_group (group_name, kind, master_address, broker_state) \
         SELECT CONCAT('group-', seq), 1, CONCAT(INET_NTOA(167772160 + seq), ':20881'), 1 \
         FROM seq_1_to_{groups}; \
         INSERT INTO subject_route (subject_info, broker_group_json, version, update_time) \
         SELECT CONCAT('bench.subject.', seq), CONCAT('[\"group-', 1 + seq % {groups}, \
         '\",\"group-', 1 + (seq + 1) % {groups}, '\"]'), 1, NOW() - INTERVAL 1 DAY \
         FROM seq_1_to_{subjects}"
    ))?;
    Ok(())
}

/// The process that is measured.
struct Metaserver {
    child: Child,
    port: u16,
}

impl Metaserver {
    fn start(arguments: &Arguments, folder: &Path, jdbc_url: &str) -> anyhow::Result<Self> {
        let ports = folder.join("ports");
        drop(std::fs::remove_file(&ports));
        let log = std::fs::File::create(folder.join("log"))?;
        let mut command = Command::new(&arguments.metaserver);
        command.current_dir(folder).env_remove("QMQ_CONF");
        for setting in [
            "meta.server.port=0",
            "meta.server.discover.port=0",
            "qmq.ip=127.0.0.1",
            // Nobody sends heartbeats here.
            "heartbeat.timeout.ms=3600000",
            &format!("ports.file={}", ports.display()),
            &format!("jdbc.url={jdbc_url}"),
            &format!("jdbc.username={}", qmq_mariadb::USER),
            &format!("jdbc.password={}", qmq_mariadb::PASSWORD),
        ] {
            command.args(["--set", setting]);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", arguments.metaserver.display()))?;
        let mut started = Self { child, port: 0 };
        let begun = Instant::now();
        while started.port == 0 {
            let text = std::fs::read_to_string(&ports).unwrap_or_default();
            // Half a line is half a port.
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            let tcp = whole.lines().find_map(|line| line.strip_prefix("tcp="));
            let port = tcp.and_then(|address| address.rsplit_once(':'));
            started.port = port.map_or(Ok(0), |(_, port)| port.parse())?;
            if let Some(status) = started.child.try_wait()? {
                let log = std::fs::read_to_string(folder.join("log"))?;
                bail!("the metaserver ended with {status}:\n{log}");
            }
            ensure!(begun.elapsed() < PATIENCE, "the metaserver does not start");
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(started)
    }

    /// Memory in use, as the kernel counts it.
    fn resident_mib(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next());
        let kib: u64 = kib.context("no VmRSS in the status")?.parse()?;
        Ok(kib >> 10)
    }

    fn stop(mut self) -> anyhow::Result<()> {
        let kill = format!("kill -TERM {}", self.child.id());
        Command::new("sh").args(["-c", &kill]).status()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Metaserver {
    fn drop(&mut self) {
        // After a failure; one that has ended cannot be killed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Asks over all connections at once; the latencies in microseconds, and how long it took.
fn ask_all(arguments: &Arguments, port: u16) -> anyhow::Result<(Histogram<u64>, Duration)> {
    let until = Instant::now() + Duration::from_secs_f64(arguments.seconds);
    let begun = Instant::now();
    let parts = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..arguments.connections)
            .map(|client| scope.spawn(move || ask(arguments, port, client, until)))
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().expect("a client does not panic"))
            .collect::<anyhow::Result<Vec<_>>>()
    })?;
    let took = begun.elapsed();
    let mut all = Histogram::new(3)?;
    for part in parts {
        all.add(part)?;
    }
    Ok((all, took))
}

/// One client: asks for a few subjects, waits for all the answers, and again.
fn ask(
    arguments: &Arguments,
    port: u16,
    client: u64,
    until: Instant,
) -> anyhow::Result<Histogram<u64>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut latencies = Histogram::new(3)?;
    let (mut out, mut received, mut part) = (BytesMut::new(), BytesMut::new(), vec![0; 65_536]);
    let mut number = client;
    while Instant::now() < until {
        out.clear();
        for _ in 0..arguments.in_flight {
            number = number.wrapping_add(STEP);
            put_question(
                &mut out,
                &format!("bench.subject.{}", 1 + number % arguments.subjects),
            );
        }
        let sent = Instant::now();
        stream.write_all(&out)?;
        for _ in 0..arguments.in_flight {
            let frame = loop {
                if let Some(frame) = split_frame(&mut received, BODY_BYTES_MAX)? {
                    break frame;
                }
                let read = stream.read(&mut part)?;
                ensure!(read > 0, "the metaserver closed the connection");
                received.extend_from_slice(&part[..read]);
            };
            let answer = ClientRegisterResponse::decode(VERSION, &frame.body)?;
            let count = answer.groups.len();
            ensure!(
                frame.header.code == 0 && count == 2,
                "{count} groups in an answer"
            );
            latencies.record(u64::try_from(sent.elapsed().as_micros())?)?;
        }
    }
    Ok(latencies)
}

fn put_question(out: &mut BytesMut, subject: &str) {
    let question = ClientRegisterRequest {
        subject,
        client_type_code: i32::from(ClientType::Consumer.code()),
        request_type: ClientRequestType::Heartbeat,
        client_id: "host@@bench",
        app_code: "bench",
        consumer_group: "group",
        ldc: "",
    };
    Header::request(CommandCode::ClientRegister.code(), 0)
        .put_frame(out, |out| question.encode(VERSION, out));
}
