//! scalar bodies, their builder and evaluator, the math functions, Philox.
