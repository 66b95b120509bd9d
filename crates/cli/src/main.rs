//! The command line of Cotangent.

fn main() {}
