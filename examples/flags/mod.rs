//! Flags of the examples: `--name value` or `--name`, nothing more.
//!
//! Shared by the examples so that each of them is about its subject. A flag that an example does not know is an error
//! that lists the known ones; `--help` prints them and ends the program.

use std::error::Error;
use std::fmt::Display;
use std::str::FromStr;

/// What stood on the command line.
pub struct Flags(Vec<(String, String)>);

impl Flags {
    /// Reads the command line. `known` lists each flag with a line of help; `about` says what the example shows.
    pub fn parse(about: &str, known: &[(&str, &str)]) -> Result<Flags, Box<dyn Error>> {
        let mut args = std::env::args().skip(1).peekable();
        let mut given = Vec::new();
        while let Some(arg) = args.next() {
            let help: String = known.iter().map(|(name, what)| format!("  --{name:<10} {what}\n")).collect();
            if arg == "--help" || arg == "-h" {
                println!("{about}\n\n{help}");
                std::process::exit(0);
            }
            let name = arg.strip_prefix("--").filter(|name| known.iter().any(|k| k.0 == *name));
            let name = name.ok_or_else(|| format!("`{arg}` is not a flag of this example; the flags are:\n{help}"))?;
            // A flag without a value is a switch that is on.
            let value = args.next_if(|next| !next.starts_with("--")).unwrap_or_else(|| "true".into());
            given.push((name.to_owned(), value));
        }
        Ok(Flags(given))
    }

    /// The value of a flag, or `default` if it was not given; the last one counts.
    pub fn get<T: FromStr<Err: Display>>(&self, name: &str, default: T) -> Result<T, String> {
        let Some((_, text)) = self.0.iter().rev().find(|(given, _)| given == name) else { return Ok(default) };
        text.parse().map_err(|error| format!("--{name} {text}: {error}"))
    }
}
