//! Messages for later: they go to a delay server, with a time that is decided once.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use qmq_client::{Producer, SendErrorKind};
use qmq_model::message::property;
use qmq_model::{Clock, ManualClock, Message, UnixMillis};

use crate::fake::broker::{FakeBroker, Script};
use crate::fake::meta::{FakeMeta, Mode, group};
use crate::fake::wait_for;

const SUBJECT: &str = "order.unpaid";
const DELAY_PRODUCER: i32 = 4;

/// A broker, delay servers, and a producer whose clock stands still.
struct World {
    meta: FakeMeta,
    broker: FakeBroker,
    delay_servers: Vec<FakeBroker>,
    clock: ManualClock,
    producer: Producer,
}

impl World {
    async fn start(delay_servers: usize) -> Self {
        let broker = FakeBroker::start().await;
        let meta = FakeMeta::start(&[("group-1", broker.address())]).await;
        let mut servers = Vec::new();
        for _ in 0..delay_servers {
            servers.push(FakeBroker::start().await);
        }
        let groups = servers.iter().enumerate();
        let groups = groups.map(|(n, server)| group(&format!("delay-{n}"), server.address()));
        let groups = groups.collect();
        meta.state
            .send_modify(|state| state.delay_groups = Some(groups));
        let clock = ManualClock::at(UnixMillis(1_795_159_757_436));
        let producer = Producer::builder(&meta.url, "shop")
            .client_id("it@@1")
            .clock(Arc::new(clock.clone()))
            .build()
            .unwrap();
        Self {
            meta,
            broker,
            delay_servers: servers,
            clock,
            producer,
        }
    }

    fn message(&self, id: &str) -> Message {
        let mut message = self.producer.message(SUBJECT);
        id.clone_into(&mut message.message_id);
        message
    }

    /// Ids that delay servers were sent, however often.
    fn sent_ids(&self) -> Vec<String> {
        let servers = self.delay_servers.iter();
        servers.flat_map(FakeBroker::sent_ids).collect()
    }
}

#[tokio::test]
async fn a_delay_and_a_time_are_in_the_bytes_that_arrive() {
    let world = World::start(1).await;
    let mut delayed = world.message("delayed");
    delayed.delay(Duration::from_secs(1800));
    let mut scheduled = world.message("scheduled");
    scheduled.at(UNIX_EPOCH + Duration::from_millis(1_800_000_000_001));
    let now = world.clock.now();
    for message in [delayed, scheduled, world.message("now")] {
        world.producer.send(message).await.unwrap();
    }
    let stored = world.delay_servers[0].stored(SUBJECT);
    let due = [
        now.plus(Duration::from_secs(1800)),
        UnixMillis(1_800_000_000_001),
    ];
    assert_eq!(stored.len(), due.len());
    for (message, due) in stored.iter().zip(due) {
        assert_eq!(message.due, Some(due), "bit and second time");
        assert_eq!(message.time(property::SCHEDULE_TIME), Ok(Some(due)));
    }
    assert_eq!(world.broker.sent_ids(), ["now"]);
}

/// A time that passes between two decisions must not make one of them differ.
#[tokio::test]
async fn a_time_that_passes_on_the_way_changes_nothing() {
    let world = World::start(1).await;
    // No route yet: the message is decided on and has to wait.
    world.meta.set_mode(Mode::Fail);
    let mut message = world.message("soon");
    message.delay(Duration::from_millis(1));
    let due = message.due;
    let sent = tokio::spawn({
        let producer = world.producer.clone();
        async move { producer.send(message).await }
    });
    let asked = |type_code| {
        move |state: &crate::fake::meta::MetaState| {
            let mut types = state.registrations.iter().map(|asked| asked.client_type);
            types.any(|seen| seen == type_code).then_some(())
        }
    };
    wait_for(&world.meta.state, asked(DELAY_PRODUCER)).await;
    world.clock.advance(Duration::from_secs(60));
    world.meta.set_mode(Mode::Normal);
    sent.await.unwrap().unwrap();
    assert_eq!(world.delay_servers[0].stored(SUBJECT)[0].due, due);
    assert!(world.broker.sent_ids().is_empty());
}

#[tokio::test]
async fn a_delay_server_that_takes_nothing_is_passed_over() {
    for refusal in [Script::Code(52), Script::Code(3)] {
        let world = World::start(2).await;
        for server in &world.delay_servers {
            server.script_sends([refusal.clone()]);
        }
        let mut message = world.message("m");
        message.delay(Duration::from_secs(60));
        world.producer.send(message).await.unwrap();
        // Whichever was asked first refused; the other one refused too, so there was a third try.
        assert_eq!(world.sent_ids(), ["m", "m", "m"], "{refusal:?}");
        let stored = world.delay_servers.iter();
        let stored: usize = stored.map(|server| server.stored(SUBJECT).len()).sum();
        assert_eq!(stored, 1, "{refusal:?}");
    }
}

/// Two years and more: refused with a reason instead of shortened, and not tried again.
#[tokio::test]
async fn a_time_that_is_refused_is_an_error_with_the_reason() {
    let world = World::start(1).await;
    let server = &world.delay_servers[0];
    server.state.send_modify(|state| {
        state.fail_once.insert("far".to_owned(), 5);
    });
    let mut message = world.message("far");
    message.delay(Duration::from_secs(3 * 365 * 86_400));
    let error = world.producer.send(message).await.unwrap_err();
    assert_eq!(error.kind(), SendErrorKind::Blocked);
    assert!(error.to_string().contains("scripted"), "{error}");
    assert_eq!(world.sent_ids(), ["far"]);
}

#[tokio::test]
async fn an_unanswered_delayed_send_is_repeated_to_the_same_delay_server() {
    let world = World::start(2).await;
    for server in &world.delay_servers {
        server.script_sends([Script::Code(51), Script::Code(51)]);
    }
    let mut message = world.message("m");
    message.delay(Duration::from_secs(60));
    world.producer.send(message).await.unwrap();
    let sends = world.delay_servers.iter();
    let mut sends: Vec<_> = sends.map(|server| server.sent_ids().len()).collect();
    sends.sort_unstable();
    assert_eq!(sends, [0, 3], "the other one would hold a second copy");
}
