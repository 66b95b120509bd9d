//! Loops on a tape: their iterations one after the other.

use std::collections::HashMap;

use cotangent_graph::ops::scan::Scan;
use cotangent_graph::{Node, Shape, TensorData, Type};

use super::eval::{Result, Value, Writer};
use super::tape::Dense;

impl Writer {
    /// The results of a loop.
    pub(super) fn repeat(&mut self, node: &Node, scan: Scan<'_>, operands: &[Value], depth: usize) -> Result<Value> {
        let Type::Tuple(results) = &node.ty else { return Err("a loop makes a tuple".into()) };
        let names: Vec<String> = scan.body.inputs().map(|(_, input)| input.name().unwrap_or_default().into()).collect();
        let mut carries = operands[..scan.n_carries].to_vec();
        let mut made: Vec<Vec<Value>> = vec![Vec::new(); results.len() - scan.n_carries];
        let counters = self.counters;
        for i in scan.iterations() {
            self.counters = counters.iteration(i);
            let slices = operands[scan.n_carries..][..scan.n_slices].iter().map(|slice| part(slice, i));
            let captures = operands[scan.n_carries + scan.n_slices..].iter().cloned();
            let mut values: Vec<Value> = carries.drain(..).chain(slices).chain(captures).collect();
            // A cotangent that goes through a loop is a number, whether or not it is zero.
            values.iter_mut().for_each(|value| self.note_given(value));
            let given: HashMap<String, Value> = names.iter().cloned().zip(values).collect();
            let missing = || "an operand of a body is missing".to_owned();
            carries = self.graph(scan.body, depth, |_, name, _| given.get(name).cloned().ok_or_else(missing))?;
            carries.iter_mut().for_each(|value| self.note_given(value));
            for (all, one) in made.iter_mut().zip(carries.split_off(scan.n_carries)) {
                all.push(one);
            }
        }
        self.counters = counters;
        for (mut parts, ty) in made.into_iter().zip(&results[scan.n_carries..]) {
            if scan.reverse {
                parts.reverse();
            }
            carries.push(stacked(parts, ty));
        }
        Ok(Value::Many(carries))
    }

    fn note_given(&mut self, value: &mut Value) {
        let Value::Floats(_, _, ids) = value else { return };
        ids.iter_mut().for_each(|id| *id = self.dense(*id, Dense::Product));
    }
}

/// Part `i` of a tensor along its first axis.
fn part(value: &Value, i: usize) -> Value {
    let inner = |shape: &Shape| Shape::new(&shape[1..]);
    match value {
        Value::Floats(dtype, shape, ids) => {
            let (shape, n) = (inner(shape), inner(shape).n_elements());
            Value::Floats(*dtype, shape, ids[i * n..][..n].to_vec())
        }
        Value::Plain(data, unknown) => {
            let (shape, n) = (inner(&data.shape()), inner(&data.shape()).n_elements());
            let data = TensorData::from_bits(data.dtype(), &shape, &data.bits()[i * n..][..n]);
            Value::Plain(data, unknown[i * n..][..n].to_vec())
        }
        Value::Many(members) => Value::Many(members.iter().map(|member| part(member, i)).collect()),
    }
}

/// Parts side by side along a first axis.
fn stacked(parts: Vec<Value>, ty: &Type) -> Value {
    let (mut ids, mut bits, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
    for part in parts {
        match part {
            Value::Floats(_, _, of) => ids.extend(of),
            Value::Plain(data, of) => {
                bits.extend(data.bits());
                unknown.extend(of);
            }
            Value::Many(_) => {}
        }
    }
    match ty.dtype().is_float() {
        true => Value::Floats(ty.dtype(), ty.shape().clone(), ids),
        false => Value::Plain(TensorData::from_bits(ty.dtype(), ty.shape(), &bits), unknown),
    }
}
