//! Progress of groups as plain maps, one entry per pull sequence.

use std::collections::BTreeMap;

use qmq_store::{Action, Control, Progress};

/// (subject, group) -> state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Groups(pub(crate) BTreeMap<(String, String), Group>);

/// What was appended to change them.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Action(Action),
    Control(Control),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) next: i64,
    pub(crate) broadcast: bool,
    pub(crate) consumers: BTreeMap<String, Consumer>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Consumer {
    pub(crate) next_pull: i64,
    /// Pull sequence -> message sequence.
    pub(crate) unacked: BTreeMap<i64, i64>,
}

impl Groups {
    pub(crate) fn of(progress: &Progress) -> Self {
        let mut groups = Self::default();
        for (subject, group, progress) in progress.groups() {
            let consumers = progress.consumers.iter().map(|(id, consumer)| {
                let ranges = consumer.unacked.iter();
                let unacked = ranges
                    .flat_map(|r| (0..r.count).map(move |i| (r.pull + i, r.message + i)))
                    .collect();
                let next_pull = consumer.next_pull.0;
                (id.as_str().to_owned(), Consumer { next_pull, unacked })
            });
            let state = Group {
                next: progress.next.0,
                broadcast: progress.broadcast,
                consumers: consumers.collect(),
            };
            groups.0.insert(
                (subject.as_str().to_owned(), group.as_str().to_owned()),
                state,
            );
        }
        groups
    }

    pub(crate) fn take(&mut self, change: &Change) {
        match change {
            Change::Action(action) => self.apply(action),
            Change::Control(control) => self.apply_control(control),
        }
    }

    fn apply(&mut self, action: &Action) {
        let key = action.key();
        let name = (
            key.subject.as_str().to_owned(),
            key.group.as_str().to_owned(),
        );
        let id = key.consumer.as_str();
        match action {
            Action::Pull {
                broadcast,
                pulls,
                messages,
                ..
            } => {
                let group = self.0.entry(name).or_default();
                group.broadcast = *broadcast;
                group.next = group.next.max(messages.end);
                let consumer = group.consumers.entry(id.to_owned()).or_default();
                consumer.unacked.extend(pulls.clone().zip(messages.clone()));
                consumer.next_pull = consumer.next_pull.max(pulls.end);
            }
            Action::Ack { pulls, .. } => {
                let group = self.0.get_mut(&name);
                if let Some(consumer) = group.and_then(|group| group.consumers.get_mut(id)) {
                    consumer.unacked.retain(|pull, _| !pulls.contains(pull));
                }
            }
            Action::ForeverOffline { .. } => {
                if let Some(group) = self.0.get_mut(&name) {
                    group.consumers.remove(id);
                }
            }
        }
    }

    fn apply_control(&mut self, control: &Control) {
        let (subject, group) = control.key();
        let name = (subject.as_str().to_owned(), group.as_str().to_owned());
        match control {
            Control::ForgetGroup { .. } => drop(self.0.remove(&name)),
            Control::Reset { next, .. } => {
                let group = self.0.entry(name).or_default();
                group.next = next.0;
                if group.broadcast {
                    for consumer in group.consumers.values_mut() {
                        consumer.next_pull = next.0;
                        consumer.unacked.clear();
                    }
                }
            }
        }
    }

    /// As after an unclean stop.
    pub(crate) fn raised(&self, by: i64) -> Self {
        let mut raised = self.clone();
        for group in raised.0.values_mut().filter(|group| !group.broadcast) {
            group
                .consumers
                .values_mut()
                .for_each(|consumer| consumer.next_pull += by);
        }
        raised
    }
}
