//! Batches that a thread makes ahead of the steps, and rows that stay in their file, train as those in memory do, bit for bit.

use cotangent_data::augment::{Augmented, Noise, Shift};
use cotangent_data::csv::{Column, Csv};
use cotangent_data::synthetic::two_moons;
use cotangent_data::{DataError, Dataset, Examples, Field, Order, Table};
use cotangent_exec::{Runtime, Threads};
use cotangent_graph::{GraphBuilder, Tensor, TensorData};
use cotangent_nn::{Adam, Layers};
use cotangent_train::{CrossEntropy, Options, Trainer};

/// A set that says of itself whether it is slow.
struct As<'a> {
    set: &'a dyn Examples,
    is_slow: bool,
}

impl Examples for As<'_> {
    fn len(&self) -> usize {
        self.set.len()
    }

    fn fields(&self) -> Vec<Field> {
        self.set.fields()
    }

    fn places(&self, order: Order, seed: u64, epoch: u64) -> Result<Vec<usize>, DataError> {
        self.set.places(order, seed, epoch)
    }

    fn gather(&self, epoch: u64, places: &[usize], batch: &mut Vec<TensorData>) -> Result<(), DataError> {
        self.set.gather(epoch, places, batch)
    }

    fn is_slow(&self) -> bool {
        self.is_slow
    }
}

fn net<'g>(_: &'g GraphBuilder, x: Tensor<'g>) -> Tensor<'g> {
    x.flatten().dense("hidden", 8).tanh().dense("out", 2)
}

/// The weights after three epochs, and the losses.
fn trained(set: &impl Examples, threads: usize) -> (u64, Vec<(f64, Option<f64>)>) {
    let options =
        Options { epochs: 3, batch_size: 16, order: Order::Stratified, progress: false, ..Options::default() };
    let runtime = Runtime::new(Threads::Exactly(threads));
    let mut trainer = Trainer::new(&runtime, net, CrossEntropy, Adam::new(0.02), options);
    let history = trainer.fit(set, Some(set)).unwrap();
    let losses = history.iter().map(|epoch| (epoch.train_loss, epoch.validation_loss)).collect();
    (trainer.weights_checksum().unwrap(), losses)
}

#[test]
fn the_thread_that_makes_batches_ahead_changes_nothing() {
    let set = two_moons(100, 0.1, 3);
    let (features, labels) = set.into_parts();
    let pictures = Dataset::new(features.into_shape_with_order((100, 2, 1)).unwrap().into_dyn(), labels).unwrap();
    let augmented = |threads| {
        let changed = Augmented::new(&pictures, "x", 5).unwrap().threads(threads);
        changed.then(Shift::by(0)).unwrap().then(Noise::of(0.05)).unwrap()
    };
    let inline = trained(&As { set: &augmented(1), is_slow: false }, 1);
    for (making, computing) in [(1, 1), (1, 2), (3, 2)] {
        assert_eq!(trained(&As { set: &augmented(making), is_slow: true }, computing), inline, "{making} {computing}");
    }
    assert_ne!(trained(&pictures, 1), inline, "noise is noticed");
}

#[test]
fn rows_in_their_file_train_as_those_in_memory() {
    let set = two_moons(150, 0.1, 4);
    let mut text = "class,b,a\n".to_owned();
    for (row, label) in set.features().outer_iter().zip(set.labels()) {
        let row: Vec<f32> = row.iter().copied().collect();
        text += &format!("{},{},{}\n", ["upper", "lower"][*label as usize], row[1], row[0]);
    }
    let path = std::env::temp_dir().join(format!("cotangent-feeding-{}.csv", std::process::id()));
    std::fs::write(&path, text).unwrap();
    let csv = Csv::new().field("x", [Column::number("a"), Column::number("b")]).column("y", Column::category("class"));
    let reader = csv.labels("y").fit(&path).unwrap();
    let (table, rows): (Table, _) = (reader.read(&path).unwrap(), reader.stream(&path).unwrap());
    assert!(rows.is_slow() && !table.is_slow());
    let kept = trained(&table, 1);
    for threads in [1, 2] {
        assert_eq!(trained(&rows, threads), kept);
    }
    std::fs::remove_file(&path).unwrap();
}
