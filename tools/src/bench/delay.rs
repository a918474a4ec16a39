//! `delay`: messages for later, from their senders through delay servers to their receivers.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use qmq_protocol::command::client_register::ClientType;

use crate::bench::discover;
use crate::bench::plan::{DelayPlan, Receiving};
use crate::bench::receiver::{Consumed, Shared};
use crate::bench::report::Report;
use crate::bench::run::{Session, Watched, join, put_check, put_latency, put_sent};
use crate::bench::sender::{Delivery, SendPlan, Sent};
use crate::bench::server::Process;
use crate::bench::timeline::{Nanos, SECOND, Window, nanos};

/// How long sending all of `--messages` may take.
const FILL_WAIT: Duration = Duration::from_secs(3600);

/// The delay servers that take the messages.
///
/// # Errors
/// When nobody can be asked, or there are none.
pub(crate) async fn servers(session: &Session, plan: &DelayPlan) -> Result<Vec<SocketAddr>> {
    let Some(metaserver) = &plan.common.metaserver else {
        return plan.named_delay_servers();
    };
    let subjects = session.content.subjects();
    discover::routed(metaserver, subjects, ClientType::DelayProducer).await
}

/// Sends to these delay servers and receives from the brokers of the session.
///
/// # Errors
/// When the run could not be made.
pub(crate) fn run(
    mut session: Session,
    servers: Vec<SocketAddr>,
    plan: &DelayPlan,
) -> Result<Report> {
    if plan.common.server_pid.is_none() {
        // Told is the use of the delay server, not of the broker behind it.
        session.process = servers.iter().copied().find_map(Process::of_address);
    }
    let send = send_plan(&session, servers, plan);
    let due = due_window(&send, plan);
    let Receiving {
        consumers, pull, ..
    } = plan.receiving;
    let receive = session.receive_plan(&plan.common, consumers, pull, due);
    let shared = Shared::new(session.groups.len());
    let receivers = session.start_receivers(&receive, &shared);
    let (sent, watched) = send_all(&session, &send, plan);
    // Also after a failure: receivers must not wait for messages that do not come. Until the last
    // one is due, silence means nothing.
    let expected = sent.as_ref().map_or(0, |sent| sent.acknowledged.count());
    let last_due = if expected > 0 { due.end } else { 0 };
    shared.finish(expected, last_due.max(session.timeline.now()));
    let none = Consumed::new(session.groups.len());
    let consumed = join(receivers, none, Consumed::absorb);
    let (sent, consumed) = (sent?, consumed?);
    let mut report = session.report("delay", plan, watched.seconds)?;
    report.servers = send.servers.iter().map(ToString::to_string).collect();
    report.messages = sent.in_window;
    watched.put(&session, &mut report);
    put_sent(&mut report, &sent);
    put_latency(&mut report, "lateness", &consumed.delivery);
    put_check(&mut report, &session, &sent, &consumed);
    if consumed.early > 0 {
        let fault = format!("{} messages came before they were due", consumed.early);
        report.faults.push(fault);
    }
    Ok(report)
}

fn send_plan(session: &Session, servers: Vec<SocketAddr>, plan: &DelayPlan) -> SendPlan {
    let delay = nanos(Duration::from_secs_f64(plan.delay));
    let send = SendPlan {
        servers,
        delivery: Delivery::After(delay),
        ..session.send_plan(&plan.sending)
    };
    let Some(messages) = plan.messages else {
        return send;
    };
    // Whole requests only: a few messages more than asked for.
    let (lanes, batch) = (send.lanes as u64, send.batch as u64);
    let per_lane = messages.div_ceil(lanes).next_multiple_of(batch);
    let within = Duration::from_secs_f64(plan.within);
    SendPlan {
        limit: Some(per_lane),
        delivery: Delivery::Spread {
            begin: send.start + delay,
            period: nanos(within) as f64 / (per_lane * lanes) as f64,
        },
        window: Window::after(send.start, Duration::ZERO, FILL_WAIT),
        ..send
    }
}

/// When the messages are due whose lateness is told.
fn due_window(send: &SendPlan, plan: &DelayPlan) -> Window {
    match send.delivery {
        Delivery::Spread { begin, .. } => Window {
            begin,
            // The last ones may be a millisecond later than the time divides evenly.
            end: begin + nanos(Duration::from_secs_f64(plan.within)) + SECOND / 100,
        },
        Delivery::After(delay) => shifted(send.window, delay),
        Delivery::Now => send.window,
    }
}

fn shifted(window: Window, by: Nanos) -> Window {
    Window {
        begin: window.begin + by,
        end: window.end + by,
    }
}

/// Sends, and tells what was used meanwhile: within the window, or until all of a number is sent.
fn send_all(session: &Session, send: &SendPlan, plan: &DelayPlan) -> (Result<Sent>, Watched) {
    let senders = session.start_senders(send);
    if plan.messages.is_none() {
        let watched = session.watch(send.window);
        return (join(senders, Sent::new(), Sent::absorb), watched);
    }
    session.sleep_until(send.start);
    let begin = session.samples();
    let sent = join(senders, Sent::new(), Sent::absorb);
    let took = session.timeline.now().saturating_sub(send.start).max(1);
    let watched = Watched {
        begin,
        end: session.samples(),
        seconds: took as f64 / SECOND as f64,
    };
    (sent, watched)
}
