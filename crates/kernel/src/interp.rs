//! The kernel interpreter: the slow, obvious twin of the code generators.
