//! `GET /openapi.json`: what this port understands, put together from the tables and types that the
//! code itself works with.

use std::collections::BTreeMap;

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use qmq_daemon::tokens::TOKEN_HEADER;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{consumers, management, onoffline, slave};

/// A parameter of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parameter {
    /// Its key.
    pub(crate) key: &'static str,
    about: &'static str,
    is_required: bool,
    is_number: bool,
}

/// A text that is needed.
pub(crate) const fn parameter(key: &'static str, about: &'static str) -> Parameter {
    Parameter {
        key,
        about,
        is_required: true,
        is_number: false,
    }
}

impl Parameter {
    /// The same, but not needed.
    pub(crate) const fn optional(self) -> Self {
        Self {
            is_required: false,
            ..self
        }
    }

    /// The same, but a whole number.
    pub(crate) const fn number(self) -> Self {
        Self {
            is_number: true,
            ..self
        }
    }

    fn schema(&self) -> Value {
        let kind = if self.is_number { "integer" } else { "string" };
        json!({ "type": kind, "description": self.about })
    }

    /// As a part of a query.
    fn in_query(&self) -> Value {
        json!({
            "name": self.key,
            "in": "query",
            "required": self.is_required,
            "description": self.about,
            "schema": self.schema(),
        })
    }
}

/// A form with these parameters and some whose values are fixed.
pub(crate) fn form(about: &str, fixed: &[(&str, &str)], parameters: &[Parameter]) -> Value {
    let mut properties = serde_json::Map::new();
    let mut required: Vec<&str> = Vec::new();
    for (key, value) in fixed {
        properties.insert((*key).to_owned(), json!({ "const": value }));
        required.push(key);
    }
    for parameter in parameters {
        properties.insert(parameter.key.to_owned(), parameter.schema());
        if parameter.is_required {
            required.push(parameter.key);
        }
    }
    json!({
        "type": "object",
        "description": about,
        "properties": properties,
        "required": required,
    })
}

/// The types of rows that answers hold, by name.
#[derive(Debug, Default)]
pub(crate) struct Rows(BTreeMap<String, Value>);

impl Rows {
    /// One row.
    pub(crate) fn one<T: ToSchema>(&mut self) -> Value {
        let name = T::name().into_owned();
        let mut used = vec![(name.clone(), T::schema())];
        T::schemas(&mut used);
        for (name, schema) in used {
            let schema = serde_json::to_value(schema).expect("a schema is always JSON");
            self.0.insert(name, schema);
        }
        json!({ "$ref": format!("#/components/schemas/{name}") })
    }

    /// A list of rows.
    pub(crate) fn list<T: ToSchema>(&mut self) -> Value {
        json!({ "type": "array", "items": self.one::<T>() })
    }
}

/// A short text for people.
pub(crate) fn sentence() -> Value {
    json!({ "type": "string" })
}

/// What was not done, and why, by name.
pub(crate) fn reasons() -> Value {
    json!({ "type": "object", "additionalProperties": { "type": "string" } })
}

/// What a call answers.
#[derive(Debug)]
pub(crate) enum Shape {
    /// This in an envelope.
    Enveloped(Value),
    /// One of these in an envelope.
    EnvelopedEither(Value, Value),
    /// This without an envelope, or a refusal in one.
    Bare(Value),
    /// One of these without an envelope, or a refusal in one.
    Either(Value, Value),
}

impl Shape {
    /// As a schema.
    pub(crate) fn schema(self) -> Value {
        let nothing = json!({ "type": "null" });
        match self {
            Self::Enveloped(data) => envelope(&json!([data, nothing])),
            Self::EnvelopedEither(one, other) => envelope(&json!([one, other, nothing])),
            Self::Bare(data) => json!({ "anyOf": [data, envelope(&json!([nothing]))] }),
            Self::Either(one, other) => {
                json!({ "anyOf": [one, other, envelope(&json!([nothing]))] })
            }
        }
    }
}

fn envelope(data: &Value) -> Value {
    json!({
        "type": "object",
        "properties": {
            "status": { "enum": [0, -1], "description": "0 when it was done" },
            "message": { "type": "string" },
            "data": { "anyOf": data },
        },
        "required": ["status", "message", "data"],
    })
}

/// An answer with status 200 in JSON.
pub(crate) fn json_response(schema: &Value) -> Value {
    json!({ "description": "understood", "content": { "application/json": { "schema": schema } } })
}

fn text_response(about: &str) -> Value {
    json!({ "description": about, "content": { "text/plain": { "schema": sentence() } } })
}

/// A bare answer, whose type nobody looks at.
fn bare_response(about: &str) -> Value {
    json!({ "description": about })
}

/// A body that is too large is refused before it is looked at.
pub(crate) fn too_large() -> Value {
    bare_response("the body is larger than 200 000 bytes")
}

fn get(about: &str, parameters: &[Parameter], responses: &Value) -> Value {
    let parameters: Vec<_> = parameters.iter().map(Parameter::in_query).collect();
    json!({ "summary": about, "parameters": parameters, "responses": responses })
}

fn onoffline_operations() -> Value {
    let parameters: Vec<_> = onoffline::PARAMETERS
        .iter()
        .map(Parameter::in_query)
        .collect();
    let operation = |about| {
        let answer = Shape::Enveloped(json!({ "type": "null" }));
        json!({
            "summary": about,
            "parameters": parameters,
            "responses": { "200": json_response(&answer.schema()), "413": too_large() },
            "security": [{}, { "token": [] }],
        })
    };
    json!({
        "get": operation("Tells or changes a switch of consumers."),
        "post": operation("The same."),
    })
}

/// The whole description.
pub(super) fn document() -> Value {
    let mut rows = Rows::default();
    let management = management::describe(&mut rows);
    let consumers = Shape::Enveloped(rows.list::<consumers::SubjectConsumers>()).schema();
    let paths = json!({
        "/meta/address": { "get": get(
            "Where the TCP port of this metaserver is, as ip:port.",
            &[],
            &json!({ "200": bare_response("the address") }),
        ) },
        "/slave/meta": { "get": get(
            "Where the slave of a group answers HTTP, as ip:port; nothing when there is none.",
            &slave::PARAMETERS,
            &json!({
                "200": bare_response("the address"),
                "503": bare_response("the database does not answer"),
            }),
        ) },
        "/management": { "post": management },
        "/subject/consumers": { "get": get(
            "Lists the consumers of a subject by group.",
            &consumers::PARAMETERS,
            &json!({ "200": json_response(&consumers) }),
        ) },
        "/onoffline": onoffline_operations(),
        "/healthz": { "get": get(
            "Whether the process runs at all.",
            &[],
            &json!({ "200": text_response("it does") }),
        ) },
        "/readyz": { "get": get(
            "Whether it serves.",
            &[],
            &json!({ "200": text_response("it does"), "503": text_response("why not") }),
        ) },
    });
    let token = json!({ "type": "apiKey", "in": "header", "name": TOKEN_HEADER });
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "QMQ metaserver",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Whatever is understood is answered with 200; whether it was done \
                            stands in the body.",
        },
        "paths": paths,
        "components": { "schemas": rows.0, "securitySchemes": { "token": token } },
    })
}

/// Answers the description.
pub(super) async fn serve() -> Response {
    let headers = [(CONTENT_TYPE, "application/json")];
    (headers, document().to_string()).into_response()
}
