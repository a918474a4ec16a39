//! Tests of assignment and answers.

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;

const STATES: [BrokerState; 4] = [
    BrokerState::ReadWrite,
    BrokerState::Read,
    BrokerState::Write,
    BrokerState::Away,
];

fn group(name: &str, kind: GroupKind, state: BrokerState, tag: &str) -> GroupRow {
    let master = format!("{name}:20881");
    GroupRow {
        name: name.into(),
        kind,
        master,
        state,
        tag: tag.into(),
        updated_ms: 1,
    }
}

fn view(groups: impl IntoIterator<Item = GroupRow>) -> View {
    let groups = groups.into_iter().map(|group| (group.name.clone(), group));
    View {
        groups: Arc::new(groups.collect()),
        ..View::default()
    }
}

fn normal(name: &str, state: BrokerState) -> GroupRow {
    group(name, GroupKind::Normal, state, "")
}

/// A subject without a tag, from which nothing was removed.
fn wanted<'a>(subject: &'a str, route: Option<&'a Route>, group_num_min: usize) -> Wanted<'a> {
    Wanted {
        subject,
        tag: None,
        route,
        removed: None,
        group_num_min,
    }
}

fn random() -> SmallRng {
    SmallRng::seed_from_u64(7)
}

fn names(groups: &[&GroupRow]) -> Vec<String> {
    groups.iter().map(|group| group.name.clone()).collect()
}

fn route(groups: &[&str]) -> Route {
    Route {
        groups: groups.iter().map(|name| (*name).to_owned()).collect(),
        version: 1,
    }
}

#[test]
fn a_subject_with_a_tag_never_falls_back_while_its_groups_exist() {
    let tagged = group("t", GroupKind::Normal, BrokerState::Away, "pay");
    let view = view([tagged, normal("common", BrokerState::ReadWrite)]);
    let decide = |tag| {
        let wanted = Wanted {
            tag,
            ..wanted("order", None, 2)
        };
        view.decide(&wanted, &mut random())
    };
    assert_eq!(decide(Some("pay")), Decision::Keep);
    let common = Decision::Add(vec!["common".into()]);
    assert_eq!(decide(Some("unused")), common);
    assert_eq!(decide(Some("")), common);
    assert_eq!(decide(None), common);
}

#[test]
fn groups_that_take_no_messages_are_not_assigned() {
    let mut view = view([
        normal("r", BrokerState::Read),
        normal("w", BrokerState::Write),
        normal("away", BrokerState::Away),
        normal("marked", BrokerState::ReadWrite),
        normal("marked_for_all", BrokerState::ReadWrite),
        group("delay", GroupKind::Delay, BrokerState::ReadWrite, ""),
    ]);
    view.readonly.insert("s".into(), ["marked".into()].into());
    view.readonly
        .insert(ANY.into(), ["marked_for_all".into()].into());
    assert_eq!(
        view.decide(&wanted("s", None, 9), &mut random()),
        Decision::Keep
    );
    let other = Decision::Add(vec!["marked".into()]);
    assert_eq!(view.decide(&wanted("other", None, 9), &mut random()), other);
}

#[test]
fn a_single_group_is_served_without_asking_for_more() {
    let view = view([normal("a", BrokerState::ReadWrite)]);
    assert_eq!(
        view.decide(&wanted("s", Some(&route(&["a"])), 2), &mut random()),
        Decision::Keep
    );
}

#[test]
fn a_route_of_unknown_groups_gets_new_ones() {
    let view = view([normal("a", BrokerState::ReadWrite)]);
    let add = Decision::Add(vec!["a".into()]);
    assert_eq!(
        view.decide(
            &wanted("s", Some(&route(&["gone", "lost"])), 2),
            &mut random()
        ),
        add
    );
    // One that is known and one that is not count as two, as for the Java metaserver.
    let view = tests::view([
        normal("a", BrokerState::ReadWrite),
        normal("b", BrokerState::ReadWrite),
    ]);
    assert_eq!(
        view.decide(&wanted("s", Some(&route(&["a", "gone"])), 2), &mut random()),
        Decision::Keep
    );
}

#[test]
fn a_list_grows_no_longer_than_its_column() {
    let names = ["first", "second", "third"];
    let mut view = view(names.map(|name| normal(name, BrokerState::ReadWrite)));
    let decide = |view: &View| view.decide(&wanted("s", Some(&route(&["x"])), 9), &mut random());
    let added = |decision: Decision| match decision {
        Decision::Add(added) => added.len(),
        Decision::Keep => 0,
    };
    assert_eq!(added(decide(&view)), 3);
    // ["x"] has 5 characters, each further name at least 8 more.
    for (max, expected) in [(5, 0), (12, 0), (20, 1), (1_000, 3)] {
        view.route_json_max = Some(max);
        assert_eq!(added(decide(&view)), expected, "{max}");
    }
}

#[test]
fn answers_by_client_type() {
    let mut view = view([
        normal("rw", BrokerState::ReadWrite),
        normal("r", BrokerState::Read),
        normal("away", BrokerState::Away),
        normal("marked", BrokerState::ReadWrite),
        group("d1", GroupKind::Delay, BrokerState::ReadWrite, ""),
        group("d2", GroupKind::Delay, BrokerState::Away, ""),
        group("d3", GroupKind::Delay, BrokerState::ReadWrite, ""),
    ]);
    view.readonly
        .insert("s".into(), ["marked".into(), "d3".into()].into());
    let route = route(&["rw", "r", "away", "marked", "gone", "d1", "rw"]);
    let answer = |client_type| names(&view.answer("s", Some(&route), client_type, &mut random()));
    assert_eq!(answer(ClientType::Producer), ["rw", "r"]);
    assert_eq!(answer(ClientType::Consumer), ["rw", "r", "marked"]);
    assert_eq!(answer(ClientType::Other), ["rw", "r", "marked"]);
    assert_eq!(answer(ClientType::DelayProducer), ["d1"]);
}

fn any_view() -> impl Strategy<Value = View> {
    let kind = prop_oneof![Just(GroupKind::Normal), Just(GroupKind::Delay)];
    let tag = prop_oneof![Just(""), Just("_default_"), Just("pay")];
    let row = (kind, 0..4_usize, tag);
    let groups = proptest::collection::btree_map("[a-h]", row, 0..8);
    let marks = proptest::collection::vec(("[s*]", "[a-h]"), 0..4);
    (groups, marks).prop_map(|(groups, marks)| {
        let rows = groups.into_iter();
        let mut view =
            view(rows.map(|(name, (kind, state, tag))| group(&name, kind, STATES[state], tag)));
        for (subject, name) in marks {
            view.readonly.entry(subject).or_default().insert(name);
        }
        view
    })
}

fn any_route() -> impl Strategy<Value = Option<Route>> {
    let groups = proptest::collection::vec("[a-j]", 0..5);
    proptest::option::of(groups.prop_map(|groups| Route { groups, version: 3 }))
}

proptest! {
    #[test]
    fn adds_only_what_is_open_new_and_needed(
        view in any_view(), route in any_route(), min in 1..4_usize, seed: u64,
        removed in proptest::collection::hash_set("[a-h]", 0..4), has_tag: bool,
    ) {
        let mut random = SmallRng::seed_from_u64(seed);
        let wanted = Wanted {
            tag: has_tag.then_some("pay"),
            removed: Some(&removed),
            ..wanted("s", route.as_ref(), min)
        };
        let Decision::Add(added) = view.decide(&wanted, &mut random) else {
            return Ok(());
        };
        let assigned = route.map_or_else(Vec::new, |route| route.groups);
        prop_assert!(!added.is_empty() && added.len() <= min);
        let distinct: HashSet<&String> = added.iter().chain(&assigned).collect();
        prop_assert!(added.iter().all(|name| !assigned.contains(name)));
        prop_assert!(distinct.len() >= added.len());
        for name in &added {
            let group = &view.groups[name];
            prop_assert_eq!(group.kind, GroupKind::Normal);
            prop_assert_eq!(group.state, BrokerState::ReadWrite);
            prop_assert!(!view.is_readonly("s", name));
            prop_assert!(!removed.contains(name));
        }
    }

    #[test]
    fn is_content_once_it_has_decided(
        view in any_view(), route in any_route(), min in 1..4_usize, seed: u64,
    ) {
        let mut random = SmallRng::seed_from_u64(seed);
        if let Decision::Add(added) = view.decide(&wanted("s", route.as_ref(), min), &mut random) {
            let mut groups = route.map_or_else(Vec::new, |route| route.groups);
            groups.extend(added);
            let route = Route { groups, version: 4 };
            prop_assert_eq!(view.decide(&wanted("s", Some(&route), min), &mut random), Decision::Keep);
        }
    }

    #[test]
    fn answers_hold_no_group_twice_and_none_that_is_away(
        view in any_view(), route in any_route(), code in 1..5_i32, seed: u64,
    ) {
        let mut random = SmallRng::seed_from_u64(seed);
        let client_type = ClientType::from_code(code);
        let groups = view.answer("s", route.as_ref(), client_type, &mut random);
        let distinct: HashSet<&str> = groups.iter().map(|group| group.name.as_str()).collect();
        prop_assert_eq!(distinct.len(), groups.len());
        prop_assert!(groups.iter().all(|group| group.state != BrokerState::Away));
        let is_delay = client_type == ClientType::DelayProducer;
        let kind = if is_delay { GroupKind::Delay } else { GroupKind::Normal };
        prop_assert!(groups.iter().all(|group| group.kind == kind));
    }

    /// Nodes that saw the world at different times assign one subject through compare-and-set.
    #[test]
    fn two_nodes_end_with_one_route(
        early in any_view(), late in any_view(), min in 1..4_usize,
        turns in proptest::collection::vec(any::<bool>(), 1..12), seed: u64,
    ) {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut table: Option<Route> = None;
        // What each node read last: its next write is refused when the row has changed since.
        let mut read: [Option<Route>; 2] = [None, None];
        for turn in turns {
            let (node, view) = if turn { (1, &late) } else { (0, &early) };
            if let Decision::Add(added) = view.decide(&wanted("s", read[node].as_ref(), min), &mut random) {
                let version = read[node].as_ref().map_or(0, |route| route.version);
                if version == table.as_ref().map_or(0, |route| route.version) {
                    let mut groups = read[node].clone().map_or_else(Vec::new, |r| r.groups);
                    groups.extend(added);
                    table = Some(Route { groups, version: version + 1 });
                }
            }
            read[node] = table.clone();
        }
        let groups = table.map_or_else(Vec::new, |route| route.groups);
        let distinct: HashSet<&String> = groups.iter().collect();
        prop_assert_eq!(distinct.len(), groups.len());
        prop_assert!(groups.len() <= 2 * min);
    }
}

#[test]
fn an_illegal_subject_gets_its_producer_one_group_that_takes_messages() {
    let mut view = view([
        normal("a", BrokerState::Away),
        normal("b", BrokerState::Read),
        normal("c", BrokerState::ReadWrite),
        normal("d", BrokerState::ReadWrite),
        group("e", GroupKind::Delay, BrokerState::ReadWrite, ""),
    ]);
    let chosen = |view: &View, client_type| {
        let group = view.for_illegal_subject(client_type);
        group.map(|group| group.name.clone())
    };
    assert_eq!(chosen(&view, ClientType::Producer).as_deref(), Some("c"));
    assert_eq!(
        chosen(&view, ClientType::DelayProducer).as_deref(),
        Some("e")
    );
    assert_eq!(chosen(&view, ClientType::Consumer), None);
    assert_eq!(chosen(&view, ClientType::Other), None);
    view.readonly
        .insert(ANY.to_owned(), ["c".to_owned()].into());
    assert_eq!(chosen(&view, ClientType::Producer).as_deref(), Some("d"));
}

#[test]
fn a_producer_of_delayed_messages_gets_two_delay_groups_that_take_them() {
    let mut view = view([
        group("d1", GroupKind::Delay, BrokerState::ReadWrite, "tagged"),
        group("d2", GroupKind::Delay, BrokerState::ReadWrite, ""),
        group("d3", GroupKind::Delay, BrokerState::ReadWrite, ""),
        group("gone", GroupKind::Delay, BrokerState::Away, ""),
        normal("n", BrokerState::ReadWrite),
    ]);
    let mut random = random();
    let mut asked = |view: &View| {
        let answer = view.answer(
            "s",
            Some(&route(&["n"])),
            ClientType::DelayProducer,
            &mut random,
        );
        names(&answer)
    };
    let mut seen = HashSet::new();
    for _ in 0..100 {
        let answer = asked(&view);
        assert_eq!(answer.len(), DELAY_GROUPS_MAX, "{answer:?}");
        seen.extend(answer);
    }
    // Drawn anew each time, whatever their tags; no subject has a home among them.
    let mut seen: Vec<_> = seen.into_iter().collect();
    seen.sort_unstable();
    assert_eq!(seen, ["d1", "d2", "d3"]);
    view.readonly
        .insert(ANY.to_owned(), ["d1".to_owned(), "d3".to_owned()].into());
    assert_eq!(asked(&view), ["d2"]);
}
