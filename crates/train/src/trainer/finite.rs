//! What is not finite: features, losses, weights.
//!
//! Why it exists: a NaN spreads. One in a feature or in a gradient makes all weights NaN within two steps, no arithmetic
//! complains, and checkpoints of such weights push those of good ones out.

use cotangent_data::Examples;
use cotangent_exec::Store;
use cotangent_graph::{Code, Diag, Loc, TensorData};
use ndarray::{CowArray, Dimension, IxDyn};

use crate::TrainError;

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

/// The error that a number of a field is not finite, with its place.
pub(super) fn check_features(of: &str, set: &dyn Examples) -> Result<(), TrainError> {
    let fields = set.fields();
    if !fields.iter().any(|field| field.dtype.is_float()) {
        return Ok(());
    }
    let (places, mut batch) = ((0..set.len()).collect::<Vec<usize>>(), Vec::new());
    for places in places.chunks(1024) {
        set.gather(0, places, &mut batch)?;
        for (field, values) in fields.iter().zip(&batch) {
            let found = match values {
                TensorData::F32(values) => first_other(values, |v| v.is_finite()),
                TensorData::F64(values) => first_other(values, |v| v.is_finite()),
                _ => None,
            };
            let Some((index, value)) = found else { continue };
            let row = places[index[0]];
            let place = match &index[1..] {
                [] => format!("row {row}"),
                [column] => format!("row {row}, column {column}"),
                rest => format!("row {row} at {rest:?}"),
            };
            let of = format!("field `{}` of the {of}", field.name);
            let required = "finite numbers (or `NonFinite::Allow` in the options)";
            return Err(TrainError::invalid(of, required, format!("{value} in {place}, counted from 0")));
        }
    }
    Ok(())
}

/// The place of the first number that is not finite, and the number.
fn first_other<T: Copy + std::fmt::Display>(
    values: &CowArray<'_, T, IxDyn>,
    is_finite: impl Fn(T) -> bool,
) -> Option<(Vec<usize>, String)> {
    // Without a branch for each, so that the compiler finds vectors.
    let has_other = |values: &[T]| values.iter().fold(false, |found, &v| found | !is_finite(v));
    if values.as_slice().is_some_and(|all| !all.chunks(4096).any(has_other)) {
        return None;
    }
    let (index, value) = values.indexed_iter().find(|&(_, &v)| !is_finite(v))?;
    Some((index.slice().to_vec(), value.to_string()))
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
