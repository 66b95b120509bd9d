//! Mathematical functions as expansions into scalar instructions.
