//! All sections and keys that a configuration can have.

mod layers;
mod rules;
mod search;

use std::path::PathBuf;

pub use self::layers::*;
pub use self::rules::*;
pub use self::search::*;
use crate::schema::{Placed, Range::*, choice, kinds, section};

section! {
    /// A training: from files to a model.
    Config {
        /// Everything random follows from it: initial weights, shuffles, dropout, augmentation, the division of the data.
        seed: u64 = 0,
        /// The examples.
        data: Placed<Data>,
        /// What is done with the examples before they are trained on.
        preparation: Preparation,
        /// The layers of the net, in order. Behind them stands, unless `training.output` says otherwise, a dense layer `out` of as many
        /// outputs as there are classes, or one for numbers.
        layers: Vec<Placed<Layer>>,
        /// Changes of pictures that are made anew in every epoch, in order.
        augmentation: Vec<Placed<Change>> = Vec::new(),
        /// How weights follow from gradients.
        optimizer: Placed<Optimizer>,
        /// How the learning rate changes from step to step.
        schedule: Schedule = Schedule::Constant(Constant {}),
        /// What keeps the net from learning examples by heart.
        regularization: Regularization,
        /// How long and in which batches.
        training: Training,
        /// What is written, and where.
        output: Output,
        /// Which values of keys `cotangent search` tries; the other commands pass it over.
        search: Option<Placed<Search>>,
    }
}

// ---- data -----------------------------------------------------------------------------------------------------------

kinds! {
    /// Where examples come from.
    Data {
        Mnist = "mnist",
        Cifar = "cifar",
        Idx = "idx",
        Npz = "npz",
        Csv = "csv",
        Images = "images",
    }
}

section! {
    /// The digits of MNIST, 28 × 28 pictures of ten classes; its 10,000 test pictures are for the test.
    Mnist {
        /// The folder with the four IDX files, compressed or not. Without it: that of the environment variable `COTANGENT_MNIST`, or
        /// `examples/data/mnist` in a folder around.
        folder: Option<PathBuf>,
    }
}

section! {
    /// CIFAR-10, 32 × 32 pictures in color of ten classes, in its binary form.
    Cifar {
        /// The folder of the binary files.
        folder: PathBuf,
    }
}

section! {
    /// Arrays in IDX files: bytes are pictures, of which shares of 255 are taken.
    Idx {
        /// The file of examples, `[n, ..]`.
        examples: PathBuf,
        /// The file of labels, `[n]`: classes from 0 on.
        labels: PathBuf,
        /// The same for the test.
        test_examples: Option<PathBuf>,
        /// The same for the test.
        test_labels: Option<PathBuf>,
    }
}

section! {
    /// A NumPy archive with `x` `[n, ..]`, the features, and `y` `[n]`: classes from 0 on if whole numbers, else numbers to predict.
    Npz {
        /// The archive.
        file: PathBuf,
        /// An archive for the test.
        test: Option<PathBuf>,
    }
}

choice! {
    /// What is predicted.
    Target {
        /// One of the texts of a column.
        Class = "class",
        /// The number of a column.
        Number = "number",
    }
}

section! {
    /// A table of text with a row of names on top. Columns of numbers are features; of others each text is one. Missing numbers become
    /// the mean of the training file.
    Csv {
        /// The file.
        file: PathBuf,
        /// A file for the test.
        test: Option<PathBuf>,
        /// The column that is to be predicted.
        label: String,
        /// What it is.
        target: Target = Target::Class,
        /// The columns that it is predicted from: all others unless given.
        columns: Option<Vec<String>>,
    }
}

section! {
    /// A folder of pictures, PNG or JPEG: a folder in it for each class.
    Images {
        /// The folder.
        folder: PathBuf,
        /// A folder for the test.
        test: Option<PathBuf>,
        /// The height that pictures are scaled to; that of the first unless given.
        height: Option<usize> => AtLeast(1.0),
        /// The width that pictures are scaled to; that of the first unless given.
        width: Option<usize> => AtLeast(1.0),
        /// Whether pictures are taken without color.
        gray: bool = false,
    }
}

// ---- preparation ----------------------------------------------------------------------------------------------------

choice! {
    /// How features are normalized.
    Normalize {
        /// As they are.
        None = "none",
        /// Mean 0 and variance 1 over the training set, feature by feature; what is subtracted and divided by is part of the model.
        Standardize = "standardize",
    }
}

section! {
    /// What is done with the examples before they are trained on.
    Preparation {
        /// The share of the training set that is held out to validate on.
        validation: f64 = 0.1 => Share,
        /// How features are normalized.
        normalize: Normalize = Normalize::None,
        /// Whether the test set is looked at after every epoch in the place of a validation set: for curves, since whatever is chosen by
        /// it makes its figure too good.
        validate_on_test: bool = false,
        /// Only so many examples of the training set, the first, are used.
        examples: Option<usize> => AtLeast(1.0),
    }
}

// ---- regularization -------------------------------------------------------------------------------------------------

section! {
    /// What keeps the net from learning examples by heart; biases and gains are left alone.
    Regularization {
        /// The sum of absolute weights times this is added to the loss.
        l1: f64 = 0.0 => AtLeast(0.0),
        /// The sum of squared weights times this is added to the loss.
        l2: f64 = 0.0 => AtLeast(0.0),
        /// Decoupled weight decay, in proportion to the rate.
        decay: f64 = 0.0 => AtLeast(0.0),
        /// The most length that the weights into a neuron may have.
        max_norm: Option<f64> => Positive,
        /// The most length that all gradients together may have.
        clip_norm: Option<f64> => Positive,
        /// The most that an element of a gradient may be.
        clip_value: Option<f64> => Positive,
        /// The standard deviation of noise on gradients.
        gradient_noise: f64 = 0.0 => AtLeast(0.0),
        /// The share of the target that is spread over all classes.
        label_smoothing: f64 = 0.0 => Share,
    }
}

// ---- training -------------------------------------------------------------------------------------------------------

choice! {
    /// In which order an epoch takes the examples.
    Order {
        /// Shuffled anew in every epoch.
        Shuffled = "shuffled",
        /// As they stand.
        Given = "given",
        /// Shuffled, with each class in its share in every batch.
        Stratified = "stratified",
        /// Each class equally often.
        Balanced = "balanced",
    }
}

section! {
    /// How long and in which batches.
    Training {
        /// Passes over the training set.
        epochs: usize = 10 => AtLeast(1.0),
        /// Examples of a step.
        batch_size: usize = 32 => AtLeast(1.0),
        /// In which order an epoch takes the examples.
        order: Order = Order::Shuffled,
        /// Gradients of so many batches make a step.
        accumulate: usize = 1 => AtLeast(1.0),
        /// After so many epochs without a better validation loss the training ends, and the best weights come back.
        patience: Option<usize> => AtLeast(1.0),
        /// After so many epochs without a better validation loss the rate is halved.
        plateau: Option<usize> => AtLeast(1.0),
        /// Whether a dense layer `out` for classes or numbers stands behind the layers.
        output: bool = true,
        /// Whether batches whose loss is not finite are passed over; otherwise they are an error.
        skip_non_finite: bool = false,
    }
}

section! {
    /// What is written, and where.
    Output {
        /// The folder of the model, the report and the checkpoints; that of the configuration with its name unless given.
        folder: Option<PathBuf>,
        /// Checkpoints every so many steps, beside those after each epoch.
        checkpoint_steps: Option<usize> => AtLeast(1.0),
    }
}
