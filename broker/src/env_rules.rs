//! Keeps the rules about sub-environments up to date.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::filter::EnvRules;

/// Time between two looks at the rules, as in the reference.
const REFRESH: Duration = Duration::from_secs(30);
/// Longest wait for the rules.
const DEADLINE: Duration = Duration::from_secs(10);
/// Largest list of rules.
const RULES_BYTES_MAX: usize = 16 << 20;

/// The rules in force. Cheap to clone; all clones are the same.
#[derive(Clone, Debug, Default)]
pub struct RulesInUse(Option<Arc<RwLock<Option<Arc<EnvRules>>>>>);

/// What is known of the rules.
#[derive(Clone, Debug)]
pub enum Known {
    /// Sub-environments are not kept apart.
    Off,
    /// They are, and nobody has told the rules yet: a consumer with an environment must wait, or it
    /// would step over messages that are meant for it.
    NotYet,
    /// These are in force.
    Rules(Arc<EnvRules>),
}

impl RulesInUse {
    /// What is known now.
    #[must_use]
    pub fn known(&self) -> Known {
        let Some(rules) = &self.0 else {
            return Known::Off;
        };
        let rules = rules.read().unwrap_or_else(PoisonError::into_inner);
        rules.clone().map_or(Known::NotYet, Known::Rules)
    }

    /// Fetches the rules from `url` now and then until `stop`. When that fails, the last good ones
    /// stay in force.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn follow(url: String, stop: CancellationToken) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(DEADLINE)
            .build()
            .context("cannot make an HTTP client for sub_env_isolation_filter.rules_url")?;
        let rules = Arc::new(RwLock::new(None));
        let shared = Arc::clone(&rules);
        tokio::spawn(async move {
            loop {
                match fetch(&client, &url).await {
                    Ok(found) => put(&shared, found),
                    Err(error) => {
                        warn!(%url, error = format!("{error:#}"), "rules of sub-environments cannot be had")
                    }
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(REFRESH) => {}
                }
            }
        });
        Ok(Self(Some(rules)))
    }
}

fn put(shared: &RwLock<Option<Arc<EnvRules>>>, found: EnvRules) {
    let mut rules = shared.write().unwrap_or_else(PoisonError::into_inner);
    if rules.as_deref() != Some(&found) {
        info!(
            rules = found.len(),
            "rules of sub-environments are in force"
        );
        *rules = Some(Arc::new(found));
    }
}

async fn fetch(client: &reqwest::Client, url: &str) -> anyhow::Result<EnvRules> {
    let mut response = client.get(url).send().await?.error_for_status()?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        ensure!(
            body.len() <= RULES_BYTES_MAX,
            "more than {RULES_BYTES_MAX} bytes of rules"
        );
    }
    EnvRules::parse(&body).context("no list of rules")
}
