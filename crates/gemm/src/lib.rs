//! blocked, packed matrix products.
