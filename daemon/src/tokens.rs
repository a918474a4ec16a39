//! The tokens that management calls must show.

use std::hint::black_box;
use std::path::PathBuf;

use axum::http::HeaderMap;
use tracing::{info, warn};

use crate::settings::file;

/// The header that carries the token.
pub const TOKEN_HEADER: &str = "X-Api-Token";

/// `valid-api-tokens.properties`: each key is a token, its value says whose it is. The file is read
/// at each call, so that a change counts at once; management calls are rare.
#[derive(Clone, Debug)]
pub struct Tokens {
    file: Option<PathBuf>,
}

impl Tokens {
    /// Tokens of `file`; without one, or while it is missing, every call is refused.
    #[must_use]
    pub fn new(file: Option<PathBuf>) -> Self {
        Self { file }
    }

    /// Whose token this is; `None` when it is nobody's. Blocks for the time of reading a file.
    #[must_use]
    pub fn owner(&self, presented: &str) -> Option<String> {
        let path = self.file.as_ref()?;
        let tokens = match file::read(path) {
            Ok(tokens) => tokens,
            Err(error) => {
                warn!(%error, "cannot read the api tokens: every management call is refused");
                return None;
            }
        };
        let mut owner = None;
        // Every token is compared, so that the time tells nothing about which one was close.
        for property in tokens.properties {
            // A line that begins with '=' would make the empty token a valid one.
            if !property.key.is_empty() && is_same(property.key.as_bytes(), presented.as_bytes()) {
                owner = Some(property.value.trim().to_owned());
            }
        }
        owner
    }

    /// Takes calls of `action` with a valid token, and notes whose it was.
    ///
    /// # Errors
    /// What to tell a caller without one.
    pub async fn authorize(&self, headers: &HeaderMap, action: &'static str) -> Result<(), String> {
        let token = headers
            .get(TOKEN_HEADER)
            .and_then(|value| value.to_str().ok());
        let presented = token.unwrap_or_default().to_owned();
        let tokens = self.clone();
        let owner = tokio::task::spawn_blocking(move || tokens.owner(&presented)).await;
        match owner {
            Ok(Some(owner)) => {
                info!(action, owner, "management call");
                Ok(())
            }
            _ => {
                warn!(
                    action,
                    has_token = token.is_some(),
                    "management call without a valid token"
                );
                Err(format!("no valid api token in the header {TOKEN_HEADER}"))
            }
        }
    }
}

fn is_same(token: &[u8], presented: &[u8]) -> bool {
    let difference = token
        .iter()
        .zip(presented)
        .fold(0, |all, (a, b)| black_box(all | (a ^ b)));
    difference == 0 && token.len() == presented.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_tokens_by_their_whole_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("valid-api-tokens.properties");
        let tokens = Tokens::new(Some(path.clone()));
        assert_eq!(tokens.owner("abc"), None, "there is no file yet");
        std::fs::write(&path, "abc=ops team\ndef=\n=nobody\n").unwrap();
        assert_eq!(tokens.owner("abc").as_deref(), Some("ops team"));
        assert_eq!(tokens.owner("def").as_deref(), Some(""));
        for stranger in ["", "ab", "abcd", "ABC", "ops team"] {
            assert_eq!(tokens.owner(stranger), None, "{stranger:?}");
        }
        std::fs::write(&path, "new=x\n").unwrap();
        assert_eq!(tokens.owner("abc"), None);
        assert_eq!(tokens.owner("new").as_deref(), Some("x"));
        assert_eq!(Tokens::new(None).owner("new"), None);
    }
}
