//! Which broker groups serve a subject. Pure: the view, the route and chance are arguments.
//!
//! A route is a list of groups that only grows: a subject gets up to `min.group.num` groups when it
//! is first asked for, and more when there are fewer and others become available. Assignment picks
//! groups that can be read and written, are not marked readonly, and were not taken from the subject
//! by an operator; the answer to a client holds
//! every group of the route that is not away, whatever its state, because clients filter by state
//! themselves. (The reference also assigns groups that are readonly, or cannot be written.)

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use qmq_model::BrokerState;
use qmq_protocol::command::client_register::ClientType;
use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};

use crate::db::broker_group::{GroupKind, GroupRow};
use crate::db::subject_route::fits;

/// Tag of groups that serve subjects without a tag of their own; no tag means the same.
const TAG_DEFAULT: &str = "_default_";
/// Stands for every subject in a readonly mark.
pub const ANY: &str = "*";
/// How many delay groups a producer of delayed messages is given.
const DELAY_GROUPS_MAX: usize = 2;

/// The groups that serve a subject, and how often that has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Names of groups, in the order they were added.
    pub groups: Vec<String>,
    /// 1 at first, one more with each change.
    pub version: i64,
}

/// What is known about groups at one moment.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// All groups by name.
    pub groups: Arc<BTreeMap<String, GroupRow>>,
    /// Readonly marks: subject or [`ANY`] to groups.
    pub readonly: HashMap<String, HashSet<String>>,
    /// Characters that the list of groups of a subject may have as JSON; without, any number.
    pub route_json_max: Option<usize>,
}

/// What is to be done about the route of a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing: it has groups enough, or no other group can be added.
    Keep,
    /// These groups are to be added, in this order.
    Add(Vec<String>),
}

/// A real subject and what it shall have.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Its name.
    pub subject: &'a str,
    /// Its tag, if it has one.
    pub tag: Option<&'a str>,
    /// The groups it has.
    pub route: Option<&'a Route>,
    /// Groups that an operator took from its route: they are not put back.
    pub removed: Option<&'a HashSet<String>>,
    /// Groups it shall have.
    pub group_num_min: usize,
}

impl View {
    /// How many groups a route lacks. Groups nobody knows count, as they do for the Java
    /// metaserver, so that the two do not outbid each other; unless there is no other.
    #[must_use]
    pub fn missing(&self, route: Option<&Route>, group_num_min: usize) -> usize {
        let assigned = route.map_or(&[][..], |route| &route.groups);
        let is_known = |name: &String| self.normal(name).is_some();
        let count = if assigned.iter().any(is_known) {
            assigned.len()
        } else {
            0
        };
        group_num_min.saturating_sub(count)
    }

    /// What is to be done so that a subject has the groups it shall have.
    pub fn decide(&self, wanted: &Wanted<'_>, random: &mut impl Rng) -> Decision {
        let missing = self.missing(wanted.route, wanted.group_num_min);
        if missing == 0 {
            return Decision::Keep;
        }
        let assigned = wanted.route.map_or(&[][..], |route| &route.groups);
        let mut idle = self.available(wanted.subject, wanted.tag.unwrap_or_default());
        idle.retain(|name| {
            let is_removed = wanted
                .removed
                .is_some_and(|removed| removed.contains(*name));
            !is_removed && !assigned.iter().any(|assigned| assigned == name)
        });
        idle.shuffle(random);
        let mut route = assigned.to_vec();
        for name in idle {
            if route.len() - assigned.len() == missing {
                break;
            }
            // A list that its column cannot hold would be cut there, and then be none.
            route.push(name.to_owned());
            if self.route_json_max.is_some_and(|max| !fits(&route, max)) {
                route.pop();
            }
        }
        match route.split_off(assigned.len()) {
            added if added.is_empty() => Decision::Keep,
            added => Decision::Add(added),
        }
    }

    /// The groups a new subject may be given: those with its tag or, if no group has its tag, those
    /// with the default tag; only such as take messages.
    fn available(&self, subject: &str, tag: &str) -> Vec<&str> {
        let normal = || {
            self.groups
                .values()
                .filter(|group| group.kind == GroupKind::Normal)
        };
        let has_tag = |group: &GroupRow| !is_default(tag) && group.tag == tag;
        let tag_is_used = normal().any(has_tag);
        let is_candidate = |group: &&GroupRow| {
            if tag_is_used {
                has_tag(group)
            } else {
                is_default(&group.tag)
            }
        };
        let is_open = |group: &&GroupRow| {
            group.state == BrokerState::ReadWrite && !self.is_readonly(subject, &group.name)
        };
        normal()
            .filter(is_candidate)
            .filter(is_open)
            .map(|group| group.name.as_str())
            .collect()
    }

    /// The groups to tell a client of the real subject `subject` about; never one that is away.
    pub fn answer(
        &self,
        subject: &str,
        route: Option<&Route>,
        client_type: ClientType,
        random: &mut impl Rng,
    ) -> Vec<&GroupRow> {
        let is_there = |group: &&GroupRow| group.state != BrokerState::Away;
        let may_send = |group: &&GroupRow| !self.is_readonly(subject, &group.name);
        let assigned = route.map_or(&[][..], |route| &route.groups).iter();
        let mut seen = HashSet::new();
        let assigned = assigned
            .filter(move |name| seen.insert(name.as_str()))
            .filter_map(|name| self.normal(name))
            .filter(is_there);
        match client_type {
            ClientType::Producer => assigned.filter(may_send).collect(),
            ClientType::Consumer | ClientType::Other => assigned.collect(),
            ClientType::DelayProducer => {
                let delay = self
                    .groups
                    .values()
                    .filter(|group| group.kind == GroupKind::Delay);
                let delay: Vec<&GroupRow> = delay.filter(is_there).filter(may_send).collect();
                delay
                    .choose_multiple(random, DELAY_GROUPS_MAX)
                    .copied()
                    .collect()
            }
        }
    }

    /// A group for a producer that sends to a subject which is illegal: any that takes messages and
    /// will refuse these. Always the same, so that the client keeps its connection. None for others:
    /// consumers can do without.
    #[must_use]
    pub fn for_illegal_subject(&self, client_type: ClientType) -> Option<&GroupRow> {
        let kind = match client_type {
            ClientType::Producer => GroupKind::Normal,
            ClientType::DelayProducer => GroupKind::Delay,
            ClientType::Consumer | ClientType::Other => return None,
        };
        let is_open = |group: &&GroupRow| {
            group.state == BrokerState::ReadWrite && !self.is_readonly(ANY, &group.name)
        };
        self.groups
            .values()
            .filter(|group| group.kind == kind)
            .find(is_open)
    }

    /// Whether any group takes messages of every subject.
    #[must_use]
    pub fn has_group_for_new_subjects(&self) -> bool {
        let mut groups = self.groups.values();
        groups.any(|group| {
            let is_normal = group.kind == GroupKind::Normal;
            is_normal
                && group.state == BrokerState::ReadWrite
                && !self.is_readonly(ANY, &group.name)
        })
    }

    /// Whether producers of `subject` shall not use `group`.
    #[must_use]
    pub fn is_readonly(&self, subject: &str, group: &str) -> bool {
        let is_marked = |subject| {
            self.readonly
                .get(subject)
                .is_some_and(|set| set.contains(group))
        };
        is_marked(subject) || is_marked(ANY)
    }

    fn normal(&self, name: &str) -> Option<&GroupRow> {
        self.groups
            .get(name)
            .filter(|group| group.kind == GroupKind::Normal)
    }
}

fn is_default(tag: &str) -> bool {
    tag.is_empty() || tag == TAG_DEFAULT
}

#[cfg(test)]
mod tests;
