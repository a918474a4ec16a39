//! A running delay server: the store, the rules, and what its writer and its scheduler do between
//! them.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use qmq_delay_server::dispatch::{Dispatch, Limits, Output, RequestId, Timeliness};
use qmq_delay_server::window::{Load, Window};
use qmq_model::{Clock, UnixMillis};
use qmq_store::fs::faulty::FaultyFs;
use qmq_store::{
    AcceptSequence, AppendError, Begun, CancelAnswer, DelayConfig, DelayOpened, DelayReader,
    DelayStore, DelayWriter, Error, Found, LoadCursor, NewDelayed, Pending, RescheduleAnswer,
};

use super::sabotage::DelaySabotage;

/// The call did not come to its end: the power was cut, or the store refuses to go on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crashed;

/// Messages that the scheduler takes from the wheel at a time.
const DUE_MAX: usize = 50;
/// Messages of a portion: small, so that most loads take several.
const PORTION: usize = 20;

/// Small, so that every bound is reached.
const LIMITS: Limits = Limits {
    requests_per_group: 3,
    batch_messages: 5,
    batch_bytes: 1500,
    queued_max: 60,
    overdue_max: 20,
    overdue_per_second: 100,
    backoff: qmq_delay_server::dispatch::Backoff {
        first: Duration::from_millis(100),
        longest: Duration::from_secs(5),
    },
};

/// What the writer is to do, in this order.
#[derive(Debug)]
pub(super) enum Job {
    Accept(Vec<(u64, NewDelayed)>),
    Begin {
        request: RequestId,
        group: Arc<str>,
        entries: Arc<[Pending]>,
    },
    Confirm(Vec<Pending>),
    Refuse(Vec<Pending>),
    Cancel(u64, Found),
    Move(u64, Found, UnixMillis),
}

/// What the writer has done.
#[derive(Debug)]
pub(super) enum Done {
    Accepted(Vec<(u64, Pending)>),
    Began {
        request: RequestId,
        entries: Arc<[Pending]>,
        accepted: Vec<Pending>,
    },
    NotBegun(RequestId),
    Confirmed(Vec<Pending>),
    Refused(Vec<Pending>),
    Cancelled(u64, CancelAnswer),
    Moved(u64, UnixMillis, RescheduleAnswer),
}

impl Done {
    /// Whether everything written down before is on the disk too.
    pub(super) fn is_durable(&self) -> bool {
        match self {
            Self::Began { accepted, .. } => !accepted.is_empty(),
            Self::Cancelled(_, answer) => *answer == CancelAnswer::Cancelled,
            _ => false,
        }
    }
}

/// Whether the writer ends a commit before it takes its next turn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ahead {
    /// It does: everything it did is durable and said.
    No,
    /// It writes more while the disk is at work.
    OfTheDisk,
}

pub(super) struct Live {
    writer: DelayWriter,
    pub(super) reader: DelayReader,
    pub(super) window: Window<LoadCursor>,
    pub(super) dispatch: Dispatch,
    jobs: VecDeque<Job>,
    /// The commit that was begun: how many of the jobs are in it, and what they came to.
    begun: Option<(usize, Vec<Done>)>,
    /// What the jobs came to that are in no commit yet.
    written: Vec<Done>,
    load: Option<Load<LoadCursor>>,
    /// What was read, and where it goes on.
    loaded: Option<(Vec<Pending>, Option<LoadCursor>)>,
    sabotage: DelaySabotage,
}

impl Live {
    pub(super) fn open(
        fs: Arc<FaultyFs>,
        config: DelayConfig,
        clock: Arc<dyn Clock>,
        (seed, sabotage): (u64, DelaySabotage),
    ) -> Result<(Self, Vec<Begun>), Error> {
        let now = clock.now();
        let opened = DelayStore::open(fs, Path::new("/store"), config, clock)?;
        let DelayOpened {
            writer,
            reader,
            begun,
            ..
        } = opened;
        let live = Self {
            writer,
            reader,
            window: Window::new(now),
            dispatch: Dispatch::new(LIMITS, seed),
            jobs: VecDeque::new(),
            begun: None,
            written: Vec::new(),
            load: None,
            loaded: None,
            sabotage,
        };
        Ok((live, begun))
    }

    pub(super) fn push(&mut self, job: Job) {
        self.jobs.push_back(job);
    }

    /// What the writer may have done when it is stopped in the middle of a turn.
    pub(super) fn into_jobs(self) -> VecDeque<Job> {
        self.jobs
    }

    /// What the writer did, and nobody heard of, when it is stopped between two turns.
    pub(super) fn into_begun(mut self) -> VecDeque<Job> {
        let number = self.begun.as_ref().map_or(0, |(number, _)| *number);
        self.jobs.truncate(number);
        self.jobs
    }

    /// The writer does up to `count` of its jobs, which go into the next commit, and ends the commit
    /// that was begun before; says what that came to. What was not said yet when it crashes stays
    /// among the jobs: nobody knows.
    pub(super) fn write(&mut self, count: usize) -> Result<Vec<Done>, Crashed> {
        let first = self.begun.as_ref().map_or(0, |(begun, _)| *begun);
        let mut number = first;
        while number < self.jobs.len().min(first.saturating_add(count)) {
            match do_job(&mut self.writer, &self.jobs[number]) {
                Ok(what) => self.written.extend(what),
                // It is tried again with the next turn: there may be room then.
                Err(AppendError::NoSpace) => break,
                Err(_) => return Err(Crashed),
            }
            number += 1;
        }
        let ended = self.finish()?;
        if number > first {
            self.begun = Some((number - first, std::mem::take(&mut self.written)));
        }
        Ok(ended)
    }

    /// The writer begins to commit what it wrote, and ends that unless it is `ahead`.
    pub(super) fn commit(&mut self, ahead: Ahead) -> Result<Vec<Done>, Crashed> {
        if self.begun.is_none() {
            return Ok(Vec::new());
        }
        let waits = self.writer.begin_commit().map_err(|_| Crashed)?;
        if waits && ahead == Ahead::OfTheDisk {
            self.writer.start_sync().map_err(|_| Crashed)?;
            return Ok(Vec::new());
        }
        self.finish()
    }

    /// Ends the commit that was begun, if one was.
    fn finish(&mut self) -> Result<Vec<Done>, Crashed> {
        if self.begun.is_some() {
            self.writer.finish_commit().map_err(|_| Crashed)?;
        }
        let (number, done) = self.begun.take().unwrap_or_default();
        self.jobs.drain(..number);
        Ok(done)
    }

    pub(super) fn tick(&mut self, now: UnixMillis) -> Result<(), Crashed> {
        self.writer.tick(now).map(drop).map_err(|_| Crashed)
    }

    pub(super) fn close(self) -> Result<(), Crashed> {
        self.writer.close().map_err(|_| Crashed)
    }

    /// The scheduler looks at the clock and says what is to be done by others than the writer.
    pub(super) fn schedule(&mut self, now: UnixMillis, moment: Duration) -> Vec<Output> {
        let mut due = Vec::new();
        let early = match self.sabotage {
            DelaySabotage::FireEarly => Duration::from_millis(1),
            _ => Duration::ZERO,
        };
        self.window.pop_due(now.plus(early), DUE_MAX, &mut due);
        self.dispatch.due(&due, Timeliness::OnTime, moment);
        if let Some(from) = self.dispatch.take_left(moment)
            && self.sabotage != DelaySabotage::ForgetLeft
        {
            self.window.read_again(from, now);
        }
        if self.load.is_none() && self.loaded.is_none() {
            self.load = self.window.next_load(now, self.dispatch.overdue_room());
        }
        let mut out = Vec::new();
        self.dispatch.poll(moment, &mut out);
        out.into_iter()
            .filter_map(|output| self.carry_out(output, moment))
            .collect()
    }

    fn carry_out(&mut self, output: Output, moment: Duration) -> Option<Output> {
        match output {
            Output::Begin {
                request,
                group,
                entries,
            } => {
                let job = Job::Begin {
                    request,
                    group,
                    entries: entries.clone(),
                };
                self.jobs.push_back(job);
                if self.sabotage == DelaySabotage::SendBeforeBegin {
                    self.dispatch.began(request, &entries, moment);
                }
            }
            Output::Confirm { entries } => self.jobs.push_back(Job::Confirm(entries)),
            Output::Refuse { entries } if self.sabotage != DelaySabotage::ForgetRefusal => {
                self.jobs.push_back(Job::Refuse(entries));
            }
            Output::Refuse { .. } => {}
            Output::AskRoute { .. } | Output::Send { .. } => return Some(output),
        }
        None
    }

    /// The writer's answers reach the scheduler.
    pub(super) fn hear(&mut self, done: &Done, moment: Duration) {
        match done {
            Done::Accepted(entries) if self.sabotage != DelaySabotage::ForgetAccepted => {
                let entries: Vec<_> = entries.iter().map(|(_, entry)| *entry).collect();
                self.window.accepted(&entries);
            }
            Done::Moved(_, _, RescheduleAnswer::Rescheduled(entry)) => {
                self.window.accepted(&[*entry]);
            }
            Done::Began {
                request,
                entries,
                accepted,
            } => match self.sabotage {
                DelaySabotage::SendBeforeBegin => {}
                DelaySabotage::SendWhatIsNotBegun => {
                    self.dispatch.began(*request, entries, moment);
                }
                _ => self.dispatch.began(*request, accepted, moment),
            },
            Done::NotBegun(request) => self.dispatch.not_begun(*request, moment),
            _ => {}
        }
    }

    /// The loader goes one step on: it reads, or what it read reaches the scheduler.
    pub(super) fn load(&mut self, now: UnixMillis, moment: Duration) -> Result<(), Crashed> {
        if let Some((entries, next)) = self.loaded.take() {
            let mut overdue = Vec::new();
            self.window.loaded(now, &entries, next, &mut overdue);
            self.dispatch.due(&overdue, Timeliness::Overdue, moment);
        } else if let Some(load) = self.load.take() {
            let mut entries = Vec::new();
            let max = load.max.min(PORTION);
            let read = self
                .reader
                .load(load.from, load.until, load.resume, max, &mut entries);
            match read {
                Ok(next) => self.loaded = Some((entries, next)),
                Err(_) => return Err(Crashed),
            }
        }
        Ok(())
    }

    /// When the first message that waits in the store is due.
    pub(super) fn first_due(&self) -> Option<UnixMillis> {
        let (begin, end) = (UnixMillis(i64::MIN), UnixMillis(i64::MAX));
        let mut first = Vec::new();
        self.reader.load(begin, end, None, 1, &mut first).ok()?;
        first.first().map(|entry| entry.due)
    }

    /// Whether it waits for nothing but the time.
    pub(super) fn is_idle(&self) -> bool {
        self.jobs.is_empty() && self.load.is_none() && self.loaded.is_none()
    }

    /// How long it may sleep.
    pub(super) fn sleeps(&self, now: UnixMillis, moment: Duration) -> Option<Duration> {
        let window = self.window.next_wake().map(|wake| wake.since(now));
        let dispatch = self
            .dispatch
            .next_wake()
            .map(|wake| wake.saturating_sub(moment));
        window.into_iter().chain(dispatch).min()
    }
}

fn sequences(entries: &[Pending]) -> Vec<AcceptSequence> {
    entries.iter().map(|entry| entry.sequence).collect()
}

/// Carries out one job; `None`: the caller gets no answer.
fn do_job(writer: &mut DelayWriter, job: &Job) -> Result<Option<Done>, AppendError> {
    let done = match job {
        Job::Accept(letters) => {
            let messages: Vec<_> = letters.iter().map(|(_, message)| message.clone()).collect();
            let mut placed = Vec::new();
            match writer.accept(&messages, &mut placed) {
                Ok(()) => {}
                // The producer is told that there is no room.
                Err(AppendError::NoSpace) => return Ok(None),
                Err(error) => return Err(error),
            }
            let numbers = letters.iter().map(|(number, _)| *number);
            Done::Accepted(numbers.zip(placed).collect())
        }
        Job::Begin {
            request,
            group,
            entries,
        } => {
            let mut accepted = Vec::new();
            match writer.begin(group, entries, &mut accepted) {
                Ok(()) => Done::Began {
                    request: *request,
                    entries: entries.clone(),
                    accepted,
                },
                Err(AppendError::NoSpace) => Done::NotBegun(*request),
                Err(error) => return Err(error),
            }
        }
        Job::Confirm(entries) => {
            writer.confirm(&sequences(entries))?;
            Done::Confirmed(entries.clone())
        }
        Job::Refuse(entries) => {
            writer.refuse(&sequences(entries))?;
            Done::Refused(entries.clone())
        }
        Job::Cancel(number, found) => Done::Cancelled(*number, writer.cancel(found)?),
        Job::Move(number, found, due) => {
            let answer = writer.reschedule(found, *due)?;
            Done::Moved(*number, *due, answer)
        }
    };
    Ok(Some(done))
}
