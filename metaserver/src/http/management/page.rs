//! Parts of lists: the parameters `limit` and `after`.
//!
//! Without them a list is whole. `after` is the key of the last row that was seen; a page of rows
//! that share a key is never cut within them.

use super::action::Call;
use crate::http::openapi::{Parameter, parameter};

/// Most rows one may ask for at a time.
const LIMIT_MAX: i64 = 100_000;

/// How many rows to answer.
pub(super) const LIMIT: Parameter = parameter("limit", "Rows to answer, 1 to 100000")
    .number()
    .optional();
/// The key behind which to begin.
pub(super) const AFTER: Parameter =
    parameter("after", "Key of the last row that was seen").optional();

/// A wanted part of a list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page<'a> {
    /// Key of the last row that was seen; empty at the beginning.
    pub(super) after: &'a str,
    /// How many rows.
    pub(super) limit: i64,
}

impl<'a> Page<'a> {
    /// What a call asks for.
    ///
    /// # Errors
    /// When the limit makes no sense.
    pub(super) fn of(call: &'a Call) -> Result<Self, String> {
        let after = call.text(AFTER.key);
        let limit = match call.text(LIMIT.key) {
            "" => i64::MAX,
            _ => call.number(LIMIT.key)?,
        };
        if limit != i64::MAX && !(1..=LIMIT_MAX).contains(&limit) {
            return Err(format!("limit must be within 1..={LIMIT_MAX}"));
        }
        Ok(Self { after, limit })
    }

    /// Whether the whole list is wanted, in the order it has anyway.
    pub(super) fn is_whole(self) -> bool {
        self.after.is_empty() && self.limit == i64::MAX
    }

    /// Cuts the page out of a list.
    pub(super) fn cut<T>(self, mut rows: Vec<T>, key: impl Fn(&T) -> &str) -> Vec<T> {
        if self.is_whole() {
            return rows;
        }
        rows.retain(|row| key(row) > self.after);
        rows.sort_by(|a, b| key(a).cmp(key(b)));
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        if let Some(last) = limit.checked_sub(1).and_then(|last| rows.get(last)) {
            let last = key(last).to_owned();
            let end = rows.partition_point(|row| key(row) <= last.as_str());
            rows.truncate(end);
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_with_one_key_stay_together() {
        let rows = ["b", "a", "c", "b", "d"];
        let cut = |after, limit| Page { after, limit }.cut(rows.to_vec(), |row| row);
        assert_eq!(cut("", i64::MAX), rows, "untouched");
        assert_eq!(cut("", 1), ["a"]);
        assert_eq!(cut("", 2), ["a", "b", "b"]);
        assert_eq!(cut("a", 1), ["b", "b"]);
        assert_eq!(cut("b", 9), ["c", "d"]);
        assert_eq!(cut("d", 9), [""; 0]);
    }
}
