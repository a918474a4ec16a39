//! What was sent, acknowledged and consumed, and whether that keeps the promise. Pure, so that
//! tests can show that it notices every way of breaking it.

use std::collections::{HashMap, HashSet};
use std::fmt;

/// At most this many ids stand in the text of a problem.
const IDS_SHOWN_MAX: usize = 5;

/// The account of one run. Ids are message ids.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Content by id of everything that was given to a producer.
    pub sent: HashMap<String, String>,
    /// Ids in the order in which the broker acknowledged them.
    pub acknowledged: Vec<String>,
    /// Id and content of every delivery, repeated ones included.
    pub consumed: Vec<(String, String)>,
}

/// A run that kept the promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Messages that were acknowledged; all of them were consumed.
    pub acknowledged: usize,
    /// Deliveries of a message that had been delivered before: allowed.
    pub repeated: usize,
    /// Messages that were consumed although nobody got an acknowledgement: allowed.
    pub unacknowledged: usize,
}

/// One way in which a run broke the promise, with the ids it concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Acknowledged and never consumed.
    Lost(Vec<String>),
    /// Consumed with content other than that which was sent.
    Changed(Vec<String>),
    /// Consumed and never sent.
    Foreign(Vec<String>),
    /// One send, two acknowledgements.
    AcknowledgedTwice(Vec<String>),
    /// Acknowledged and never sent.
    AcknowledgedUnsent(Vec<String>),
}

impl Ledger {
    /// Compares the three lists.
    ///
    /// # Errors
    /// With every problem there is.
    pub fn check(&self) -> Result<Summary, Vec<Problem>> {
        let consumed: HashSet<&str> = self.consumed.iter().map(|(id, _)| id.as_str()).collect();
        let mut acknowledged: HashSet<&str> = HashSet::new();
        let twice = self
            .acknowledged
            .iter()
            .filter(|id| !acknowledged.insert(id));
        let problems: Vec<Problem> = [
            Problem::AcknowledgedTwice(sorted(twice)),
            Problem::Lost(sorted(
                self.acknowledged
                    .iter()
                    .filter(|id| !consumed.contains(id.as_str())),
            )),
            Problem::AcknowledgedUnsent(sorted(
                self.acknowledged
                    .iter()
                    .filter(|id| !self.sent.contains_key(*id)),
            )),
            Problem::Foreign(sorted(
                self.consumed
                    .iter()
                    .map(|(id, _)| id)
                    .filter(|id| !self.sent.contains_key(*id)),
            )),
            Problem::Changed(sorted(self.consumed.iter().filter_map(|(id, content)| {
                self.sent
                    .get(id)
                    .is_some_and(|sent| sent != content)
                    .then_some(id)
            }))),
        ]
        .into_iter()
        .filter(|problem| !problem.ids().is_empty())
        .collect();
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Summary {
            acknowledged: acknowledged.len(),
            repeated: self.consumed.len() - consumed.len(),
            unacknowledged: consumed.difference(&acknowledged).count(),
        })
    }
}

impl Problem {
    fn ids(&self) -> &[String] {
        match self {
            Self::Lost(ids)
            | Self::Changed(ids)
            | Self::Foreign(ids)
            | Self::AcknowledgedTwice(ids)
            | Self::AcknowledgedUnsent(ids) => ids,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::Lost(_) => "acknowledged and never consumed",
            Self::Changed(_) => "consumed with other content",
            Self::Foreign(_) => "consumed and never sent",
            Self::AcknowledgedTwice(_) => "acknowledged twice",
            Self::AcknowledgedUnsent(_) => "acknowledged and never sent",
        };
        let ids = self.ids();
        write!(
            out,
            "{} {what}, such as {:?}",
            ids.len(),
            &ids[..ids.len().min(IDS_SHOWN_MAX)]
        )
    }
}

fn sorted<'a>(ids: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut ids: Vec<String> = ids.cloned().collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGES: usize = 1_000;
    const VICTIM: usize = 517;

    fn id(number: usize) -> String {
        format!("id-{number}")
    }

    /// A run in which everything went well, some messages came twice and one unanswered send
    /// arrived all the same.
    fn kept() -> Ledger {
        let mut ledger = Ledger::default();
        for number in 0..MESSAGES {
            ledger.sent.insert(id(number), format!("content {number}"));
            ledger.acknowledged.push(id(number));
            ledger
                .consumed
                .push((id(number), format!("content {number}")));
        }
        ledger.consumed.extend_from_within(10..20);
        ledger.sent.insert("unanswered".into(), "content".into());
        ledger
            .consumed
            .push(("unanswered".into(), "content".into()));
        ledger
    }

    #[test]
    fn accepts_a_run_that_keeps_the_promise() {
        let summary = Summary {
            acknowledged: MESSAGES,
            repeated: 10,
            unacknowledged: 1,
        };
        assert_eq!(kept().check(), Ok(summary));
    }

    #[test]
    fn notices_one_lost_message_in_a_thousand() {
        let mut ledger = kept();
        ledger
            .consumed
            .retain(|(consumed, _)| *consumed != id(VICTIM));
        assert_eq!(ledger.check(), Err(vec![Problem::Lost(vec![id(VICTIM)])]));
    }

    #[test]
    fn notices_an_acknowledgement_before_the_write() {
        let mut ledger = kept();
        ledger.sent.insert("early".into(), "content".into());
        assert!(
            ledger.check().is_ok(),
            "what nobody acknowledged may be lost"
        );
        ledger.acknowledged.push("early".into());
        assert_eq!(
            ledger.check(),
            Err(vec![Problem::Lost(vec!["early".into()])])
        );
    }

    #[test]
    fn notices_a_second_acknowledgement_of_one_send() {
        let mut ledger = kept();
        ledger.acknowledged.push(id(VICTIM));
        assert_eq!(
            ledger.check(),
            Err(vec![Problem::AcknowledgedTwice(vec![id(VICTIM)])])
        );
    }

    #[test]
    fn notices_changed_content() {
        let mut ledger = kept();
        ledger.consumed[VICTIM].1.push('!');
        assert_eq!(
            ledger.check(),
            Err(vec![Problem::Changed(vec![id(VICTIM)])])
        );
    }

    #[test]
    fn notices_messages_and_acknowledgements_from_nowhere() {
        let mut ledger = kept();
        ledger.consumed.push(("foreign".into(), String::new()));
        ledger.acknowledged.push("unsent".into());
        let problems = ledger.check().unwrap_err();
        assert!(
            problems.contains(&Problem::Foreign(vec!["foreign".into()])),
            "{problems:?}"
        );
        assert!(problems.contains(&Problem::AcknowledgedUnsent(vec!["unsent".into()])));
    }
}
