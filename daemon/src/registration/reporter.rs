//! The task that reports a broker's state.

use std::time::Duration;

use qmq_model::{BrokerRole, BrokerState};
use qmq_protocol::CommandCode;
use qmq_protocol::command::broker_register::{BrokerRegisterRequest, BrokerRequestType};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::metaserver::Metaserver;
use super::{RegistrationError, Timing};

/// How often OFFLINE is tried: a metaserver that is gone must not hold up the stop for long.
const OFFLINE_ATTEMPTS: u32 = 3;

pub(super) struct Reporter {
    pub(super) metaserver: Metaserver,
    pub(super) group: String,
    pub(super) role: BrokerRole,
    pub(super) address: String,
    pub(super) state: watch::Receiver<BrokerState>,
    /// Set once ONLINE has been confirmed.
    pub(super) confirm: watch::Sender<bool>,
    pub(super) timing: Timing,
}

impl Reporter {
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut retry = self.timing.retry;
        loop {
            let state = *self.state.borrow_and_update();
            let pause = if self.report_state(state).await {
                retry = self.timing.retry;
                self.timing.heartbeat
            } else {
                let pause = retry;
                retry = (retry * 2).min(self.timing.heartbeat);
                pause
            };
            if !self.sleep(pause, &stop).await {
                break;
            }
        }
        self.take_leave().await;
    }

    /// Sleeps until the next report is due; `false` means stop.
    async fn sleep(&mut self, pause: Duration, stop: &CancellationToken) -> bool {
        tokio::select! {
            () = stop.cancelled() => false,
            changed = self.state.changed() => changed.is_ok(),
            () = tokio::time::sleep(pause) => true,
        }
    }

    /// Whether everything there was to say has been heard.
    async fn report_state(&mut self, state: BrokerState) -> bool {
        let online = *self.confirm.borrow();
        if online || state == BrokerState::Away {
            return self.report(BrokerRequestType::Heartbeat, state).await;
        }
        if !self.report(BrokerRequestType::Online, state).await {
            // The metaserver gives up after 30 s without a heartbeat: ONLINE keeps it informed too.
            return false;
        }
        info!(group = self.group, address = self.address, "online");
        self.confirm.send_replace(true);
        // ONLINE always stores readable and writable.
        state == BrokerState::ReadWrite || self.report(BrokerRequestType::Heartbeat, state).await
    }

    async fn take_leave(&mut self) {
        for _ in 0..OFFLINE_ATTEMPTS {
            if self
                .report(BrokerRequestType::Offline, BrokerState::Away)
                .await
            {
                info!(group = self.group, "offline");
                return;
            }
        }
        warn!(
            group = self.group,
            "could not tell the metaserver that this broker is gone"
        );
    }

    async fn report(&mut self, what: BrokerRequestType, state: BrokerState) -> bool {
        match self.try_report(what, state).await {
            Ok(()) => {
                debug!(?what, state = state.name(), "reported to the metaserver");
                true
            }
            Err(error) => {
                warn!(?what, state = state.name(), %error, "report to the metaserver failed");
                self.metaserver.forget();
                false
            }
        }
    }

    async fn try_report(
        &mut self,
        what: BrokerRequestType,
        state: BrokerState,
    ) -> Result<(), RegistrationError> {
        let request = BrokerRegisterRequest {
            request_type_code: what.code(),
            group_name: &self.group,
            broker_address: &self.address,
            role_code: self.role.code(),
            state_code: i32::from(state.code()),
        };
        let reply = self
            .metaserver
            .ask(CommandCode::BrokerRegister, &request)
            .await?;
        self.metaserver.check(&reply)
    }
}
