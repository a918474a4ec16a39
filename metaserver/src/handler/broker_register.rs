//! BROKER_REGISTER: masters report that they are online, alive or going.
//!
//! A group and its address must be in table `broker`: whoever could report another address would
//! get the messages of the group. The first address of a group is taken as it is reported, because
//! operators may have entered one that only they use; a later change must match the table.

use std::net::SocketAddrV4;

use qmq_model::{BrokerRole, BrokerState};
use qmq_protocol::command::broker_register::{BrokerRegisterRequest, BrokerRequestType};
use qmq_protocol::{Decode, ResultCode};
use qmq_remoting::{Request, Responder};
use tracing::{debug, info, warn};

use super::refuse_body;
use crate::db::broker::GROUP_MAX;
use crate::db::broker_group::{GroupKind, GroupRow};
use crate::db::{DbError, DbResult};
use crate::metrics::BrokerReport;
use crate::state::State;

/// Why a report was not taken. Answered with code 51.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    /// A number that stands for nothing.
    #[error("unknown {0}")]
    Unknown(&'static str),
    /// Longer than its column, or empty.
    #[error("the name of the group is empty or longer than {GROUP_MAX} characters")]
    Name,
    /// Clients split addresses at the first colon.
    #[error("the address is no dotted IPv4 address and port")]
    Address,
    /// No master of this group was ever added.
    #[error("no such broker is registered: add it with AddBroker, or set broker.register.open")]
    Unregistered,
    /// The group has another address, and this one is not in table `broker`.
    #[error(
        "the group is at {current}, and no broker of it is registered at the new address: \
         correct the entry with ReplaceBroker, or set broker.register.open"
    )]
    Elsewhere {
        /// Where clients are sent now.
        current: String,
    },
    /// The group is for realtime messages and the broker is not, or the other way round.
    #[error("the group is of another kind")]
    Kind,
    /// The database did not do it.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Answers with success or 51.
pub(super) async fn handle(state: &State, request: &Request, responder: Responder) {
    let report = match BrokerRegisterRequest::decode(request.header.version, &request.body) {
        Ok(report) => report,
        Err(error) => return refuse_body(&request.header, &error, responder),
    };
    match take(state, &report).await {
        Ok(()) => responder.send_empty(ResultCode::Success),
        Err(refusal) => {
            warn!(
                group = report.group_name, address = report.broker_address, peer = %request.peer,
                what = report.request_type_code, role = report.role_code, %refusal,
                "report of a broker refused"
            );
            responder.send_empty(ResultCode::BrokerError);
        }
    }
}

async fn take(state: &State, report: &BrokerRegisterRequest<'_>) -> Result<(), Refusal> {
    // Slaves and backups are not tracked, whatever else they send.
    if report.role().is_some_and(|role| !role.is_master()) {
        return Ok(());
    }
    let role = report.role().ok_or(Refusal::Unknown("role"))?;
    let what = report
        .request_type()
        .ok_or(Refusal::Unknown("request type"))?;
    let broker = Broker {
        state,
        report,
        role,
    };
    match what {
        BrokerRequestType::Heartbeat => {
            let reported = report.state().ok_or(Refusal::Unknown("state"))?;
            broker.heartbeat(reported).await?;
        }
        BrokerRequestType::Online => broker.go(BrokerState::ReadWrite).await?,
        BrokerRequestType::Offline => broker.go(BrokerState::Away).await?,
    }
    // Only groups that exist: anybody could report any number of others.
    if state
        .snapshots
        .current()
        .view
        .groups
        .contains_key(report.group_name)
    {
        let group = report.group_name.to_owned();
        let label = BrokerReport {
            groupName: group,
            requestType: what.code(),
        };
        state.counters.broker_reports.get_or_create(&label).inc();
    }
    Ok(())
}

/// A report of a master.
struct Broker<'a> {
    state: &'a State,
    report: &'a BrokerRegisterRequest<'a>,
    role: BrokerRole,
}

impl Broker<'_> {
    /// A heartbeat that says nothing new touches no database. One of a group without a row creates
    /// it: the row, or the ONLINE that should have made it, was lost.
    async fn heartbeat(&self, reported: BrokerState) -> Result<(), Refusal> {
        let group = self.report.group_name;
        let is_known =
            |row: &GroupRow| row.state == reported && row.master == self.report.broker_address;
        let snapshot = self.state.snapshots.current();
        if snapshot.view.groups.get(group).is_some_and(is_known) {
            self.state.liveness.heard(group);
            return Ok(());
        }
        let row = self.state.db.group(group).await?;
        match &row {
            Some(row) if is_known(row) => {
                self.state.liveness.heard(group);
                self.state.snapshots.refresh_soon();
                return Ok(());
            }
            // Not online yet, and nothing says it was: there is nothing to change.
            None if reported == BrokerState::Away => return Ok(()),
            Some(row)
                if reported == BrokerState::Away && row.master != self.report.broker_address =>
            {
                debug!(
                    group,
                    "a broker starts at another address than its group has"
                );
                return Ok(());
            }
            _ => {}
        }
        self.admit(row.as_ref()).await?;
        Ok(self.put(reported).await?)
    }

    /// ONLINE or OFFLINE.
    async fn go(&self, state: BrokerState) -> Result<(), Refusal> {
        let row = self.state.db.group(self.report.group_name).await?;
        self.admit(row.as_ref()).await?;
        Ok(self.put(state).await?)
    }

    async fn put(&self, state: BrokerState) -> DbResult<()> {
        let BrokerRegisterRequest {
            group_name,
            broker_address,
            ..
        } = self.report;
        if state != BrokerState::Away {
            self.state.liveness.comes_back(group_name).await?;
        }
        self.state
            .db
            .put_group(group_name, self.kind(), broker_address, state)
            .await?;
        if state == BrokerState::Away {
            self.state.liveness.goes(group_name).await?;
        }
        info!(
            group = group_name,
            address = broker_address,
            state = state.name(),
            "group changed"
        );
        // The next heartbeat is compared with what is in memory.
        self.state.snapshots.refreshed().await;
        Ok(())
    }

    /// Whether this broker may speak for the group whose row is `row`.
    async fn admit(&self, row: Option<&GroupRow>) -> Result<(), Refusal> {
        let BrokerRegisterRequest {
            group_name,
            broker_address,
            ..
        } = self.report;
        if group_name.is_empty() || group_name.chars().count() > GROUP_MAX {
            return Err(Refusal::Name);
        }
        if broker_address.parse::<SocketAddrV4>().is_err() {
            return Err(Refusal::Address);
        }
        if row.is_some_and(|row| row.kind != self.kind()) {
            return Err(Refusal::Kind);
        }
        let has_moved = row.is_some_and(|row| row.master != *broker_address);
        if self.state.open_register || (row.is_some() && !has_moved) {
            return Ok(());
        }
        let brokers = self.state.db.brokers_of(group_name).await?;
        let mut masters = brokers
            .iter()
            .filter(|broker| broker.role == self.role)
            .peekable();
        let is_registered = masters.peek().is_some();
        let is_at_home = masters.any(|broker| broker.serve_address() == *broker_address);
        match row {
            _ if is_at_home => Ok(()),
            Some(row) => Err(Refusal::Elsewhere {
                current: row.master.clone(),
            }),
            None if is_registered => {
                warn!(
                    group = group_name,
                    address = broker_address,
                    "a group reports another address than was entered with AddBroker"
                );
                Ok(())
            }
            None => Err(Refusal::Unregistered),
        }
    }

    fn kind(&self) -> GroupKind {
        if self.role.is_delay() {
            GroupKind::Delay
        } else {
            GroupKind::Normal
        }
    }
}
