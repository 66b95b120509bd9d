//! Geometries at random, and programs run every way there is.

use cotangent_exec::{BackendChoice, Compiler, Executable, Isa, Runtime, Session, Target, Threads};
use cotangent_graph::interp::interpret_named;
use cotangent_graph::ops::conv::{CONV, Convolution};
use cotangent_graph::ops::windows::Windows;
use cotangent_graph::{Attr, Attrs, Env, Graph, Tensor, TensorData};

/// Reproducible numbers.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

/// A convolution: each spatial axis as extent, window, stride, dilation, zeros before and behind; channels and filters of a group.
#[derive(Clone, Debug)]
pub struct Case {
    pub n: usize,
    pub axes: Vec<[usize; 6]>,
    pub groups: usize,
    pub channels: usize,
    pub filters: usize,
}

impl Case {
    pub fn random(numbers: &mut Numbers) -> Case {
        let n_axes = 1 + numbers.below(3);
        let extents = [14, 7, 5][n_axes - 1];
        let axis = |numbers: &mut Numbers| {
            let [mut extent, window, stride, dilation] = [extents, 3, 3, 2].map(|most| 1 + numbers.below(most));
            let [low, high] = [4, 4].map(|most| numbers.below(most));
            // As large as the padded extent at least.
            let reach = (window - 1) * dilation + 1;
            extent = extent.max(reach.saturating_sub(low + high));
            [extent, window, stride, dilation, low, high]
        };
        let axes = (0..n_axes).map(|_| axis(numbers)).collect();
        let groups = [1, 1, 2, 3][numbers.below(4)];
        let [channels, filters] = [9, 9].map(|most| 1 + numbers.below(most));
        Case { n: numbers.below(4), axes, groups, channels, filters }
    }

    fn list(&self, k: usize) -> Vec<usize> {
        self.axes.iter().map(|axis| axis[k]).collect()
    }

    fn places(&self) -> impl Iterator<Item = usize> + '_ {
        self.axes.iter().map(|&[extent, window, stride, dilation, low, high]| {
            (low + extent + high - (window - 1) * dilation - 1) / stride + 1
        })
    }

    pub fn x(&self) -> Vec<usize> {
        [self.n].into_iter().chain(self.list(0)).chain([self.groups * self.channels]).collect()
    }

    pub fn w(&self) -> Vec<usize> {
        self.list(1).into_iter().chain([self.channels, self.groups * self.filters]).collect()
    }

    pub fn y(&self) -> Vec<usize> {
        [self.n].into_iter().chain(self.places()).chain([self.groups * self.filters]).collect()
    }

    fn padding(&self) -> Vec<(usize, usize)> {
        self.axes.iter().map(|axis| (axis[4], axis[5])).collect()
    }

    pub fn settings(&self) -> Convolution {
        let settings = Convolution::new().stride(&self.list(2)).dilation(&self.list(3));
        settings.padding(&self.padding()).groups(self.groups)
    }

    /// The op itself, whatever the builder would write.
    pub fn op<'g>(&self, x: Tensor<'g>, w: Tensor<'g>) -> Tensor<'g> {
        let list = |k: usize| Attr::Ints(self.list(k).into_iter().map(|n| n as i64).collect());
        let attrs = Attrs::none().with("stride", list(2)).with("dilation", list(3));
        let attrs = attrs.with("low", list(4)).with("high", list(5)).with("groups", Attr::Int(self.groups as i64));
        x.builder().op(&CONV, &[x, w], attrs, None)
    }

    /// The slow twin: windows times filters, a product for each group.
    pub fn twin<'g>(&self, x: Tensor<'g>, w: Tensor<'g>) -> Tensor<'g> {
        let n_axes = self.axes.len();
        let windows = Windows::new(1..n_axes + 1, &self.list(1)).stride(&self.list(2)).dilation(&self.list(3));
        let pieces = x.windows(&windows.padding(&self.padding()));
        let (from, taps) = (pieces.shape(), self.list(1).iter().product::<usize>());
        let rows: usize = from[..n_axes + 1].iter().product();
        let [c, f] = [self.channels, self.filters];
        let part = |t: Tensor<'g>, group: usize, each: usize| {
            let (shape, last) = (t.shape(), t.rank() - 1);
            let (mut start, mut limit) = (vec![0; shape.rank()], shape.to_vec());
            (start[last], limit[last]) = (group * each, (group + 1) * each);
            t.slice(&start, &limit)
        };
        let product = |group: usize| {
            let (pieces, w) = (part(pieces, group, c), part(w, group, f));
            pieces.reshape([rows, taps * c]).matmul(w.reshape([taps * c, f]))
        };
        let products: Vec<Tensor<'g>> = (0..self.groups).map(product).collect();
        x.builder().concat(&products, 1).reshape(self.y())
    }
}

/// The programs that a graph is compiled to: fused and not, for every instruction set that there is, by either code generator.
pub fn programs(graph: &Graph) -> Vec<std::sync::Arc<Executable>> {
    let here = Target::here();
    let mut compilers =
        vec![Compiler::new(), Compiler::new().fuse(false), Compiler::new().backend(BackendChoice::Cranelift)];
    let others = Isa::ALL.into_iter().filter(|isa| isa.is_available() && *isa != here.isa());
    compilers.extend(others.map(|isa| Compiler::new().target(here.clone().with_isa(isa))));
    let compile = |compiler: Compiler| compiler.compile(graph).unwrap_or_else(|error| panic!("{error}\n{graph}"));
    compilers.into_iter().map(compile).collect()
}

/// Results and updates of a graph by its interpreter, once every program on one and on two threads has given the same bits.
pub fn agreed(graph: &Graph, env: &Env, what: &dyn std::fmt::Debug) -> Vec<(String, TensorData)> {
    let mut found = Vec::new();
    for program in programs(graph) {
        found =
            interpret_named(program.optimized(), env).unwrap().into_iter().map(|(k, v)| (k.to_string(), v)).collect();
        for n_threads in [1, 2] {
            let runtime = Runtime::new(Threads::Exactly(n_threads));
            let mut session = Session::with_env(&runtime, program.clone(), env).unwrap();
            let results = session.step(program.inputs_of(env)).unwrap();
            let results: Vec<(String, TensorData)> =
                results.iter().map(|(name, _)| (name.to_owned(), results.tensor(name).unwrap())).collect();
            for (name, value) in &found {
                let got = match results.iter().find(|(known, _)| known == name) {
                    Some((_, got)) => got.clone(),
                    None => session.store().get(name.trim_start_matches("update ")).unwrap(),
                };
                assert!(
                    got.same_bits(value),
                    "{what:?} {name} on {n_threads} threads:\n{got}\nexpected\n{value}\n{}",
                    program.plan_text()
                );
            }
        }
    }
    found
}

/// Whether two tensors are equal but for rounding.
pub fn is_near(a: &TensorData, b: &TensorData, tolerance: f64) -> bool {
    let near = |(x, y): (f64, f64)| (x - y).abs() <= tolerance * (1.0 + y.abs());
    a.shape() == b.shape() && a.to_f64().into_iter().zip(b.to_f64()).all(near)
}
