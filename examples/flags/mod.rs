//! Flags of the examples: `--name value` or `--name`, nothing more.
//!
//! Shared by the examples so that each of them is about its subject. `--help` prints the flags and ends the program; so
//! does a flag that the example does not know, as an error.

use std::fmt::Display;
use std::str::FromStr;

/// What stood on the command line.
pub struct Flags(Vec<(String, String)>);

impl Flags {
    /// Reads the command line. `known` lists each flag with a line of help; `about` says what the example shows.
    pub fn parse(about: &str, known: &[(&str, &str)]) -> Flags {
        let mut args = std::env::args().skip(1).peekable();
        let mut given = Vec::new();
        while let Some(arg) = args.next() {
            let help: String = known.iter().map(|(name, what)| format!("  --{name:<10} {what}\n")).collect();
            if arg == "--help" || arg == "-h" {
                println!("{about}\n\n{help}");
                std::process::exit(0);
            }
            let Some((name, _)) = known.iter().find(|(name, _)| arg.strip_prefix("--") == Some(*name)) else {
                eprintln!("`{arg}` is not a flag of this example; the flags are:\n{help}");
                std::process::exit(2);
            };
            // A flag without a value is a switch that is on.
            let value = args.next_if(|next| !next.starts_with("--")).unwrap_or_else(|| "true".into());
            given.push(((*name).to_owned(), value));
        }
        Flags(given)
    }

    /// The value of a flag, or `default` if it was not given; the last one counts.
    pub fn get<T: FromStr<Err: Display>>(&self, name: &str, default: T) -> Result<T, String> {
        let Some((_, text)) = self.0.iter().rev().find(|(given, _)| given == name) else { return Ok(default) };
        text.parse().map_err(|error| format!("--{name} {text}: {error}"))
    }
}
