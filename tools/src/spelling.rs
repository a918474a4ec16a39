//! Options in both spellings: camelCase, as documented for years, and with dashes.

use clap::{Arg, Command};

/// Lets every option of the command, and of those below it, be written either way.
pub(crate) fn either_way(command: Command) -> Command {
    command.mut_args(with_other).mut_subcommands(either_way)
}

fn with_other(option: Arg) -> Arg {
    let aliases = option.get_all_aliases().unwrap_or_default().into_iter();
    let known: Vec<String> = option
        .get_long()
        .into_iter()
        .chain(aliases)
        .map(str::to_owned)
        .collect();
    let others: Vec<String> = known
        .iter()
        .map(|name| other(name))
        .filter(|name| !known.contains(name))
        .collect();
    option.aliases(others)
}

/// The other spelling of a name; one of a single word is its own.
fn other(name: &str) -> String {
    let mut spelt = String::new();
    let mut is_after_dash = false;
    for letter in name.chars() {
        match letter {
            '-' => is_after_dash = true,
            _ if is_after_dash => {
                spelt.push(letter.to_ascii_uppercase());
                is_after_dash = false;
            }
            'A'..='Z' => {
                spelt.push('-');
                spelt.push(letter.to_ascii_lowercase());
            }
            _ => spelt.push(letter),
        }
    }
    spelt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_two_spellings_or_one() {
        for (camel, dashed) in [
            ("dryRun", "dry-run"),
            ("relatedBrokerGroup", "related-broker-group"),
            ("subject", "subject"),
        ] {
            assert_eq!(other(camel), dashed);
            assert_eq!(other(dashed), camel);
        }
    }

    #[test]
    fn commands_below_have_them_too() {
        let option = Arg::new("client").long("clientId").alias("consumer-id");
        let below = Command::new("below").arg(option);
        let command =
            either_way(Command::new("all").subcommand(Command::new("a").subcommand(below)));
        for spelt in ["clientId", "client-id", "consumerId", "consumer-id"] {
            let spelt = format!("--{spelt}=x");
            let given = ["all", "a", "below", &spelt];
            assert!(
                command.clone().try_get_matches_from(given).is_ok(),
                "{spelt}"
            );
        }
    }
}
