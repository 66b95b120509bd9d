//! The page of all keys, as the definitions say it.

use std::fmt::Write;

use crate::schema::{Doc, Key, Section};
use crate::sections::Config;

/// The reference of all sections and keys, in Markdown.
pub fn reference() -> String {
    let mut out = String::from("# Configurations\n\n");
    out.push_str(
        "<!-- Generated from crates/config by tests/generated_docs.rs; change the code, not this page. -->\n\n",
    );
    out.push_str(
        "`cotangent train CONFIG.toml` trains what a file in [TOML](https://toml.io) says; [cli.md](cli.md#train) shows it. Paths \
         are relative to the file. Whatever is wrong is told at once, with its line and the nearest right spelling, before anything \
         is read or written.\n\n```toml\nseed = 1\nlayers = [\n  { kind = \"dense\", units = 128, activation = \"relu\" },\n  \
         { kind = \"dropout\", probability = 0.2 },\n]\n\n[data]\nkind = \"mnist\"\n\n[optimizer]\nkind = \"adam\"\nrate = \
         0.001\n\n[training]\nepochs = 3\nbatch_size = 128\n```\n",
    );
    let keys = Config::keys();
    out.push_str("\n## The document\n\n");
    table(&mut out, &keys);
    for key in &keys {
        let doc = match &key.doc {
            Doc::List(of) => of,
            other => other,
        };
        match doc {
            Doc::Section(about, keys) => {
                let _ = write!(out, "\n## {}\n\n{}\n\n", key.name, about.trim());
                table(&mut out, keys);
                for key in keys {
                    let Doc::Map(of) = &key.doc else { continue };
                    let Doc::Section(about, keys) = &**of else { continue };
                    let _ = write!(out, "\n## {}\n\n{}\n\n", key.name, about.trim());
                    table(&mut out, keys);
                }
            }
            Doc::Kinds(_, kinds) => {
                let _ = write!(out, "\n## {}\n\n{} The key `kind` says which:\n", key.name, key.about.trim());
                for (kind, about, keys) in kinds {
                    let _ = write!(out, "\n### {} `{kind}`\n\n{}\n", key.name, about.trim());
                    if !keys.is_empty() {
                        out.push('\n');
                        table(&mut out, keys);
                    }
                }
            }
            Doc::Plain(_) | Doc::Choice(_) | Doc::List(_) | Doc::Map(_) => {}
        }
    }
    out
}

fn table(out: &mut String, keys: &[Key]) {
    out.push_str("| key | value | default | meaning |\n|---|---|---|---|\n");
    for key in keys {
        let value = match &key.doc {
            Doc::Section(..) | Doc::Kinds(..) => format!("[a table](#{})", key.name),
            Doc::Map(_) => format!("[a table](#{}) for each key", key.name),
            Doc::List(of) if matches!(**of, Doc::Section(..) | Doc::Kinds(..)) => {
                format!("[a list of tables](#{})", key.name)
            }
            Doc::Choice(choices) => {
                choices.iter().map(|(name, _)| format!("`\"{name}\"`")).collect::<Vec<_>>().join(", ")
            }
            other => format!("{}{}", other.required(), key.range.text()),
        };
        let default = match key.default.as_deref() {
            None => "must be given".to_owned(),
            Some("") => "–".to_owned(),
            Some(text) => format!("`{text}`"),
        };
        let mut about = key.about.trim().to_owned();
        if let Doc::Choice(choices) = &key.doc {
            for (name, meaning) in choices {
                let _ = write!(about, " `{name}`: {}", meaning.trim().trim_end_matches('.'));
                about.push('.');
            }
        }
        let _ = writeln!(out, "| `{}` | {value} | {default} | {} |", key.name, about.replace('|', "\\|"));
    }
}
