//! What a client keeps of the metaserver's replies about one subject (pure).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use qmq_model::BrokerGroup;
use qmq_protocol::command::client_register::{ClientRegisterResponse, ClientType, OnOfflineState};

/// How long a consumer goes on with the groups it knows while the metaserver lists none: a slip of
/// the metaserver must not stop consumers, a removed subject shall not be pulled for ever.
const EMPTY_GRACE: Duration = Duration::from_secs(5 * 60);

/// A broker group that serves the subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteGroup {
    /// Its name.
    pub name: Arc<str>,
    /// `ip:port` of its master.
    pub master: Arc<str>,
}

/// The best knowledge about one subject.
#[derive(Clone, Debug, Default)]
pub(crate) struct RouteView {
    /// Groups that serve it; empty before the first useful reply.
    pub groups: Arc<[RouteGroup]>,
    /// Whether an operator has taken the consumer offline.
    pub is_offline: bool,
    /// Why the last request brought nothing, `None` when it did.
    pub problem: Option<Arc<str>>,
    /// Requests made so far.
    pub requests: u64,
}

/// Digests replies about one subject.
#[derive(Debug)]
pub(crate) struct RouteCache {
    client_type: ClientType,
    view: RouteView,
    timestamp_ms: i64,
    empty_since: Option<Instant>,
}

impl RouteCache {
    /// Knows nothing yet.
    pub(crate) fn new(client_type: ClientType) -> Self {
        Self {
            client_type,
            view: RouteView::default(),
            timestamp_ms: -1,
            empty_since: None,
        }
    }

    /// What is known now.
    pub(crate) fn view(&self) -> &RouteView {
        &self.view
    }

    /// There was no reply, or none that can be read. Everything known stays.
    pub(crate) fn on_problem(&mut self, problem: &str) {
        self.view.requests += 1;
        self.view.problem = Some(problem.into());
    }

    /// The metaserver answered.
    pub(crate) fn on_reply(&mut self, reply: &ClientRegisterResponse<'_>, now: Instant) {
        if reply.is_refusal() {
            self.on_problem("the metaserver refuses the subject or failed");
            return;
        }
        self.view.requests += 1;
        self.view.problem = None;
        // Replies may overtake each other; an older on/off table says nothing.
        if reply.timestamp_ms >= self.timestamp_ms {
            self.timestamp_ms = reply.timestamp_ms;
            self.view.is_offline = reply.state == OnOfflineState::Offline;
        }
        let groups = usable(self.client_type, &reply.groups);
        if groups.is_empty() {
            self.on_no_groups(now);
            return;
        }
        self.empty_since = None;
        if *self.view.groups != *groups {
            self.view.groups = groups.into();
        }
    }

    fn on_no_groups(&mut self, now: Instant) {
        self.view.problem = Some("the metaserver lists no broker group for the subject".into());
        let since = *self.empty_since.get_or_insert(now);
        let is_consumer = self.client_type == ClientType::Consumer;
        if is_consumer && now.saturating_duration_since(since) >= EMPTY_GRACE {
            self.view.groups = Arc::default();
        }
    }
}

/// The groups a client of this type may use, each name once.
pub(crate) fn usable(client_type: ClientType, groups: &[BrokerGroup]) -> Vec<RouteGroup> {
    let mut names = HashSet::new();
    let may_use = |group: &&BrokerGroup| {
        let state = match client_type {
            ClientType::Consumer => group.state.can_read(),
            _ => group.state.can_write(),
        };
        state && !group.name.is_empty() && !group.master.is_empty()
    };
    groups
        .iter()
        .filter(may_use)
        .filter(|group| names.insert(group.name.as_str()))
        .map(|group| RouteGroup {
            name: group.name.as_str().into(),
            master: group.master.as_str().into(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use qmq_model::BrokerState;

    use super::*;

    fn group(name: &str, state: BrokerState) -> BrokerGroup {
        let master = format!("{name}.example:20881");
        BrokerGroup {
            name: name.into(),
            master,
            updated_ms: 0,
            state,
        }
    }

    fn reply(timestamp_ms: i64, groups: Vec<BrokerGroup>) -> ClientRegisterResponse<'static> {
        ClientRegisterResponse {
            timestamp_ms,
            subject: "s",
            consumer_group: "g",
            state: OnOfflineState::Online,
            client_type_code: 1,
            groups,
        }
    }

    fn names(cache: &RouteCache) -> Vec<&str> {
        cache
            .view()
            .groups
            .iter()
            .map(|group| &*group.name)
            .collect()
    }

    #[test]
    fn each_type_uses_the_groups_it_may() {
        let groups = vec![
            group("rw", BrokerState::ReadWrite),
            group("r", BrokerState::Read),
            group("w", BrokerState::Write),
            group("away", BrokerState::Away),
            group("rw", BrokerState::ReadWrite),
            group("", BrokerState::ReadWrite),
        ];
        for (client_type, expected) in [
            (ClientType::Producer, ["rw", "w"]),
            (ClientType::DelayProducer, ["rw", "w"]),
            (ClientType::Consumer, ["rw", "r"]),
        ] {
            let mut cache = RouteCache::new(client_type);
            cache.on_reply(&reply(1, groups.clone()), Instant::now());
            assert_eq!(names(&cache), expected);
        }
    }

    #[test]
    fn producers_keep_their_groups_when_none_are_listed() {
        let now = Instant::now();
        let mut cache = RouteCache::new(ClientType::Producer);
        cache.on_reply(&reply(1, vec![group("a", BrokerState::ReadWrite)]), now);
        cache.on_reply(&reply(2, vec![group("a", BrokerState::Read)]), now);
        cache.on_reply(&reply(3, vec![]), now + EMPTY_GRACE);
        cache.on_reply(&reply(4, vec![]), now + 3 * EMPTY_GRACE);
        assert_eq!(names(&cache), ["a"]);
        assert!(cache.view().problem.is_some());
    }

    #[test]
    fn consumers_keep_their_groups_for_a_while_when_none_are_listed() {
        let now = Instant::now();
        let mut cache = RouteCache::new(ClientType::Consumer);
        let good = reply(1, vec![group("a", BrokerState::ReadWrite)]);
        cache.on_reply(&good, now);
        cache.on_reply(&reply(1, vec![]), now);
        cache.on_reply(&reply(1, vec![]), now + EMPTY_GRACE / 2);
        assert_eq!(names(&cache), ["a"]);
        cache.on_reply(&good, now + EMPTY_GRACE / 2);
        cache.on_reply(&reply(1, vec![]), now + EMPTY_GRACE);
        assert_eq!(
            names(&cache),
            ["a"],
            "the grace starts again after a good reply"
        );
        cache.on_reply(&reply(1, vec![]), now + 2 * EMPTY_GRACE);
        assert!(names(&cache).is_empty());
    }

    #[test]
    fn refusals_and_errors_change_neither_groups_nor_state() {
        let now = Instant::now();
        let mut cache = RouteCache::new(ClientType::Consumer);
        cache.on_reply(&reply(1, vec![group("a", BrokerState::ReadWrite)]), now);
        let mut refusal = reply(ClientRegisterResponse::TIMESTAMP_REFUSED, vec![]);
        refusal.state = OnOfflineState::Offline;
        for days in 0..3 {
            cache.on_reply(&refusal, now + Duration::from_secs(days * 86_400));
            cache.on_problem("connection refused");
        }
        assert_eq!(names(&cache), ["a"]);
        assert!(!cache.view().is_offline);
        assert_eq!(cache.view().requests, 7);
    }

    #[test]
    fn an_older_on_off_table_is_not_believed() {
        let now = Instant::now();
        let groups = vec![group("a", BrokerState::ReadWrite)];
        let mut cache = RouteCache::new(ClientType::Consumer);
        let mut offline = reply(5, groups.clone());
        offline.state = OnOfflineState::Offline;
        cache.on_reply(&offline, now);
        cache.on_reply(&reply(4, groups.clone()), now);
        assert!(cache.view().is_offline);
        cache.on_reply(&reply(5, groups), now);
        assert!(!cache.view().is_offline);
    }

    #[test]
    fn a_moved_master_is_taken_over() {
        let now = Instant::now();
        let mut cache = RouteCache::new(ClientType::Producer);
        let mut moved = group("a", BrokerState::ReadWrite);
        cache.on_reply(&reply(1, vec![moved.clone()]), now);
        moved.master = "10.0.0.9:20881".into();
        cache.on_reply(&reply(1, vec![moved]), now);
        assert_eq!(&*cache.view().groups[0].master, "10.0.0.9:20881");
    }
}
