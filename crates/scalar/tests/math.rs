//! The mathematical functions: errors in ulp over samples of every exponent, special values, and the f64 paths.

#[path = "support/ulp.rs"]
mod ulp;

use cotangent_scalar::eval::Registers;
use cotangent_scalar::{BodyBuilder, DType, ValueId, math};
use ulp::{CASES, Case, body_of, worst_over};

/// Over 260,000 patterns: an even sweep of all bit patterns (every sign and exponent about 500 times), the
/// patterns around every power of two, and the first and last subnormals.
fn sample() -> impl Iterator<Item = u32> {
    let sweep = (0..=u32::MAX).step_by(16_411);
    let edges = (0..512u32).flat_map(|e| (0..7u32).map(move |d| (e << 23).wrapping_add(d).wrapping_sub(3)));
    let subnormals = (0..64u32).flat_map(|d| [d, 0x8000_0000 | d, 0x0080_0000 - d, 0x8080_0000 - d]);
    sweep.chain(edges).chain(subnormals)
}

#[test]
fn f32_errors_stay_below_their_limits() {
    assert!(sample().count() > 200_000);
    for case in CASES {
        let worst = worst_over(case, sample());
        println!("{}: {:.3} ulp at {:e} ({:e})", case.name, worst.ulp, worst.at, worst.got);
        assert!(worst.ulp <= case.limit, "{}: {worst:?} exceeds {} ulp", case.name, case.limit);
    }
}

/// The ranges that workloads live in, densely.
#[test]
fn f32_errors_stay_below_their_limits_where_networks_live() {
    for case in CASES {
        for sign in [0, 0x8000_0000] {
            let patterns = (0.01f32.to_bits()..16f32.to_bits()).step_by(797).map(|bits| bits | sign);
            let worst = worst_over(case, patterns);
            assert!(worst.ulp <= case.limit, "{}: {worst:?} exceeds {} ulp", case.name, case.limit);
        }
    }
}

fn case(name: &str) -> &'static Case {
    CASES.iter().find(|c| c.name == name).expect("the case exists")
}

fn f32_of(name: &str, x: f32) -> f32 {
    let (body, root) = body_of(case(name).build, DType::F32);
    let mut registers = Registers::default();
    registers.run(&body, 1, |_, lanes| lanes.fill(u64::from(x.to_bits())));
    f32::from_bits(registers.lanes_of(root)[0] as u32)
}

fn f64_of(build: fn(&mut BodyBuilder, ValueId) -> ValueId, x: f64) -> f64 {
    let (body, root) = body_of(build, DType::F64);
    let mut registers = Registers::default();
    registers.run(&body, 1, |_, lanes| lanes.fill(x.to_bits()));
    f64::from_bits(registers.lanes_of(root)[0])
}

/// Compares by bits, so that the sign of zero counts; all NaN are equal.
fn check(name: &str, x: f32, want: f32) {
    let got = f32_of(name, x);
    let same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
    assert!(same, "{name}({x:e}) = {got:e}, not {want:e}");
}

#[test]
fn special_values() {
    const INF: f32 = f32::INFINITY;
    const NAN: f32 = f32::NAN;
    const LEAST: f32 = f32::from_bits(1);
    for case in CASES {
        check(case.name, NAN, NAN);
        check(case.name, -NAN, NAN);
    }
    for (name, at_minus_infinity, at_infinity) in [
        ("exp", 0.0, INF),
        ("expm1", -1.0, INF),
        ("log", NAN, INF),
        ("log1p", NAN, INF),
        ("tanh", -1.0, 1.0),
        ("sigmoid", 0.0, 1.0),
        ("erf", -1.0, 1.0),
        ("softplus", 0.0, INF),
        ("erf_inv", NAN, NAN),
        ("tanh_slope", 0.0, 0.0),
        ("sigmoid_slope", 0.0, 0.0),
        ("normal_pdf", 0.0, 0.0),
        ("normal_cdf", 0.0, 1.0),
        ("rsqrt", NAN, 0.0),
    ] {
        check(name, -INF, at_minus_infinity);
        check(name, INF, at_infinity);
        check(name, f32::MIN, at_minus_infinity);
    }
    for name in ["expm1", "log1p", "tanh"] {
        for x in [0.0, LEAST, 5.0 * LEAST, f32::MIN_POSITIVE, 1e-30] {
            check(name, x, x);
            check(name, -x, -x);
        }
    }
    for name in ["erf", "erf_inv"] {
        check(name, 0.0, 0.0);
        check(name, -0.0, -0.0);
    }
    for zero in [0.0, -0.0] {
        check("exp", zero, 1.0);
        check("log", zero, -INF);
        check("sigmoid", zero, 0.5);
        check("softplus", zero, std::f32::consts::LN_2);
        check("tanh_slope", zero, 1.0);
        check("sigmoid_slope", zero, 0.25);
        check("normal_cdf", zero, 0.5);
    }
    check("exp", 89.0, INF);
    check("exp", 88.72284, INF);
    check("exp", 1.0, std::f32::consts::E);
    check("exp", -103.0, LEAST);
    check("exp", -103.98, 0.0);
    check("expm1", 89.0, INF);
    check("log", 1.0, 0.0);
    check("log", -1.0, NAN);
    check("log", -LEAST, NAN);
    check("log", LEAST, -103.278_93);
    check("log1p", -1.0, -INF);
    check("log1p", -1.5, NAN);
    check("erf_inv", 1.0, INF);
    check("erf_inv", -1.0, -INF);
    check("erf_inv", 1.5, NAN);
    check("tanh", 9.1, 1.0);
    check("erf", -4.0, -1.0);
    assert_eq!(f32_of("sigmoid", -100.0), (-100f64).exp() as f32);
    assert_eq!(f32_of("softplus", -100.0), (-100f64).exp() as f32);
    assert_eq!(f32_of("exp", -95.5), (-95.5f64).exp() as f32);
    assert!(f32_of("exp", 88.72).is_finite() && f32_of("expm1", 88.72).is_finite());
}

#[test]
fn bounded_functions_keep_their_bounds() {
    for (name, least) in [("tanh", -1.0f32), ("erf", -1.0), ("sigmoid", 0.0), ("normal_cdf", 0.0)] {
        let (body, root) = body_of(case(name).build, DType::F32);
        let mut registers = Registers::default();
        let patterns: Vec<u32> = (2f32.to_bits()..20f32.to_bits()).step_by(101).collect();
        for sign in [0, 0x8000_0000] {
            registers.run(&body, patterns.len(), |_, lanes| {
                for (lane, bits) in lanes.iter_mut().zip(&patterns) {
                    *lane = u64::from(bits | sign);
                }
            });
            for &bits in registers.lanes_of(root) {
                let value = f32::from_bits(bits as u32);
                assert!((least..=1.0).contains(&value), "{name} gave {value:e}");
            }
        }
    }
}

#[test]
fn f64_functions_match_their_references() {
    type Row = (fn(&mut BodyBuilder, ValueId) -> ValueId, fn(f64) -> f64);
    let rows: [Row; 14] = [
        (math::exp, libm::exp),
        (math::expm1, libm::expm1),
        (math::log, libm::log),
        (math::log1p, libm::log1p),
        (math::tanh, libm::tanh),
        (math::erf, libm::erf),
        (math::sin, libm::sin),
        (math::cos, libm::cos),
        (math::sigmoid, ulp::sigmoid),
        (math::softplus, ulp::softplus),
        (math::tanh_slope, ulp::tanh_slope),
        (math::sigmoid_slope, ulp::sigmoid_slope),
        (math::normal_pdf, ulp::normal_pdf),
        (math::rsqrt, |x| 1.0 / x.sqrt()),
    ];
    for (i, (build, reference)) in rows.into_iter().enumerate() {
        for x in [0.3, 1e-9, 2.5, 40.0, 700.0, -0.3, -2.5, -40.0, -740.0, f64::INFINITY, f64::NAN] {
            let (got, want) = (f64_of(build, x), reference(x));
            let close = (got - want).abs() <= 1e-15 * want.abs();
            assert!(close || got == want || (got.is_nan() && want.is_nan()), "row {i} at {x}: {got:e}, not {want:e}");
        }
    }
}

/// Against numbers of 60 digits: the tails are those of erfc, without the rounding error of x/√2.
#[test]
fn f64_normal_cdf_keeps_its_digits_in_the_tail() {
    let rows = [
        (-1.0, 1.586_552_539_314_570_5e-1),
        (-5.0, 2.866_515_718_791_939e-7),
        (-8.5, 9.479_534_822_203_319e-18),
        (-20.0, 2.753_624_118_606_233_7e-89),
        (-37.5, 4.605_353_009_581_955e-308),
        (0.0, 0.5),
        (1.0, 0.841_344_746_068_542_9),
        (9.0, 1.0),
        (f64::NEG_INFINITY, 0.0),
        (f64::INFINITY, 1.0),
    ];
    for (x, want) in rows {
        let got = f64_of(math::normal_cdf, x);
        assert!((got - want).abs() <= 6.0 * f64::EPSILON * want, "at {x}: {got:e}, not {want:e}");
    }
}

#[test]
fn f64_erf_inv_inverts_erf() {
    for i in 1..4000 {
        // Both the middle and the tails.
        for x in [f64::from(i) / 4000.0, 1.0 - (-f64::from(i) / 120.0).exp(), 10f64.powf(-f64::from(i) / 20.0)] {
            for x in [x, -x].into_iter().filter(|x| x.abs() < 1.0 && *x != 0.0) {
                let y = f64_of(math::erf_inv, x);
                // An error of y shows in erf(y) by the factor erf′(y); an ulp of x by itself.
                let slope = 2.0 / std::f64::consts::PI.sqrt() * (-y * y).exp();
                let allowed = 2.3e-16 * x.abs() + 1e-15 * (y * slope).abs();
                let error = if x.abs() < 0.5 { libm::erf(y) - x } else { libm::erfc(y.abs()) - (1.0 - x.abs()) };
                assert!(error.abs() <= allowed, "erf_inv({x:e}) = {y:e}: off by {error:e} of {allowed:e}");
            }
        }
    }
    assert_eq!(f64_of(math::erf_inv, 1.0), f64::INFINITY);
    assert_eq!(f64_of(math::erf_inv, -1.0), f64::NEG_INFINITY);
    assert!(f64_of(math::erf_inv, 1.5).is_nan());
}

#[test]
fn pow_calls_libm() {
    let mut s = BodyBuilder::new();
    let (x, y) = (s.input(0, DType::F32), s.input(1, DType::F32));
    let value = math::pow(&mut s, x, y);
    let (body, roots) = s.finish(&[value]);
    let mut registers = Registers::default();
    registers.run(&body, 1, |k, lanes| lanes.fill(u64::from([3f32, 4f32][k as usize].to_bits())));
    assert_eq!(registers.lanes_of(roots[0]), [u64::from(81f32.to_bits())]);
}

/// The stated costs, so that a change of one is deliberate.
#[test]
fn instruction_counts_are_as_documented() {
    let counts: Vec<(&str, usize)> =
        CASES.iter().map(|case| (case.name, body_of(case.build, DType::F32).0.n_ops())).collect();
    assert_eq!(
        counts,
        [
            ("exp", 23),
            ("expm1", 23),
            ("log", 29),
            ("log1p", 33),
            ("tanh", 25),
            ("sigmoid", 24),
            ("erf", 31),
            ("softplus", 45),
            ("erf_inv", 50),
            ("tanh_slope", 24),
            ("sigmoid_slope", 27),
            ("normal_pdf", 27),
            ("normal_cdf", 40),
            ("rsqrt", 2),
        ]
    );
}

/// Where the builder knows that an operand is not above zero, the exponential is shorter and has the same bits.
#[test]
fn exp_of_what_is_not_positive_has_the_same_bits() {
    type Build = fn(&mut BodyBuilder, ValueId) -> ValueId;
    let noted: Build = |s, x| {
        s.note_not_positive(x);
        math::exp(s, x)
    };
    let [(long, whole), (short, part)] = [math::exp as Build, noted].map(|build| body_of(build, DType::F32));
    assert!(short.n_ops() < long.n_ops());
    let mut registers = [Registers::default(), Registers::default()];
    // From -0 to -∞, and NaN of both signs.
    let patterns =
        (0x8000_0000..=0xff80_0000u32).step_by(1_009).chain(0xff80_0000..0xff80_0010).chain([0, 0x7fc0_0001]);
    let patterns: Vec<u32> = patterns.collect();
    for chunk in patterns.chunks(4096) {
        let fill = |_: u32, lanes: &mut [u64]| {
            lanes.iter_mut().zip(chunk).for_each(|(lane, &bits)| *lane = u64::from(bits));
        };
        registers[0].run(&long, chunk.len(), fill);
        registers[1].run(&short, chunk.len(), fill);
        let both = registers[0].lanes_of(whole).iter().zip(registers[1].lanes_of(part));
        for (&bits, (&a, &b)) in chunk.iter().zip(both) {
            let is_nan = f32::from_bits(a as u32).is_nan() && f32::from_bits(b as u32).is_nan();
            assert!(a == b || is_nan, "exp of {bits:#x}: {a:#x} and {b:#x}");
        }
    }
}
