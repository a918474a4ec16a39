//! The settings flags that every server has.

use std::path::PathBuf;

/// Command-line flags about settings, flattened into the flags of each server.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct SettingsArgs {
    /// Read this settings file instead of searching for one.
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// When the file named with -c (or by QMQ_CONF) is missing, warn and look in the next place
    /// instead of refusing to start.
    #[arg(long)]
    pub config_fallback: bool,

    /// Set one key; wins over every file. Can be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub set: Vec<(String, String)>,

    /// Print every effective setting with its origin and exit.
    #[arg(long)]
    pub check_config: bool,
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => {
            Ok((key.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_a_value_with_an_equals_sign() {
        assert_eq!(
            parse_pair("jdbc.url=a?b=c"),
            Ok(("jdbc.url".into(), "a?b=c".into()))
        );
        assert!(parse_pair("=x").is_err());
        assert!(parse_pair("broker.port").is_err());
    }
}
