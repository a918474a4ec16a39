//! One broker without sockets and threads, and everybody who talks to it.

mod live;

use std::collections::HashMap;
use std::ops::{AddAssign, Range};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use qmq_broker::portion::Limits;
use qmq_model::{Clock, ConsumerGroup, ConsumerId, ManualClock, Message, Subject, UnixMillis};
use qmq_store::Background;
use qmq_store::fs::faulty::FaultyFs;
use qmq_store::{NewMessage, StoreConfig};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::client::Client;
use crate::promises::{Broken, ConsumerKey, GroupId, Promises};
use crate::sabotage::Sabotage;
use live::Live;

/// How large a world is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Repeats a run exactly.
    pub seed: u64,
    /// Number of subjects. The last one is consumed in broadcast.
    pub subjects: usize,
    /// Consumer groups of each subject.
    pub groups: usize,
    /// Consumers of each group; a broadcast group has one.
    pub consumers: usize,
    /// What to break on purpose.
    pub sabotage: Sabotage,
}

impl Settings {
    /// A small world in which everything happens often.
    #[must_use]
    pub fn small(seed: u64) -> Self {
        Self {
            seed,
            subjects: 3,
            groups: 2,
            consumers: 3,
            sabotage: Sabotage::None,
        }
    }
}

/// What happened in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Messages acknowledged to producers.
    pub acknowledged: u64,
    /// Messages handed to consumers, repeated ones included.
    pub delivered: u64,
    /// Messages confirmed by consumers.
    pub confirmed: u64,
    /// Times the power was cut.
    pub power_cuts: u64,
    /// Times the process was killed.
    pub kills: u64,
    /// Times it was closed and opened in order.
    pub reopened: u64,
}

impl AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.delivered += other.delivered;
        self.confirmed += other.confirmed;
        self.power_cuts += other.power_cuts;
        self.kills += other.kills;
        self.reopened += other.reopened;
    }
}

/// The broker, its disk, its clients and what they were promised.
pub struct World {
    settings: Settings,
    rng: SmallRng,
    fs: FaultyFs,
    clock: ManualClock,
    live: Option<Live>,
    promises: Promises,
    clients: HashMap<ConsumerKey, Client>,
    content: u64,
    summary: Summary,
}

/// How the broker ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Everything not synced may be gone.
    PowerCut,
    /// The machine goes on.
    Kill,
    /// In order.
    Close,
}

impl World {
    /// A new world with an empty store.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let rng = SmallRng::seed_from_u64(settings.seed);
        let fs = FaultyFs::new(settings.seed);
        Self {
            settings,
            rng,
            fs,
            clock: ManualClock::at(UnixMillis(1_700_000_000_000)),
            live: None,
            promises: Promises::default(),
            clients: HashMap::new(),
            content: 0,
            summary: Summary::default(),
        }
    }

    /// Takes `steps` random steps, then lets every consumer have everything it is owed.
    ///
    /// # Errors
    /// The first promise that was broken.
    pub fn run(mut self, steps: u64) -> Result<Summary, Broken> {
        for _ in 0..steps {
            self.step()?;
        }
        self.settle()?;
        Ok(self.summary)
    }

    fn step(&mut self) -> Result<(), Broken> {
        if self.live.is_none() {
            return self.open();
        }
        self.clock
            .advance(Duration::from_millis(self.rng.random_range(0..20)));
        match self.rng.random_range(0..1000) {
            0..350 => self.send(),
            350..650 => self.pull(None).map(drop),
            650..850 => self.ack(None),
            850..860 => self.keep_alive(),
            860..870 => self.ack_nonsense(),
            870..940 => self.flush(),
            940..960 => self.restart_client(),
            960..984 => self.tick(),
            984..990 => self.end(End::PowerCut),
            990..994 => self.end(End::Kill),
            994..997 => self.end(End::Close),
            _ => self.cut_in_the_middle(),
        }
    }

    /// The power fails during one of the next calls to the file system.
    fn cut_in_the_middle(&mut self) -> Result<(), Broken> {
        let call = self.rng.random_range(1..30);
        self.fs.cut_after(call);
        Ok(())
    }

    fn send(&mut self) -> Result<(), Broken> {
        let count = self.rng.random_range(1..8);
        let batch: Vec<(usize, u64)> = (0..count).map(|_| self.new_message()).collect();
        let messages: Vec<_> = batch
            .iter()
            .map(|(subject, id)| message(*subject, *id))
            .collect();
        let Some(live) = &mut self.live else {
            return Ok(());
        };
        let Ok(placed) = live.send(&messages) else {
            return self.crashed();
        };
        for ((subject, content), sequence) in batch.into_iter().zip(placed) {
            self.promises.acknowledged(subject, sequence, content)?;
            self.summary.acknowledged += 1;
        }
        Ok(())
    }

    fn new_message(&mut self) -> (usize, u64) {
        self.content += 1;
        (
            self.rng.random_range(0..self.settings.subjects),
            self.content,
        )
    }

    /// A consumer pulls; returns how much it got.
    fn pull(&mut self, who: Option<ConsumerKey>) -> Result<usize, Broken> {
        let who = who.unwrap_or_else(|| self.some_consumer());
        let client = self.clients.entry(who).or_default();
        let pull_last = client.pull_last();
        let count = self.rng.random_range(1..20);
        let broadcast = self.settings.is_broadcast(who.0);
        let limits = Limits {
            unacked_max: 60,
            reply_bytes_max: 4000,
        };
        let now = self.clock.now();
        let sabotage = self.settings.sabotage;
        let Some(live) = &mut self.live else {
            return Ok(0);
        };
        let request = live::Pull {
            who,
            broadcast,
            pull_last,
            count,
            limits,
            now,
        };
        let Ok(reply) = live.pull(&request, sabotage) else {
            return self.crashed().map(|()| 0);
        };
        if let Some(start) = reply.joined {
            self.promises.joined(who.0, start);
        }
        for message in &reply.messages {
            self.promises.delivered(who, *message)?;
            self.summary.delivered += 1;
        }
        // Now and then a reply is lost on the way.
        if self.rng.random_range(0..20) > 0 {
            client.receive(&reply.messages);
        }
        Ok(reply.messages.len())
    }

    fn ack(&mut self, who: Option<ConsumerKey>) -> Result<(), Broken> {
        let who = who.unwrap_or_else(|| self.some_consumer());
        let client = self.clients.entry(who).or_default();
        let prefix = client.prefix(self.rng.random_range(1..30));
        let (Some(first), Some(last)) = (prefix.first(), prefix.last()) else {
            return Ok(());
        };
        let pulls = first.pull..last.pull + 1;
        let now = self.clock.now();
        let Some(live) = &mut self.live else {
            return Ok(());
        };
        let Ok(confirmed) = live.ack(who, &pulls, now) else {
            let asked = prefix.iter().map(|message| message.sequence);
            self.promises.perhaps_confirmed(who.0, asked);
            return self.crashed();
        };
        for (pull, sequence) in &confirmed {
            let held = prefix.iter().find(|message| message.pull == *pull);
            if held.is_none_or(|message| message.sequence != *sequence) {
                let what = format!("an ack of {held:?} confirmed {sequence} for {who:?}");
                return Err(Broken(what));
            }
        }
        self.summary.confirmed += confirmed.len() as u64;
        self.promises
            .confirmed(who.0, confirmed.into_iter().map(|(_, sequence)| sequence));
        client.forget(prefix.len());
        Ok(())
    }

    fn keep_alive(&mut self) -> Result<(), Broken> {
        let who = self.some_consumer();
        let now = self.clock.now();
        if let Some(live) = &mut self.live {
            live.keep_alive(who, now);
        }
        Ok(())
    }

    /// Acks of numbers that nobody was given: they must confirm nothing.
    fn ack_nonsense(&mut self) -> Result<(), Broken> {
        let who = self.some_consumer();
        let now = self.clock.now();
        let Some(live) = &mut self.live else {
            return Ok(());
        };
        let beyond = live.next_pull(who);
        let pulls = match self.rng.random_range(0..3) {
            0 => beyond..i64::MAX,
            1 => beyond + 5..beyond + 5000,
            _ => Range { start: 10, end: 2 },
        };
        match live.ack(who, &pulls, now) {
            Ok(confirmed) if confirmed.is_empty() => Ok(()),
            Ok(_) => Err(Broken(format!("{pulls:?} of {who:?} confirmed something"))),
            Err(_) => self.crashed(),
        }
    }

    fn flush(&mut self) -> Result<(), Broken> {
        let flushed = self.live.as_mut().map(Live::flush);
        if matches!(flushed, Some(Err(_))) {
            self.crashed()
        } else {
            Ok(())
        }
    }

    fn tick(&mut self) -> Result<(), Broken> {
        let forward = Duration::from_millis(self.rng.random_range(0..2_000));
        self.clock.advance(forward);
        let now = self.clock.now();
        let ticked = self.live.as_mut().map(|live| live.tick(now));
        if matches!(ticked, Some(Err(_))) {
            self.crashed()
        } else {
            Ok(())
        }
    }

    fn restart_client(&mut self) -> Result<(), Broken> {
        let who = self.some_consumer();
        self.clients.insert(who, Client::default());
        Ok(())
    }

    /// A call failed: the power was cut in the middle of it.
    fn crashed(&mut self) -> Result<(), Broken> {
        self.end(End::PowerCut)
    }

    fn end(&mut self, end: End) -> Result<(), Broken> {
        let Some(live) = self.live.take() else {
            return Ok(());
        };
        match end {
            End::PowerCut => {
                drop(live);
                self.fs.power_cut(self.rng.random());
                self.promises.power_cut();
                self.summary.power_cuts += 1;
            }
            End::Kill => {
                drop(live);
                self.fs.kill();
                self.promises.killed();
                self.summary.kills += 1;
            }
            End::Close => {
                if live.close().is_err() {
                    self.fs.power_cut(self.rng.random());
                    self.promises.power_cut();
                    self.summary.power_cuts += 1;
                } else {
                    self.summary.reopened += 1;
                }
            }
        }
        Ok(())
    }

    fn open(&mut self) -> Result<(), Broken> {
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let fs = Arc::new(self.fs.clone());
        match Live::open(fs, self.store_config(), clock, &self.settings) {
            Ok(live) => self.live = Some(live),
            Err(error) if self.fs.power_is_off() => {
                // The power failed during recovery.
                let _ = error;
                self.fs.power_cut(self.rng.random());
                self.promises.power_cut();
                self.summary.power_cuts += 1;
            }
            Err(error) => return Err(Broken(format!("the store does not open: {error}"))),
        }
        Ok(())
    }

    fn store_config(&self) -> StoreConfig {
        StoreConfig {
            group_name: "sim".to_owned(),
            message_segment_bytes: 4096,
            action_segment_bytes: 2048,
            zero_ahead_bytes: 1024,
            commit_slots: 64,
            checkpoint_retain: 2,
            recent_bytes_max: 2048,
            background: Background::Inline,
            sabotage: self.settings.sabotage.of_the_store(),
            ..StoreConfig::default()
        }
    }

    fn some_consumer(&mut self) -> ConsumerKey {
        let subject = self.rng.random_range(0..self.settings.subjects);
        let group = self.rng.random_range(0..self.settings.groups);
        let consumers = self.settings.consumers_of((subject, group));
        ((subject, group), self.rng.random_range(0..consumers))
    }

    /// All consumers restart and take what there is until nothing comes any more.
    fn settle(&mut self) -> Result<(), Broken> {
        self.fs.calm();
        self.clients.clear();
        loop {
            while self.live.is_none() {
                self.open()?;
            }
            let mut got = 0;
            for who in self.settings.all_consumers() {
                loop {
                    let count = self.pull(Some(who))?;
                    got += count;
                    while self
                        .clients
                        .get(&who)
                        .is_some_and(|client| client.held() > 0)
                    {
                        self.ack(Some(who))?;
                    }
                    if count == 0 {
                        break;
                    }
                }
                // A lost reply is asked for again by a restarted client.
                self.clients.remove(&who);
            }
            if got == 0 && self.live.is_some() {
                return self.promises.settle();
            }
        }
    }
}

impl Settings {
    fn is_broadcast(&self, group: GroupId) -> bool {
        group.0 + 1 == self.subjects
    }

    fn consumers_of(&self, group: GroupId) -> usize {
        if self.is_broadcast(group) {
            1
        } else {
            self.consumers
        }
    }

    fn all_groups(&self) -> impl Iterator<Item = GroupId> + use<> {
        let groups = self.groups;
        (0..self.subjects).flat_map(move |subject| (0..groups).map(move |group| (subject, group)))
    }

    fn all_consumers(&self) -> Vec<ConsumerKey> {
        let consumers = |group| (0..self.consumers_of(group)).map(move |c| (group, c));
        self.all_groups().flat_map(consumers).collect()
    }
}

fn subject(number: usize) -> Subject {
    Subject::new(&format!("subject.{number}")).expect("a good name")
}

fn group(number: usize) -> ConsumerGroup {
    ConsumerGroup::new(&format!("group{number}")).expect("a good name")
}

fn consumer(number: usize) -> ConsumerId {
    ConsumerId::new(&format!("host@@{number}")).expect("a good name")
}

fn message(number: usize, content: u64) -> NewMessage {
    let subject = subject(number);
    let message = Message {
        subject: subject.as_str().to_owned(),
        message_id: format!("id-{content}"),
        properties: vec![("content".to_owned(), content.to_string())],
        ..Message::default()
    };
    let payload: Bytes = message.to_payload().expect("a good message");
    let crc = payload_crc(&payload);
    NewMessage {
        subject,
        payload,
        crc,
    }
}

fn payload_crc(payload: &Bytes) -> u32 {
    let (payload, _) = qmq_model::Payload::split_first(payload).expect("just made");
    payload.crc()
}
