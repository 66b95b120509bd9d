//! Short texts of graphs that grow: bodies that call bodies, gradients of gradients, operands and outputs without number.
//!
//! For tests of limits: whoever works on graphs must end with them, in time and memory that the limits allow.

use std::fmt::Write;

/// A text of bodies nested `levels` deep, each of which calls the one inside of it `n_calls` times, one call on the result
/// of the other: `n_calls ^ levels` values of `tanh`.
pub fn nested_calls(levels: usize, n_calls: usize) -> String {
    let mut text = "cotangent 1\n".to_owned();
    for level in 0..levels {
        let keyword = if level == 0 { "graph" } else { "body 0" };
        let _ = writeln!(text, "{keyword} @level{level} {{\n%0 = input \"x\" : f32[2]");
    }
    let _ = writeln!(text, "body 0 @last {{\n%0 = input \"x\" : f32[2]\n%1 = tanh %0\noutput \"y\" = %1\n}}");
    for _ in 0..levels {
        for k in 0..n_calls {
            let _ = writeln!(text, "%{} = call %{k} {{body = body 0}}", k + 1);
        }
        let _ = writeln!(text, "output \"y\" = %{n_calls}\n}}");
    }
    text
}

/// A text of the n-th derivative of `tanh`.
pub fn repeated_gradients(n: usize) -> String {
    let mut text = "cotangent 1\ngraph @grads {\n%0 = input \"x\" : f32[]\n%1 = tanh %0\n".to_owned();
    for k in 1..=n {
        let _ = writeln!(text, "%{} = grad %{k}, %0", k + 1);
    }
    let _ = writeln!(text, "output \"y\" = %{}\n}}", n + 1);
    text
}

/// A text of a `concat` of `n` operands.
pub fn wide_concat(n: usize) -> String {
    let operands = vec!["%0"; n].join(", ");
    let head = "cotangent 1\ngraph @wide {\n%0 = input \"x\" : f32[1]";
    format!("{head}\n%1 = concat {operands} {{axis = 0}}\noutput \"y\" = %1\n}}\n")
}

/// A text of `n` results, each computed from the one before, and `n` parameters, each with an update.
pub fn many_outputs(n: usize) -> String {
    let mut text = "cotangent 1\ngraph @outputs {\n%0 = input \"x\" : f32[2]\n".to_owned();
    for k in 0..n {
        let _ = writeln!(text, "%{} = param \"p{k}\" {{init = ones}} : f32[2]", k + 1);
    }
    for k in 0..n {
        let (value, before) = (1 + n + k, if k == 0 { 0 } else { n + k });
        let _ = writeln!(text, "%{value} = add %{before}, %{}\noutput \"y{k}\" = %{value}", k + 1);
        let _ = writeln!(text, "update \"p{k}\" = %{value}");
    }
    text + "}\n"
}
