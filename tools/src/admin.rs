//! The management interface of the metaserver: one POST per action, answered with one line; and how
//! servers are asked over HTTP at all.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};

use crate::action::Parameter;
use crate::cli::Metaserver;
use crate::output::{NotAgreed, Outcome};
use crate::progress::Progress;

/// Where actions are sent.
pub(crate) const PATH: &str = "/management";
/// Header with the token that servers ask for.
pub(crate) const TOKEN: &str = "X-Api-Token";
/// Longest wait for a connection.
const CONNECT_WAIT: Duration = Duration::from_secs(2);
/// Longest wait for the answer: some actions talk to every broker of a subject.
const ANSWER_WAIT: Duration = Duration::from_secs(30);
/// Longest answer that is read: a list of every broker or route.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What a metaserver said.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    /// Whether it agreed.
    pub(crate) outcome: Outcome,
    /// All of it, on one line.
    pub(crate) line: String,
    /// `None`: plain text.
    said: Option<Value>,
}

impl Answer {
    /// Prints the answer; in one and the same style if `is_json`.
    pub(crate) fn tell(self, is_json: bool) -> Outcome {
        let outcome = self.outcome;
        if is_json {
            println!("{}", self.envelope());
        } else {
            println!("{}", self.line);
        }
        outcome
    }

    /// What was asked for.
    ///
    /// # Errors
    /// What the metaserver has against it.
    pub(crate) fn data(self) -> Result<Value> {
        if self.outcome != Outcome::Done {
            return Err(NotAgreed(self.line).into());
        }
        let mut envelope = self.envelope();
        Ok(envelope["data"].take())
    }

    /// The answer with `status`, `message` and `data`, whatever style it came in.
    fn envelope(self) -> Value {
        let status = if self.outcome == Outcome::Done { 0 } else { -1 };
        let of = |message: Value, data: Value| json!({ "status": status, "message": message, "data": data });
        match self.said {
            Some(Value::Object(mut fields)) => {
                if fields.contains_key("status") {
                    return Value::Object(fields);
                }
                let error = fields.remove("error");
                let data = fields
                    .remove("data")
                    .or_else(|| fields.remove("subjectRoute"));
                match (error, data) {
                    (Some(error), data) => of(error, data.unwrap_or_default()),
                    (None, Some(data)) => of("".into(), data),
                    (None, None) => of("".into(), Value::Object(fields)),
                }
            }
            Some(said) => of("".into(), said),
            None => of(self.line.into(), Value::Null),
        }
    }
}

/// Runs `action` and tells what the metaserver answers.
///
/// # Errors
/// When there is no answer, or none of a metaserver.
pub(crate) async fn ask(
    metaserver: &Metaserver,
    token: &str,
    action: &str,
    parameters: &[Parameter],
) -> Result<Answer> {
    let given = parameters
        .iter()
        .map(|(name, value)| (*name, value.as_str()));
    let form: Vec<_> = [("action", action)].into_iter().chain(given).collect();
    let request = http()?
        .post(metaserver.url(PATH))
        .header(TOKEN, token)
        .form(&form);
    judged(request, &format!("{action} at {metaserver}")).await
}

/// The answer to `request`, which stands for `what`.
///
/// # Errors
/// When there is none, or none of a metaserver.
pub(crate) async fn judged(request: RequestBuilder, what: &str) -> Result<Answer> {
    let progress = Progress::waiting(what);
    let answer = answer_to(request).await;
    progress.end();
    let (status, text) = answer.with_context(|| what.to_owned())?;
    let line = one_line(&text);
    let said = serde_json::from_str(&line).ok();
    let Some(outcome) = judge(status, said.as_ref()) else {
        bail!("{what}: status {status}: {line}");
    };
    Ok(Answer {
        outcome,
        line,
        said,
    })
}

/// Asks servers of the cluster. They are neighbours: a proxy for the outside world does not lead to
/// them.
///
/// # Errors
/// When this machine cannot.
pub(crate) fn http() -> Result<Client> {
    let builder = Client::builder().no_proxy();
    let builder = builder.connect_timeout(CONNECT_WAIT).timeout(ANSWER_WAIT);
    Ok(builder.build()?)
}

/// Status and text of an answer.
///
/// # Errors
/// When there is none, or it is longer than any of ours.
pub(crate) async fn answer_to(request: RequestBuilder) -> Result<(StatusCode, String)> {
    let answer = request.send().await?;
    Ok((answer.status(), read(answer).await?))
}

async fn read(mut answer: Response) -> Result<String> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > ANSWER_BYTES_MAX {
            bail!("the answer is over {ANSWER_BYTES_MAX} bytes");
        }
    }
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// The text without white space around it or line ends in it.
fn one_line(text: &str) -> String {
    text.trim().replace("\r\n", " ").replace(['\n', '\r'], " ")
}

/// Whether the metaserver agreed; `None` when this is no answer of a metaserver's action.
fn judge(status: StatusCode, said: Option<&Value>) -> Option<Outcome> {
    let is_no = match said {
        // Unknown actions are answered in plain text.
        None => true,
        Some(Value::Object(fields)) => {
            fields
                .get("status")
                .is_some_and(|status| status.as_i64() != Some(0))
                || fields.contains_key("error")
        }
        Some(_) => false,
    };
    match (status.is_success(), is_no) {
        (true, is_no) => Some(Outcome::done_if(!is_no)),
        (false, true) if said.is_some() => Some(Outcome::Refused),
        (false, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: StatusCode, line: &str) -> Option<Outcome> {
        judge(status, serde_json::from_str(line).ok().as_ref())
    }

    #[test]
    fn answers_are_judged_by_their_content() {
        let ok = StatusCode::OK;
        for yes in [
            r#"{"status":0,"message":"","data":[]}"#,
            r#"[{"groupName":"g"}]"#,
            r#"{"data":{"name":"s"}}"#,
            "{}",
        ] {
            assert_eq!(judged(ok, yes), Some(Outcome::Done), "{yes}");
        }
        for no in [
            r#"{"status":-1,"message":"no","data":null}"#,
            r#"{"error":"exists","data":{}}"#,
            "unknown action",
            "",
        ] {
            assert_eq!(judged(ok, no), Some(Outcome::Refused), "{no}");
        }
    }

    #[test]
    fn other_status_codes_are_a_no_only_with_a_reason() {
        let no = r#"{"status":-1,"message":"no token","data":null}"#;
        assert_eq!(judged(StatusCode::UNAUTHORIZED, no), Some(Outcome::Refused));
        assert_eq!(judged(StatusCode::BAD_GATEWAY, "<html>"), None);
        assert_eq!(
            judged(StatusCode::INTERNAL_SERVER_ERROR, r#"{"status":0}"#),
            None
        );
    }

    #[test]
    fn answers_are_one_line() {
        assert_eq!(one_line(" {\n\"a\": 1\r\n}\n\n"), "{ \"a\": 1 }");
    }

    #[test]
    fn the_three_styles_become_one() {
        let envelope = |line: &str| {
            let said = serde_json::from_str(line).ok();
            let answer = Answer {
                outcome: judge(StatusCode::OK, said.as_ref()).unwrap(),
                line: line.to_owned(),
                said,
            };
            let text = answer.envelope();
            (
                text["status"].clone(),
                text["message"].clone(),
                text["data"].clone(),
            )
        };
        let of = |status: i64, message: &str, data: Value| (status.into(), message.into(), data);
        for (line, expected) in [
            (
                r#"{"status":0,"message":"m","data":[1]}"#,
                of(0, "m", json!([1])),
            ),
            (
                r#"{"status":-1,"message":"m","data":null}"#,
                of(-1, "m", Value::Null),
            ),
            (r#"{"data":{"name":"s"}}"#, of(0, "", json!({"name": "s"}))),
            (r#"{"subject":"s"}"#, of(0, "", json!({"subject": "s"}))),
            (
                r#"{"error":"e","data":{"a":1}}"#,
                of(-1, "e", json!({"a": 1})),
            ),
            (r#"{"error":"e","subjectRoute":2}"#, of(-1, "e", json!(2))),
            (r#"{"error":"e"}"#, of(-1, "e", Value::Null)),
            ("[]", of(0, "", json!([]))),
            ("unknown action", of(-1, "unknown action", Value::Null)),
        ] {
            assert_eq!(envelope(line), expected, "{line}");
        }
    }
}
