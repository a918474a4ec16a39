//! Checks of names that are to be stored.

use qmq_model::names::{SubjectKind, check_subject};

use crate::db::broker::GROUP_MAX;
use crate::routing::ANY;

/// Refuses a name that is empty, longer than its column, or that nobody could type.
///
/// # Errors
/// Says what is wrong with it.
pub(super) fn check(key: &str, name: &str, max: usize) -> Result<(), String> {
    if name.is_empty() {
        return Err(format!("{key} is empty"));
    }
    if name.chars().count() > max {
        return Err(format!("{key} is longer than {max} characters"));
    }
    if name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(format!("{key} holds white space or a control character"));
    }
    Ok(())
}

/// Refuses what cannot be the name of a broker group.
///
/// # Errors
/// Says what is wrong with it.
pub(super) fn check_group(key: &str, name: &str) -> Result<(), String> {
    check(key, name, GROUP_MAX)
}

/// Refuses what cannot be a subject with a route of its own; retry subjects have none.
///
/// # Errors
/// Says what is wrong with it.
pub(super) fn check_real_subject(key: &str, name: &str) -> Result<(), String> {
    check_subject(name).map_err(|error| format!("{key}: {error}"))?;
    if SubjectKind::of(name) != SubjectKind::Real {
        return Err(format!("{key} is a retry subject: those have no route"));
    }
    Ok(())
}

/// Refuses what is neither `*` nor such a subject.
///
/// # Errors
/// Says what is wrong with it.
pub(super) fn check_subject_or_any(key: &str, name: &str) -> Result<(), String> {
    if name == ANY {
        return Ok(());
    }
    check_real_subject(key, name)
}
