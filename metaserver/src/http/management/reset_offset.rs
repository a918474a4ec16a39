//! `ResetOffset`: moves a consumer group of a subject on every broker that has messages of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use qmq_model::names::SubjectKind;
use qmq_protocol::command::consume_manage::{ConsumeFromWhere, ConsumeManageRequest};
use qmq_protocol::{CommandCode, Encode, ResultCode};
use qmq_remoting::{Client, ClientConfig};
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::action::{Action, Call};
use crate::db::DbResult;
use crate::http::openapi::{Shape, parameter, reasons, sentence};
use crate::http::reply::Reply;

pub(super) static ACTION: Action = Action {
    name: "ResetOffset",
    about: "Moves a consumer group on every broker of a subject.",
    reply: |_| Shape::EnvelopedEither(sentence(), reasons()),
    needs_token: true,
    parameters: &[
        parameter("subject", "Subject"),
        parameter("group", "Consumer group"),
        parameter("code", "1 latest, 2 earliest, 3 from `time`").number(),
        parameter("time", "Milliseconds since 1970, with code 3")
            .number()
            .optional(),
    ],
    run: |call| Box::pin(run(call)),
};

/// Longest wait for a broker.
const BROKER_WAIT: Duration = Duration::from_secs(2);
/// Longest names a request can carry are longer; these are never right.
const NAME_BYTES_MAX: usize = 255;

/// What every broker is asked.
#[derive(Debug)]
struct Reset {
    subject: String,
    group: String,
    from: ConsumeFromWhere,
}

async fn run(call: &Call) -> Reply {
    let reset = match check(call) {
        Ok(reset) => Arc::new(reset),
        Err(refusal) => return Reply::refused(refusal),
    };
    let masters = match masters(call, &reset.subject).await {
        Ok(masters) if masters.is_empty() => {
            return Reply::refused(format!("subject {:?} has no route", reset.subject));
        }
        Ok(masters) => masters,
        Err(error) => return call.failed(&error),
    };
    let refused = ask_all(&reset, masters).await;
    if refused.is_empty() {
        info!(subject = reset.subject, group = reset.group, from = ?reset.from, "group moved");
        return Reply::done("success");
    }
    let named: Vec<_> = refused
        .iter()
        .map(|(g, why)| format!("{g}: {why}"))
        .collect();
    let message = format!("not moved on {}", named.join("; "));
    Reply::refused_with(message, refused)
}

/// 1 is behind the newest message, 2 the oldest, 3, our own, the first one stored at `time`, ms.
fn check(call: &Call) -> Result<Reset, String> {
    let from = match call.number("code")? {
        1 => ConsumeFromWhere::Latest,
        2 => ConsumeFromWhere::Earliest,
        3 => ConsumeFromWhere::Time(call.number("time")?),
        code => {
            return Err(format!(
                "code {code} is unknown: 1 latest, 2 earliest, 3 time"
            ));
        }
    };
    let (subject, group) = (call.text("subject"), call.text("group"));
    for (key, name) in [("subject", subject), ("group", group)] {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(format!("{key} is empty or too long"));
        }
    }
    let (subject, group) = (subject.to_owned(), group.to_owned());
    Ok(Reset {
        subject,
        group,
        from,
    })
}

/// The groups of the subject and the addresses of their masters, if known.
async fn masters(call: &Call, subject: &str) -> DbResult<Vec<(String, Option<String>)>> {
    let real = SubjectKind::real_subject(subject);
    let route = match call.state.db.route(real).await {
        Ok(route) => route,
        // What is in memory was right a moment ago.
        Err(error) => match call.state.snapshots.route(real) {
            Some(route) => Some(route.as_ref().clone()),
            None => return Err(error),
        },
    };
    let snapshot = call.state.snapshots.current();
    let groups = route.map_or_else(Vec::new, |route| route.groups);
    let with_master = |name: String| {
        let group = snapshot.view.groups.get(&name);
        let master = group.map(|group| group.master.clone());
        (name, master)
    };
    Ok(groups.into_iter().map(with_master).collect())
}

/// Asks all at once; each broker that did not do it, and why not.
async fn ask_all(
    reset: &Arc<Reset>,
    masters: Vec<(String, Option<String>)>,
) -> BTreeMap<String, String> {
    let mut refused = BTreeMap::new();
    let mut asked = JoinSet::new();
    for (name, master) in masters {
        match master {
            Some(master) => {
                let reset = Arc::clone(reset);
                asked.spawn(async move { (name, ask(&master, &reset).await) });
            }
            None => drop(refused.insert(name, "the group is unknown".to_owned())),
        }
    }
    while let Some(answer) = asked.join_next().await {
        if let Ok((name, Err(reason))) = answer {
            warn!(group = name, reason, "broker did not move a consumer group");
            refused.insert(name, reason);
        }
    }
    refused
}

async fn ask(master: &str, reset: &Reset) -> Result<(), String> {
    let config = ClientConfig {
        connect_timeout: BROKER_WAIT,
        ..ClientConfig::default()
    };
    let client = Client::connect(master, config).await;
    let client = client.map_err(|error| error.to_string())?;
    let Reset {
        subject,
        group,
        from,
    } = reset;
    let request = ConsumeManageRequest {
        subject,
        group,
        from: *from,
    };
    let write = |out: &mut BytesMut| request.encode(0, out);
    let reply = client.request(CommandCode::ConsumeManage, write, BROKER_WAIT);
    let reply = reply.await.map_err(|error| error.to_string())?;
    match reply.header.code {
        code if code == ResultCode::Success.code() => Ok(()),
        code => Err(format!("the broker answered {code}")),
    }
}
