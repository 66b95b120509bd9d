//! Clusters, lowering, plans: what fuses, what is stored where, and that nothing of it changes a bit.

mod broken;
mod choices;
mod common;
mod convolutions;
mod fusion;
mod memory;
mod nests;
mod random;
mod rows;
mod updates;
