//! Waits for sockets and for a point in time, to the microsecond: the timers of an async runtime
//! are a millisecond coarse, which is more than some of the latencies to be measured.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use crate::bench::timeline::{Nanos, SECOND};

/// Sockets told at a time; the others follow with the next wait.
const EVENTS_MAX: usize = 128;
/// Stands for the timer among the tokens.
const TIMER: u64 = u64::MAX;

/// Waits for any of many sockets, each known by a token.
#[derive(Debug)]
pub(crate) struct Waiter {
    epoll: OwnedFd,
    timer: OwnedFd,
}

impl Waiter {
    /// # Errors
    /// When the process has no descriptors left.
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let edge = EventFlags::IN | EventFlags::ET;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), edge)?;
        Ok(Self { epoll, timer })
    }

    /// Adds a socket that does not block. It is told each time something new can be read or
    /// written: whoever is told reads and writes until nothing more goes.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub(crate) fn add(&self, socket: impl AsFd, token: usize) -> io::Result<()> {
        let edges = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, socket, EventData::new_u64(token as u64), edges)?;
        Ok(())
    }

    /// Waits for a socket, at most `wait` nanoseconds, and puts the tokens into `ready`. It may
    /// also return early with none.
    ///
    /// # Errors
    /// When the system cannot wait.
    pub(crate) fn wait(&self, wait: Nanos, ready: &mut Vec<usize>) -> io::Result<()> {
        ready.clear();
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        if wait > 0 {
            let spec = Itimerspec {
                it_interval: at_once,
                it_value: Timespec {
                    tv_sec: i64::try_from(wait / SECOND).unwrap_or(i64::MAX),
                    tv_nsec: i64::try_from(wait % SECOND).expect("below a second"),
                },
            };
            timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec)?;
        }
        let none = Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(0),
        };
        let mut events = [none; EVENTS_MAX];
        let timeout = (wait == 0).then_some(&at_once);
        let count = match epoll::wait(&self.epoll, &mut events[..], timeout) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let tokens = events[..count].iter().map(|event| event.data.u64());
        ready.extend(
            tokens
                .filter(|token| *token != TIMER)
                .filter_map(|token| usize::try_from(token).ok()),
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_time_that_has_come_ends_the_wait() {
        let waiter = Waiter::new().unwrap();
        let mut ready = vec![7];
        let begun = Instant::now();
        let wait = Duration::from_micros(300);
        waiter.wait(300_000, &mut ready).unwrap();
        assert!(begun.elapsed() >= wait && ready.is_empty());
        waiter.wait(0, &mut ready).unwrap();
        assert!(ready.is_empty());
    }

    #[test]
    fn sockets_are_told_by_their_tokens() {
        let (mut near, far) = UnixStream::pair().unwrap();
        far.set_nonblocking(true).unwrap();
        let waiter = Waiter::new().unwrap();
        waiter.add(&far, 5).unwrap();
        let mut ready = Vec::new();
        // The first is that it can be written.
        waiter.wait(60 * SECOND, &mut ready).unwrap();
        assert_eq!(ready, [5]);
        near.write_all(b"x").unwrap();
        waiter.wait(60 * SECOND, &mut ready).unwrap();
        assert_eq!(ready, [5]);
    }
}
