//! Every convolution equals its definition bit for bit: all geometries, directions, instruction sets, threads, and what the
//! epilogue is promised.

use std::sync::Mutex;

use crate::common::{Number, Random, isas, target, value};
use cotangent_gemm::{Convolution, EpilogueNeeds, Isa, Workspace};
use cotangent_pool::Pool;
use cotangent_scalar::{Conv, ConvAxis, Direction};

const DIRECTIONS: [Direction; 3] = [Direction::Forward, Direction::Data, Direction::Weights];

/// A random axis with at least one window.
fn axis(random: &mut Random, most: usize) -> ConvAxis {
    let (window, stride, dilation) = (1 + random.below(4), 1 + random.below(3), 1 + random.below(3));
    let reach = (window - 1) * dilation + 1;
    let (extent, low) = (1 + random.below(most), random.below(5));
    let high = random.below(4).max(reach.saturating_sub(extent + low));
    let places = (extent + low + high - reach) / stride + 1;
    ConvAxis { extent, window, places, stride, dilation, low }
}

fn geometry(random: &mut Random) -> Conv {
    let n_axes = 1 + random.below(3);
    let most = [40, 14, 6][n_axes - 1];
    let axes = (0..n_axes).map(|_| axis(random, most)).collect();
    let groups = if random.below(3) == 0 { 1 + random.below(3) } else { 1 };
    if random.below(4) == 0 {
        // A filter for each channel.
        return Conv { n: 1 + random.below(9), axes, groups: 1 + random.below(50), channels: 1, filters: 1 };
    }
    let wide = if random.below(3) == 0 { 70 } else { 20 };
    Conv { n: 1 + random.below(3), axes, groups, channels: 1 + random.below(wide), filters: 1 + random.below(wide) }
}

/// The definition.
fn expected<T: Number>(conv: &Conv, direction: Direction, [a, b]: [&[T]; 2]) -> Vec<T> {
    let [rows, cols] = conv.matrix(direction);
    let mut result = Vec::with_capacity(rows * cols);
    for row in 0..if cols > 0 { rows } else { 0 } {
        for col in 0..cols {
            let mut sum = T::ZERO;
            conv.terms(direction, row, col, |of_a, of_b| {
                sum = of_a.map_or(T::ZERO, |at| a[at]).mul_add(b[of_b], sum);
            });
            result.push(sum);
        }
    }
    result
}

/// Compares a convolution with its definition, with and without an epilogue.
fn check<T: Number>(conv: &Conv, direction: Direction, isa: Isa, pools: &[Pool], random: &mut Random) {
    let [rows, cols] = conv.matrix(direction);
    let operands = conv.operands(direction).map(|n| (0..n).map(|_| value::<T>(random)).collect::<Vec<T>>());
    let [a, b] = [&operands[0][..], &operands[1][..]];
    let wanted = expected(conv, direction, [a, b]);
    for pool in pools {
        let row_multiple = random.pick(&[0, 1, 64]);
        let owns_c = random.below(2) == 0;
        let needs = EpilogueNeeds { row_multiple, n_companions: 0, owns_c };
        // One of the ways that it suggests, with sizes of any kind.
        let target = target(isa);
        let mut way = random.pick(&Convolution::<T>::ways(conv, direction, &target));
        if random.below(2) == 0 {
            (way.near, way.far) = (random.pick(&[0, 256, 1 << 30]), random.pick(&[0, 4096, 1 << 30]));
            (way.vectors, way.packed) = (random.below(6), random.below(2) == 0);
            way.narrow = random.below(2) == 0;
        }
        let made = Convolution::<T>::by(conv.clone(), direction, needs, way, &target).expect("kernels");
        let what = format!("{direction:?} {conv:?} {isa:?} {needs:?} {way} on {} threads", pool.n_threads());
        const EDGE: usize = 40;
        let mut c = vec![T::of(7.5); rows * cols + 2 * EDGE];
        let seen = Mutex::new(vec![None; rows * cols]);
        let epilogue = |batch: usize, own: std::ops::Range<usize>, columns: std::ops::Range<usize>, c: *mut u8| {
            assert_eq!((batch, columns.start % 16), (0, 0), "{what}");
            let multiple = row_multiple.max(1);
            assert!(
                own.start.is_multiple_of(multiple) && (own.end.is_multiple_of(multiple) || own.end == rows),
                "{what}: {own:?}"
            );
            let mut seen = seen.lock().unwrap();
            for row in own {
                for col in columns.clone() {
                    let at = row * cols + col;
                    // SAFETY: an element of the rectangle.
                    let value = unsafe { *c.cast::<T>().wrapping_add(at) };
                    assert!(seen[at].replace(value).is_none(), "{what}: element {at} twice");
                }
            }
        };
        let mut workspace = Workspace::with_bytes(made.workspace_bytes(pool.n_threads())).unwrap();
        let bytes = workspace.bytes();
        let to = if owns_c { std::ptr::dangling_mut() } else { c[EDGE..].as_mut_ptr() };
        // SAFETY: arrays of the sizes that the geometry asks for; the target's instruction set is available.
        unsafe { made.run(pool, [a.as_ptr(), b.as_ptr()], to, Some(&epilogue), &mut workspace) };
        assert_eq!(workspace.bytes(), bytes, "{what}: the workspace grew");
        let seen: Vec<T> = seen.into_inner().unwrap().into_iter().map(|value| value.expect("every element")).collect();
        for (at, (got, wanted)) in seen.iter().zip(&wanted).enumerate() {
            assert!(got.bits() == wanted.bits(), "{what}: element {at} is {got:?}, not {wanted:?}");
        }
        if !owns_c {
            assert!(c[EDGE..].iter().zip(&wanted).all(|(got, wanted)| got.bits() == wanted.bits()), "{what}");
        }
        let edges = c[..EDGE].iter().chain(&c[EDGE + rows * cols..]);
        assert!(edges.into_iter().all(|x| x.bits() == T::of(7.5).bits()), "{what}: wrote outside");
    }
}

fn random_geometries<T: Number>(seed: u64) {
    let pools = [Pool::new(1), Pool::new(2), Pool::new(3)];
    let mut random = Random(seed);
    for isa in isas() {
        for _ in 0..if isa == Isa::Portable { 20 } else { 150 } {
            let conv = geometry(&mut random);
            for direction in DIRECTIONS {
                check::<T>(&conv, direction, isa, &pools, &mut random);
            }
        }
    }
}

#[test]
fn random_geometries_f32() {
    random_geometries::<f32>(1);
}

#[test]
fn random_geometries_f64() {
    random_geometries::<f64>(2);
}

/// The layers of networks, whose strips and panels are whole, on few examples.
#[test]
fn layers_of_networks() {
    let pools = [Pool::new(1), Pool::new(2)];
    let mut random = Random(3);
    let square = |extent, window, stride, low| {
        let places = (extent + 2 * low - window) / stride + 1;
        let axis = ConvAxis { extent, window, places, stride, dilation: 1, low };
        [axis; 2].into_iter().collect()
    };
    for (n, axes, channels, filters) in [
        (2, square(28, 5, 1, 0), 1, 20),
        (2, square(12, 5, 1, 0), 20, 50),
        (1, square(32, 3, 1, 1), 3, 16),
        (1, square(32, 3, 1, 1), 16, 16),
        (2, square(16, 3, 2, 1), 16, 32),
        (2, square(16, 1, 2, 0), 16, 32),
        (3, square(8, 3, 1, 1), 64, 64),
        (1, square(31, 3, 1, 1), 17, 40),
    ] {
        let conv = Conv { n, axes, groups: 1, channels, filters };
        for isa in isas() {
            for direction in DIRECTIONS {
                check::<f32>(&conv, direction, isa, &pools, &mut random);
            }
        }
    }
}

/// Nothing to add up, and nothing to make.
#[test]
fn empty() {
    let pools = [Pool::new(1), Pool::new(2)];
    let mut random = Random(4);
    let axis = ConvAxis { extent: 5, window: 3, places: 3, stride: 1, dilation: 1, low: 0 };
    let none = ConvAxis { extent: 0, window: 2, places: 1, stride: 1, dilation: 1, low: 1 };
    let no_places = ConvAxis { places: 0, ..axis };
    for axes in
        [vec![axis], vec![axis, axis], vec![none, axis], vec![axis, none], vec![no_places], vec![no_places, axis]]
    {
        for (n, channels, filters) in [(0, 2, 3), (2, 0, 3), (2, 2, 0), (2, 2, 3)] {
            let conv = Conv { n, axes: axes.iter().copied().collect(), groups: 1, channels, filters };
            for isa in isas() {
                for direction in DIRECTIONS {
                    check::<f32>(&conv, direction, isa, &pools, &mut random);
                }
            }
        }
    }
}

/// Windows much further apart than there are elements: most rows of the adjoint meet nothing, and are zeros all the same.
#[test]
fn far_apart() {
    let pools = [Pool::new(1), Pool::new(3)];
    let mut random = Random(5);
    let far = |stride| ConvAxis { extent: 7, window: 3, places: 1, stride, dilation: 2, low: 1 };
    let two = ConvAxis { extent: 1, window: 2, places: 2, stride: 1 << 10, dilation: 1, low: 1 << 10 };
    let few = ConvAxis { extent: 40, window: 2, places: 4, stride: 11, dilation: 3, low: 0 };
    for axes in
        [vec![far(1 << 40)], vec![far(1 << 40), far(1 << 40)], vec![far(9), few], vec![few, few], vec![two, few]]
    {
        for [n, groups, channels, filters] in [[2, 1, 3, 5], [9, 2, 2, 3], [3, 20, 1, 1]] {
            let conv = Conv { n, axes: axes.iter().copied().collect(), groups, channels, filters };
            assert!(conv.is_sound());
            for isa in isas() {
                for direction in DIRECTIONS {
                    check::<f32>(&conv, direction, isa, &pools, &mut random);
                }
            }
        }
    }
}

/// Windows of any size that see no channels, or that no filter has.
#[test]
fn windows_of_nothing() {
    let pools = [Pool::new(2)];
    let mut random = Random(6);
    let axis = ConvAxis { extent: 3, window: 1 << 40, places: 2, stride: 1, dilation: 1, low: 1 << 40 };
    let filled = ConvAxis { extent: 1 << 40, window: 1 << 40, places: 1, stride: 1, dilation: 1, low: 0 };
    for (axis, [groups, channels, filters]) in
        [(axis, [1, 0, 3]), (axis, [1, 3, 0]), (axis, [2, 0, 1]), (filled, [1, 0, 3])]
    {
        let conv = Conv { n: 2, axes: [axis].into_iter().collect(), groups, channels, filters };
        assert!(conv.is_sound());
        for direction in DIRECTIONS {
            check::<f32>(&conv, direction, Isa::Portable, &pools, &mut random);
        }
    }
}
