//! Marks that keep producers off a group.

use qmq_protocol::command::client_register::ClientType;

use crate::node::{G1, G2, Place, question};

on_each_database! {
    a_marked_group_is_for_consumers_only_until_the_mark_is_gone,
}

async fn a_marked_group_is_for_consumers_only_until_the_mark_is_gone(place: Place) {
    let node = place.start().await;
    node.bring_online(G1).await;
    node.bring_online(G2).await;
    let (producer, consumer) = (
        question("s", ClientType::Producer),
        question("s", ClientType::Consumer),
    );
    node.ask_until(producer, |answer| answer.names() == ["g1", "g2"])
        .await;
    let mark = async |subject, group| {
        node.change_route("MarkReadonlyBrokerGroup", subject, group)
            .await
    };
    let unmark = async |subject, group| {
        node.change_route("UnMarkReadonlyBrokerGroup", subject, group)
            .await
    };
    let done = "{\"status\":0,\"message\":\"\",\"data\":\"success\"}\n";
    assert_eq!(mark("s", "g1").await, done);
    assert_eq!(mark("s", "g1").await, done, "twice is no error");
    node.ask_until(producer, |answer| answer.names() == ["g2"])
        .await;
    assert_eq!(node.ask(consumer).await.names(), ["g1", "g2"]);
    // With all groups marked Java producers go on as before: whoever does that is told.
    let all = mark("*", "g2").await;
    assert!(
        all.starts_with("{\"status\":0,\"message\":\"\"") || all.contains("warning"),
        "{all}"
    );
    let last = mark("s", "g2").await;
    assert!(
        last.contains("every group of s is marked readonly") && last.contains("\"success\""),
        "{last}"
    );
    assert!(mark("*", "g1").await.contains("no group is left"));
    assert!(mark("*", "nobody").await.contains("never online"));
    let listed = node.manage(&[("action", "ListReadonly")]).await;
    assert!(
        listed.contains("{\"subject\":\"s\",\"brokerGroup\":\"g1\"}"),
        "{listed}"
    );
    assert_eq!(listed.matches("\"subject\":\"*\"").count(), 3, "{listed}");
    let page = [("action", "ListReadonly"), ("after", "*"), ("limit", "1")];
    let page = node.manage(&page).await;
    assert_eq!(page.matches("\"subject\":\"s\"").count(), 2, "{page}");
    // One for all subjects and one for this subject are two marks.
    assert_eq!(unmark("*", "g1").await, done);
    assert_eq!(unmark("*", "g1").await, done, "twice is no error");
    assert_eq!(unmark("*", "g2").await, done);
    assert_eq!(unmark("s", "g2").await, done);
    node.ask_until(producer, |answer| answer.names() == ["g2"])
        .await;
    assert_eq!(unmark("s", "g1").await, done);
    node.ask_until(producer, |answer| answer.names() == ["g1", "g2"])
        .await;
    for (subject, group) in [
        ("", "g1"),
        ("s", ""),
        ("a b", "g1"),
        ("s", "a-name-that-is-longer-than-any-group"),
    ] {
        let reply = mark(subject, group).await;
        assert!(reply.starts_with("{\"status\":-1,"), "{reply}");
    }
    node.stop().await;
}
