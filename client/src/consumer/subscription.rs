//! What makes up a subscription: names of its queues, and which messages it wants.

use qmq_model::names::SubjectKind;
use qmq_model::payload::STRING_BYTES_MAX;
use qmq_model::{ConsumerGroup, NameError, Subject};
use qmq_protocol::command::pull::{self, FILTER_TAGS_MAX, PullFilter, TagFilter};

use super::queue::QueueKind;
use crate::error::BuildError;

/// One subject, group and client id.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Subscription {
    /// Subject as the application named it.
    pub subject: String,
    /// Group as brokers know it.
    pub group: String,
    /// Id of the client.
    pub client_id: String,
}

/// How the tags of a consumer are compared with those of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TagMatch {
    /// One common tag is enough.
    Any,
    /// The message has every tag of the consumer.
    All,
}

/// Which messages are wanted, and in which way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    /// Every client id gets every message.
    pub is_broadcast: bool,
    /// A message is acknowledged when it is handed out.
    pub is_most_once: bool,
    /// By tags; without effect when there are none.
    pub tags: Option<(TagMatch, Vec<String>)>,
    /// By environment and sub-environment.
    pub environment: Option<(String, String)>,
}

impl Selection {
    /// The filters of a pull.
    pub(crate) fn filters(&self) -> Vec<PullFilter<'_>> {
        let tags = self.tags.iter().filter(|(_, tags)| !tags.is_empty());
        let tags = tags.map(|(tag_match, tags)| {
            PullFilter::Tag(TagFilter {
                tag_match: match tag_match {
                    TagMatch::Any => pull::TagMatch::Any,
                    TagMatch::All => pull::TagMatch::All,
                },
                tags: tags.iter().map(String::as_bytes).collect(),
            })
        });
        let environment = self.environment.iter();
        let environment = environment.map(|(env, sub_env)| PullFilter::SubEnv { env, sub_env });
        tags.chain(environment).collect()
    }

    /// The group as brokers know it: in an environment its name has both of its parts appended.
    pub(crate) fn group(&self, group: &str) -> String {
        match &self.environment {
            Some((env, sub_env)) => format!("{group}_{env}_{sub_env}"),
            None => group.to_owned(),
        }
    }

    /// Checks what an application chose.
    pub(crate) fn check(&self) -> Result<(), BuildError> {
        let setting = |what, bounds| Err(BuildError::Setting { what, bounds });
        let is_bad = |tag: &String| tag.is_empty() || tag.len() > STRING_BYTES_MAX;
        if let Some((_, tags)) = &self.tags
            && (tags.len() > FILTER_TAGS_MAX || tags.iter().any(is_bad))
        {
            return setting("tags", "127 tags of 1..=32767 bytes");
        }
        // Their characters are checked as a part of the group's name.
        if self
            .environment
            .as_ref()
            .is_some_and(|(env, _)| env.is_empty())
        {
            return setting("environment", "1 character and more");
        }
        Ok(())
    }
}

/// The subjects a subscription has to do with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueueNames {
    /// What is pulled.
    pub pulled: Vec<(String, QueueKind)>,
    /// Where failed messages go; not for a dead-letter subject, where nothing comes after.
    pub failed: Option<FailedNames>,
}

/// Where failed messages go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FailedNames {
    /// The retry subject.
    pub retry: String,
    /// The dead-letter subject.
    pub dead_letter: String,
}

impl QueueNames {
    /// Checks the names and puts them together.
    pub(crate) fn new(subject: &str, group: &str) -> Result<Self, BuildError> {
        let name_error = |what, name: &str| {
            let name = name.to_owned();
            move |source: NameError| BuildError::Name { what, name, source }
        };
        let checked = Subject::new(subject).map_err(name_error("subject", subject))?;
        let group = ConsumerGroup::new(group).map_err(name_error("consumer group", group))?;
        let mut pulled = vec![(subject.to_owned(), QueueKind::Subject)];
        let real = match checked.kind() {
            SubjectKind::Real => checked.clone(),
            SubjectKind::Retry { subject, .. } => {
                Subject::new(subject).map_err(name_error("subject", subject))?
            }
            SubjectKind::DeadLetter { .. } => {
                let failed = None;
                return Ok(Self { pulled, failed });
            }
        };
        let retry = Subject::retry(&real, &group).map_err(name_error("retry subject", subject))?;
        let dead_letter = Subject::dead_letter(&real, &group);
        let dead_letter = dead_letter.map_err(name_error("dead-letter subject", subject))?;
        if checked.kind() == SubjectKind::Real {
            pulled.push((retry.as_str().to_owned(), QueueKind::Retry));
        }
        let failed = Some(FailedNames {
            retry: retry.as_str().to_owned(),
            dead_letter: dead_letter.as_str().to_owned(),
        });
        Ok(Self { pulled, failed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pulled(subject: &str, group: &str) -> Vec<String> {
        let names = QueueNames::new(subject, group).unwrap();
        names.pulled.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn a_subject_brings_its_retry_subject() {
        assert_eq!(pulled("a.b", "g"), ["a.b", "%RETRY%a.b%g"]);
        assert_eq!(pulled("%DEAD_RETRY%a.b%g", "g"), ["%DEAD_RETRY%a.b%g"]);
        assert_eq!(pulled("%RETRY%a.b%g", "g"), ["%RETRY%a.b%g"]);
    }

    #[test]
    fn failed_messages_have_a_place_except_the_dead() {
        let failed = |subject| QueueNames::new(subject, "g").unwrap().failed;
        let places = FailedNames {
            retry: "%RETRY%a.b%g".into(),
            dead_letter: "%DEAD_RETRY%a.b%g".into(),
        };
        assert_eq!(failed("a.b"), Some(places.clone()));
        assert_eq!(failed("%RETRY%a.b%g"), Some(places));
        assert_eq!(failed("%DEAD_RETRY%a.b%g"), None);
    }

    #[test]
    fn bad_names_are_refused() {
        let long = "订".repeat(50);
        for (subject, group) in [
            ("a b", "g"),
            ("a/b", "g"),
            ("a", ""),
            ("a", "g/h"),
            ("", "g"),
            (&*long, &*long),
        ] {
            assert!(matches!(
                QueueNames::new(subject, group),
                Err(BuildError::Name { .. })
            ));
        }
    }

    #[test]
    fn an_environment_renames_the_group_and_filters() {
        let mut selection = Selection::default();
        assert_eq!(selection.group("g"), "g");
        assert_eq!(selection.filters(), []);
        selection.environment = Some(("beta".into(), "u1".into()));
        selection.tags = Some((TagMatch::All, vec!["a".into(), "b".into()]));
        assert_eq!(selection.group("g"), "g_beta_u1");
        let tags = TagFilter {
            tag_match: pull::TagMatch::All,
            tags: vec![b"a", b"b"],
        };
        let sub_env = PullFilter::SubEnv {
            env: "beta",
            sub_env: "u1",
        };
        assert_eq!(selection.filters(), [PullFilter::Tag(tags), sub_env]);
    }

    #[test]
    fn tags_are_bounded() {
        let with = |tags: Vec<String>| Selection {
            tags: Some((TagMatch::Any, tags)),
            ..Selection::default()
        };
        assert!(with(vec!["t".into(); FILTER_TAGS_MAX]).check().is_ok());
        assert!(with(vec!["t".into(); FILTER_TAGS_MAX + 1]).check().is_err());
        assert!(with(vec![String::new()]).check().is_err());
    }
}
