//! Lists in portions.

use clap::Args;

use crate::action::Parameter;

/// Which part of a list is wanted.
#[derive(Args, Debug)]
pub(crate) struct Page {
    /// At most so many entries. Default: all.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Only entries behind this one: the last of the portion before.
    #[arg(long, value_name = "NAME")]
    after: Option<String>,
}

impl Page {
    /// Nothing is sent for what was not given.
    pub(crate) fn parameters(self) -> Vec<Parameter> {
        let limit = self.limit.map(|limit| ("limit", limit.to_string()));
        let after = self.after.map(|after| ("after", after));
        limit.into_iter().chain(after).collect()
    }
}
