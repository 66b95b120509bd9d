//! Names of machine code for Linux' `perf`, which looks them up in a file that is called after the process.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;

use crate::compile::Executable;
use crate::ready::all_kernels;

/// The variable that asks for the file.
const VARIABLE: &str = "COTANGENT_PERF_MAP";

impl Executable {
    /// For each piece of code its address and size, in hexadecimal digits, and its kernel's name, as `perf` reads them.
    pub fn perf_map(&self) -> String {
        let mut text = String::new();
        let mut known = Vec::new();
        for (k, (kernel, function)) in all_kernels(&self.plan).into_iter().zip(self.compiled.functions()).enumerate() {
            if !known.contains(&function.address()) {
                known.push(function.address());
                let (address, size) = (function.address(), self.compiled.stats(k).code_bytes);
                let _ = writeln!(text, "{address:x} {size:x} cotangent kernel {k} {}", kernel.name);
            }
        }
        text
    }

    /// Adds the names to the file of this process if `COTANGENT_PERF_MAP` is 1. A file that cannot be written is a report without
    /// names, and no reason to fail.
    pub(crate) fn tell_perf(&self) {
        if std::env::var_os(VARIABLE).is_some_and(|v| v == "1") {
            let path = std::env::temp_dir().join(format!("perf-{}.map", std::process::id()));
            let file = OpenOptions::new().create(true).append(true).open(path);
            let _ = file.and_then(|mut file| file.write_all(self.perf_map().as_bytes()));
        }
    }
}
