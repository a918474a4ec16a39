//! Which messages a consumer wants: by tags, and by the environment they were sent from (pure).

use std::collections::HashMap;

use bytes::Bytes;
use qmq_model::Payload;
use qmq_model::names::SubjectKind;
use qmq_protocol::command::pull::{PullRequest, TagMatch};
use serde::Deserialize;

/// Property that names the environment of the sender.
const ENV: &[u8] = b"qmq_env";
/// Property that names the sub-environment of the sender.
const SUB_ENV: &[u8] = b"qmq_subEnv";

/// Everything one pull asks of a message. It never changes while the pull waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    tags: Option<TagRule>,
    env: Option<EnvRule>,
}

/// What the tags of a message must be. Never without tags.
#[derive(Clone, Debug, PartialEq, Eq)]
struct TagRule {
    tag_match: TagMatch,
    tags: Vec<Bytes>,
}

/// Where a message must have been sent from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum EnvRule {
    From {
        env: String,
        sub_env: String,
    },
    /// No rule is known for this consumer: it must not see what is meant for others.
    Nothing,
}

impl Filter {
    /// The filter of a request; `None` when it takes everything. `rules` decides about environments
    /// where those are kept apart.
    #[must_use]
    pub fn of(request: &PullRequest<'_>, rules: Option<&EnvRules>) -> Option<Self> {
        let tags = request.tag_filter().map(|filter| TagRule {
            tag_match: filter.tag_match,
            // Filters wait with their pull: they must not keep the frame alive.
            tags: filter
                .tags
                .iter()
                .map(|tag| Bytes::copy_from_slice(tag))
                .collect(),
        });
        // What is in a retry subject was meant for its group from the start.
        let is_retry = matches!(SubjectKind::of(request.subject), SubjectKind::Retry { .. });
        let env = request.sub_env_filter().zip(rules).filter(|_| !is_retry);
        let env = env.map(|((env, sub_env), rules)| rules.rule_for(request, env, sub_env));
        (tags.is_some() || env.is_some()).then_some(Self { tags, env })
    }

    /// Whether a message with this mask of tags can be wanted; `false` is certain.
    #[must_use]
    pub fn may_match(&self, mask: qmq_store::TagMask) -> bool {
        let Some(rule) = &self.tags else {
            return self.env != Some(EnvRule::Nothing);
        };
        match rule.tag_match {
            TagMatch::All => rule.tags.iter().all(|tag| mask.may_have(tag)),
            TagMatch::Any | TagMatch::NoTag | TagMatch::Other(_) => {
                rule.tags.iter().any(|tag| mask.may_have(tag))
            }
        }
    }

    /// Whether the message is wanted. One that cannot be read is: its consumer shall complain.
    #[must_use]
    pub fn matches(&self, payload: &[u8]) -> bool {
        let Ok((payload, _)) = Payload::split_first(payload) else {
            return true;
        };
        self.tags.as_ref().is_none_or(|rule| rule.matches(&payload))
            && self.env.as_ref().is_none_or(|rule| rule.matches(&payload))
    }
}

impl TagRule {
    fn matches(&self, payload: &Payload<'_>) -> bool {
        let has = |wanted: &Bytes| payload.tag_iter().any(|tag| tag == wanted.as_ref());
        match self.tag_match {
            TagMatch::All => self.tags.iter().all(has),
            TagMatch::Any => self.tags.iter().any(has),
            // A number without a meaning: the reference never looks at it when there is one tag
            // on each side, and finds nothing otherwise.
            TagMatch::NoTag | TagMatch::Other(_) => {
                payload.tag_count == 1 && self.tags.len() == 1 && self.tags.iter().all(has)
            }
        }
    }
}

impl EnvRule {
    fn matches(&self, payload: &Payload<'_>) -> bool {
        match self {
            Self::Nothing => false,
            Self::From { env, sub_env } => {
                payload.property(ENV) == Some(env.as_bytes())
                    && payload.property(SUB_ENV) == Some(sub_env.as_bytes())
            }
        }
    }
}

/// Rules that keep sub-environments apart: which group gets the messages of which sender.
///
/// The format is that of the reference: a JSON list of objects with `subject`, `group`, `groupEnv`,
/// `groupSubEnv`, `subjectEnv` and `subjectSubEnv`; a missing text is empty, other members are
/// ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvRules(HashMap<String, EnvRule>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct RawRule {
    subject: String,
    group: String,
    group_env: String,
    group_sub_env: String,
    subject_env: String,
    subject_sub_env: String,
}

impl EnvRules {
    /// Reads rules.
    ///
    /// # Errors
    /// When the text is not such a list.
    pub fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        let raw: Vec<RawRule> = serde_json::from_slice(json)?;
        let rule = |raw: RawRule| {
            let RawRule {
                subject,
                group,
                group_env,
                group_sub_env,
                ..
            } = raw;
            let key = format!("{subject}_{group}_{group_env}_{group_sub_env}");
            let from = EnvRule::From {
                env: raw.subject_env,
                sub_env: raw.subject_sub_env,
            };
            (key, from)
        };
        Ok(Self(raw.into_iter().map(rule).collect()))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Clients rename their group to `group_env_subEnv`; broadcast groups have no name of their own.
    fn rule_for(&self, request: &PullRequest<'_>, env: &str, sub_env: &str) -> EnvRule {
        let PullRequest { subject, group, .. } = request;
        let key = if request.is_broadcast {
            format!("{subject}__{env}_{sub_env}")
        } else {
            format!("{subject}_{group}")
        };
        let known = self.0.get(&key).cloned();
        // A sender without an environment is nobody's.
        let usable = |rule: &EnvRule| !matches!(rule, EnvRule::From { env, .. } if env.is_empty());
        known.filter(usable).unwrap_or(EnvRule::Nothing)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use qmq_model::Message;
    use qmq_protocol::command::pull::{PullFilter, TagFilter};
    use qmq_store::TagMask;

    use super::*;

    fn request<'a>(subject: &'a str, filters: Vec<PullFilter<'a>>) -> PullRequest<'a> {
        PullRequest {
            subject,
            group: "g_prod_blue",
            consumer_id: "c",
            request_num: 1,
            offset: -1,
            pull_begin: -1,
            pull_last: -1,
            timeout_ms: 0,
            is_broadcast: false,
            filters,
        }
    }

    fn tags(tag_match: TagMatch, tags: &[&'static str]) -> Filter {
        let tags = tags.iter().map(|tag| tag.as_bytes()).collect();
        let filters = vec![PullFilter::Tag(TagFilter { tag_match, tags })];
        Filter::of(&request("s", filters), None).unwrap()
    }

    fn message(tags: &[&str], properties: &[(&str, &str)]) -> Bytes {
        let message = Message {
            subject: "s".into(),
            message_id: "id".into(),
            tags: tags
                .iter()
                .map(|tag| (*tag).to_owned())
                .collect::<BTreeSet<_>>(),
            properties: properties
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            ..Message::default()
        };
        message.to_payload().unwrap()
    }

    fn takes(filter: &Filter, message_tags: &[&str]) -> bool {
        let mask = TagMask::of_tags(message_tags.iter().map(|tag| tag.as_bytes()));
        let matches = filter.matches(&message(message_tags, &[]));
        assert!(
            filter.may_match(mask) || !matches,
            "the mask never lies by omission"
        );
        matches
    }

    #[test]
    fn tags_are_compared_as_asked() {
        let any = tags(TagMatch::Any, &["a", "b"]);
        let all = tags(TagMatch::All, &["a", "b"]);
        for (message, by_any, by_all) in [
            (&[][..], false, false),
            (&["a"], true, false),
            (&["c"], false, false),
            (&["a", "b"], true, true),
            (&["a", "b", "c"], true, true),
            (&["b", "c"], true, false),
        ] {
            assert_eq!(takes(&any, message), by_any, "{message:?}");
            assert_eq!(takes(&all, message), by_all, "{message:?}");
        }
        let other = tags(TagMatch::Other(9), &["a"]);
        assert!(takes(&other, &["a"]));
        assert!(!takes(&other, &["a", "b"]));
        assert!(!takes(&tags(TagMatch::Other(9), &["a", "b"]), &["a"]));
    }

    #[test]
    fn without_tags_there_is_no_filter() {
        let filters = vec![PullFilter::Tag(TagFilter {
            tag_match: TagMatch::All,
            tags: vec![],
        })];
        assert_eq!(Filter::of(&request("s", filters), None), None);
        assert_eq!(Filter::of(&request("s", vec![]), None), None);
    }

    #[test]
    fn environments_are_kept_apart_by_rule() {
        let rules = br#"[{"subject":"s","group":"g","groupEnv":"prod","groupSubEnv":"blue",
            "subjectEnv":"prod","subjectSubEnv":"red","more":1}]"#;
        let rules = EnvRules::parse(rules).unwrap();
        let env = || {
            vec![PullFilter::SubEnv {
                env: "prod",
                sub_env: "blue",
            }]
        };
        let filter = Filter::of(&request("s", env()), Some(&rules)).unwrap();
        assert!(filter.matches(&message(&[], &[("qmq_env", "prod"), ("qmq_subEnv", "red")])));
        assert!(!filter.matches(&message(
            &[],
            &[("qmq_env", "prod"), ("qmq_subEnv", "blue")]
        )));
        assert!(!filter.matches(&message(&[], &[])));
        // Without a rule for it a consumer sees nothing.
        let other = Filter::of(&request("other", env()), Some(&rules)).unwrap();
        assert!(!other.may_match(TagMask::default()));
        // Environments are not kept apart, or it is a retry of what the group was given before.
        assert_eq!(Filter::of(&request("s", env()), None), None);
        assert_eq!(
            Filter::of(&request("%RETRY%s%g_prod_blue", env()), Some(&rules)),
            None
        );
        assert!(EnvRules::parse(b"{}").is_err());
    }
}
