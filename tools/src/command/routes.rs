//! `ListSubjectRoutes`, `AddNewSubject`, `AddSubjectBrokerGroup`, `RemoveSubjectBrokerGroup`,
//! `ExtendSubjectRoute`: which groups serve a subject.

use anyhow::Result;
use clap::Args;

use super::paging::Page;
use crate::action::{Action, Parameter};

#[derive(Args, Debug)]
pub(crate) struct ListSubjectRoutes {
    #[command(flatten)]
    page: Page,
}

impl Action for ListSubjectRoutes {
    const NAME: &'static str = "ListSubjectRoutes";

    fn parameters(self) -> Result<Vec<Parameter>> {
        Ok(self.page.parameters())
    }
}

#[derive(Args, Debug)]
pub(crate) struct AddNewSubject {
    /// The subject.
    #[arg(long)]
    subject: String,
    /// Tag of the groups that are to serve it; it is routed to groups with this tag only.
    #[arg(long)]
    tag: String,
}

impl Action for AddNewSubject {
    const NAME: &'static str = "AddNewSubject";

    fn parameters(self) -> Result<Vec<Parameter>> {
        Ok(vec![("subject", self.subject), ("tag", self.tag)])
    }
}

/// One group of one route.
#[derive(Args, Debug)]
struct Membership {
    /// The broker group.
    #[arg(long = "brokerGroup")]
    broker_group: String,
    /// The subject.
    #[arg(long)]
    subject: String,
}

impl Membership {
    fn parameters(self) -> Vec<Parameter> {
        vec![
            ("brokerGroup", self.broker_group),
            ("subject", self.subject),
        ]
    }
}

#[derive(Args, Debug)]
pub(crate) struct AddSubjectBrokerGroup {
    #[command(flatten)]
    membership: Membership,
}

impl Action for AddSubjectBrokerGroup {
    const NAME: &'static str = "AddSubjectBrokerGroup";

    fn parameters(self) -> Result<Vec<Parameter>> {
        Ok(self.membership.parameters())
    }
}

/// The subject may be `*`.
#[derive(Args, Debug)]
pub(crate) struct RemoveSubjectBrokerGroup {
    #[command(flatten)]
    membership: Membership,
}

impl Action for RemoveSubjectBrokerGroup {
    const NAME: &'static str = "RemoveSubjectBrokerGroup";

    fn parameters(self) -> Result<Vec<Parameter>> {
        Ok(self.membership.parameters())
    }
}

#[derive(Args, Debug)]
pub(crate) struct ExtendSubjectRoute {
    /// The subject, or '*' for all.
    #[arg(long = "relatedSubject")]
    related_subject: String,
    /// Only routes with this group are extended.
    #[arg(long = "relatedBrokerGroup")]
    related_broker_group: String,
    /// The group they get.
    #[arg(long = "newBrokerGroup")]
    new_broker_group: String,
}

impl Action for ExtendSubjectRoute {
    const NAME: &'static str = "ExtendSubjectRoute";

    fn parameters(self) -> Result<Vec<Parameter>> {
        Ok(vec![
            ("relatedSubject", self.related_subject),
            ("relatedBrokerGroup", self.related_broker_group),
            ("newBrokerGroup", self.new_broker_group),
        ])
    }
}
