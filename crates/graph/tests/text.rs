//! The text form: golden files, round trips of everything, a table of malformed texts, and hostile input.

use std::path::Path;

use cotangent_graph::attrs::Attrs;
use cotangent_graph::dot::{DotOptions, dot};
use cotangent_graph::interp::interpret;
use cotangent_graph::samples::{Sampler, environment};
use cotangent_graph::text::{Style, print};
use cotangent_graph::{
    Code, DType, Graph, GraphBuilder, Init, Loc, NodeId, OpTraits, Registry, Stage, Type, build, text, verify,
};
use cotangent_testkit::filetest::check_files;
use cotangent_testkit::random::{self, Options};
use cotangent_testkit::{Rng, check_file, growing};

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/text"))
}

fn parse(text: &str) -> Result<Graph, cotangent_graph::Diags> {
    text::parse(text, "test.ct", &Registry::builtin())
}

fn check_round_trip(graph: &Graph) {
    let first = graph.to_string();
    let parsed = parse(&first).unwrap_or_else(|diags| panic!("{diags}\n{first}"));
    assert_eq!(parsed.to_string(), first);
    let errors = verify(&parsed, Stage::Source);
    assert!(errors.is_empty(), "{errors:?}\n{first}");
    let with_origins = print(graph, Style { origins: true });
    assert_eq!(parse(&with_origins).map(|g| g.to_string()), Ok(first));
}

#[test]
fn golden_texts() {
    check_files(folder(), "ct", |path, input| {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        match text::parse(input, &file, &Registry::builtin()) {
            Ok(graph) => {
                check_round_trip(&graph);
                graph.to_string()
            }
            Err(diags) => diags.to_string(),
        }
    });
}

#[test]
fn golden_dot() {
    check_file(folder().join("mlp_step.dot.txt"), |input| match parse(input) {
        Ok(graph) => {
            let ids: Vec<NodeId> = graph.ids().collect();
            let options = DotOptions {
                clusters: vec![("kernel \"0\"".into(), ids[3..5].to_vec())],
                annotations: [(ids[3], "3 values\nline two".to_owned())].into(),
            };
            dot(&graph, &options)
        }
        Err(diags) => diags.to_string(),
    });
}

#[test]
fn every_sample_of_every_op_round_trips() {
    for dtype in [DType::F32, DType::F64] {
        for op in Registry::builtin().iter() {
            for sample in (op.0.samples)(&mut Sampler::new(dtype, 3)) {
                let graph = build(|g| {
                    let inputs: Vec<_> = sample
                        .inputs
                        .iter()
                        .enumerate()
                        .map(|(k, data)| g.input(&format!("x{k}"), data.dtype(), data.shape()))
                        .collect();
                    g.output("y", g.op(op.0, &inputs, sample.attrs.clone(), sample.declared.clone()));
                });
                check_round_trip(&graph.unwrap_or_else(|diags| panic!("{}: {diags}", op.0.name)));
            }
        }
    }
}

#[test]
fn random_graphs_round_trip() {
    for seed in 0..400 {
        check_round_trip(&random::graph(seed, &Options::default()));
    }
}

#[test]
fn odd_numbers_and_names_round_trip() {
    let names =
        ["", "a b", "quote\"", "back\\slash", "new\nline", "tab\t", "nul\0", "ünïcödé", "\u{200b}\u{301}", "a.b_1"];
    for name in names {
        let builder = GraphBuilder::new(name);
        let x = builder.input(name, DType::F32, [2]);
        let w = builder.param(&format!("{name}w"), DType::F32, [2], Init::constant(-0.0));
        builder.output(name, x + w);
        builder.update(w, x);
        let graph = builder.finish().unwrap();
        check_round_trip(&graph);
        let parsed = parse(&graph.to_string()).unwrap();
        assert_eq!(&**parsed.name(), name);
        assert_eq!(&*parsed.outputs()[0].name, name);
        assert_eq!(parsed.node(NodeId(0)).attrs.str("name"), name);
    }
    let f32_bits: Vec<u64> = [
        0x7fc0_0001,
        0xffc0_0000,
        0x7f80_0001,
        0x7f80_0000,
        0xff80_0000,
        0x8000_0000,
        0x1,
        0x7f7f_ffff,
        0x3dcc_cccd,
        0x7fc0_0000,
        0x4b80_0001,
        0x5f00_0000,
    ]
    .to_vec();
    let f64_bits: Vec<u64> =
        vec![0x7ff8_0000_0000_0001, 0xfff8_0000_0000_0000, 0x7ff0_0000_0000_0000, 1 << 63, 1, 0x7fef_ffff_ffff_ffff];
    let i64_bits: Vec<u64> = vec![i64::MIN as u64, i64::MAX as u64, 0, u64::MAX];
    for (dtype, bits) in [(DType::F32, f32_bits), (DType::F64, f64_bits), (DType::I64, i64_bits)] {
        let data = cotangent_graph::TensorData::from_bits(dtype, &[bits.len()].into(), &bits);
        let graph = build(|g| g.output("y", g.constant(data.clone()))).unwrap();
        check_round_trip(&graph);
        let parsed = parse(&graph.to_string()).unwrap();
        assert_eq!(parsed.node(NodeId(0)).attrs.tensor("value").unwrap().bits(), bits);
    }
}

#[test]
fn the_number_of_every_initializer_survives() {
    let inits = [
        Init::ZEROS,
        Init::ONES,
        Init::constant(0.1),
        Init::uniform(-0.1, 0.1),
        Init::normal(0.0, 1e-300),
        Init::GlorotUniform,
        Init::GlorotNormal,
        Init::HeUniform,
        Init::HeNormal,
        Init::LecunUniform,
        Init::LecunNormal,
        Init::truncated_normal(0.1, 0.02),
        Init::orthogonal(1.5),
        Init::forget_gate(1.0),
    ];
    for init in inits {
        let graph = build(|g| g.output("y", g.param("w", DType::F64, [2], init))).unwrap();
        let parsed = parse(&graph.to_string()).unwrap();
        assert_eq!(parsed.node(NodeId(0)).attrs.init("init"), Some(&init));
    }
}

#[test]
fn nodes_come_from_their_lines() {
    let text = "cotangent 1\ngraph @g {\n  %0 = input \"x\" : f32[2]\n  %1 = neg %0\n output \"y\" = %1 }";
    let graph = parse(text).unwrap();
    let at = |line, column| Loc::Text { file: "test.ct".into(), line, column };
    assert_eq!(graph.node(NodeId(0)).origin.loc(), at(3, 3));
    assert_eq!(graph.node(NodeId(1)).origin.loc(), at(4, 3));
}

/// What may be written differently than it is printed.
#[test]
fn white_space_order_and_inferable_types_are_free() {
    let graph = parse(
        "; a comment\n cotangent 1 ; another\n\n graph\n@\"g\"\n{%5=input\"x\":f32[2 , 3]%0 = slice %5 { step = [1,1],\n\
         limit=[2, 3], start = [ 0 , 1 ] }\n%1=neg %0 %2 = matmul %5,%0 { ta = true } output \"y\"=%2 output \"z\" = %1}",
    );
    assert_eq!(graph.as_ref().err(), None);
    check_round_trip(&graph.unwrap());
    check_round_trip(&parse("cotangent 1 graph @empty { }").unwrap());
}

/// Code, line and column.
type Error = (Code, u32, u32);

/// Lines put into a graph with `%0 = input "x" : f32[2,3]` on line 3, themselves on lines 4 and following, and what must
/// be said of them: code, line and column of each error.
const MALFORMED: &[(&str, &[Error])] = &[
    // Statements and marks.
    ("  nonsense", &[(Code::Syntax, 4, 3)]),
    ("  outptu \"y\" = %0", &[(Code::Syntax, 4, 3)]),
    ("  %1 neg %0", &[(Code::Syntax, 4, 6)]),
    ("  %1 = neg %0, : f32[2,3]", &[(Code::Syntax, 4, 16)]),
    ("  %1 = neg %0 : f32[2,3] junk", &[(Code::Syntax, 4, 26)]),
    ("  % = neg %0", &[(Code::Syntax, 4, 3)]),
    ("  %99999999999999999999 = neg %0", &[(Code::Syntax, 4, 3)]),
    ("  %1 = \"neg\" %0", &[(Code::Syntax, 4, 8)]),
    ("  $", &[(Code::Syntax, 4, 3)]),
    ("  ü", &[(Code::Syntax, 4, 3)]),
    // Names and operands.
    ("  %1 = negg %0", &[(Code::UnknownOp, 4, 8)]),
    ("  %1 = neg %7", &[(Code::UnknownName, 4, 12)]),
    ("  %1 = add %7, %8", &[(Code::UnknownName, 4, 12), (Code::UnknownName, 4, 16)]),
    ("  %0 = neg %0", &[(Code::DuplicateName, 4, 3)]),
    ("  %1 = input \"x\" : f32[]", &[(Code::DuplicateName, 4, 14)]),
    ("  %1 = input : f32[]", &[(Code::Syntax, 4, 14)]),
    ("  %1 = input \"open : f32[]", &[(Code::Syntax, 4, 14)]),
    ("  %1 = input \"bad \\q\" : f32[]", &[(Code::Syntax, 4, 19)]),
    ("  %1 = input \"bad \\u{110000}\" : f32[]", &[(Code::Syntax, 4, 19)]),
    ("  %1 = neg %0, %0", &[(Code::BadArity, 4, 8)]),
    ("  %1 = neg\n  %2 = neg %0", &[(Code::BadArity, 4, 8)]),
    // Types.
    ("  %1 = neg %0 : f32[2,4]", &[(Code::TypeAnnotation, 4, 17)]),
    ("  %1 = neg %0 : f64[2,3]", &[(Code::TypeAnnotation, 4, 17)]),
    ("  %1 = neg %0 : f33[2,3]", &[(Code::Syntax, 4, 17)]),
    ("  %1 = neg %0 : f32", &[(Code::Syntax, 5, 3)]),
    ("  %1 = neg %0 : f32[2", &[(Code::Syntax, 5, 3)]),
    ("  %1 = neg %0 : f32[-2]", &[(Code::Syntax, 4, 21)]),
    ("  %1 = neg %0 : ", &[(Code::Syntax, 5, 3)]),
    ("  %1 = input \"z\"", &[(Code::BadAttribute, 4, 8)]),
    ("  %1 = input \"z\" : f32[99999999999999999999999]", &[(Code::TooLarge, 4, 24)]),
    ("  %1 = input \"z\" : f32[8589934592,8589934592]", &[(Code::TooLarge, 4, 20)]),
    ("  %1 = input \"z\" : f32[0,8589934592,8589934592]", &[(Code::TooLarge, 4, 20)]),
    (
        "  %1 = input \"z\" : f32[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]",
        &[(Code::TooLarge, 4, 20)],
    ),
    ("  %1 = input \"z\" : ((((((((((((((((((((f32[]))))))))))))))))))))", &[(Code::TooLarge, 4, 36)]),
    ("  %1 = broadcast %0 {shape = [9999999999, 9999999999, 2, 3], axes = [2, 3]}", &[(Code::TooLarge, 4, 8)]),
    // Operands that do not fit.
    ("  %1 = reduce_sum %0 {axes = [0]}\n  %2 = add %0, %1", &[(Code::ShapeMismatch, 5, 8)]),
    ("  %1 = cast %0 {to = f64}\n  %2 = add %0, %1", &[(Code::DTypeMismatch, 5, 8)]),
    ("  %1 = reduce_sum %0 {axes = [2]}", &[(Code::BadAxis, 4, 8)]),
    ("  %1 = grad %0, %0", &[(Code::NotDifferentiable, 4, 8)]),
    // Attributes.
    ("  %1 = reduce_sum %0", &[(Code::BadAttribute, 4, 8)]),
    ("  %1 = reduce_sum %0 {axis = 1}", &[(Code::BadAttribute, 4, 23)]),
    ("  %1 = reduce_sum %0 {axes = [0], axes = [1]}", &[(Code::BadAttribute, 4, 35)]),
    ("  %1 = reduce_sum %0 {axes = 0}", &[(Code::Syntax, 4, 30)]),
    ("  %1 = reduce_sum %0 {axes = [0.5]}", &[(Code::Syntax, 4, 31)]),
    ("  %1 = reduce_sum %0 {axes = [0x1]}", &[(Code::Syntax, 4, 31)]),
    ("  %1 = reduce_sum %0 {axes = [99999999999999999999]}", &[(Code::Syntax, 4, 31)]),
    ("  %1 = reduce_sum %0 {axes = [0 1]}", &[(Code::Syntax, 4, 33)]),
    ("  %1 = reduce_sum %0 {axes [0]}", &[(Code::Syntax, 4, 28)]),
    ("  %1 = reduce_sum %0 {axes = [0]", &[(Code::Syntax, 5, 3)]),
    ("  %1 = cast %0 {to = f16}", &[(Code::Syntax, 4, 22)]),
    ("  %1 = matmul %0, %0 {ta = yes}", &[(Code::Syntax, 4, 28)]),
    ("  %1 = leaky_relu %0 {slope = 1e999}", &[(Code::Syntax, 4, 31)]),
    ("  %1 = leaky_relu %0 {slope = 1.2.3}", &[(Code::Syntax, 4, 31)]),
    ("  %1 = leaky_relu %0 {slope = infinity}", &[(Code::Syntax, 4, 31)]),
    ("  %1 = leaky_relu %0 {slope = bits(12)}", &[(Code::Syntax, 4, 36)]),
    ("  %1 = param \"w\" {init = he} : f32[2]", &[(Code::BadAttribute, 4, 26)]),
    ("  %1 = param \"w\" {init = uniform(1)} : f32[2]", &[(Code::BadAttribute, 4, 26)]),
    ("  %1 = param \"w\" {init = uniform(1, {)} : f32[2]", &[(Code::Syntax, 4, 37)]),
    ("  %1 = dropout %0 {p = 1.5, stream = \"s\"}", &[(Code::BadAttribute, 4, 8)]),
    // Constants.
    ("  %1 = constant {value = 1.0}", &[(Code::BadAttribute, 4, 8)]),
    ("  %1 = constant {value = [1.0, 2.0]} : f32[3]", &[(Code::BadAttribute, 4, 26)]),
    ("  %1 = constant {value = [1.0, 2.0]} : f32[]", &[(Code::Syntax, 4, 26)]),
    ("  %1 = constant {value = 1.0} : f32[1]", &[(Code::Syntax, 4, 26)]),
    ("  %1 = constant {value = 300} : u8[]", &[(Code::Syntax, 4, 26)]),
    ("  %1 = constant {value = 1.5} : i32[]", &[(Code::Syntax, 4, 26)]),
    ("  %1 = constant {value = 1} : bool[]", &[(Code::Syntax, 4, 26)]),
    ("  %1 = constant {value = 1e39} : f32[]", &[(Code::Syntax, 4, 26)]),
    ("  %1 = constant {value = bits(0x1ffffffff)} : f32[]", &[(Code::Syntax, 4, 31)]),
    ("  %1 = constant {value = [1.0, ]} : f32[1]", &[(Code::Syntax, 4, 32)]),
    (
        "  %1 = constant {value = [1.0,\n 2.0} : f32[2]\n  %2 = neg %0 : f32[9]",
        &[(Code::Syntax, 5, 5), (Code::TypeAnnotation, 6, 17)],
    ),
    // Outputs and updates.
    ("  output \"x\" %0", &[(Code::Syntax, 4, 14)]),
    ("  output \"x\" = %9", &[(Code::UnknownName, 4, 16)]),
    ("  output \"q\" = %0\n  output \"q\" = %0", &[(Code::DuplicateName, 5, 10)]),
    (
        "  body 0 @b {\n    %0 = input \"0\" : f32[2,3]\n    output \"0\" = %0\n    output \"1\" = %0\n  }\n  %1 = call %0 {body = body 0}\n  \
         output \"q\" = %1",
        &[(Code::BadUpdate, 10, 10)],
    ),
    ("  update \"nope\" = %0", &[(Code::UnknownName, 4, 10)]),
    ("  update \"x\" = %0", &[(Code::BadUpdate, 4, 10)]),
    ("  %1 = param \"w\" {init = zeros} : f32[2]\n  update \"w\" = %0", &[(Code::BadUpdate, 5, 10)]),
    (
        "  %1 = param \"w\" {init = zeros} : f32[2,3]\n  update \"w\" = %0\n  update \"w\" = %1",
        &[(Code::BadUpdate, 6, 10)],
    ),
    // Bodies.
    ("  %1 = call %0 {body = body 0}", &[(Code::UnknownName, 4, 24)]),
    ("  body 0 @b {\n    %0 = param \"p\" {init = ones} : f32[]\n    output \"0\" = %0\n  }", &[(Code::BadBody, 5, 5)]),
    (
        "  body 0 @b {\n    %0 = input \"0\" : f32[]\n    output \"0\" = %1\n  }\n  %1 = call %0 {body = body 0}",
        &[(Code::UnknownName, 6, 18)],
    ),
    (
        "  body 0 @b {\n    %0 = input \"0\" : f32[]\n    output \"0\" = %0\n  }\n  %1 = call %0 {body = body 0}",
        &[(Code::BadBody, 8, 8)],
    ),
    ("  body 0 @b {\n  }\n  body 0 @b {\n  }", &[(Code::DuplicateName, 6, 8)]),
    // One mistake is reported once, and what follows is still read.
    (
        "  %1 = negg %0\n  %2 = neg %1\n  %3 = add %2, %1\n  %4 = neg %9",
        &[(Code::UnknownOp, 4, 8), (Code::UnknownName, 7, 12)],
    ),
];

#[test]
fn malformed_texts_are_reported_with_code_line_and_column() {
    for (lines, expected) in MALFORMED {
        let text =
            format!("cotangent 1\ngraph @g {{\n  %0 = input \"x\" : f32[2,3]\n{lines}\n  output \"y\" = %0\n}}\n");
        check_errors(&text, expected);
    }
}

#[test]
fn malformed_heads_are_reported() {
    let table: &[(&str, &[Error])] = &[
        ("", &[(Code::BadVersion, 1, 1)]),
        ("graph @g {}", &[(Code::BadVersion, 1, 1)]),
        ("cotangent", &[(Code::BadVersion, 1, 10)]),
        ("cotangent 2\ngraph @g {}", &[(Code::BadVersion, 1, 11)]),
        ("cotangent 1.0\ngraph @g {}", &[(Code::BadVersion, 1, 11)]),
        ("cotangent 1\n", &[(Code::Syntax, 2, 1)]),
        ("cotangent 1\ngraf @g {}", &[(Code::Syntax, 2, 1)]),
        ("cotangent 1\ngraph g {}", &[(Code::Syntax, 2, 7)]),
        ("cotangent 1\ngraph @ {}", &[(Code::Syntax, 2, 9)]),
        ("cotangent 1\ngraph @g", &[(Code::Syntax, 2, 9)]),
        ("cotangent 1\ngraph @g {\n", &[(Code::Syntax, 3, 1)]),
        ("cotangent 1\ngraph @g {}\n}", &[(Code::Syntax, 3, 1)]),
        ("cotangent 1\ngraph @g {}\ngraph @h {}", &[(Code::Syntax, 3, 1)]),
    ];
    for (text, expected) in table {
        check_errors(text, expected);
    }
}

fn check_errors(text: &str, expected: &[Error]) {
    let diags = parse(text).err().unwrap_or_else(|| panic!("no error in:\n{text}"));
    let place = |loc: &Loc| match loc {
        Loc::Text { line, column, .. } => (*line, *column),
        other => panic!("an error at {other}, not in the text:\n{text}\n{diags}"),
    };
    let got: Vec<_> = diags.0.iter().map(|d| (d.code, place(&d.at).0, place(&d.at).1)).collect();
    assert_eq!(got, expected, "\n{text}\n{diags}");
}

#[test]
fn misspelled_names_get_a_suggestion() {
    let help = |line: &str| {
        let text = format!("cotangent 1\ngraph @g {{\n%0 = param \"weight\" {{init = ones}} : f32[2]\n{line}\n}}");
        parse(&text).unwrap_err().0[0].help.clone().unwrap_or_default()
    };
    assert!(help("%1 = softmx %0 {axis = 0}").contains("`softmax`"));
    assert!(help("%1 = softmax %0 {axes = 0}").contains("`axis`"));
    assert!(help("update \"wieght\" = %0").contains("`weight`"));
    assert!(help("%1 = cast %0 {to = f23}").contains("`f32`"));
    assert!(help("outptu \"y\" = %0").contains("`output`"));
}

#[test]
fn hostile_texts_end_quickly_in_errors() {
    let text = |inner: &str| format!("cotangent 1\ngraph @g {{\n%0 = input \"x\" : f32[2]\n{inner}\n}}");
    let many = |piece: &str, n: usize| piece.repeat(n);
    let chain = |f: &dyn Fn(usize) -> String, n: usize| (1..=n).map(f).collect::<Vec<_>>().join("\n");
    let hostile = [
        many("body 0 @b {", 100_000),
        many("body 0 @b {\n", 100_000),
        format!("%1 = input \"y\" : {}", many("(", 100_000)),
        format!("%1 = constant {{value = {}}} : f32[1]", many("[", 100_000)),
        format!("%1 = constant {{value = [{}]}} : f32[1]", many("1,", 100_000)),
        format!("%1 = {} %0", many("a", 100_000)),
        format!("%1 = neg {}", many("%0, ", 100_000)),
        format!("update \"{}\" = %0", many("a", 100_000)),
        format!("%1 = input \"{}", many("\\", 100_000)),
        many("\"", 100_001),
        format!("%1 = {}", many(";\n", 100_000)),
        many("%1 = neg %2\n", 10_000),
        // Types that double, deepen or lengthen with every line.
        chain(&|k| format!("%{k} = tuple %{}, %{}", k - 1, k - 1), 100),
        chain(&|k| format!("%{k} = tuple %{}", k - 1), 5_000),
        format!(
            "%900000 = iota {{axis = 0}} : i32[2]\n{}",
            chain(&|k| format!("%{k} = gather %{}, %{}", k - 1, k - 1), 50)
        ),
        format!(
            "%900000 = input \"i\" : i32[{}1]\n{}",
            many("1,", 30),
            chain(&|k| format!("%{} = gather %{}, %{}", 900_000 + k, 899_999 + k, 899_999 + k), 50)
        ),
        chain(&|k| format!("%{k} = concat %{}, %{} {{axis = 0}}", k - 1, k - 1), 70),
    ];
    for inner in &hostile {
        let text = text(inner);
        let diags = parse(&text).err().unwrap_or_else(|| panic!("no error in {}…", &text[..120]));
        assert!(diags.0.len() <= 51, "{} errors", diags.0.len());
    }
    // Long but not wrong.
    let long = text(&format!("{}\noutput \"y\" = %20000", chain(&|k| format!("%{k} = neg %{}", k - 1), 20_000)));
    check_round_trip(&parse(&long).unwrap());
}

/// Everything that works on a graph as it is written takes time and memory of its text, whatever it would expand to.
#[test]
fn what_expands_without_end_is_read_and_shown_in_the_size_of_its_text() {
    for text in [growing::nested_calls(15, 4), growing::repeated_gradients(20), growing::many_outputs(2000)] {
        let graph = parse(&text).unwrap_or_else(|diags| panic!("{diags}"));
        check_round_trip(&graph);
        assert!(dot(&graph, &DotOptions::default()).len() < 20 * text.len());
        let env = environment(&graph, 1).unwrap();
        let computed = interpret(&graph, &env);
        if graph.outputs().len() == 1 {
            assert_eq!(computed.unwrap_err().code, Code::TooManyNodes);
        }
    }
}

#[test]
fn mutated_texts_do_not_panic() {
    let mut seeds: Vec<String> = (0..40)
        .map(|s| random::graph(s, &Options { n_ops: 8, max_elements: 40, ..Options::default() }).to_string())
        .collect();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        seeds.push(text.split("\n---- expect").next().unwrap().to_owned());
    }
    const TOKENS: [&str; 26] = [
        "%0",
        "%1",
        "%",
        "=",
        ",",
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        ":",
        "@",
        "\"",
        "\\",
        ";",
        "\n",
        "-",
        "1e9",
        "99999999999999999999",
        "body 0",
        "output",
        "update",
        "nan",
        "bits(0x7fc00000)",
        "ü",
    ];
    let registry = Registry::builtin();
    let mut rng = Rng::new(9);
    let (mut n_good, mut n_bad) = (0, 0);
    for _ in 0..20_000 {
        let mut bytes = rng.pick(&seeds).clone().into_bytes();
        for _ in 0..1 + rng.below(4) {
            let at = rng.below(bytes.len());
            match rng.below(6) {
                0 => bytes[at] = rng.bits() as u8,
                1 => bytes[at] = *rng.pick(b"0123456789%{}[]\",=: "),
                2 => {
                    bytes.remove(at);
                }
                3 => {
                    let token = rng.pick(&TOKENS).bytes();
                    bytes.splice(at..at, token);
                }
                4 => {
                    let end = (at + 1 + rng.below(30)).min(bytes.len());
                    bytes.drain(at..end);
                }
                _ => {
                    let end = (at + 1 + rng.below(60)).min(bytes.len());
                    let piece = bytes[at..end].to_vec();
                    let to = rng.below(bytes.len());
                    bytes.splice(to..to, piece);
                }
            }
            if bytes.is_empty() {
                break;
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        match text::parse(&text, "fuzz", &registry) {
            Ok(graph) => {
                n_good += 1;
                assert_eq!(verify(&graph, Stage::Source), Vec::<String>::new(), "{text}");
                let printed = graph.to_string();
                assert_eq!(parse(&printed).unwrap().to_string(), printed, "{text}");
            }
            Err(diags) => {
                n_bad += 1;
                assert!(!diags.0.is_empty());
            }
        }
    }
    assert!(n_good > 500 && n_bad > 5_000, "{n_good} good, {n_bad} bad");
}

#[test]
fn ops_from_outside_parse_with_their_registry() {
    static TWICE: cotangent_graph::OpDef = cotangent_graph::ops::arithmetic::pointwise(
        "my.twice",
        "2·x",
        1,
        OpTraits::NONE,
        cotangent_graph::ops::infer_number,
        |s, v, _| s.add(v[0], v[0]),
        cotangent_graph::Vjp::Zero("a test"),
        |_| Vec::new(),
    );
    let graph = build(|g| {
        g.register(&TWICE);
        let x = g.input("x", DType::F32, [3]);
        g.output("y", g.op(&TWICE, &[x], Attrs::none(), None));
    });
    let printed = graph.unwrap().to_string();
    assert_eq!(parse(&printed).unwrap_err().0[0].code, Code::UnknownOp);
    let registry = Registry::builtin().with(&TWICE).unwrap();
    assert_eq!(text::parse(&printed, "test.ct", &registry).unwrap().to_string(), printed);
}

#[test]
fn the_petgraph_view_has_an_edge_for_every_operand() {
    let graph = random::graph(5, &Options::default());
    let view = cotangent_graph::view::to_petgraph(&graph);
    assert_eq!(view.node_count(), graph.n_nodes());
    assert_eq!(view.edge_count(), graph.nodes().iter().map(|n| n.inputs.len()).sum::<usize>());
    for edge in view.edge_indices() {
        let (from, to) = view.edge_endpoints(edge).unwrap();
        assert_eq!(graph.node(view[to]).inputs[view[edge]], view[from]);
    }
}

#[test]
fn a_tuple_can_be_written() {
    let builder = GraphBuilder::new("t");
    let x = builder.input("x", DType::F32, [2]);
    let pair = builder.op(&cotangent_graph::ops::region::TUPLE, &[x, -x], Attrs::none(), None);
    assert_eq!(pair.ty(), Type::Tuple(vec![x.ty(), x.ty()]));
    builder.output("y", builder.op(&cotangent_graph::ops::region::ITEM, &[pair], Attrs::none().with("index", 1), None));
    check_round_trip(&builder.finish().unwrap());
}

/// A negative extent is shown as it was written.
#[test]
fn negative_extents_are_errors_that_show_them() {
    for op in ["reshape %0 {shape = [-1]}", "broadcast %0 {shape = [-1, 3], axes = [1]}"] {
        let source =
            format!("cotangent 1\ngraph @f {{\n  %0 = input \"x\" : f32[3]\n  %1 = {op}\n  output \"y\" = %1\n}}\n");
        let error = text::parse(&source, "f.ct", &Registry::builtin()).unwrap_err().to_string();
        assert!(error.contains("requires non-negative `shape`, got [-1"), "{error}");
    }
}
