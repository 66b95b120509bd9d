//! Which ways a product has, and which one it takes: by extents, by strides, by machine. (That all give the same bits is for
//! `bits.rs`.)

use cotangent_gemm::{Blocking, EpilogueNeeds, Gemm, Isa, Operand, Order, Pieces, Product, Strides, Target, Way, ways};
use cotangent_host::Caches;

/// A machine with caches of a common size, whatever this one has.
fn usual(isa: Isa) -> Target {
    Target::usual().with_isa(isa)
}

/// Row-major operands with rows so much further apart than they are long.
fn with_gaps(m: usize, n: usize, k: usize, gap: isize) -> Product {
    let plain = Product::new(m, n, k);
    let wide = |strides: Strides| Strides { row: strides.row + gap, ..strides };
    Product { a: wide(plain.a), b: wide(plain.b), ..plain }
}

fn transposed_b(m: usize, n: usize, k: usize) -> Product {
    Product { b: Strides::row_major(k).transposed(), ..Product::new(m, n, k) }
}

/// The kinds of ways on machines of any architecture.
#[test]
fn a_way_is_chosen_by_extents_and_strides() {
    let portable = usual(Isa::Portable);
    for (product, expected) in [
        (Product::new(4, 8, 2), "one tile"),
        (transposed_b(4, 8, 2), "panels, A in place, B packed"),
        (Product::new(20, 300, 500), "panels, A in place, B in place"),
        (Product::new(500, 20, 500), "panels, A in place, B packed"),
        (Product::new(300, 300, 300), "panels, A packed, B packed"),
        (Product::new(1, 300, 300), "sums across rows"),
        (transposed_b(1, 300, 300), "sums along rows"),
        (Product { b: Strides { batch: 0, row: 700, col: 2 }, ..Product::new(1, 300, 300) }, "sums element by element"),
    ] {
        let choice = ways::<f32>(&product, &portable)[0];
        let text = choice.way.to_string();
        // Whoever reads that B is not read in place reads why.
        let copied = product.m > 1 && product.b.col != 1;
        assert_eq!(choice.why.unwrap().contains("columns of B"), copied, "{choice:?}");
        assert!(text.starts_with(expected), "{product:?}: {text}, not {expected}");
    }
}

/// What flat kernels and high tiles are for, which only some instruction sets have.
#[test]
#[cfg(target_arch = "x86_64")]
fn a_way_is_chosen_by_machine() {
    let [avx2, avx512] = [Isa::Avx2, Isa::Avx512].map(usual);
    let owns_c = EpilogueNeeds { owns_c: true, ..EpilogueNeeds::default() };
    for (product, on_avx2, on_avx512) in [
        (Product::new(784, 128, 8), "flat, pieces of 8×128 of B in place", "flat, pieces of 8×128 of B in place"),
        (Product::new(3, 1000, 1000), "flat, pieces of 8×", "flat, pieces of 8×"),
        // The rows of B share cache sets: fewer steps at a time, or a copy where many rows read it.
        (Product::new(3, 1024, 1024), "flat, pieces of 4×", "flat, pieces of 4×"),
        (Product::new(128, 1024, 8), "flat, pieces of 8×512 of B copied", "flat, pieces of 8×512 of B copied"),
        // Short pieces, but not where rows of B share cache sets.
        (Product::new(32, 136, 500), "flat, pieces of 32×", "panels, A in place, B in place"),
        (Product::new(32, 256, 500), "panels, A packed, B packed", "panels, A in place, B in place"),
        // A stays while B passes, unless its rows share cache sets.
        (with_gaps(128, 1000, 784, 8), "panels, A packed, B packed", "panels, A in place, B in place"),
        (with_gaps(128, 1000, 784, 24), "panels, A packed, B packed", "panels, A packed, B packed"),
        (transposed_b(4, 300, 300), "panels, A in place, B transposed", "panels, A in place, B transposed"),
        (
            Product { epilogue: owns_c, ..Product::new(1000, 1000, 200) },
            "panels, A packed, B packed, strips of 24 rows",
            "panels, A packed, B packed, strips of 24 rows",
        ),
    ] {
        for (target, expected) in [(&avx2, on_avx2), (&avx512, on_avx512)] {
            let choice = ways::<f32>(&product, target)[0];
            let text = choice.way.to_string();
            assert!(text.starts_with(expected) && choice.why.is_some(), "{product:?}: {text}, not {expected}");
        }
    }
    // Half of L1 decides what flat kernels pass over at a time, an eighth of L2 how long blocks of K are.
    let small = Caches { l1: 8 << 10, l2: 64 << 10, l3: 1 << 20, l1_period: 4096 };
    let small = Target::new(Isa::Avx2, small, 2, *avx2.costs()).unwrap();
    let blocks = |target: &Target| match ways::<f32>(&Product::new(500, 500, 2000), target)[0].way {
        Way::Panels { blocking, .. } => blocking,
        way => panic!("{way}"),
    };
    let (small, usual) = (blocks(&small), blocks(&avx2));
    assert!(small.kc < usual.kc && small.mc < usual.mc, "{small:?} {usual:?}");
}

/// All legal ways are listed once, the one to take first, the others by predicted time; and each can be asked for.
#[test]
fn ways_are_listed_with_conditions_and_times() {
    let products = [
        Product::new(4, 8, 2),
        Product::new(300, 300, 300),
        transposed_b(5, 300, 300),
        Product::new(1, 300, 300),
        Product::new(1, 1, 1),
        Product::new(0, 3, 3),
        Product::new(3, 0, 0),
        Product { batch: 7, ..Product::new(30, 40, 50) },
    ];
    for isa in Isa::ALL {
        let target = usual(isa);
        for product in &products {
            let known = ways::<f64>(product, &target);
            assert_eq!(known.is_empty(), !isa.is_built(), "{isa:?}");
            let Some((first, others)) = known.split_first() else { continue };
            assert!(first.why.is_some(), "{product:?}");
            assert!(others.is_sorted_by(|x, y| x.nanos <= y.nanos), "{known:?}");
            for (at, choice) in known.iter().enumerate() {
                assert!(choice.nanos.is_finite() && choice.nanos >= 0.0);
                assert!(known[..at].iter().all(|other| other.way != choice.way), "{known:?}");
                let gemm = Gemm::<f64>::by(*product, choice.way, &target).unwrap();
                assert_eq!((gemm.choice().way, gemm.choice().nanos), (choice.way, choice.nanos));
            }
            assert_eq!(Gemm::<f64>::new(*product, &target).unwrap().choice(), first);
        }
    }
    let nanos = |batch: usize, extent: usize| {
        let product = Product { batch, ..Product::new(extent, extent, extent) };
        ways::<f32>(&product, &usual(Isa::Portable))[0].nanos
    };
    assert!(nanos(2, 100) > nanos(1, 100) && nanos(1, 200) > nanos(1, 100));
}

#[test]
fn ways_that_cannot_make_a_product_are_refused() {
    let target = usual(Isa::Portable);
    let legal = |product: Product, way: Way| Gemm::<f32>::by(product, way, &target).is_some();
    let blocking = Blocking { mc: 0, kc: 0, nc: usize::MAX };
    let panels = |a, b| Way::Panels { a, b, blocking, strips: false };
    let (in_place, packed, transposed) = (Operand::InPlace, Operand::Packed, Operand::Transposed);
    let square = Product::new(30, 30, 30);
    assert!(legal(square, panels(in_place, in_place)) && legal(square, panels(packed, packed)));
    assert!(!legal(square, panels(transposed, packed)), "A is not transposed in registers");
    assert!(!legal(square, panels(packed, transposed)), "the columns of B are adjacent");
    assert!(!legal(transposed_b(30, 30, 30), panels(packed, in_place)), "the columns of B are not adjacent");
    assert!(legal(Product::new(4, 8, 2), Way::Tile) && !legal(square, Way::Tile), "too large for a tile");
    assert!(!legal(transposed_b(4, 8, 2), Way::Tile), "the columns of B are not adjacent");
    let pieces = Pieces { depth: 0, cols: 0, copied: true };
    assert!(!legal(square, Way::Flat { pieces, blocking }), "there are no portable flat kernels");
    // Products with a vector have an order of their own.
    let (vector, sums) = (Product::new(1, 30, 30), |order| Way::Sums { order, chunk: 0 });
    assert!(legal(vector, sums(Order::Across)) && legal(vector, sums(Order::Strided)));
    assert!(!legal(vector, sums(Order::Along)), "rows that are summed up have gaps");
    assert!(!legal(vector, panels(packed, packed)) && !legal(square, sums(Order::Strided)));
    for isa in Isa::ALL.into_iter().filter(|isa| !isa.is_built()) {
        assert!(Gemm::<f32>::new(square, &usual(isa)).is_none());
    }
}

/// A workspace is as large as the way asks for, whatever its sizes say.
#[test]
fn absurd_sizes_are_held_to_those_of_the_product() {
    let target = usual(Isa::Portable);
    let blocking = Blocking { mc: 1 << 40, kc: 1 << 40, nc: 1 << 40 };
    let way = Way::Panels { a: Operand::Packed, b: Operand::Packed, blocking, strips: true };
    let epilogue = EpilogueNeeds { row_multiple: usize::MAX, ..EpilogueNeeds::default() };
    let gemm = Gemm::<f32>::by(Product { epilogue, ..Product::new(30, 30, 30) }, way, &target).unwrap();
    assert!(gemm.workspace_bytes(2) < 1 << 16, "{}", gemm.workspace_bytes(2));
}
