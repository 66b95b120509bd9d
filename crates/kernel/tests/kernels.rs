//! The kernel interpreter on kernels whose results are known, and the verifier on kernels that break its rules.

use cotangent_kernel::interp::{self, Place};
use cotangent_kernel::ir::{Arg, ArgId, Clamp, IndexMap, Input, Kernel, Phase, Reduce, Space, Store, Sweep};
use cotangent_scalar::{BodyBuilder, DType, ReduceOp, ScalarBody, ValueId, order};
use smallvec::SmallVec;

const F32: DType = DType::F32;

fn map(offset: i64, strides: &[i64]) -> IndexMap {
    IndexMap { offset, strides: SmallVec::from_slice(strides) }
}

fn load(arg: u32, map: IndexMap) -> Input {
    Input::Load { arg: ArgId(arg), map }
}

fn store(value: ValueId, arg: u32, map: IndexMap) -> Store {
    Store { value, arg: ArgId(arg), map, stream: false }
}

fn body(f: impl FnOnce(&mut BodyBuilder) -> ValueId) -> (ScalarBody, ValueId) {
    let mut s = BodyBuilder::new();
    let root = f(&mut s);
    let (body, roots) = s.finish(&[root]);
    (body, roots[0])
}

fn input(read: bool) -> Arg {
    Arg { dtype: F32, read, written: !read }
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_ne_bytes()).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks(4).map(|c| f32::from_ne_bytes([c[0], c[1], c[2], c[3]])).collect()
}

/// `out[i, j] = x[j, i] + 1`: a transpose of a 2×3 array.
fn transpose_add() -> Kernel {
    let (body, root) = body(|s| {
        let x = s.input(0, F32);
        let one = s.like(1.0, x);
        s.add(x, one)
    });
    Kernel {
        name: "transpose_add".into(),
        sweep: Sweep::Elementwise,
        dims: SmallVec::from_slice(&[3, 2]),
        total: 6,
        args: vec![input(true), input(false)],
        phases: vec![Phase {
            space: Space::Full,
            body,
            inputs: vec![load(0, map(0, &[1, 3]))],
            stores: vec![store(root, 1, map(0, &[2, 1]))],
            reduces: vec![],
        }],
    }
}

/// Sums along the inner dim (`Row`) or the dim before it (`Column`), stored by a `Reduced` phase.
fn sums(sweep: Sweep, dims: [usize; 2], total: usize) -> Kernel {
    let (full, root) = body(|s| s.input(0, F32));
    let (last, result) = body(|s| s.input(0, F32));
    let out = if sweep == Sweep::Row { map(0, &[1, 0]) } else { map(0, &[0, 1]) };
    Kernel {
        name: "sums".into(),
        sweep,
        dims: SmallVec::from_slice(&dims),
        total,
        args: vec![input(true), input(false)],
        phases: vec![
            Phase {
                space: Space::Full,
                body: full,
                inputs: vec![load(0, map(0, &[dims[1] as i64, 1]))],
                stores: vec![],
                reduces: vec![Reduce { value: root, op: ReduceOp::Sum, slot: 0, chain: false }],
            },
            Phase {
                space: Space::Reduced,
                body: last,
                inputs: vec![Input::Reduced(0)],
                stores: vec![store(result, 1, out)],
                reduces: vec![],
            },
        ],
    }
}

fn run(kernel: &Kernel, values: &[f32], n_out: usize) -> Vec<f32> {
    let (mut x, mut out) = (bytes(values), bytes(&vec![-7.0; n_out]));
    interp::run(kernel, &mut [&mut x, &mut out]).expect("the kernel runs");
    floats(&out)
}

#[test]
fn strides_are_followed() {
    let kernel = transpose_add();
    assert_eq!(run(&kernel, &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], 6), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    let mut memory = [bytes(&[9.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0]), bytes(&[0.0; 6])];
    let places = [Place { buffer: 0, byte_offset: 4 }, Place { buffer: 1, byte_offset: 0 }];
    let [x, out] = &mut memory;
    interp::run_unit(&kernel, &mut [x, out], &places, 1..3, 0..1).expect("a part runs");
    assert_eq!(floats(&memory[1]), [0.0, 0.0, 2.0, 0.0, 3.0, 0.0]);
}

#[test]
fn reductions_follow_the_order() {
    let values: Vec<f32> = (0..700).map(|i| (i as f32 * 0.37).sin() * 10.0).collect();
    let bits = |values: &mut dyn Iterator<Item = f32>| values.map(|v| u64::from(v.to_bits())).collect::<Vec<_>>();
    let rows = run(&sums(Sweep::Row, [7, 100], 690), &values, 7);
    for (r, got) in rows.iter().enumerate() {
        let row = bits(&mut values[100 * r..690.min(100 * r + 100)].iter().copied());
        assert_eq!(u64::from(got.to_bits()), order::reduce_row(ReduceOp::Sum, F32, &row));
    }
    let columns = run(&sums(Sweep::Column, [100, 7], 700), &values, 7);
    for (c, got) in columns.iter().enumerate() {
        let column = bits(&mut values.iter().skip(c).step_by(7).copied());
        let expected = order::reduce_column(ReduceOp::Sum, F32, column.into_iter());
        assert_eq!(u64::from(got.to_bits()), expected);
    }
    assert_eq!(run(&sums(Sweep::Column, [0, 3], 0), &[], 3), [0.0; 3]);
}

/// Sums down the columns of blocks of `block` rows, `rows` in all, each row's sum beside them.
fn carried(block: usize, rows: usize, cols: usize) -> Kernel {
    let mut s = BodyBuilder::new();
    let (x, acc) = (s.input(0, F32), s.input(1, F32));
    let sum = s.combine(ReduceOp::Sum, acc, x);
    let (full, roots) = s.finish(&[sum, x]);
    let at = map(0, &[cols as i64, 0, 1]);
    Kernel {
        name: "carried".into(),
        sweep: Sweep::Row,
        dims: SmallVec::from_slice(&[rows.div_ceil(block), block, cols]),
        total: rows * cols,
        args: vec![input(true), input(false)],
        phases: vec![Phase {
            space: Space::Full,
            body: full,
            inputs: vec![
                load(0, map(0, &[(block * cols) as i64, cols as i64, 1])),
                Input::Carried { arg: ArgId(1), map: at.clone(), start: 0 },
            ],
            stores: vec![store(roots[0], 1, at)],
            reduces: vec![Reduce { value: roots[1], op: ReduceOp::Sum, slot: 0, chain: false }],
        }],
    }
}

#[test]
fn rows_of_a_block_carry_sums() {
    let values: Vec<f32> = (0..21).map(|i| i as f32).collect();
    // Blocks of 3, 3 and 1 rows; what is in the result's memory before is never read.
    let kernel = carried(3, 7, 3);
    assert_eq!((kernel.verify(), kernel.n_rows(), kernel.block()), (Ok(()), 7, 3));
    let expected = [9.0, 12.0, 15.0, 36.0, 39.0, 42.0, 18.0, 19.0, 20.0];
    assert_eq!(run(&kernel, &values, 9), expected);
    assert_eq!(kernel.check_bounds(&[21, 9]), Ok(()));
    assert!(kernel.check_bounds(&[20, 9]).is_err());
    assert!(kernel.check_bounds(&[21, 8]).is_err());
    // A block is one piece of work.
    let mut memory = [bytes(&values), bytes(&[-7.0; 9])];
    let places = [Place { buffer: 0, byte_offset: 0 }, Place { buffer: 1, byte_offset: 0 }];
    let [x, out] = &mut memory;
    interp::run_unit(&kernel, &mut [x, out], &places, 3..7, 0..3).expect("blocks run");
    assert_eq!(floats(&memory[1])[3..], expected[3..]);
    let [x, out] = &mut memory;
    let refused = interp::run_unit(&kernel, &mut [x, out], &places, 2..7, 0..3);
    assert!(refused.is_err_and(|e| e.contains("in the middle of a block")));
}

#[test]
fn what_leaves_memory_is_an_error() {
    let mut kernel = transpose_add();
    let run_short = |kernel: &Kernel| {
        let (mut x, mut out) = (bytes(&[0.0; 5]), bytes(&[0.0; 6]));
        interp::run(kernel, &mut [&mut x, &mut out])
    };
    assert!(run_short(&kernel).is_err_and(|e| e.contains("element 5 of argument 0")));
    assert!(interp::run(&kernel, &mut []).is_err());
    if let Input::Load { map, .. } = &mut kernel.phases[0].inputs[0] {
        map.offset = -1;
    }
    assert!(run_short(&kernel).is_err_and(|e| e.contains("element -1 of argument 0")));
    kernel.dims.clear();
    assert!(run_short(&kernel).is_err());
}

/// The verifier's complaint about a kernel that `change` broke.
fn complaint(kernel: Kernel, change: impl FnOnce(&mut Kernel)) -> String {
    let mut kernel = kernel;
    assert_eq!(kernel.verify(), Ok(()));
    change(&mut kernel);
    kernel.verify().expect_err("the kernel is broken").join("; ")
}

#[test]
fn broken_kernels_are_refused() {
    let row = || sums(Sweep::Row, [4, 10], 40);
    let column = || sums(Sweep::Column, [4, 10], 40);
    let (sum_of_bool, flag) = body(|s| {
        let x = s.input(0, F32);
        s.lt(x, x)
    });
    let cases: Vec<(&str, String)> = vec![
        ("needs 2 dims", complaint(column(), |k| k.dims.truncate(1))),
        ("strides for 2 dims", complaint(row(), |k| k.phases[1].stores[0].map.strides.truncate(1))),
        ("total is 29, expected 31..=40", complaint(row(), |k| k.total = 29)),
        ("total is 39, expected 40..=40", complaint(column(), |k| k.total = 39)),
        ("overflow", complaint(row(), |k| k.dims[0] = usize::MAX)),
        ("argument 5 of 2", complaint(row(), |k| k.phases[0].inputs[0] = load(5, map(0, &[10, 1])))),
        ("marked read true and written true", complaint(row(), |k| k.args[0].written = true)),
        ("input 0 is read as f32", complaint(row(), |k| k.args[0].dtype = DType::I32)),
        ("not made by an earlier phase", complaint(row(), |k| k.phases[1].inputs[0] = Input::Reduced(3))),
        ("v9 is used", complaint(row(), |k| k.phases[0].reduces[0].value = ValueId(9))),
        ("is stored to argument 1", complaint(row(), |k| k.args[1].dtype = DType::F64)),
        ("have no reductions", complaint(row(), |k| k.phases[0].space = Space::Reduced)),
        ("have no Reduced phases", complaint(transpose_add(), |k| k.phases[0].space = Space::Reduced)),
        ("total is 9, expected 21..=27", complaint(carried(3, 7, 3), |k| k.total = 9)),
        ("is no number of rows", complaint(carried(3, 7, 3), |k| k.total = 22)),
        (
            "needs a Full phase of a Row sweep over blocks",
            complaint(carried(3, 7, 3), |k| {
                k.dims[1] = 9;
                k.dims.remove(0);
                k.total = 27;
                for map in k.phases[0].inputs.iter_mut().filter_map(Input::map_mut) {
                    map.strides.remove(0);
                }
                k.phases[0].stores[0].map.strides.remove(0);
            }),
        ),
        (
            "does not lie apart",
            complaint(carried(3, 7, 3), |k| {
                k.phases[0].stores[0].map.strides[0] = 2;
                k.phases[0].inputs[1].map_mut().expect("a map").strides[0] = 2;
            }),
        ),
        ("is not stored once where it is read", complaint(carried(3, 7, 3), |k| k.phases[0].stores[0].map.offset = 1)),
        (
            "its argument is accessed elsewhere",
            complaint(carried(3, 7, 3), |k| {
                k.args[1].read = true;
                let again = load(1, k.phases[0].stores[0].map.clone());
                k.phases[0].inputs.push(again);
            }),
        ),
        (
            "is defined twice",
            complaint(row(), |k| {
                let again = k.phases[0].reduces[0];
                k.phases[0].reduces.push(again);
            }),
        ),
        ("along the inner dim", complaint(row(), |k| k.phases[1].stores[0].map = map(0, &[10, 1]))),
        ("along the reduced dim", complaint(column(), |k| k.phases[1].stores[0].map = map(0, &[10, 1]))),
        (
            "is a sum of bool",
            complaint(row(), |k| {
                k.phases[0].body = sum_of_bool.clone();
                k.phases[0].reduces[0].value = flag;
            }),
        ),
        (
            "index input 0 has type f32",
            complaint(row(), |k| k.phases[0].inputs[0] = Input::Index { map: map(0, &[1, 1]), dtype: F32 }),
        ),
    ];
    for (expected, got) in cases {
        assert!(got.contains(expected), "expected `{expected}` in `{got}`");
    }
}

#[test]
fn bounds_are_proved_from_extents() {
    let kernel = transpose_add();
    assert_eq!(kernel.check_bounds(&[6, 6]), Ok(()));
    let errors = kernel.check_bounds(&[5, 6]).expect_err("one element is missing");
    assert_eq!(errors.len(), 1);
    assert!(errors[0].contains("spans elements 0..=5 of argument 0, which has 5"), "{}", errors[0]);
    assert!(kernel.check_bounds(&[6]).is_err());
    // The last row of a flat range is shorter, and so is what it touches.
    let ragged = sums(Sweep::Row, [4, 10], 33);
    assert_eq!(ragged.check_bounds(&[33, 4]), Ok(()));
    assert!(ragged.check_bounds(&[32, 4]).is_err());
    assert!(ragged.check_bounds(&[33, 3]).is_err());
    // Nothing is accessed if an extent is zero, but the results of empty columns are stored.
    assert_eq!(sums(Sweep::Row, [0, 10], 0).check_bounds(&[0, 0]), Ok(()));
    assert!(sums(Sweep::Column, [0, 10], 0).check_bounds(&[0, 0]).is_err());
    assert_eq!(sums(Sweep::Column, [0, 10], 0).check_bounds(&[0, 10]), Ok(()));
    // A stride that runs backwards reaches below its offset.
    let mut backwards = transpose_add();
    if let Input::Load { map, .. } = &mut backwards.phases[0].inputs[0] {
        map.strides[1] = -3;
    }
    assert!(backwards.check_bounds(&[6, 6]).is_err());
}

/// Two rows of three before a table of four rows, and one behind: rows 0 and 3 stand for those beyond.
#[test]
fn indices_beyond_a_border_are_held_inside() {
    let (body, root) = body(|s| s.input(0, F32));
    let clamps = vec![Clamp { map: map(-2, &[1, 0]), last: 3, stride: 3 }];
    let phase = Phase {
        space: Space::Full,
        body,
        inputs: vec![Input::Clamped { arg: ArgId(0), map: map(0, &[0, 1]), clamps }],
        stores: vec![store(root, 1, map(0, &[3, 1]))],
        reduces: vec![],
    };
    let kernel = Kernel {
        name: "clamped".into(),
        sweep: Sweep::Elementwise,
        dims: SmallVec::from_slice(&[7, 3]),
        total: 21,
        args: vec![input(true), input(false)],
        phases: vec![phase],
    };
    kernel.verify().unwrap();
    let table: Vec<f32> = (0..12).map(|i| i as f32).collect();
    let (mut table, mut out) = (bytes(&table), vec![0; 84]);
    interp::run(&kernel, &mut [&mut table, &mut out]).unwrap();
    let rows: Vec<f32> = floats(&out).chunks(3).map(|row| row[0]).collect();
    assert_eq!(rows, [0.0, 0.0, 0.0, 3.0, 6.0, 9.0, 9.0]);
    kernel.check_bounds(&[12, 21]).unwrap();
    // The table is too short, the last index too large, an axis empty, the index moves along the inner dim.
    assert!(kernel.check_bounds(&[11, 21]).is_err());
    let broken = |change: &dyn Fn(&mut Clamp)| {
        let mut kernel = kernel.clone();
        change(&mut kernel.phases[0].inputs[0].clamps_mut()[0]);
        kernel.verify().and_then(|()| kernel.check_bounds(&[12, 21]))
    };
    assert!(broken(&|_| {}).is_ok());
    assert!(broken(&|clamp| clamp.last = 4).is_err());
    assert!(broken(&|clamp| clamp.stride = -3).is_err());
    assert!(broken(&|clamp| clamp.last = -1).is_err());
    assert!(broken(&|clamp| clamp.map.strides[1] = 1).is_err());
}
