//! Where broker groups are, as far as the metaserver has told.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use qmq_client::{FoundRoute, RouteFinder, RouteGroup};
use qmq_model::Subject;
use qmq_protocol::command::client_register::ClientRequestType;

/// `ip:port` of the master of each group, as last told. Cheap to clone; all clones are the same.
/// As many as there are broker groups.
#[derive(Clone, Debug, Default)]
pub struct Addresses(Arc<RwLock<HashMap<Arc<str>, Arc<str>>>>);

impl Addresses {
    /// Notes the addresses of a route and returns the groups that take messages.
    pub fn learn(&self, route: &FoundRoute) -> Vec<Arc<str>> {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for RouteGroup { name, master } in &route.writable {
            if known.get(name) != Some(master) {
                known.insert(Arc::clone(name), Arc::clone(master));
            }
        }
        let writable = route.writable.iter();
        writable.map(|group| Arc::clone(&group.name)).collect()
    }

    /// Where a group is.
    #[must_use]
    pub fn of(&self, group: &str) -> Option<Arc<str>> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.get(group).cloned()
    }
}

/// Who serves a subject.
///
/// # Errors
/// The reason why nothing is known.
pub async fn ask(finder: &RouteFinder, subject: &Subject) -> Result<FoundRoute, String> {
    // "Online" makes the metaserver list us as a producer of the subject; once is enough, but who
    // was told before is not worth remembering.
    let request_type = ClientRequestType::Online;
    finder.ask(subject.as_str(), request_type).await
}
