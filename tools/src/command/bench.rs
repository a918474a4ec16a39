//! `bench`: measures a broker with load of its own, and checks what comes back.

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use crate::bench::plan::{
    Common, ConsumePlan, DelayPlan, EndToEndPlan, IsolationPlan, ProducePlan,
};
use crate::bench::report::Report;
use crate::bench::run::{self, Session};
use crate::bench::timeline::Timeline;
use crate::bench::{delay, isolation};
use crate::output::Outcome;

#[derive(Args, Debug)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Sends, as fast as possible or at a rate; then receives everything to check it.
    #[command(version)]
    Produce(ProducePlan),
    /// Sends a backlog, then measures how fast it is received and acked.
    #[command(version)]
    Consume(ConsumePlan),
    /// Sends and receives at the same time: how long a message takes.
    #[command(name = "e2e", version)]
    EndToEnd(EndToEndPlan),
    /// Sends messages for later and receives them: how many are taken, how late they come, and that
    /// none comes early. Server and this program must be on one machine, or their clocks agree.
    #[command(version)]
    Delay(DelayPlan),
    /// Compares the latency of a quiet subject with and without load on another one.
    #[command(version)]
    Isolation(IsolationPlan),
}

impl Bench {
    pub(crate) async fn run(self) -> Result<Outcome> {
        let timeline = Timeline::start();
        match self.what {
            What::Produce(plan) => {
                plan.common.validate()?;
                plan.sending.validate(plan.common.size)?;
                let groups = usize::from(!plan.no_check);
                let session = Session::open(&plan.common, groups, timeline).await?;
                let common = plan.common.clone();
                tell(&common, move || run::produce(&session, &plan)).await
            }
            What::Consume(plan) => {
                plan.common.validate()?;
                plan.receiving.validate()?;
                let session = Session::open(&plan.common, plan.receiving.groups, timeline).await?;
                let common = plan.common.clone();
                tell(&common, move || run::consume(&session, &plan)).await
            }
            What::EndToEnd(plan) => {
                plan.common.validate()?;
                plan.sending.validate(plan.common.size)?;
                plan.receiving.validate()?;
                let session = Session::open(&plan.common, plan.receiving.groups, timeline).await?;
                let common = plan.common.clone();
                tell(&common, move || run::end_to_end(&session, &plan)).await
            }
            What::Delay(plan) => {
                plan.validate()?;
                let timeline = Timeline::start_at_a_tick();
                let groups = plan.receiving.groups;
                let session = Session::open(&plan.common, groups, timeline).await?;
                let servers = delay::servers(&session, &plan).await?;
                let common = plan.common.clone();
                tell(&common, move || delay::run(session, servers, &plan)).await
            }
            What::Isolation(plan) => {
                plan.common.validate()?;
                plan.sending.validate(plan.common.size)?;
                let mut load = Session::open(&plan.common, 1, timeline).await?;
                load.gives_way = !plan.load_competes;
                let quiet = Common {
                    subject: format!("{}.quiet", plan.common.subject),
                    subjects: 1,
                    ..plan.common.clone()
                };
                let probe = Session::open(&quiet, 1, timeline).await?;
                let common = plan.common.clone();
                tell(&common, move || isolation::run(&load, &probe, &plan)).await
            }
        }
    }
}

/// Runs a bench on threads of its own and prints its report.
async fn tell(
    common: &Common,
    run: impl FnOnce() -> Result<Report> + Send + 'static,
) -> Result<Outcome> {
    let run = tokio::task::spawn_blocking(run);
    let mut report = run.await.context("the bench was interrupted")??;
    report.judge();
    if common.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", report.text());
    }
    Ok(Outcome::done_if(report.valid))
}
