//! What a configuration makes of the other crates: its layers, optimiser, schedule and augmentation.

use cotangent_data::augment::{self, Augmented};
use cotangent_data::{DataError, Examples};
use cotangent_graph::{Code, Diag, GraphBuilder, Init, Loc, Origin, Tensor};
use cotangent_nn::optim::Optimizer as Rule;
use cotangent_nn::{self as nn, Conv, Dense, GaussianNoise, GlobalMeanPool, Layers, Padding, Recipe, Schedule, Tuned};

use crate::sections::{Border, Cell, Change, Config, Function, Layer, Optimizer, Regularization, Start};
use crate::sections::{Direction, Schedule as Course};

impl Function {
    /// The function of each element.
    fn of(self, x: Tensor<'_>) -> Tensor<'_> {
        match self {
            Function::None => x,
            Function::Relu => x.relu(),
            Function::LeakyRelu => x.leaky_relu(0.1),
            Function::Elu => x.elu(1.0),
            Function::Selu => x.selu(),
            Function::Gelu => x.gelu(),
            Function::Silu => x.silu(),
            Function::Sigmoid => x.sigmoid(),
            Function::Tanh => x.tanh(),
            Function::Softplus => x.softplus(),
        }
    }
}

impl Start {
    /// The law of weights before a function.
    fn of(self, function: Function) -> Init {
        use Function::{Elu, Gelu, LeakyRelu, Relu, Silu};
        match self {
            Start::Auto if matches!(function, Relu | LeakyRelu | Elu | Gelu | Silu) => Init::HeNormal,
            Start::Auto if function == Function::Selu => Init::LecunNormal,
            Start::Auto | Start::GlorotUniform => Init::GlorotUniform,
            Start::GlorotNormal => Init::GlorotNormal,
            Start::HeUniform => Init::HeUniform,
            Start::HeNormal => Init::HeNormal,
            Start::LecunNormal => Init::LecunNormal,
            Start::Orthogonal => Init::orthogonal(1.0),
        }
    }
}

impl Layer {
    /// The layer's output; errors are at its line of the configuration. `number` counts layers from 1.
    fn apply<'g>(&self, number: usize, x: Tensor<'g>) -> Tensor<'g> {
        let name = |own: &Option<String>| own.clone().unwrap_or_else(|| format!("{}{number}", self.kind()));
        let rows = |x: Tensor<'g>| if x.rank() > 2 { x.flatten() } else { x };
        match self {
            Layer::Dense(of) => {
                let mut dense = Dense::new(of.units).init(of.init.of(of.activation)).drop_connect(of.drop_connect);
                if !of.bias {
                    dense = dense.without_bias();
                }
                of.activation.of(rows(x).layer(&name(&of.name), dense))
            }
            Layer::Maxout(of) => {
                let dense = Dense::new(of.units.saturating_mul(of.pieces)).init(of.init.of(Function::None));
                rows(x).layer(&name(&of.name), dense).maxout(of.pieces)
            }
            Layer::Conv(of) => {
                let padding = match of.padding {
                    Border::Valid => Padding::Valid,
                    Border::Same => Padding::Same,
                };
                let (size, stride) = ([of.size, of.size], [of.stride, of.stride]);
                let mut conv = Conv::new(of.filters, &size).stride(&stride).padding(padding);
                conv = conv.init(of.init.of(of.activation));
                if !of.bias {
                    conv = conv.without_bias();
                }
                of.activation.of(pictures(x).layer(&name(&of.name), conv))
            }
            Layer::MaxPool(of) => {
                let stride = of.stride.unwrap_or(of.size);
                pictures(x).layer("", nn::MaxPool::new(&[of.size, of.size]).stride(&[stride, stride]))
            }
            Layer::MeanPool(of) => {
                let stride = of.stride.unwrap_or(of.size);
                pictures(x).layer("", nn::MeanPool::new(&[of.size, of.size]).stride(&[stride, stride]))
            }
            Layer::GlobalPool(_) => pictures(x).layer("", GlobalMeanPool::new()),
            Layer::Flatten(_) => x.flatten(),
            Layer::Reshape(of) => {
                let shape: Vec<usize> =
                    x.shape().first().copied().into_iter().chain(of.shape.iter().copied()).collect();
                x.reshape(&shape[..])
            }
            Layer::Activation(of) => of.function.of(x),
            Layer::Dropout(of) => x.dropout(&name(&of.name), of.probability),
            Layer::Noise(of) => x.layer(&name(&of.name), GaussianNoise::new(of.deviation)),
            Layer::BatchNorm(of) => x.layer(&name(&of.name), nn::BatchNorm::new()),
            Layer::LayerNorm(of) => x.layer(&name(&of.name), nn::LayerNorm::new()),
            Layer::Recurrent(of) => {
                let layer = match of.cell {
                    Cell::Rnn => nn::Recurrent::rnn(of.units),
                    Cell::Lstm => nn::Recurrent::lstm(of.units),
                    Cell::Gru => nn::Recurrent::gru(of.units),
                };
                let all = x.layer(&name(&of.name), layer);
                match all.shape()[..] {
                    [rows, time, units] if !of.sequence && time > 0 => {
                        all.slice(&[0, time - 1, 0], &[rows, time, units]).flatten()
                    }
                    _ => all,
                }
            }
        }
    }
}

/// Pictures without an axis of channels get one.
fn pictures(x: Tensor<'_>) -> Tensor<'_> {
    match x.shape()[..] {
        [rows, height, width] => x.reshape([rows, height, width, 1]),
        _ => x,
    }
}

/// The net of a configuration, with `n_outputs` outputs if it ends in a layer for them.
#[derive(Clone, Copy, Debug)]
pub struct Net<'c> {
    config: &'c Config,
    n_outputs: usize,
    n_classes: Option<usize>,
}

impl<'c> Net<'c> {
    /// The net for so many classes, or for one number.
    pub fn new(config: &'c Config, n_classes: Option<usize>) -> Self {
        Net { config, n_outputs: n_classes.unwrap_or(1), n_classes }
    }

    /// Its outputs for features; what does not fit is an error at the line of the layer.
    pub fn outputs<'g>(&self, g: &'g GraphBuilder, x: Tensor<'g>) -> Tensor<'g> {
        let outer = g.origin();
        let mut x = x;
        let mut last = Loc::Internal;
        for (at, layer) in self.config.layers.iter().enumerate() {
            g.set_origin(Some(Origin::at(layer.at.clone())));
            x = layer.value.apply(at + 1, x);
            last = layer.at.clone();
        }
        if last != Loc::Internal {
            g.set_origin(Some(Origin::at(last.clone())));
        }
        if self.config.training.output {
            let rows = if x.rank() > 2 { x.flatten() } else { x };
            x = rows.dense("out", self.n_outputs);
        }
        let row = x.shape().get(1..).unwrap_or_default().to_vec();
        let fits = match self.n_classes {
            Some(n) => row == [n],
            None => row == [1] || row.is_empty(),
        };
        if !fits && g.is_ok() {
            let required = match self.n_classes {
                Some(n) => format!("{n} outputs for {n} classes"),
                None => "one output for a number".to_owned(),
            };
            let diag = Diag::new(Code::Config, format!("the layers require {required}, got rows of shape {row:?}"));
            g.error(diag.at(last).help("leave `training.output` on, or end in a layer of that many outputs"));
        }
        g.set_origin(Some(outer));
        x
    }
}

/// The optimiser with what stands around it; schedules are in steps, of which an epoch has so many.
pub fn optimizer(config: &Config, steps_per_epoch: usize) -> Tuned<Box<dyn Rule>> {
    let rule: Box<dyn Rule> = match &config.optimizer.value {
        Optimizer::Sgd(of) => Box::new(nn::Sgd::new(of.rate)),
        Optimizer::Momentum(of) => Box::new(nn::Momentum::new(of.rate, of.momentum)),
        Optimizer::Nesterov(of) => Box::new(nn::Nesterov::new(of.rate, of.momentum)),
        Optimizer::Adagrad(of) => Box::new(nn::AdaGrad::new(of.rate)),
        Optimizer::Rmsprop(of) => Box::new(nn::RmsProp::new(of.rate).beta(of.beta)),
        Optimizer::Adadelta(of) => Box::new(nn::AdaDelta::new(of.rate)),
        Optimizer::Adam(of) => Box::new(nn::Adam::new(of.rate).beta1(of.beta1).beta2(of.beta2)),
        Optimizer::Adamw(of) => Box::new(nn::AdamW::new(of.rate, of.decay)),
        Optimizer::Nadam(of) => Box::new(nn::NAdam::new(of.rate)),
        Optimizer::Lion(of) => Box::new(nn::Lion::new(of.rate, of.decay)),
        Optimizer::Lamb(of) => Box::new(nn::Lamb::new(of.rate, of.decay)),
    };
    rule.with(recipe(&config.regularization, config.training.accumulate).schedule(schedule(config, steps_per_epoch)))
}

/// A setting of a recipe.
type With = fn(Recipe, f64) -> Recipe;

fn recipe(of: &Regularization, accumulate: usize) -> Recipe {
    let mut recipe = Recipe::new();
    let set: [(f64, With); 4] = [
        (of.l1, Recipe::l1),
        (of.l2, Recipe::l2),
        (of.decay, Recipe::decay),
        (of.gradient_noise, Recipe::gradient_noise),
    ];
    for (number, with) in set.into_iter().filter(|(number, _)| *number > 0.0) {
        recipe = with(recipe, number);
    }
    let limits: [(Option<f64>, With); 3] =
        [(of.max_norm, Recipe::max_norm), (of.clip_norm, Recipe::clip_norm), (of.clip_value, Recipe::clip_value)];
    for (limit, with) in limits {
        recipe = limit.map_or_else(|| recipe.clone(), |limit| with(recipe.clone(), limit));
    }
    if accumulate > 1 { recipe.accumulate(u32::try_from(accumulate).unwrap_or(u32::MAX)) } else { recipe }
}

fn schedule(config: &Config, steps_per_epoch: usize) -> Schedule {
    let steps = |epochs: f64| (epochs * steps_per_epoch as f64).round().max(1.0) as u64;
    let all = steps(config.training.epochs as f64);
    let warm = |schedule: Schedule, epochs: f64| if epochs > 0.0 { schedule.warm_up(steps(epochs)) } else { schedule };
    match &config.schedule {
        Course::Constant(_) => Schedule::constant(),
        Course::Steps(of) => Schedule::step(steps(of.every), of.factor),
        Course::Exponential(of) => Schedule::step(steps(1.0), of.factor),
        Course::Linear(of) => warm(Schedule::linear(all), of.warm_up),
        Course::Cosine(of) => warm(Schedule::cosine(all), of.warm_up),
        Course::OneCycle(_) => Schedule::one_cycle(all),
        Course::WarmRestarts(of) => Schedule::warm_restarts(steps(of.epochs), of.stretch as u64),
    }
}

/// The examples with the changes of the configuration.
///
/// # Errors
/// The change that pictures of this shape cannot have, at its place.
pub fn augmented<'a>(config: &Config, set: &'a dyn Examples) -> Result<Augmented<'a>, Diag> {
    let refused = |error: DataError, at: Loc| Diag::new(Code::Config, error.to_string()).at(at);
    let at = |place: &Loc| place.clone();
    let first = config.augmentation.first().map_or(Loc::Internal, |change| at(&change.at));
    let mut augmented = Augmented::new(set, "x", config.seed).map_err(|error| refused(error, first))?;
    for change in &config.augmentation {
        let with = match &change.value {
            Change::Flip(of) if of.direction == Direction::Vertical => {
                augmented.then(augment::Flip::vertical(of.probability as f32))
            }
            Change::Flip(of) => augmented.then(augment::Flip::horizontal(of.probability as f32)),
            Change::Shift(of) => augmented.then(augment::Shift::by(of.by)),
            Change::Rotate(of) => augmented.then(augment::Rotate::by(of.degrees as f32)),
            Change::Rescale(of) => augmented.then(augment::Rescale::between(of.least as f32, of.most as f32)),
            Change::Brightness(of) => augmented.then(augment::Brightness::by(of.by as f32)),
            Change::Contrast(of) => augmented.then(augment::Contrast::between(of.least as f32, of.most as f32)),
            Change::PixelNoise(of) => augmented.then(augment::Noise::of(of.deviation as f32)),
            Change::Cutout(of) => augmented.then(augment::Cutout::of(of.size)),
            Change::Elastic(of) => augmented.then(augment::Elastic::of(of.strength as f32, of.grid)),
        };
        augmented = with.map_err(|error| refused(error, at(&change.at)))?;
    }
    Ok(augmented)
}
