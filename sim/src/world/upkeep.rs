//! What the broker does by itself, and what time and operators do to it.

use std::time::Duration;

use qmq_broker::shard::ResetTo;
use rand::Rng;

use super::{End, HOUR, Live, MINUTE, PATIENCE, World};
use crate::promises::Broken;
use crate::promises::owed::Move;
use crate::stream::{ConsumerKey, Queue};

/// A subscription is not looked at more often than that.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl World {
    pub(super) fn flush(&mut self) -> Result<(), Broken> {
        let flushed = self.live.as_mut().map(Live::flush);
        self.survive(flushed)
    }

    pub(super) fn tick(&mut self) -> Result<(), Broken> {
        let forward = Duration::from_millis(self.rng.random_range(0..2_000));
        self.clock.advance(forward);
        let now = self.now();
        let ticked = self.live.as_mut().map(|live| live.tick(now));
        self.survive(ticked)
    }

    /// Time passes: mostly a little, now and then so much that everybody is forgotten.
    pub(super) fn let_time_pass(&mut self) -> Result<(), Broken> {
        let forward = match self.rng.random_range(0..150) {
            0..80 => Duration::from_secs(self.rng.random_range(1..20)),
            80..140 => MINUTE * self.rng.random_range(1..6),
            140..149 => HOUR * self.rng.random_range(1..5),
            _ => HOUR * self.rng.random_range(20..60),
        };
        self.clock.advance(forward);
        Ok(())
    }

    /// The shards look who is dead, and which groups are to be forgotten.
    pub(super) fn look(&mut self) -> Result<(), Broken> {
        let now = self.now();
        let Some(live) = &mut self.live else {
            return Ok(());
        };
        let looked = live.look(now);
        let soon = now.plus(LOOK_AGAIN);
        let ignored = live.not_looked_at(soon);
        if let Some(who) = ignored.into_iter().find(|who| self.is_silent(*who)) {
            return Err(Broken(format!("nobody looks at {who:?}, who is dead")));
        }
        for who in looked.dead {
            self.summary.dead_consumers += 1;
            if !self.is_silent(who) {
                // What somebody holds who is there must not be taken away.
                return Err(Broken(format!("{who:?} is no dead consumer")));
            }
        }
        for who in looked.forgotten {
            self.summary.forgotten += 1;
            let received = self.received(who);
            self.promises.consumer_forgotten(who, received);
        }
        for queue in looked.abandoned {
            self.forget_group(queue)?;
        }
        Ok(())
    }

    fn is_silent(&self, who: ConsumerKey) -> bool {
        let process = self.processes.get(&(who.0.group, who.1));
        let heard = process.map_or(self.opened, |process| process.heard.max(self.opened));
        self.now().since(heard) >= PATIENCE.dead_after
    }

    fn forget_group(&mut self, queue: Queue) -> Result<(), Broken> {
        let now = self.now();
        let Some(live) = &mut self.live else {
            return Ok(());
        };
        let forgotten = live.forget_group(queue, now);
        self.promises.group_forgotten(queue);
        self.summary.abandoned += 1;
        self.survive(Some(forgotten))
    }

    /// One of the copying jobs goes a step further; now and then the broker ends behind it.
    pub(super) fn go_on_and_end(&mut self) -> Result<(), Broken> {
        if self.live.as_ref().is_none_or(|live| live.job_count() == 0) {
            return Ok(());
        }
        self.go_on()?;
        match self.rng.random_range(0..20) {
            0 => self.end(End::PowerCut),
            1 => self.end(End::Kill),
            _ => Ok(()),
        }
    }

    pub(super) fn go_on(&mut self) -> Result<(), Broken> {
        let now = self.now();
        let Some(live) = self.live.as_mut().filter(|live| live.job_count() > 0) else {
            return Ok(());
        };
        let at = self.rng.random_range(0..live.job_count());
        let Ok(copied) = live.go_on(at, now) else {
            return self.crashed();
        };
        for (stream, sequence, letter) in copied {
            self.stored(stream, sequence, letter)?;
            self.summary.copied += 1;
        }
        Ok(())
    }

    /// Somebody moves a group.
    pub(super) fn move_group(&mut self) -> Result<(), Broken> {
        let (group, _) = self.some_process();
        let wants_retry = self.rng.random_range(0..4) == 0;
        let is_retry = wants_retry && !self.settings.is_broadcast(group);
        let queue = Queue { group, is_retry };
        let now = self.now();
        let back = Duration::from_secs(self.rng.random_range(0..2_000));
        let time = qmq_model::UnixMillis(now.0 - i64::try_from(back.as_millis()).unwrap_or(0));
        let to = match self.rng.random_range(0..4) {
            0 => ResetTo::Latest,
            1 => ResetTo::Earliest,
            _ => ResetTo::Time(time),
        };
        let Some(live) = &mut self.live else {
            return Ok(());
        };
        let step = match live.plan_move(queue, to, now) {
            Ok(Some(step)) => step,
            Ok(None) => return Ok(()),
            Err(_) => return self.crashed(),
        };
        self.is_where_asked(step, to)?;
        let Some(live) = &mut self.live else {
            return Ok(());
        };
        if live.move_group(step, now).is_err() {
            self.promises.perhaps_moved(step);
            return self.crashed();
        }
        self.promises.moved(step);
        self.summary.moved += 1;
        Ok(())
    }

    fn is_where_asked(&self, step: Move, to: ResetTo) -> Result<(), Broken> {
        let stream = step.queue.stream();
        let since = match to {
            ResetTo::Latest => return Ok(()),
            ResetTo::Earliest => qmq_model::UnixMillis(i64::MIN),
            ResetTo::Time(time) => time,
        };
        let first = self.promises.first_since(stream, since);
        if step.to > first {
            return Err(Broken(format!("{step:?} passes over {first}, for {to:?}")));
        }
        Ok(())
    }
}
