//! What the server costs, as the kernel counts it: processor time and flushes of its disk.
//!
//! Only for a server on this machine. `/proc/PID/stat` counts processor time in ticks of 10 ms;
//! `/sys/dev/block/.../stat` counts the whole device, whoever uses it.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Bytes of a sector in the kernel's statistics, whatever the disk says.
const SECTOR_BYTES: u64 = 512;
/// State of a listening socket in `/proc/net/tcp`.
const LISTENING: &str = "0A";

/// A process on this machine and the disk it writes to.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pid: u32,
    disk: Option<Disk>,
}

#[derive(Clone, Debug)]
struct Disk {
    name: String,
    stat: PathBuf,
}

/// What was used up to a moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    cpu_seconds: f64,
    flushes: Option<u64>,
    written_bytes: Option<u64>,
}

impl Process {
    /// The process with this number.
    pub(crate) fn of_pid(pid: u32) -> Self {
        let disk = disk_of(pid);
        Self { pid, disk }
    }

    /// The process that listens at `address`, if that is on this machine and may be looked at.
    pub(crate) fn of_address(address: SocketAddr) -> Option<Self> {
        if !address.ip().is_loopback() && !is_own(address) {
            return None;
        }
        pid_of_port(address.port()).map(Self::of_pid)
    }

    /// This program.
    pub(crate) fn own() -> Self {
        Self {
            pid: std::process::id(),
            disk: None,
        }
    }

    /// What it has used up to now; `None` when it has ended.
    pub(crate) fn sample(&self) -> Option<Sample> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        let ticks = cpu_ticks(&stat)? as f64;
        let disk = self
            .disk
            .as_ref()
            .and_then(|disk| fs::read_to_string(&disk.stat).ok());
        let fields = disk.as_deref().map(disk_fields);
        Some(Sample {
            cpu_seconds: ticks / rustix::param::clock_ticks_per_second() as f64,
            flushes: fields.as_ref().and_then(|fields| fields.get(15).copied()),
            written_bytes: fields
                .as_ref()
                .and_then(|fields| fields.get(6))
                .map(|sectors| sectors * SECTOR_BYTES),
        })
    }

    /// What was used between two samples that are `seconds` apart, while `messages` went through.
    pub(crate) fn usage(&self, begin: Sample, end: Sample, seconds: f64, messages: u64) -> Usage {
        let cpu_seconds = end.cpu_seconds - begin.cpu_seconds;
        let between = |end: Option<u64>, begin: Option<u64>| Some(end?.saturating_sub(begin?));
        let flushes = between(end.flushes, begin.flushes);
        Usage {
            pid: self.pid,
            cpu_cores: cpu_seconds / seconds,
            cpu_us_per_message: (messages > 0).then(|| cpu_seconds * 1e6 / messages as f64),
            device: self.disk.as_ref().map(|disk| disk.name.clone()),
            device_flushes: flushes,
            messages_per_flush: flushes
                .filter(|flushes| *flushes > 0)
                .map(|flushes| messages as f64 / flushes as f64),
            device_written_bytes: between(end.written_bytes, begin.written_bytes),
        }
    }
}

/// What a process used while messages went through.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Usage {
    pub(crate) pid: u32,
    /// Processor time per time.
    pub(crate) cpu_cores: f64,
    /// Processor time per message, microseconds.
    pub(crate) cpu_us_per_message: Option<f64>,
    /// Disk that holds the files the process writes.
    pub(crate) device: Option<String>,
    /// Flushes of that whole disk.
    pub(crate) device_flushes: Option<u64>,
    pub(crate) messages_per_flush: Option<f64>,
    /// Bytes written to that whole disk.
    pub(crate) device_written_bytes: Option<u64>,
}

/// User and system time of the process, from `/proc/PID/stat`. The name of the program may hold
/// spaces and brackets, so counting begins behind the last one.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn disk_fields(stat: &str) -> Vec<u64> {
    stat.split_whitespace()
        .map_while(|field| field.parse().ok())
        .collect()
}

/// The disk under the regular files that the process holds open.
fn disk_of(pid: u32) -> Option<Disk> {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let devices: BTreeSet<u64> = files
        .filter_map(|file| fs::metadata(file.ok()?.path()).ok())
        .filter(|metadata| metadata.is_file())
        .map(|metadata| metadata.st_dev())
        .collect();
    devices.into_iter().find_map(disk_of_device)
}

fn disk_of_device(device: u64) -> Option<Disk> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let link = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    let folder = fs::canonicalize(link).ok()?;
    // A partition has no count of flushes; its disk has.
    let is_partition = folder.join("partition").try_exists().ok()?;
    let folder = if is_partition {
        folder.parent()?
    } else {
        &folder
    };
    Some(Disk {
        name: folder.file_name()?.to_string_lossy().into_owned(),
        stat: folder.join("stat"),
    })
}

/// Whether the address is one of this machine: only then a socket can be bound to it.
fn is_own(address: SocketAddr) -> bool {
    std::net::UdpSocket::bind((address.ip(), 0)).is_ok()
}

fn pid_of_port(port: u16) -> Option<u32> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let inodes: BTreeSet<String> = tables
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening_inodes(&table, port))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let processes = fs::read_dir("/proc").ok()?;
    processes.filter_map(Result::ok).find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        holds_any(&process.path(), &inodes).then_some(pid)
    })
}

/// Inodes of the sockets that listen at `port`.
fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    let suffix = format!(":{port:04X}");
    let lines = table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace();
        let local = fields.nth(1)?;
        let state = fields.nth(1)?;
        let inode = fields.nth(5)?;
        (local.ends_with(&suffix) && state == LISTENING).then(|| inode.to_owned())
    });
    lines.collect()
}

fn holds_any(process: &Path, inodes: &BTreeSet<String>) -> bool {
    let Ok(files) = fs::read_dir(process.join("fd")) else {
        return false;
    };
    files
        .filter_map(|file| fs::read_link(file.ok()?.path()).ok())
        .any(|target| inodes.contains(&*target.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_move_the_fields() {
        let stat = "7 (a ) 1 2) S 1 7 7 0 -1 4194560 1 0 0 0 120 34 0 0 20 0 1 0 5 6 7";
        assert_eq!(cpu_ticks(stat), Some(154));
        assert_eq!(cpu_ticks("7"), None);
    }

    #[test]
    fn a_listening_port_leads_to_its_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let process = Process::of_address(listener.local_addr().unwrap()).unwrap();
        assert_eq!(process.pid, std::process::id());
        let far: SocketAddr = "192.0.2.1:20881".parse().unwrap();
        assert!(Process::of_address(far).is_none());
    }

    #[test]
    fn processor_time_is_counted() {
        let own = Process::own();
        let begin = own.sample().unwrap();
        let mut end = begin;
        let mut sum = 0_u64;
        while end.cpu_seconds < begin.cpu_seconds + 0.025 {
            (0..100_000_u64).for_each(|number| sum = std::hint::black_box(sum ^ number));
            end = own.sample().unwrap();
        }
        let usage = own.usage(begin, end, 1.0, 1_000);
        assert!(
            usage.cpu_cores >= 0.02 && usage.cpu_us_per_message >= Some(20.0),
            "{usage:?}"
        );
        assert_eq!(own.usage(begin, end, 1.0, 0).cpu_us_per_message, None);
    }

    #[test]
    fn only_listening_sockets_count() {
        let table = "head\n\
            0: 0100007F:5191 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 77 1\n\
            1: 0100007F:5191 0100007F:9999 01 00000000:00000000 00:00000000 00000000 0 0 78 1\n";
        assert_eq!(listening_inodes(table, 0x5191), ["77"]);
    }
}
