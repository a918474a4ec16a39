//! `AddDb`, `ListDbs`: databases of applications, for the watchdog.

use serde::Serialize;
use tracing::info;
use utoipa::ToSchema;

use super::action::{Action, Call};
use super::name;
use super::page::{AFTER, LIMIT, Page};
use crate::db::DbResult;
use crate::db::client_meta_info::ROOM_MAX;
use crate::db::datasource_config::{CREDENTIAL_MAX, DatasourceRow, URL_MAX};
use crate::http::openapi::{Shape, parameter, sentence};
use crate::http::reply::Reply;

pub(super) static ADD: Action = Action {
    name: "AddDb",
    about: "Enters a database of an application for the watchdog.",
    reply: |_| Shape::Enveloped(sentence()),
    needs_token: true,
    parameters: &[
        parameter("type", "Kind of database; mmm without").optional(),
        parameter("host", "Host"),
        parameter("port", "Port").number(),
        parameter("username", "User"),
        parameter("password", "Password").optional(),
        parameter("room", "Which watchdogs look there; default without").optional(),
        parameter("update", "true: may change what is there").optional(),
    ],
    run: |call| Box::pin(add(call)),
};

pub(super) static LIST: Action = Action {
    name: "ListDbs",
    about: "Lists such databases, passwords masked.",
    reply: |rows| Shape::Enveloped(rows.list::<Datasource>()),
    needs_token: true,
    parameters: &[LIMIT, AFTER],
    run: |call| Box::pin(list(call)),
};

const TYPE_DEFAULT: &str = "mmm";
const ROOM_DEFAULT: &str = "default";
/// Shown in place of a password.
const MASK: &str = "******";

/// With `update=true` it may change what is there; without, the same once more is no error.
async fn add(call: &Call) -> Reply {
    let row = match check(call) {
        Ok(row) => row,
        Err(refusal) => return Reply::refused(refusal),
    };
    match store(call, &row, call.text("update") == "true").await {
        Ok(true) => {
            info!(url = row.url, user = row.user_name, "database stored");
            Reply::done("success")
        }
        Ok(false) => Reply::refused(format!(
            "{} exists with other credentials or in another room: pass update=true to change it",
            row.url
        )),
        Err(error) => call.failed(&error),
    }
}

async fn store(call: &Call, row: &DatasourceRow, may_change: bool) -> DbResult<bool> {
    let db = &call.state.db;
    if db.add_datasource(row).await? {
        return Ok(true);
    }
    if may_change {
        return db.update_datasource(row).await;
    }
    let is_same = |old: &DatasourceRow| {
        (&old.user_name, &old.password, &old.room) == (&row.user_name, &row.password, &row.room)
    };
    Ok(db.datasource(&row.url).await?.as_ref().is_some_and(is_same))
}

fn check(call: &Call) -> Result<DatasourceRow, String> {
    let or = |key: &'static str, default: &'static str| match call.text(key) {
        "" => default.to_owned(),
        given => given.to_owned(),
    };
    let port: u16 = call.number("port")?;
    if port == 0 {
        return Err("port must be within 1..=65535".to_owned());
    }
    let (kind, host) = (or("type", TYPE_DEFAULT), call.text("host"));
    name::check("host", host, URL_MAX)?;
    // The watchdog connects wherever this says: it shall say nothing but a host.
    let is_plain = |text: &str, more: &str| {
        text.chars()
            .all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    if !is_plain(&kind, "-_") || !is_plain(host, "-_.") {
        return Err("type and host hold letters, digits, '-', '_', and host also '.'".to_owned());
    }
    let (user_name, password) = (call.text("username"), call.text("password"));
    name::check("username", user_name, CREDENTIAL_MAX)?;
    if password.chars().count() > CREDENTIAL_MAX {
        return Err(format!(
            "password is longer than {CREDENTIAL_MAX} characters"
        ));
    }
    let (url, room) = (format!("{kind}://{host}:{port}"), or("room", ROOM_DEFAULT));
    if url.len() > URL_MAX {
        return Err(format!("the URL is longer than {URL_MAX} characters"));
    }
    name::check("room", &room, ROOM_MAX)?;
    let (user_name, password) = (user_name.to_owned(), password.to_owned());
    Ok(DatasourceRow {
        url,
        user_name,
        password,
        status: 0,
        room,
    })
}

/// A row of table `datasource_config`.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Datasource {
    url: String,
    user_name: String,
    /// Never shown.
    password: &'static str,
    /// `ONLINE` when the watchdog looks there.
    status: &'static str,
    room: String,
}

/// By URL, also the pages.
async fn list(call: &Call) -> Reply {
    let page = match Page::of(call) {
        Ok(page) => page,
        Err(refusal) => return Reply::refused(refusal),
    };
    let rows = call.state.db.datasources_after(page.after, page.limit);
    match rows.await {
        Ok(rows) => {
            let shown = rows.into_iter().map(|row| Datasource {
                url: row.url,
                user_name: row.user_name,
                password: MASK,
                status: if row.status == 0 { "ONLINE" } else { "OFFLINE" },
                room: row.room,
            });
            Reply::done(shown.collect::<Vec<_>>())
        }
        Err(error) => call.failed(&error),
    }
}
