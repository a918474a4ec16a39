//! `MarkReadonly`, `UnMarkReadonly`, `ListReadonly`: groups that producers shall not use.

use anyhow::Result;
use clap::Args;

use super::paging::Page;
use crate::action::{Action, Parameter};

/// What is marked.
#[derive(Args, Debug)]
struct Mark {
    /// The broker group.
    #[arg(long = "brokerGroup")]
    broker_group: String,
    /// The subject, or '*' for all.
    #[arg(long, default_value = "*")]
    subject: String,
}

impl Mark {
    fn parameters(self) -> Vec<Parameter> {
        vec![
            ("brokerGroup", self.broker_group),
            ("subject", self.subject),
        ]
    }
}

#[derive(Args, Debug)]
pub(crate) struct MarkReadonly {
    #[command(flatten)]
    mark: Mark,
}

impl Action for MarkReadonly {
    const NAME: &'static str = "MarkReadonlyBrokerGroup";

    fn parameters(self) -> Result<Vec<Parameter>> {
        Ok(self.mark.parameters())
    }
}

#[derive(Args, Debug)]
pub(crate) struct UnMarkReadonly {
    #[command(flatten)]
    mark: Mark,
}

impl Action for UnMarkReadonly {
    const NAME: &'static str = "UnMarkReadonlyBrokerGroup";

    fn parameters(self) -> Result<Vec<Parameter>> {
        Ok(self.mark.parameters())
    }
}

#[derive(Args, Debug)]
pub(crate) struct ListReadonly {
    #[command(flatten)]
    page: Page,
}

impl Action for ListReadonly {
    const NAME: &'static str = "ListReadonly";

    fn parameters(self) -> Result<Vec<Parameter>> {
        Ok(self.page.parameters())
    }
}
