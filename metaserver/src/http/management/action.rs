//! What an action is, and one call of it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use qmq_daemon::parameters::Parameters;
use tracing::warn;

use crate::db::DbError;
use crate::http::openapi::{Parameter, Rows, Shape};
use crate::http::reply::Reply;
use crate::state::State;

/// The work of one call.
pub(super) type Work<'a> = Pin<Box<dyn Future<Output = Reply> + Send + 'a>>;

/// An action of `/management`.
#[derive(Debug)]
pub(super) struct Action {
    /// As in the parameter `action`.
    pub(super) name: &'static str,
    /// What it does, for people.
    pub(super) about: &'static str,
    /// Whether a valid token must be shown.
    pub(super) needs_token: bool,
    /// Every parameter it reads.
    pub(super) parameters: &'static [Parameter],
    /// What it answers.
    pub(super) reply: fn(&mut Rows) -> Shape,
    /// Does it.
    pub(super) run: for<'a> fn(&'a Call) -> Work<'a>,
}

/// One call of an action.
#[derive(Debug)]
pub(super) struct Call {
    /// What the action works on.
    pub(super) state: Arc<State>,
    parameters: Parameters,
    action: &'static Action,
}

impl Call {
    /// A call that may be carried out.
    pub(super) fn new(state: Arc<State>, parameters: Parameters, action: &'static Action) -> Self {
        Self {
            state,
            parameters,
            action,
        }
    }

    /// Carries it out.
    pub(super) async fn run(self) -> Reply {
        (self.action.run)(&self).await
    }

    /// Name of the action.
    pub(super) fn name(&self) -> &'static str {
        self.action.name
    }

    /// A value; empty when the key is missing.
    pub(super) fn text(&self, key: &str) -> &str {
        self.checked(key).text(key)
    }

    /// A number.
    ///
    /// # Errors
    /// Says which one is missing or no number.
    pub(super) fn number<T: std::str::FromStr>(&self, key: &str) -> Result<T, String> {
        self.checked(key).number(key)
    }

    /// What a caller is told when the database failed. What exactly it said is for the log, not for
    /// whoever is on the network.
    pub(super) fn failure(&self, error: &DbError) -> String {
        let action = self.action.name;
        warn!(action, %error, "management call failed");
        format!("{action} failed: the database did not answer")
    }

    /// Refuses because the database failed.
    pub(super) fn failed(&self, error: &DbError) -> Reply {
        Reply::refused(self.failure(error))
    }

    fn checked(&self, key: &str) -> &Parameters {
        let is_declared = |parameter: &Parameter| parameter.key == key;
        debug_assert!(
            self.action.parameters.iter().any(is_declared),
            "{} reads {key}, which its description lacks",
            self.action.name
        );
        &self.parameters
    }
}
