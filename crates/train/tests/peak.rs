//! Weights that are read from a file are in memory once.
//!
//! An allocator that counts bytes stands in for the system's. The file holds a single test, because a test beside it would be
//! counted too.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use cotangent_data::safetensors::{Archive, SafeTensors, Tensors};
use cotangent_data::synthetic::two_moons;
use cotangent_exec::{Compiler, Executable, Runtime, Seed, Session, Store, Threads};
use cotangent_graph::DType::F32;
use cotangent_graph::{GraphBuilder, Tensor, TensorData, build};
use cotangent_nn::Layers;
use cotangent_train::checkpoint::pytorch::{Module, translated};
use cotangent_train::checkpoint::{Load, load, load_for, renamed};
use cotangent_train::{Checkpoint, Export, Model, Predictor};
use ndarray::Array2;

/// The system's allocator, counting bytes.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// Who is about to need much asks for it and as much as this at once, gives it back untouched, and then takes it. All that is held here
/// is less.
const ASKED: usize = 1 << 25;

impl Counting {
    fn took(&self, n_bytes: usize) {
        if n_bytes < ASKED {
            PEAK.fetch_max(HELD.fetch_add(n_bytes, Relaxed) + n_bytes, Relaxed);
        }
    }

    fn gave(&self, n_bytes: usize) {
        if n_bytes < ASKED {
            HELD.fetch_sub(n_bytes, Relaxed);
        }
    }
}

// SAFETY: every call is handed on to the system's allocator unchanged; counting touches no memory but the counters. `realloc` is
// the trait's own, which allocates, copies and frees.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.took(layout.size());
        // SAFETY: the caller keeps `alloc`'s contract, which is the system's too.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.took(layout.size());
        // SAFETY: as for `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        self.gave(layout.size());
        // SAFETY: `at` came from the system's allocator with this layout, because all calls go there.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that were held at once, beside those from before.
fn peak<T>(what: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.load(Relaxed);
    PEAK.store(before, Relaxed);
    let result = what();
    (result, PEAK.load(Relaxed) - before)
}

const WIDTH: usize = 2048;
/// Of the two weights and two biases.
const WEIGHTS: usize = 4 * (2 * WIDTH + WIDTH + WIDTH * WIDTH + WIDTH);

fn net<'g>(_: &'g GraphBuilder, x: Tensor<'g>) -> Tensor<'g> {
    x.dense("a", WIDTH).relu().dense("b", WIDTH)
}

fn program() -> std::sync::Arc<Executable> {
    let graph = build(|g| g.output("outputs", net(g, g.input("x", F32, [2, 2])))).unwrap();
    Compiler::new().compile(&graph).unwrap()
}

fn matrix(rows: usize, columns: usize) -> Array2<f32> {
    Array2::from_shape_fn((rows, columns), |(i, j)| ((i * 31 + j * 17) % 64) as f32 / 64.0 - 0.5)
}

fn weights() -> Tensors {
    let vector: TensorData = vec![0.25f32; WIDTH].into();
    [
        ("a.weight", matrix(2, WIDTH).into()),
        ("a.bias", vector.clone()),
        ("b.weight", matrix(WIDTH, WIDTH).into()),
        ("b.bias", vector),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// As PyTorch has them, in bfloat16: `[out, in]`.
fn of_pytorch(path: &Path) {
    let mut header = String::from("{");
    let mut data = Vec::new();
    for (name, value) in weights() {
        let value = match value.shape().rank() {
            2 => value.array::<f32>().unwrap().t().to_owned().into(),
            _ => value,
        };
        let begin = data.len();
        data.extend(value.bits().iter().flat_map(|bits| ((bits >> 16) as u16).to_le_bytes()));
        let shape = &value.shape()[..];
        header += &format!(
            r#"{}"torch.{name}":{{"dtype":"BF16","shape":{shape:?},"data_offsets":[{begin},{}]}}"#,
            if begin == 0 { "" } else { "," },
            data.len()
        );
    }
    header.push('}');
    let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn weights_of_a_file_are_in_memory_once() {
    let folder = std::env::temp_dir().join(format!("cotangent-peak-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = |name: &str| -> PathBuf { folder.join(name) };
    let (plain, torch, checkpoint, model) = (
        path("plain.safetensors"),
        path("torch.safetensors"),
        path("checkpoint.safetensors"),
        path("model.safetensors"),
    );
    let runtime = Runtime::new(Threads::Exactly(1));
    let set = two_moons(4, 0.1, 1);
    let program = program();
    let expected = {
        SafeTensors { tensors: weights(), ..SafeTensors::default() }.write(&plain).unwrap();
        of_pytorch(&torch);
        let mut store = Store::new(Seed(0));
        load_for(&weights(), Load::Strict, &program, &mut store).unwrap();
        Checkpoint::of_store(&store).unwrap().write(&checkpoint).unwrap();
        let mut made = Export::new(net, &set).model(&runtime, weights()).unwrap();
        made.save(&model).unwrap();
        made.predict(set.features()).unwrap()
    };
    let is_once = |what: &str, n_bytes: usize| {
        println!("{what}: {n_bytes} bytes for {WEIGHTS} of weights");
        // Headers and pieces come on top.
        assert!((WEIGHTS..WEIGHTS + (1 << 18)).contains(&n_bytes), "{what}: {n_bytes} bytes for {WEIGHTS}");
    };

    let (store, n_bytes) = peak(|| {
        let mut store = Store::new(Seed(0));
        load_for(&Archive::open(&plain).unwrap().tensors, Load::Strict, &program, &mut store).unwrap();
        store
    });
    is_once("f32", n_bytes);
    assert_eq!(Checkpoint::of_store(&store).unwrap().tensors, weights());

    let (turned, n_bytes) = peak(|| {
        let tensors = renamed(Archive::open(&torch).unwrap().tensors, |name| Some(name.replace("torch.", ""))).unwrap();
        let modules = [("a", Module::Linear, "a"), ("b", Module::Linear, "b")];
        let mut store = Store::new(Seed(0));
        load_for(&translated(tensors, &modules).unwrap(), Load::Strict, &program, &mut store).unwrap();
        store
    });
    is_once("bf16, transposed", n_bytes);
    assert_eq!(Checkpoint::of_store(&turned).unwrap().tensors, weights());
    drop(turned);

    let (loaded, n_bytes) = peak(|| {
        let opened = Checkpoint::open(&checkpoint).unwrap();
        let mut store = Store::new(Seed(0));
        load_for(&opened.tensors, Load::Strict, &program, &mut store).unwrap();
        store
    });
    is_once("checkpoint", n_bytes);
    assert_eq!(Checkpoint::of_store(&loaded).unwrap().tensors, weights());
    drop(loaded);

    // A session has values already: those of the file stand beside them until all are there.
    let mut session = Session::with_store(&runtime, program, store).unwrap();
    let ((), n_bytes) = peak(|| {
        load(&Archive::open(&plain).unwrap().tensors, Load::Strict, session.store_mut()).unwrap();
    });
    is_once("in the place of others", n_bytes);
    drop(session);

    // Programs and what they keep come on top; a second copy would be more than that.
    let (mut read, n_bytes) = peak(|| Model::load(&model, &runtime).unwrap());
    println!("model: {n_bytes} bytes");
    assert!((WEIGHTS..WEIGHTS * 7 / 4).contains(&n_bytes), "{n_bytes} bytes for {WEIGHTS}");
    assert_eq!(read.predict(set.features()).unwrap(), expected);
    assert_eq!(read.weights().unwrap(), weights());
    drop(read);

    let (answers, n_bytes) = peak(|| {
        let weights = Archive::open(&plain).unwrap().tensors;
        Predictor::new(&runtime, net, weights).predict(set.features()).unwrap()
    });
    println!("predictor: {n_bytes} bytes");
    assert!((WEIGHTS..WEIGHTS * 7 / 4).contains(&n_bytes), "{n_bytes} bytes for {WEIGHTS}");
    assert_eq!(answers, expected);
    std::fs::remove_dir_all(&folder).unwrap();
}
