//! layers, losses, initialisers and optimisers as graph-building extension traits.
