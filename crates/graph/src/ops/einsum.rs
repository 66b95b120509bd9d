//! Einstein's summation: products and sums of tensors by the letters of their axes.
//!
//! [`GraphBuilder::einsum`] is no op of its own: it writes what it stands for with products, sums and views, so that every pass
//! and derivative rule applies. Operands are contracted in pairs. Of all orders of pairs it takes the one with the fewest
//! multiplications (for more than eight operands, the cheapest next pair), and of equal ones the first. A pair whose
//! common letters disappear is one product of matrices, over a batch of the common letters that stay; what stays everywhere is
//! multiplied element by element; a letter of one operand alone that the result has not is summed before.

use std::collections::HashMap;

use crate::builder::{GraphBuilder, Tensor};
use crate::diag::{Code, Diag};
use crate::types::Shape;

/// Operands up to which all orders of pairs are compared: 3ⁿ steps.
const MOST_SEARCHED: usize = 8;

/// The name of an axis: a letter, or an axis of the ellipsis counted from the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Label {
    Rest(usize),
    Letter(char),
}

/// A tensor whose axes have distinct labels.
#[derive(Clone, Debug)]
struct Term<'g> {
    tensor: Tensor<'g>,
    labels: Vec<Label>,
}

type Extents = HashMap<Label, usize>;

impl GraphBuilder {
    /// Einstein's summation, as NumPy's `einsum`: `g.einsum("bik,bkj->bij", &[x, y])` is the batched product of matrices.
    ///
    /// There is a group of letters for each operand, one letter for each axis; equal letters are equal indices, also within one
    /// operand (`"ii->i"` is a diagonal); letters that the result has not are summed over. `...` stands for all other axes, which
    /// broadcast. Without `->` the result has the axes of `...` and then, in alphabetical order, the letters that occur once. Spaces
    /// mean nothing. Any number of operands, of one element type; products are those of [`Tensor::matmul`] with its order of sums, and
    /// the order of several contractions is that of the fewest multiplications.
    ///
    /// ```
    /// use cotangent_graph::{DType::F32, build};
    ///
    /// let graph = build(|g| {
    ///     let (q, k) = (g.input("q", F32, [2, 5, 4, 8]), g.input("k", F32, [2, 7, 4, 8]));
    ///     let scores = g.einsum("bqhd,bkhd->bhqk", &[q, k]);
    ///     assert_eq!(scores.shape()[..], [2, 4, 5, 7]);
    ///     g.output("scores", scores);
    /// })?;
    /// # Ok::<(), cotangent_graph::Diags>(())
    /// ```
    ///
    /// It is an error if the letters do not fit the operands.
    #[track_caller]
    pub fn einsum<'g>(&'g self, formula: &str, operands: &[Tensor<'g>]) -> Tensor<'g> {
        if operands.iter().any(|operand| operand.is_poisoned()) {
            return self.poisoned();
        }
        let (terms, result, extents) = match read(formula, operands) {
            Ok(read) => read,
            Err((code, text)) => {
                let diag = Diag::new(code, format!("`einsum` of \"{formula}\" {text}")).operands(operands);
                return self.poison(diag.help("a group of letters for each operand, as in \"bik,bkj->bij\""));
            }
        };
        let mut singles = Vec::with_capacity(terms.len());
        for (labels, &tensor) in terms.into_iter().zip(operands) {
            singles.push(distinct(tensor, labels, &extents));
        }
        let mut left: Vec<Option<Term<'g>>> = singles.into_iter().map(Some).collect();
        for (a, b) in pairs(&left, &result, &extents) {
            let (Some(first), Some(second)) = (left[a].take(), left[b].take()) else { continue };
            let mut kept: Vec<Label> = result.clone();
            kept.extend(left.iter().flatten().flat_map(|term| term.labels.iter().copied()));
            left[a] = Some(contract(first, second, &kept, &extents));
        }
        let Some(last) = left.into_iter().flatten().next() else { return self.poisoned() };
        let Term { tensor, labels } = summed(last, &result);
        let perm: Vec<usize> = result.iter().filter_map(|l| labels.iter().position(|known| known == l)).collect();
        transposed(tensor, &perm)
    }
}

type Mistake = (Code, String);

/// A formula: the labels of the operands, those of the result, and the extents of all.
type Formula = (Vec<Vec<Label>>, Vec<Label>, Extents);

/// What a formula says of these operands.
fn read(formula: &str, operands: &[Tensor<'_>]) -> Result<Formula, Mistake> {
    let syntax = |text: String| (Code::BadAttribute, text);
    let formula: String = formula.chars().filter(|c| *c != ' ').collect();
    let (inputs, output) = match formula.split_once("->") {
        Some((inputs, output)) => (inputs, Some(output)),
        None => (&formula[..], None),
    };
    let groups: Vec<&str> = inputs.split(',').collect();
    if groups.len() != operands.len() || operands.is_empty() {
        return Err((
            Code::BadArity,
            format!("requires {} operands, one for each group of letters, got {}", groups.len(), operands.len()),
        ));
    }
    if let Some(other) = operands.iter().find(|operand| operand.dtype() != operands[0].dtype()) {
        let text = format!("requires operands of one element type, got {} and {}", operands[0].dtype(), other.dtype());
        return Err((Code::DTypeMismatch, text));
    }
    let (mut terms, mut extents, mut n_rest) = (Vec::new(), Extents::new(), 0);
    for (k, (group, operand)) in groups.iter().zip(operands).enumerate() {
        let (before, after) = split(group).map_err(syntax)?;
        let shape = operand.shape();
        let (n_letters, ellipsis) = (before.len() + after.as_ref().map_or(0, Vec::len), after.is_some());
        if n_letters > shape.rank() || (!ellipsis && n_letters < shape.rank()) {
            let text = format!(
                "requires {n_letters} axes{} of operand {k}, got shape {shape}",
                if ellipsis { " or more" } else { "" }
            );
            return Err((Code::ShapeMismatch, text));
        }
        let rest = shape.rank() - n_letters;
        n_rest = n_rest.max(rest);
        let labels: Vec<Label> = before
            .into_iter()
            .map(Label::Letter)
            .chain((0..rest).rev().map(Label::Rest))
            .chain(after.into_iter().flatten().map(Label::Letter))
            .collect();
        for (&label, &extent) in labels.iter().zip(&shape[..]) {
            let known = extents.entry(label).or_insert(extent);
            match label {
                _ if *known == extent => {}
                Label::Rest(_) if *known == 1 => *known = extent,
                Label::Rest(_) if extent == 1 => {}
                Label::Rest(_) => {
                    let text = format!("requires axes under `...` that broadcast, got extents {known} and {extent}");
                    return Err((Code::ShapeMismatch, text));
                }
                Label::Letter(letter) => {
                    let text = format!("requires one extent for `{letter}`, got {known} and {extent}");
                    return Err((Code::ShapeMismatch, text));
                }
            }
        }
        terms.push(labels);
    }
    let rest = (0..n_rest).rev().map(Label::Rest);
    let result: Vec<Label> = match output {
        Some(output) => {
            let (before, after) = split(output).map_err(syntax)?;
            if after.is_none() && n_rest > 0 {
                return Err(syntax("requires `...` in the result, as an operand has it".to_owned()));
            }
            let ellipsis = after.is_some();
            let letters = before.into_iter().map(Label::Letter);
            let after = after.into_iter().flatten().map(Label::Letter);
            letters.chain(rest.filter(|_| ellipsis)).chain(after).collect()
        }
        None => {
            let mut once: Vec<Label> =
                extents.keys().copied().filter(|label| matches!(label, Label::Letter(_))).collect();
            once.retain(|label| terms.iter().flatten().filter(|other| *other == label).count() == 1);
            once.sort_unstable();
            rest.chain(once).collect()
        }
    };
    for (k, label) in result.iter().enumerate() {
        let Label::Letter(letter) = label else { continue };
        if !extents.contains_key(label) {
            return Err(syntax(format!("requires letters of the operands in the result, got `{letter}`")));
        }
        if result[..k].contains(label) {
            return Err(syntax(format!("requires distinct letters in the result, got `{letter}` twice")));
        }
    }
    Ok((terms, result, extents))
}

/// The letters before and after the ellipsis; no second list if there is none.
fn split(group: &str) -> Result<(Vec<char>, Option<Vec<char>>), String> {
    let letters = |text: &str| match text.chars().find(|c| !c.is_ascii_alphabetic()) {
        Some(other) => Err(format!("requires letters, `...`, `,` and one `->`, got {other:?}")),
        None => Ok(text.chars().collect::<Vec<char>>()),
    };
    match group.split_once("...") {
        Some((before, after)) => Ok((letters(before)?, Some(letters(after)?))),
        None => Ok((letters(group)?, None)),
    }
}

/// The axes in another order, where that is another one.
#[track_caller]
fn transposed<'g>(tensor: Tensor<'g>, perm: &[usize]) -> Tensor<'g> {
    if perm.iter().copied().eq(0..perm.len()) { tensor } else { tensor.transpose(perm) }
}

/// The operand with each label once: diagonals are taken, and axes of the ellipsis that are repeated for the others left out.
#[track_caller]
fn distinct<'g>(mut tensor: Tensor<'g>, mut labels: Vec<Label>, extents: &Extents) -> Term<'g> {
    let repeated = |labels: &[Label]| {
        (0..labels.len()).find_map(|k| Some((k, (k + 1..labels.len()).find(|&l| labels[l] == labels[k])?)))
    };
    while let Some((first, second)) = repeated(&labels) {
        // Both axes last, then every (n + 1)-th of their n² elements.
        let n = tensor.dim(first);
        let mut perm: Vec<usize> = (0..labels.len()).filter(|&axis| axis != first && axis != second).collect();
        perm.extend([first, second]);
        let kept = perm.len() - 2;
        let moved = tensor.transpose(&perm[..]);
        let mut shape: Vec<usize> = moved.shape()[..kept].to_vec();
        shape.push(n * n);
        let (flat, start) = (moved.reshape(shape.clone()), vec![0; kept + 1]);
        let mut step = vec![1; kept];
        step.push(n + 1);
        tensor = flat.slice_steps(&start, &shape, &step);
        let label = labels[first];
        labels = perm[..kept].iter().map(|&axis| labels[axis]).chain([label]).collect();
    }
    let is_full: Vec<bool> = labels.iter().zip(&tensor.shape()[..]).map(|(label, &n)| extents[label] == n).collect();
    if is_full.contains(&false) {
        let shape: Vec<usize> = (0..labels.len()).filter(|&axis| is_full[axis]).map(|axis| tensor.dim(axis)).collect();
        tensor = tensor.reshape(shape);
        labels = labels.into_iter().zip(is_full).filter(|(_, full)| *full).map(|(label, _)| label).collect();
    }
    Term { tensor, labels }
}

/// Pairs of places in the order of their contraction; the result takes the first's place.
fn pairs(terms: &[Option<Term<'_>>], result: &[Label], extents: &Extents) -> Vec<(usize, usize)> {
    let labels: Vec<Vec<Label>> = terms.iter().flatten().map(|term| term.labels.clone()).collect();
    let n = labels.len();
    // The labels of what is made of a set of operands: those that others, or the result, ask for.
    let left = |set: usize| -> Vec<Label> {
        let mut of: Vec<Label> = (0..n).filter(|k| set >> k & 1 == 1).flat_map(|k| labels[k].iter().copied()).collect();
        of.sort_unstable();
        of.dedup();
        let others = |label: &Label| (0..n).any(|k| set >> k & 1 == 0 && labels[k].contains(label));
        if set.count_ones() > 1 {
            of.retain(|label| result.contains(label) || others(label));
        }
        of
    };
    // Multiplications of a pair: one for each combination of all their indices.
    let cost = |a: usize, b: usize| -> f64 {
        let mut of = left(a);
        of.extend(left(b));
        of.sort_unstable();
        of.dedup();
        of.iter().map(|label| extents[label] as f64).product()
    };
    let mut sets: Vec<usize> = (0..n).map(|k| 1 << k).collect();
    if n > MOST_SEARCHED {
        let mut order = Vec::new();
        let mut live: Vec<usize> = (0..n).collect();
        while live.len() > 1 {
            let candidates = (0..live.len()).flat_map(|i| (i + 1..live.len()).map(move |j| (i, j)));
            let best = candidates.min_by(|&(a, b), &(c, d)| {
                cost(sets[live[a]], sets[live[b]]).total_cmp(&cost(sets[live[c]], sets[live[d]]))
            });
            let Some((i, j)) = best else { break };
            let (a, b) = (live[i], live.remove(j));
            sets[a] |= sets[b];
            order.push((a, b));
        }
        return order;
    }
    // The least cost of making each set, and the part of it that is made first.
    let mut best: Vec<(f64, usize)> = vec![(0.0, 0); 1 << n];
    for set in 1..1usize << n {
        if set.count_ones() < 2 {
            continue;
        }
        best[set].0 = f64::INFINITY;
        let mut part = (set - 1) & set;
        while part > 0 {
            let rest = set & !part;
            if part > rest {
                let total = best[part].0 + best[rest].0 + cost(part, rest);
                // Later parts are smaller, and of equal ones the last is taken: operands in their order.
                if total <= best[set].0 {
                    best[set] = (total, part);
                }
            }
            part = (part - 1) & set;
        }
    }
    fn follow(set: usize, best: &[(f64, usize)], order: &mut Vec<(usize, usize)>) -> usize {
        if set.count_ones() < 2 {
            return set.trailing_zeros() as usize;
        }
        let (a, b) = (follow(set & !best[set].1, best, order), follow(best[set].1, best, order));
        order.push((a.min(b), a.max(b)));
        a.min(b)
    }
    let mut order = Vec::new();
    if n > 1 {
        follow((1 << n) - 1, &best, &mut order);
    }
    order
}

/// The sum over the labels that nobody asks for.
#[track_caller]
fn summed<'g>(term: Term<'g>, kept: &[Label]) -> Term<'g> {
    let axes: Vec<usize> = (0..term.labels.len()).filter(|&axis| !kept.contains(&term.labels[axis])).collect();
    if axes.is_empty() {
        return term;
    }
    let labels = term.labels.iter().copied().filter(|label| kept.contains(label)).collect();
    Term { tensor: term.tensor.sum_over(&axes[..]), labels }
}

/// What two terms make, of which `kept` are asked for later.
#[track_caller]
fn contract<'g>(a: Term<'g>, b: Term<'g>, kept: &[Label], extents: &Extents) -> Term<'g> {
    let with = |other: &Term<'g>| kept.iter().chain(&other.labels).copied().collect::<Vec<_>>();
    let (of_a, of_b) = (with(&b), with(&a));
    let (a, b) = (summed(a, &of_a), summed(b, &of_b));
    let common = |label: &&Label| b.labels.contains(label);
    let batch: Vec<Label> = a.labels.iter().filter(common).filter(|label| kept.contains(label)).copied().collect();
    let inner: Vec<Label> = a.labels.iter().filter(common).filter(|label| !kept.contains(label)).copied().collect();
    let rows: Vec<Label> = a.labels.iter().filter(|label| !b.labels.contains(label)).copied().collect();
    let cols: Vec<Label> = b.labels.iter().filter(|label| !a.labels.contains(label)).copied().collect();
    let order = |term: &Term<'g>, parts: [&[Label]; 3]| {
        let labels = parts.iter().flat_map(|part| part.iter());
        labels.filter_map(|label| term.labels.iter().position(|known| known == label)).collect::<Vec<_>>()
    };
    let size = |labels: &[Label]| labels.iter().map(|label| extents[label]).product::<usize>();
    let labels: Vec<Label> = [&batch[..], &rows, &cols].concat();
    let shape: Shape = labels.iter().map(|label| extents[label]).collect();
    let first = transposed(a.tensor, &order(&a, [&batch, &rows, &inner]));
    if inner.is_empty() || !a.tensor.is_float() {
        // Element by element, each with axes of extent 1 for what it has not; integers are summed afterwards.
        let second = transposed(b.tensor, &order(&b, [&batch, &cols, &inner]));
        let extent = |label: &Label| extents[label];
        let ones = |labels: &[Label]| vec![1; labels.len()];
        let [x, y] = [&rows, &cols].map(|own| own.iter().map(extent).collect::<Vec<_>>());
        let (outer, within): (Vec<_>, Vec<_>) =
            (batch.iter().map(extent).collect(), inner.iter().map(extent).collect());
        let first = first.reshape([&outer[..], &x, &ones(&cols), &within].concat());
        let second = second.reshape([&outer[..], &ones(&rows), &y, &within].concat());
        let product = first * second;
        let axes: Vec<usize> = (labels.len()..labels.len() + inner.len()).collect();
        let tensor = if axes.is_empty() { product } else { product.sum_over(&axes[..]) };
        return Term { tensor, labels };
    }
    let second = transposed(b.tensor, &order(&b, [&batch, &inner, &cols]));
    let (m, k, n) = (size(&rows), size(&inner), size(&cols));
    let product = if batch.is_empty() {
        first.reshape([m, k]).matmul(second.reshape([k, n]))
    } else {
        let count = size(&batch);
        first.reshape([count, m, k]).matmul(second.reshape([count, k, n]))
    };
    Term { tensor: product.reshape(shape), labels }
}
