//! Optimisers and schedules.

use crate::schema::{Range::*, kinds, section};

kinds! {
    /// How weights follow from gradients.
    Optimizer {
        Sgd = "sgd",
        Momentum = "momentum",
        Nesterov = "nesterov",
        Adagrad = "adagrad",
        Rmsprop = "rmsprop",
        Adadelta = "adadelta",
        Adam = "adam",
        Adamw = "adamw",
        Nadam = "nadam",
        Lion = "lion",
        Lamb = "lamb",
    }
}

section! {
    /// Gradient descent.
    Sgd {
        /// The learning rate.
        rate: f64 = 0.1 => Positive,
    }
}

section! {
    /// Gradient descent with a memory of gradients.
    Momentum {
        /// The learning rate.
        rate: f64 = 0.05 => Positive,
        /// The share of the old that is kept.
        momentum: f64 = 0.9 => Share,
    }
}

section! {
    /// Momentum that looks ahead.
    Nesterov {
        /// The learning rate.
        rate: f64 = 0.05 => Positive,
        /// The share of the old that is kept.
        momentum: f64 = 0.9 => Share,
    }
}

section! {
    /// Rates that fall with the squares of gradients so far.
    Adagrad {
        /// The learning rate.
        rate: f64 = 0.01 => Positive,
    }
}

section! {
    /// Gradients divided by the root of a running mean of their squares.
    Rmsprop {
        /// The learning rate.
        rate: f64 = 0.001 => Positive,
        /// The share of the old mean that is kept.
        beta: f64 = 0.9 => Share,
    }
}

section! {
    /// RMSprop with rates that follow from earlier changes.
    Adadelta {
        /// The learning rate.
        rate: f64 = 1.0 => Positive,
    }
}

section! {
    /// Running means of gradients and of their squares.
    Adam {
        /// The learning rate.
        rate: f64 = 0.001 => Positive,
        /// The share of the old mean of gradients that is kept.
        beta1: f64 = 0.9 => Share,
        /// The share of the old mean of squares that is kept.
        beta2: f64 = 0.999 => Share,
    }
}

section! {
    /// Adam with decoupled weight decay.
    Adamw {
        /// The learning rate.
        rate: f64 = 0.001 => Positive,
        /// The decay, in proportion to the rate.
        decay: f64 = 0.01 => AtLeast(0.0),
    }
}

section! {
    /// Adam with Nesterov's look ahead.
    Nadam {
        /// The learning rate.
        rate: f64 = 0.002 => Positive,
    }
}

section! {
    /// Signs of a mean of gradients.
    Lion {
        /// The learning rate.
        rate: f64 = 0.0001 => Positive,
        /// The decay, in proportion to the rate.
        decay: f64 = 0.0 => AtLeast(0.0),
    }
}

section! {
    /// Adam whose steps are in proportion to the weights of a layer.
    Lamb {
        /// The learning rate.
        rate: f64 = 0.001 => Positive,
        /// The decay, in proportion to the rate.
        decay: f64 = 0.0 => AtLeast(0.0),
    }
}

// ---- schedule -------------------------------------------------------------------------------------------------------

kinds! {
    /// How the learning rate changes from step to step. Lengths are counted in epochs.
    Schedule {
        Constant = "constant",
        Steps = "steps",
        Exponential = "exponential",
        Linear = "linear",
        Cosine = "cosine",
        OneCycle = "one_cycle",
        WarmRestarts = "warm_restarts",
    }
}

section! {
    /// As it is.
    Constant {}
}

section! {
    /// Multiplied every so many epochs.
    Steps {
        /// So many.
        every: f64 => Positive,
        /// The factor.
        factor: f64 = 0.1 => Positive,
    }
}

section! {
    /// Multiplied after every epoch.
    Exponential {
        /// The factor.
        factor: f64 => Positive,
    }
}

section! {
    /// In a straight line to zero at the end of the training.
    Linear {
        /// Epochs at the start in which it grows from zero.
        warm_up: f64 = 0.0 => AtLeast(0.0),
    }
}

section! {
    /// Along a cosine to zero at the end of the training.
    Cosine {
        /// Epochs at the start in which it grows from zero.
        warm_up: f64 = 0.0 => AtLeast(0.0),
    }
}

section! {
    /// Up and down once over the training.
    OneCycle {}
}

section! {
    /// Cosines that start anew.
    WarmRestarts {
        /// Epochs of the first.
        epochs: f64 => Positive,
        /// How many times as long as the one before each is.
        stretch: usize = 1 => AtLeast(1.0),
    }
}
