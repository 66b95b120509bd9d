//! Programs in a line.

use cotangent_exec::{BackendChoice, Compiler};
use cotangent_graph::DType::F32;
use cotangent_graph::{Init, build};

#[test]
fn a_program_is_told_in_a_line() {
    let graph = build(|g| {
        let (x, w) = (g.input("x", F32, [4, 3]), g.param("w", F32, [3, 2], Init::ONES));
        g.output("y", x.matmul(w).tanh());
    })
    .unwrap();
    let program = Compiler::new().backend(BackendChoice::Cranelift).compile(&graph).unwrap();
    let expected = "@main: 1 input in, 1 result out, 24 B of parameters and states; \
                    1 step (1 kernel, 1 product), arena 64 B, cranelift code";
    assert_eq!(program.to_string(), expected);
}
