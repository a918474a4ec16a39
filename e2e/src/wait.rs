//! Waiting for conditions, with a limit and a reason.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long to let others run before a condition is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Returns what `look` finds; an error of `look` ends the wait at once.
///
/// # Errors
/// When `look` fails, or finds nothing within `limit`.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if start.elapsed() > limit {
            bail!("not within {limit:?}: {what}");
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_what_was_found_and_names_what_was_not() {
        let mut looks = 0;
        let found = until("third look", Duration::from_secs(60), || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(found.unwrap(), 3);
        let error = until::<()>("a thing", Duration::ZERO, || Ok(None)).unwrap_err();
        assert!(error.to_string().contains("a thing"), "{error}");
    }
}
