//! CLIENT_REGISTER: which brokers serve a subject.
//!
//! Most questions are answered from memory on the spot. One that first needs an assignment, or for
//! which no group is there yet, gets a task of its own and a bounded wait.
//!
//! A producer whose subject is illegal is refused, and told a group all the same: Java producers
//! wait for their first route without end, while a broker tells them what is wrong.

use std::sync::Arc;
use std::time::Duration;

use qmq_model::BrokerGroup;
use qmq_model::names::{SubjectKind, check_subject};
use qmq_protocol::command::client_register::{
    ClientRegisterRequest, ClientRegisterResponse, ClientRequestType, ClientType, OnOfflineState,
};
use qmq_protocol::frame::is_legacy;
use qmq_protocol::{Decode, ResultCode};
use qmq_remoting::{Request, Responder};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::refuse_body;
use crate::db::broker_group::GroupRow;
use crate::db::client_meta_info::ClientRow;
use crate::metrics::ClientLabel;
use crate::routing::Route;
use crate::state::State;

/// Pause before a route that could not be written is written again.
const WRITE_AGAIN: Duration = Duration::from_millis(100);
/// How much longer a client waits when its route could not be written although the database
/// answers: with many new subjects at once it is only slow.
const SLOW_DATABASE_WAIT: Duration = Duration::from_secs(60);

/// Answers at once or starts the task that will.
pub(super) fn handle(state: &Arc<State>, request: Request, responder: Responder) {
    let version = request.header.version;
    let question = match ClientRegisterRequest::decode(version, &request.body) {
        Ok(question) => question,
        Err(error) if is_legacy(version) => {
            return debug!(peer = %request.peer, %error, "legacy client is left unanswered");
        }
        Err(error) => return refuse_body(&request.header, &error, responder),
    };
    if let Err(error) = check_subject(question.subject) {
        debug!(subject = question.subject, peer = %request.peer, %error, "subject refused");
        return state.refuse(&question, responder);
    }
    let subject = SubjectKind::real_subject(question.subject);
    if state.register_log.is_on(subject) {
        info!(
            subject = question.subject, group = question.consumer_group, id = question.client_id,
            app = question.app_code, client_type = ?question.client_type(), peer = %request.peer,
            "client asks for its brokers"
        );
    }
    let label = ClientLabel {
        clientTypeCode: i32::from(question.client_type().code()),
    };
    state.counters.client_registers.get_or_create(&label).inc();
    let is_online = question.request_type == ClientRequestType::Online;
    let row = client_row(&question);
    state.clients.note(row, is_online, Instant::now());
    let route = state.snapshots.route(subject);
    let must_wait = is_assigned(question.client_type()) && state.assigner.is_unsettled(subject)
        || state.lacks_groups(&question, route.as_deref());
    if must_wait {
        if let Ok(permit) = Arc::clone(&state.waiting).try_acquire_owned() {
            let task = answer_later(Arc::clone(state), request, responder, permit);
            state.tasks.spawn(task);
            return;
        }
        warn!("too many clients wait for a route: one is answered with what is known");
    }
    state.answer(&question, route.as_deref(), responder);
}

/// Assigns groups and, while there are none for the client, waits for some.
async fn answer_later(
    state: Arc<State>,
    request: Request,
    responder: Responder,
    _permit: OwnedSemaphorePermit,
) {
    let version = request.header.version;
    let Ok(question) = ClientRegisterRequest::decode(version, &request.body) else {
        // It was decoded a moment ago.
        return responder.send_empty(ResultCode::BrokerError);
    };
    let subject = SubjectKind::real_subject(question.subject);
    let until = Instant::now() + state.first_route_wait;
    let mut changes = state.snapshots.changes();
    loop {
        changes.mark_unchanged();
        let is_over = Instant::now() >= until || !state.expects_answer(&responder);
        let route = if is_assigned(question.client_type()) {
            match state.assigner.settle(subject).await {
                Ok(route) => route,
                Err(error) => {
                    let is_slow =
                        state.snapshots.is_healthy() && Instant::now() < until + SLOW_DATABASE_WAIT;
                    if is_over && !(is_slow && state.expects_answer(&responder)) {
                        // An empty list would stop a consumer; an error code is ignored by all.
                        warn!(subject, %error, "nothing is known about a subject");
                        state.counters.unknown_answers.inc();
                        return answer_unknown_route(responder);
                    }
                    // A Java consumer asks only once: further tries are ours.
                    debug!(subject, %error, "no route yet, trying again");
                    tokio::time::sleep(WRITE_AGAIN).await;
                    continue;
                }
            }
        } else {
            None
        };
        if is_over || !state.lacks_groups(&question, route.as_deref()) {
            return state.answer(&question, route.as_deref(), responder);
        }
        tokio::select! {
            _ = changes.changed() => {}
            () = tokio::time::sleep_until(until) => {}
            () = state.stop.cancelled() => {}
        }
    }
}

/// Nothing is known about the subject and nothing can be found out. Legacy clients get over silence
/// and over no code but success.
fn answer_unknown_route(responder: Responder) {
    if !is_legacy(responder.header().version) {
        responder.send_empty(ResultCode::BrokerError);
    }
}

/// Sends a response in the client's dialect, or nothing when it could not bear it.
fn send(response: &ClientRegisterResponse<'_>, responder: Responder) {
    let version = responder.header().version;
    if response.may_be_sent_to(version) {
        responder.send(ResultCode::Success.code(), |out| {
            response.encode_for_version(version, out);
        });
    }
}

/// Whether clients of this type are served by the route of their subject.
fn is_assigned(client_type: ClientType) -> bool {
    client_type != ClientType::DelayProducer
}

fn client_row(question: &ClientRegisterRequest<'_>) -> ClientRow {
    ClientRow {
        subject: question.subject.to_owned(),
        client_type: question.echoed_client_type(),
        consumer_group: question.consumer_group.to_owned(),
        client_id: question.client_id.to_owned(),
        app_code: question.app_code.to_owned(),
        room: question.ldc.to_owned(),
    }
}

impl State {
    /// Whether there is still somebody to wait for, and time to.
    fn expects_answer(&self, responder: &Responder) -> bool {
        !self.stop.is_cancelled() && responder.is_connected()
    }

    /// Whether there is no group at all for the client, leaving readonly marks aside: those are
    /// not going to vanish while it waits.
    fn lacks_groups(&self, question: &ClientRegisterRequest<'_>, route: Option<&Route>) -> bool {
        let subject = SubjectKind::real_subject(question.subject);
        let client_type = match question.client_type() {
            ClientType::DelayProducer => ClientType::DelayProducer,
            _ => ClientType::Consumer,
        };
        let snapshot = self.snapshots.current();
        snapshot
            .view
            .answer(subject, route, client_type, &mut rand::rng())
            .is_empty()
    }

    fn answer(
        &self,
        question: &ClientRegisterRequest<'_>,
        route: Option<&Route>,
        responder: Responder,
    ) {
        let subject = SubjectKind::real_subject(question.subject);
        let snapshot = self.snapshots.current();
        let groups = snapshot
            .view
            .answer(subject, route, question.client_type(), &mut rand::rng());
        if groups.is_empty() {
            self.counters.empty_answers.inc();
        }
        let is_offline = snapshot.is_offline(question.client_id, subject, question.consumer_group);
        let response = ClientRegisterResponse {
            timestamp_ms: snapshot.time_ms,
            subject: question.subject,
            consumer_group: question.consumer_group,
            state: if is_offline {
                OnOfflineState::Offline
            } else {
                OnOfflineState::Online
            },
            client_type_code: question.echoed_client_type(),
            groups: groups.into_iter().map(on_the_wire).collect(),
        };
        send(&response, responder);
    }

    /// Nothing is assigned or noted for a subject that is illegal.
    fn refuse(&self, question: &ClientRegisterRequest<'_>, responder: Responder) {
        self.counters.client_refused.inc();
        let snapshot = self.snapshots.current();
        let group = snapshot.view.for_illegal_subject(question.client_type());
        let refusal = ClientRegisterResponse {
            groups: group.into_iter().map(on_the_wire).collect(),
            ..ClientRegisterResponse::refusal(question)
        };
        send(&refusal, responder);
    }
}

fn on_the_wire(group: &GroupRow) -> BrokerGroup {
    BrokerGroup {
        name: group.name.clone(),
        master: group.master.clone(),
        updated_ms: group.updated_ms,
        state: group.state,
    }
}
