//! Parameters of a request: those of the query, then those of a form.

use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;

/// Keys read from one request.
const PARAMETERS_MAX: usize = 1_000;
const FORM: &str = "application/x-www-form-urlencoded";

/// The parameters of a request. The query wins over the body, the first of a key over the next.
#[derive(Debug, Default)]
pub struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Reads the query and, when it is a form, the body. Text is UTF-8.
    #[must_use]
    pub fn read(query: Option<&str>, headers: &HeaderMap, body: &[u8]) -> Self {
        let content_type = headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let media = content_type
            .and_then(|value| value.split(';').next())
            .unwrap_or_default();
        let form = if media.trim().eq_ignore_ascii_case(FORM) {
            body
        } else {
            &[]
        };
        let query = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        let all = query
            .chain(form_urlencoded::parse(form))
            .take(PARAMETERS_MAX);
        Self(
            all.map(|(key, value)| (key.into_owned(), value.into_owned()))
                .collect(),
        )
    }

    /// A value; `None` when the key is missing.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, value)| value.as_str())
    }

    /// A value; empty when the key is missing.
    #[must_use]
    pub fn text(&self, key: &str) -> &str {
        self.get(key).unwrap_or_default()
    }

    /// A number.
    ///
    /// # Errors
    /// Says which one is missing or no number.
    pub fn number<T: std::str::FromStr>(&self, key: &str) -> Result<T, String> {
        let text = self.get(key).ok_or_else(|| format!("{key} is missing"))?;
        text.parse()
            .map_err(|_| format!("{key} {text:?} is not a number"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_wins_over_the_form() {
        let mut headers = HeaderMap::new();
        let body = b"a=form&b=%E8%AE%A2+x&n=7&m=x";
        let parameters = Parameters::read(Some("a=query"), &headers, body);
        assert_eq!(parameters.get("a"), Some("query"));
        assert_eq!(parameters.get("b"), None, "not declared as a form");
        headers.insert(
            CONTENT_TYPE,
            format!("{FORM}; charset=UTF-8").parse().unwrap(),
        );
        let parameters = Parameters::read(Some("a=query&a=again"), &headers, body);
        assert_eq!(parameters.get("a"), Some("query"));
        assert_eq!(parameters.get("b"), Some("订 x"));
        assert_eq!(parameters.number("n"), Ok(7_i32));
        assert!(parameters.number::<i32>("m").is_err());
        assert!(parameters.number::<i32>("missing").is_err());
    }
}
