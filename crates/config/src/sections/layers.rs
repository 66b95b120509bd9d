//! Layers and the random changes of pictures.

use crate::schema::{Range::*, choice, kinds, section};

kinds! {
    /// A layer.
    Layer {
        Dense = "dense",
        Maxout = "maxout",
        Conv = "conv",
        MaxPool = "max_pool",
        MeanPool = "mean_pool",
        GlobalPool = "global_pool",
        Flatten = "flatten",
        Reshape = "reshape",
        Activation = "activation",
        Dropout = "dropout",
        Noise = "noise",
        BatchNorm = "batch_norm",
        LayerNorm = "layer_norm",
        Recurrent = "recurrent",
    }
}

choice! {
    /// A function of each element.
    Function {
        /// The value itself.
        None = "none",
        /// max(0, z).
        Relu = "relu",
        /// z, or 0.1 z below zero.
        LeakyRelu = "leaky_relu",
        /// z, or exp(z) - 1 below zero.
        Elu = "elu",
        /// Scaled ELU.
        Selu = "selu",
        /// z Φ(z).
        Gelu = "gelu",
        /// z σ(z).
        Silu = "silu",
        /// The logistic function.
        Sigmoid = "sigmoid",
        /// The hyperbolic tangent.
        Tanh = "tanh",
        /// log(1 + exp(z)).
        Softplus = "softplus",
    }
}

choice! {
    /// How weights start.
    Start {
        /// Normal of variance 2/n_in for `relu` and its kin, else Glorot's.
        Auto = "auto",
        /// Uniform of variance 2/(n_in + n_out).
        GlorotUniform = "glorot_uniform",
        /// Normal of variance 2/(n_in + n_out).
        GlorotNormal = "glorot_normal",
        /// Uniform of variance 2/n_in.
        HeUniform = "he_uniform",
        /// Normal of variance 2/n_in.
        HeNormal = "he_normal",
        /// Normal of variance 1/n_in.
        LecunNormal = "lecun_normal",
        /// An orthogonal matrix.
        Orthogonal = "orthogonal",
    }
}

section! {
    /// Fully connected: `x · W + b`. Examples of several axes are flattened before.
    Dense {
        /// The number of outputs.
        units: usize => AtLeast(1.0),
        /// What follows, on each output.
        activation: Function = Function::None,
        /// How weights start.
        init: Start = Start::Auto,
        /// Whether something is added to each output.
        bias: bool = true,
        /// DropConnect: the share of weights that are zero in a step of training.
        drop_connect: f64 = 0.0 => Share,
        /// Its name, that of its parameters; the kind and its place unless given.
        name: Option<String>,
    }
}

section! {
    /// Fully connected, and of each `pieces` outputs the largest.
    Maxout {
        /// The number of outputs.
        units: usize => AtLeast(1.0),
        /// Of how many each is the largest.
        pieces: usize = 2 => AtLeast(2.0),
        /// How weights start.
        init: Start = Start::GlorotUniform,
        /// Its name; the kind and its place unless given.
        name: Option<String>,
    }
}

choice! {
    /// What is put around a picture.
    Border {
        /// Nothing: windows that fit.
        Valid = "valid",
        /// Zeros, so that there is a result for every `stride` places.
        Same = "same",
    }
}

section! {
    /// A convolution of pictures.
    Conv {
        /// The number of channels that it makes.
        filters: usize => AtLeast(1.0),
        /// Height and width of a filter.
        size: usize = 3 => AtLeast(1.0),
        /// Places from one window to the next.
        stride: usize = 1 => AtLeast(1.0),
        /// What is put around the picture.
        padding: Border = Border::Same,
        /// What follows, on each element.
        activation: Function = Function::None,
        /// How filters start.
        init: Start = Start::Auto,
        /// Whether something is added to each channel.
        bias: bool = true,
        /// Its name; the kind and its place unless given.
        name: Option<String>,
    }
}

section! {
    /// The largest element of each window.
    MaxPool {
        /// Height and width of a window.
        size: usize = 2 => AtLeast(1.0),
        /// Places from one window to the next; the size unless given.
        stride: Option<usize> => AtLeast(1.0),
    }
}

section! {
    /// The mean of each window.
    MeanPool {
        /// Height and width of a window.
        size: usize = 2 => AtLeast(1.0),
        /// Places from one window to the next; the size unless given.
        stride: Option<usize> => AtLeast(1.0),
    }
}

section! {
    /// The mean of each channel over the whole picture.
    GlobalPool {}
}

section! {
    /// All axes of an example merged into one.
    Flatten {}
}

section! {
    /// Examples of another shape, of as many elements.
    Reshape {
        /// The lengths of the axes of an example.
        shape: Vec<usize> => AtLeast(1.0),
    }
}

section! {
    /// A function of each element.
    Activation {
        /// Which.
        function: Function,
    }
}

section! {
    /// In training, elements are zero with a probability, and the others scaled so that the mean stays.
    Dropout {
        /// The probability.
        probability: f64 = 0.5 => Share,
        /// Its name, that of its random numbers; the kind and its place unless given.
        name: Option<String>,
    }
}

section! {
    /// In training, normal noise is added.
    Noise {
        /// Its standard deviation.
        deviation: f64 => AtLeast(0.0),
        /// Its name, that of its random numbers; the kind and its place unless given.
        name: Option<String>,
    }
}

section! {
    /// Each feature or channel normalized over the batch, at test time by running averages.
    BatchNorm {
        /// Its name; the kind and its place unless given.
        name: Option<String>,
    }
}

section! {
    /// Each example normalized over its last axis.
    LayerNorm {
        /// Its name; the kind and its place unless given.
        name: Option<String>,
    }
}

choice! {
    /// A recurrent cell.
    Cell {
        /// tanh of input and state.
        Rnn = "rnn",
        /// Long short-term memory.
        Lstm = "lstm",
        /// Gated recurrent unit.
        Gru = "gru",
    }
}

section! {
    /// A recurrent layer over examples `[time, features]`.
    Recurrent {
        /// The cell.
        cell: Cell = Cell::Lstm,
        /// The number of outputs.
        units: usize => AtLeast(1.0),
        /// Whether all outputs go on, `[time, units]`, or only the last, `[units]`.
        sequence: bool = false,
        /// Its name; the kind and its place unless given.
        name: Option<String>,
    }
}

// ---- augmentation ---------------------------------------------------------------------------------------------------

kinds! {
    /// A random change of pictures.
    Change {
        Flip = "flip",
        Shift = "shift",
        Rotate = "rotate",
        Rescale = "rescale",
        Brightness = "brightness",
        Contrast = "contrast",
        PixelNoise = "noise",
        Cutout = "cutout",
        Elastic = "elastic",
    }
}

choice! {
    /// Along which axis.
    Direction {
        /// Left becomes right.
        Horizontal = "horizontal",
        /// Above becomes below.
        Vertical = "vertical",
    }
}

section! {
    /// Some pictures are mirrored.
    Flip {
        /// How.
        direction: Direction = Direction::Horizontal,
        /// The share of pictures.
        probability: f64 = 0.5 => Unit,
    }
}

section! {
    /// Moved by whole places in each direction.
    Shift {
        /// At most so many.
        by: usize => AtLeast(0.0),
    }
}

section! {
    /// Turned.
    Rotate {
        /// At most so many degrees either way.
        degrees: f64 => AtLeast(0.0),
    }
}

section! {
    /// Enlarged or made smaller.
    Rescale {
        /// The least factor.
        least: f64 => Positive,
        /// The largest factor.
        most: f64 => Positive,
    }
}

section! {
    /// A number is added to the whole picture.
    Brightness {
        /// At most so much either way.
        by: f64 => AtLeast(0.0),
    }
}

section! {
    /// Differences from the mean are multiplied.
    Contrast {
        /// The least factor.
        least: f64 => AtLeast(0.0),
        /// The largest factor.
        most: f64 => AtLeast(0.0),
    }
}

section! {
    /// Normal noise on each element.
    PixelNoise {
        /// Its standard deviation.
        deviation: f64 => AtLeast(0.0),
    }
}

section! {
    /// A square at a random place becomes background.
    Cutout {
        /// Its side.
        size: usize => AtLeast(1.0),
    }
}

section! {
    /// Bent, as by hand.
    Elastic {
        /// How far, in places.
        strength: f64 => AtLeast(0.0),
        /// Places between the points that are moved.
        grid: usize = 8 => AtLeast(1.0),
    }
}
