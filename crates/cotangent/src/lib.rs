//! Cotangent.
