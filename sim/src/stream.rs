//! Where messages stand in the simulation: subjects, retry and dead-letter subjects, by number.

use std::collections::HashMap;

use qmq_model::{ConsumerGroup, ConsumerId, Subject};

use crate::world::Settings;

/// Names a consumer group: its real subject and itself, by number.
pub type GroupId = (usize, usize);
/// Names a consumer of one queue: by number within its group.
pub type ConsumerKey = (Queue, usize);

/// What a group pulls from: its subject, or its retry subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Queue {
    /// Which group.
    pub group: GroupId,
    /// Whether it is the retry subject.
    pub is_retry: bool,
}

/// A stream of messages, numbered on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// What producers send to.
    Real(usize),
    /// What a group is to get again.
    Retry(GroupId),
    /// What a group gave up.
    Dead(GroupId),
}

impl Queue {
    /// The stream it hands out.
    #[must_use]
    pub fn stream(self) -> Stream {
        if self.is_retry {
            Stream::Retry(self.group)
        } else {
            Stream::Real(self.group.0)
        }
    }

    /// The other queue of the same group.
    #[must_use]
    pub fn twin(self) -> Self {
        Self {
            is_retry: !self.is_retry,
            ..self
        }
    }
}

/// The names behind the numbers.
#[derive(Debug)]
pub struct Names {
    subjects: HashMap<Stream, Subject>,
    groups: Vec<ConsumerGroup>,
    consumers: Vec<ConsumerId>,
    streams: HashMap<Subject, Stream>,
}

impl Names {
    /// All names of a world.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        let group = |number| ConsumerGroup::new(&format!("group{number}")).expect("a good name");
        let consumer = |n: usize| ConsumerId::new(&format!("host@@{n}")).expect("a good name");
        let groups: Vec<_> = (0..settings.groups).map(group).collect();
        let mut subjects = HashMap::new();
        for number in 0..settings.subjects {
            let real = Subject::new(&format!("subject.{number}")).expect("a good name");
            for (at, group) in groups.iter().enumerate() {
                let retry = Subject::retry(&real, group).expect("a good name");
                let dead = Subject::dead_letter(&real, group).expect("a good name");
                subjects.insert(Stream::Retry((number, at)), retry);
                subjects.insert(Stream::Dead((number, at)), dead);
            }
            subjects.insert(Stream::Real(number), real);
        }
        let streams = subjects
            .iter()
            .map(|(stream, name)| (name.clone(), *stream));
        Self {
            streams: streams.collect(),
            subjects,
            groups,
            consumers: (0..settings.consumers).map(consumer).collect(),
        }
    }

    /// The subject of a stream.
    #[must_use]
    pub fn subject(&self, stream: Stream) -> &Subject {
        &self.subjects[&stream]
    }

    /// The group of a queue.
    #[must_use]
    pub fn group(&self, group: GroupId) -> &ConsumerGroup {
        &self.groups[group.1]
    }

    /// The consumer with a number.
    #[must_use]
    pub fn consumer(&self, number: usize) -> &ConsumerId {
        &self.consumers[number]
    }

    /// The number of a consumer.
    #[must_use]
    pub fn number_of(&self, consumer: &ConsumerId) -> Option<usize> {
        self.consumers.iter().position(|known| known == consumer)
    }

    /// The stream of a subject.
    #[must_use]
    pub fn stream(&self, subject: &Subject) -> Option<Stream> {
        self.streams.get(subject).copied()
    }

    /// The queue of a subject and a group.
    #[must_use]
    pub fn queue(&self, subject: &Subject, group: &ConsumerGroup) -> Option<Queue> {
        let number = self.groups.iter().position(|known| known == group)?;
        match self.stream(subject)? {
            Stream::Real(subject) => Some(Queue {
                group: (subject, number),
                is_retry: false,
            }),
            Stream::Retry(group) if group.1 == number => Some(Queue {
                group,
                is_retry: true,
            }),
            Stream::Retry(_) | Stream::Dead(_) => None,
        }
    }
}
