//! Reads what brokers keep in memory only (`pub --retain 0`), for as long as somebody subscribes.

use std::collections::HashMap;
use std::time::Duration;

use qmq_client::{BrowseError, Browsed, Browser, From, Place, RouteGroup};
use tokio::sync::mpsc::Sender;
use tokio::time::Instant;

/// How often brokers are asked for something new.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often the metaserver is asked which brokers there are.
const ROUTES_EVERY: Duration = Duration::from_secs(60);
/// Messages asked for at a time.
const PORTION: usize = 100;

/// Passes on every message that brokers have of a subject in memory, and what comes. Ends when nobody
/// listens, or no broker keeps messages in this way.
pub(crate) async fn follow(browser: Browser, subject: String, listener: Sender<Browsed>) {
    let mut groups: Vec<RouteGroup> = Vec::new();
    let mut asked: Option<Instant> = None;
    // Where each broker goes on; `None` for one that knows nothing of this.
    let mut places: HashMap<String, Option<i64>> = HashMap::new();
    loop {
        if asked.is_none_or(|asked| asked.elapsed() >= ROUTES_EVERY) || groups.is_empty() {
            // Without an answer the groups stay; the subscription itself says what is wrong.
            if let Ok(found) = browser.groups(&subject).await {
                groups = found;
                asked = Some(Instant::now());
            }
        }
        let mut is_hopeless = !groups.is_empty();
        for group in &groups {
            let place = places.entry(group.master.to_string()).or_insert(Some(0));
            let Some(from) = *place else { continue };
            match portion(&browser, group, &subject, from).await {
                Ok(portion) => {
                    *place = Some(portion.next);
                    for message in portion.messages {
                        if listener.send(message).await.is_err() {
                            return;
                        }
                    }
                    is_hopeless = false;
                }
                Err(BrowseError::NotSupported { .. }) => *place = None,
                // It may be there again in a moment.
                Err(_) => is_hopeless = false,
            }
        }
        if is_hopeless {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = listener.closed() => return,
        }
    }
}

async fn portion(
    browser: &Browser,
    group: &RouteGroup,
    subject: &str,
    from: i64,
) -> Result<qmq_client::Portion, BrowseError> {
    let from = From::Sequence(from);
    browser
        .portion(group, subject, Place::Memory, from, PORTION)
        .await
}
