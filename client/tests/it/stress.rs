//! Everything at once on several threads, with brokers that misbehave at random.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Duration;

use qmq_client::{Consumer, Message, Producer};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::fake::broker::{FakeBroker, Script};
use crate::fake::meta::FakeMeta;
use crate::fake::{PATIENCE, wait_for};

const SUBJECT: &str = "order.changed";
const MESSAGES: usize = 1500;

/// Up to one in four requests goes wrong, in the first few hundred of each kind.
fn misbehave(broker: &FakeBroker, random: &mut SmallRng) {
    let mut scripts = |bad: &[Script]| -> Vec<Script> {
        let mut next = || match random.random_range(0..4 * bad.len()) {
            i if i < bad.len() => bad[i].clone(),
            _ => Script::Serve,
        };
        (0..100).map(|_| next()).collect()
    };
    let sends = scripts(&[Script::Code(52), Script::Code(51), Script::Silence]);
    let pulls = scripts(&[
        Script::Code(51),
        Script::Code(4),
        Script::Lose,
        Script::Skip(7),
    ]);
    let acks = scripts(&[Script::Code(51)]);
    // Few, because each costs a pause.
    broker.script_sends(sends);
    broker.script_pulls(pulls.into_iter().take(25));
    broker.script_acks(acks.into_iter().take(20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_confirmed_is_consumed() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let (one, two) = (FakeBroker::start().await, FakeBroker::start().await);
    [&one, &two]
        .into_iter()
        .for_each(|broker| misbehave(broker, &mut random));
    let meta = FakeMeta::start(&[("one", one.address()), ("two", two.address())]).await;

    let consumer = Consumer::builder(&meta.url, "app")
        .client_id("stress@@1")
        .pull_batch(20)
        .pull_wait(Duration::from_millis(200))
        .pull_allowance(Duration::from_millis(200))
        .ack_linger(Duration::from_millis(5))
        .subscribe(SUBJECT, "billing")
        .unwrap();
    let consumed = watch::Sender::new(HashSet::new());
    let handler = {
        let consumed = consumed.clone();
        let flaky = Mutex::new(SmallRng::seed_from_u64(seed));
        move |message: Message| {
            let fails = flaky.lock().unwrap().random_bool(0.01);
            if !fails {
                consumed.send_modify(|consumed| {
                    consumed.insert(message.message_id);
                });
            }
            async move { if fails { Err("flaky") } else { Ok(()) } }
        }
    };
    let run = tokio::spawn({
        let consumer = consumer.clone();
        async move { consumer.run(handler, 8).await }
    });

    let producer = Producer::builder(&meta.url, "shop")
        .attempts_max(20)
        .request_timeout(Duration::from_millis(200))
        .queue_max(300)
        .build()
        .unwrap();
    let mut sends = JoinSet::new();
    for _ in 0..MESSAGES {
        let (producer, message) = (producer.clone(), producer.message(SUBJECT));
        sends.spawn(async move {
            let id = message.message_id.clone();
            producer.send(message).await.map(|()| id)
        });
    }
    let confirmed: HashSet<String> = sends
        .join_all()
        .await
        .into_iter()
        .map(|sent| sent.unwrap())
        .collect();
    assert_eq!(confirmed.len(), MESSAGES, "ids are unique");
    producer.close(PATIENCE).await.unwrap();

    for broker in [&one, &two] {
        wait_for(&broker.state, |state| {
            state.is_consumed(SUBJECT).then_some(())
        })
        .await;
    }
    // What failed comes again by the retry subject, of either broker.
    wait_for(&consumed, |consumed| {
        confirmed.is_subset(consumed).then_some(())
    })
    .await;
    consumer.close(PATIENCE).await.unwrap();
    run.await.unwrap();
}
