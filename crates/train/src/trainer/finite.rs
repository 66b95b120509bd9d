//! What is not finite: features, losses, weights.
//!
//! Why it exists: a NaN spreads. One in a feature or in a gradient makes all weights NaN within two steps, no arithmetic
//! complains, and checkpoints of such weights push those of good ones out.

use cotangent_data::Dataset;
use cotangent_exec::Store;
use cotangent_graph::{Code, Diag, Loc, TensorData};
use ndarray::Dimension;

use crate::TrainError;
use crate::objective::Label;

/// What becomes of a batch whose loss is infinite or NaN, or that a check of the model or of the optimiser
/// ([`Recipe::check_gradients`](cotangent_nn::Recipe::check_gradients)) finds not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum NonFinite {
    /// It is an error (`E0305`), and the batch has changed nothing. So are features that are not finite, before the first step,
    /// and weights that have become so, before they are evaluated or written.
    #[default]
    Refuse,
    /// The batch is passed over: nothing is changed, its loss does not count, and [`Epoch::n_skipped`](crate::Epoch::n_skipped)
    /// says how many examples that were. An epoch without any other batch is an error, and weights are looked at as above.
    Skip,
    /// Nothing is looked at, and no step waits for its loss.
    Allow,
}

/// The error that a feature is not finite, with its place.
pub(super) fn check_features<T: Label>(of: &str, set: &Dataset<T>) -> Result<(), TrainError> {
    // Without a branch for each, so that the compiler finds vectors.
    let has_other = |values: &[f32]| values.iter().fold(false, |found, v| found | !v.is_finite());
    let features = set.features();
    if features.as_slice().is_some_and(|all| !all.chunks(4096).any(has_other)) {
        return Ok(());
    }
    let Some((index, value)) = features.indexed_iter().find(|(_, v)| !v.is_finite()) else { return Ok(()) };
    let place = match index.slice() {
        [row, column] => format!("row {row}, column {column}"),
        [row, rest @ ..] => format!("row {row} at {rest:?}"),
        [] => String::new(),
    };
    let required = "finite numbers (or `NonFinite::Allow` in the options)";
    Err(TrainError::invalid(format!("features of the {of}"), required, format!("{value} in {place}, counted from 0")))
}

/// The error that weights are not finite, with the first of their names.
pub(super) fn check_weights(store: &Store, names: &[String], at: Loc) -> Result<(), Diag> {
    let is_finite = |value: &TensorData| match value {
        TensorData::F32(values) => values.iter().all(|v| v.is_finite()),
        TensorData::F64(values) => values.iter().all(|v| v.is_finite()),
        _ => true,
    };
    let bad = names.iter().find(|name| store.get(name).is_ok_and(|value| !is_finite(&value)));
    bad.map_or(Ok(()), |name| {
        let text = format!("training requires finite weights, got NaN or an infinity in `{name}` after step {}", store.step());
        let help = "a lower learning rate or `Recipe::clip_norm` keeps them finite; `Recipe::check_gradients` refuses the step \
                    that makes them so; go on from an earlier checkpoint";
        Err(Diag::new(Code::NotFinite, text).at(at).help(help))
    })
}
