//! A target as a file: a first line that says what it is, then `name = value`, in any order.

use super::{BadTarget, Caches, FITTED, Isa, Target};

/// The first line.
const HEAD: &str = "cotangent target 1";

/// Names of the caches' sizes.
const CACHES: [&str; 4] = ["l1", "l2", "l3", "l1_period"];

fn sizes(caches: &mut Caches) -> [&mut usize; 4] {
    [&mut caches.l1, &mut caches.l2, &mut caches.l3, &mut caches.l1_period]
}

impl Target {
    /// The target in text form, which [`Target::parse`] reads.
    pub fn to_text(&self) -> String {
        let mut lines = vec![HEAD.to_owned(), format!("isa = {}", self.isa.name()), format!("cores = {}", self.cores)];
        let mut caches = self.caches;
        lines.extend(CACHES.iter().zip(sizes(&mut caches)).map(|(name, size)| format!("{name} = {size}")));
        lines.extend(self.costs.times().map(|(name, ns)| format!("{name} = {ns}")));
        lines.extend(self.costs.counts().map(|(name, count)| format!("{name} = {count}")));
        lines.join("\n") + "\n"
    }

    /// A target from its text form. Empty lines and what follows `#` mean nothing.
    ///
    /// # Errors
    /// [`BadTarget`] names the line and what was required there; a value that is missing, given twice or unknown; or says what
    /// [`Target::new`] says of the values.
    pub fn parse(text: &str) -> Result<Target, BadTarget> {
        let bad = |text: String| Err(BadTarget(text));
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
        let mut lines = lines.enumerate().filter(|(_, line)| !line.is_empty());
        match lines.next() {
            Some((_, HEAD)) => {}
            first => {
                let got = first.map_or("nothing".to_owned(), |(_, line)| format!("`{}`", line.escape_debug()));
                return bad(format!("the first line of a target must be `{HEAD}`, got {got}"));
            }
        }
        let (mut isa, mut cores, mut caches, mut costs) =
            (None, 0, Caches { l1: 0, l2: 0, l3: 0, l1_period: 0 }, FITTED);
        let mut missing: Vec<&str> = vec!["isa", "cores"];
        missing.extend(CACHES);
        missing.extend(costs.times().map(|(name, _)| name));
        missing.extend(costs.counts().map(|(name, _)| name));
        let all = missing.clone();
        for (at, line) in lines {
            let (number, shown) = (at + 1, line.escape_debug());
            let Some((name, value)) = line.split_once('=').map(|(name, value)| (name.trim(), value.trim())) else {
                return bad(format!("line {number} of a target must be `name = value`, got `{shown}`"));
            };
            match missing.iter().position(|other| *other == name) {
                Some(known) => _ = missing.remove(known),
                None if all.contains(&name) => {
                    return bad(format!("line {number} of a target has `{name}` a second time"));
                }
                None => {
                    let (name, names) = (name.escape_debug(), all.join(", "));
                    return bad(format!(
                        "line {number} of a target has `{name}`, which is none of its values: {names}"
                    ));
                }
            }
            let wrong = |required: &str| {
                format!("line {number} of a target: `{name}` must be {required}, got `{}`", value.escape_debug())
            };
            if name == "isa" {
                let names = Isa::ALL.map(Isa::name).join(", ");
                isa = Isa::named(value);
                if isa.is_none() {
                    return bad(wrong(&format!("one of {names}")));
                }
                continue;
            }
            let times = costs.times_mut().into_iter().find(|(other, _)| *other == name);
            if let Some((_, ns)) = times {
                *ns = value.parse().map_err(|_| BadTarget(wrong("a number")))?;
                continue;
            }
            let count = value.parse().map_err(|_| BadTarget(wrong("a whole number")))?;
            let cache = CACHES.iter().position(|other| *other == name);
            match (cache, costs.counts_mut().into_iter().find(|(other, _)| *other == name)) {
                (Some(at), _) => *sizes(&mut caches)[at] = count,
                (None, Some((_, place))) => *place = count,
                (None, None) => cores = count,
            }
        }
        match isa {
            Some(isa) if missing.is_empty() => Target::new(isa, caches, cores, costs),
            _ => bad(format!("a target must have a value for {}", missing.join(", "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for target in [Target::here(), &Target::usual()] {
            assert_eq!(Target::parse(&target.to_text()).as_ref(), Ok(target));
        }
        let text = Target::usual().to_text().replace("cores = 1\n", "\n  cores=3   # of four\n");
        assert_eq!(Target::parse(&text).unwrap().cores(), 3);
    }

    #[test]
    fn mistakes_are_named_with_their_lines() {
        let text = Target::usual().to_text();
        for (from, to, expected) in [
            (
                "cotangent target 1",
                "cotangent target 2",
                "first line of a target must be `cotangent target 1`, got `cotangent target 2`",
            ),
            (
                "isa = portable",
                "isa = avx9000",
                "line 2 of a target: `isa` must be one of portable, neon, avx2, avx512, got `avx9000`",
            ),
            ("cores = 1", "cores", "line 3 of a target must be `name = value`, got `cores`"),
            ("cores = 1", "cores = -1", "`cores` must be a whole number, got `-1`"),
            ("cores = 1", "cores = 0", "cores of a target must be 1 to 65536, got 0"),
            ("cores = 1", "", "a target must have a value for cores"),
            ("cores = 1", "cores = 1\ncores = 2", "line 4 of a target has `cores` a second time"),
            (
                "cores = 1",
                "cores = 1\ncoers = 2",
                "line 4 of a target has `coers`, which is none of its values: isa, cores",
            ),
            ("op_ns = ", "op_ns = x", "`op_ns` must be a number, got `x"),
            ("step_ns = ", "step_ns = -", "`step_ns` of a target must be 1e-9 to 1e9 nanoseconds, got -"),
            ("step_ns = 100", "step_ns = NaN", "`step_ns` of a target must be 1e-9 to 1e9 nanoseconds, got NaN"),
            ("l2 = ", "l2 = 1 #", "bytes of the second-level cache of a target must be"),
        ] {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text, "{from}");
            let error = Target::parse(&changed).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(Target::parse("").unwrap_err().to_string().contains("got nothing"));
    }
}
