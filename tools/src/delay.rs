//! Delay servers over HTTP: which there are, and what all of them say.
//!
//! Producers use any delay server, so a message may be with any of them: each question goes to all,
//! and only if all answer is it known that a message is nowhere.

use anyhow::{Context, Result, bail};
use clap::Args;
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::admin::{self, TOKEN, answer_to};
use crate::cli::{DELAY_ADMIN_PORT_DEFAULT, DelayServer};
use crate::site::{INSTEAD, MaybeMetaserver, Reads};

/// Role of the servers that are asked: slaves decide nothing.
const ROLE: &str = "DELAY_MASTER";
/// Most servers asked at the same time.
const ASKED_AT_ONCE_MAX: usize = 32;

/// Which servers are asked, and as whom.
#[derive(Args, Debug)]
pub(crate) struct Where {
    #[command(flatten)]
    by: MaybeMetaserver,
    /// Port of the HTTP side (`admin.port`) of the delay servers the metaserver names.
    #[arg(long, value_name = "PORT", default_value_t = DELAY_ADMIN_PORT_DEFAULT)]
    admin_port: u16,
    /// HTTP side of a delay server, instead of those the metaserver names; may be given several
    /// times, also where QMQ_META is set. Default port: 20884. A message unknown to these may still
    /// be with others.
    #[arg(long, value_name = "HOST[:PORT]", conflicts_with = "admin_port", group = INSTEAD)]
    server: Vec<DelayServer>,
    /// Token from the valid-api-tokens.properties of the servers.
    #[arg(long, env = "QMQ_TOKEN", hide_env_values = true, default_value = "")]
    token: String,
}

/// What one delay server said.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Its broker group.
    pub(crate) group: String,
    /// The whole answer.
    pub(crate) said: Value,
}

/// What all said.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// In the order of the servers.
    pub(crate) answers: Vec<Answer>,
    /// Who gave no usable answer, and why.
    silent: Vec<String>,
}

impl Where {
    /// Asks every delay server for `path` with these parameters: in the query of a GET, in the form
    /// of a POST.
    ///
    /// # Errors
    /// When it is not known whom to ask. Servers that do not answer are no error here.
    pub(crate) async fn ask(
        &self,
        method: &Method,
        path: &str,
        parameters: &[(&str, String)],
    ) -> Result<Answers> {
        let http = admin::http()?;
        let servers = self.servers().await?;
        let mut asked = JoinSet::new();
        let mut said = Vec::new();
        for (place, server) in servers.into_iter().enumerate() {
            if asked.len() >= ASKED_AT_ONCE_MAX {
                said.extend(asked.join_next().await);
            }
            let request = self.request(&http, method, &server.url(path), parameters);
            asked.spawn(async move { (place, one(request, &server).await) });
        }
        while let Some(done) = asked.join_next().await {
            said.push(done);
        }
        let said: Result<Vec<_>, _> = said.into_iter().collect();
        let mut said = said.context("a question was interrupted")?;
        said.sort_unstable_by_key(|(place, _)| *place);
        let mut all = Answers::default();
        for (_, said) in said {
            match said {
                Ok(answer) => all.answers.push(answer),
                Err(error) => all.silent.push(format!("{error:#}")),
            }
        }
        Ok(all)
    }

    /// What [`Self::ask`] would ask: of the servers that were named, else of all that the metaserver
    /// knows.
    pub(crate) fn planned(&self, path: &str, parameters: &[(&str, String)]) -> Value {
        let named = self.server.iter().map(ToString::to_string);
        let named: Vec<String> = named.collect();
        let metaserver = self.by.metaserver.as_ref().filter(|_| named.is_empty());
        let parameters: serde_json::Map<_, _> = parameters
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.as_str().into()))
            .collect();
        json!({
            "dryRun": true,
            "servers": named,
            "metaserver": metaserver.map(ToString::to_string),
            "path": path,
            "parameters": parameters,
        })
    }

    fn request(
        &self,
        http: &Client,
        method: &Method,
        url: &str,
        parameters: &[(&str, String)],
    ) -> RequestBuilder {
        let request = http
            .request(method.clone(), url)
            .header(TOKEN, self.token.as_str());
        if *method == Method::GET {
            request.query(parameters)
        } else {
            request.form(parameters)
        }
    }

    async fn servers(&self) -> Result<Vec<DelayServer>> {
        let metaserver = self.by.metaserver.as_ref();
        let Some(metaserver) = metaserver.filter(|_| self.server.is_empty()) else {
            return Ok(self.server.clone());
        };
        let site = Reads {
            metaserver: metaserver.clone(),
            token: self.token.clone(),
        };
        let listed = site.brokers("").await?;
        let masters = listed.iter().filter(|broker| broker.role == ROLE);
        let servers: Result<Vec<DelayServer>, _> = masters
            .map(|master| format!("{}:{}", master.ip, self.admin_port).parse())
            .collect();
        let servers = servers.map_err(anyhow::Error::msg);
        let servers = servers.with_context(|| format!("ListBrokers at {metaserver}"))?;
        if servers.is_empty() {
            bail!("the metaserver at {metaserver} knows no delay server");
        }
        Ok(servers)
    }
}

impl Answers {
    /// The objects in the field `entries` of all answers, each with the group it came from.
    pub(crate) fn entries(&self) -> Vec<Value> {
        let of_group = |answer: &Answer| {
            let entries = answer.said["entries"].as_array().cloned();
            let group = Value::from(answer.group.as_str());
            let named = entries.into_iter().flatten().map(move |mut entry| {
                if let Some(fields) = entry.as_object_mut() {
                    fields.insert("group".to_owned(), group.clone());
                }
                entry
            });
            named.collect::<Vec<_>>()
        };
        self.answers.iter().flat_map(of_group).collect()
    }

    /// Everything is known only when everybody answered.
    ///
    /// # Errors
    /// When somebody did not, with who and why.
    pub(crate) fn must_be_complete(&self) -> Result<()> {
        if self.silent.is_empty() {
            return Ok(());
        }
        let asked = self.answers.len() + self.silent.len();
        let silent = self.silent.join("; ");
        bail!(
            "{} of {asked} delay servers gave no answer, the message may be with them: {silent}",
            self.silent.len()
        )
    }
}

async fn one(request: RequestBuilder, server: &DelayServer) -> Result<Answer> {
    let (status, text) = answer_to(request)
        .await
        .with_context(|| server.to_string())?;
    let said = serde_json::from_str::<Value>(&text).ok();
    let group = said.as_ref().and_then(|said| said["group"].as_str());
    match (status.is_success(), said.as_ref(), group) {
        (true, Some(said), Some(group)) => Ok(Answer {
            group: group.to_owned(),
            said: said.clone(),
        }),
        _ => {
            let reason = said.as_ref().and_then(|said| said["error"].as_str());
            let reason = reason.unwrap_or("no answer of a delay server");
            bail!("{server}: status {status}: {reason}")
        }
    }
}
