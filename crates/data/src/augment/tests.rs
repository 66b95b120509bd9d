use ndarray::{Array1, Array2, Array3, Array4};

use super::*;
use crate::Table;

/// Pictures of which every element is another number, with labels as shares of two classes.
fn set(n: usize) -> Table {
    let x = Array4::from_shape_fn((n, 5, 7, 2), |(i, r, c, k)| (1 + 70 * i + 14 * r + 2 * c + k) as f32);
    let y = Array2::from_shape_fn((n, 2), |(i, k)| f32::from(u8::from(i % 2 == k)));
    let place: Array1<i64> = (0..n as i64).collect();
    Table::new().with("x", x).unwrap().with("y", y).unwrap().with("place", place).unwrap()
}

fn picture(set: &Table, place: usize) -> Picture {
    let mut batch = Vec::new();
    set.gather(0, &[place], &mut batch).unwrap();
    let TensorData::F32(x) = &batch[0] else { panic!("pictures are f32") };
    Picture { shape: [5, 7, 2], values: x.iter().copied().collect(), spare: Vec::new() }
}

/// What becomes of the first picture, for several draws.
fn results(change: &impl Augment) -> Vec<Picture> {
    let set = set(1);
    (0..40)
        .map(|stream| {
            let mut picture = picture(&set, 0);
            let shape = change.shape(picture.shape).unwrap();
            change.apply(&mut picture, &mut PhiloxRng::new(3, stream));
            assert_eq!((picture.shape, picture.values.len()), (shape, shape.iter().product()));
            picture
        })
        .collect()
}

/// All changes, one after the other.
fn all(set: &Table, seed: u64) -> Augmented<'_> {
    let augmented = Augmented::new(set, "x", seed).unwrap().then(Shift::by(2)).unwrap();
    let augmented = augmented.then(Flip::horizontal(0.5)).unwrap().then(Flip::vertical(0.5)).unwrap();
    let augmented = augmented.then(Rotate::by(20.0)).unwrap().then(Rescale::between(0.8, 1.2)).unwrap();
    let augmented = augmented.then(Elastic::of(0.5, 3)).unwrap().then(Crop::to(4, 5)).unwrap();
    let augmented = augmented.then(Brightness::by(0.1)).unwrap().then(Contrast::between(0.5, 2.0)).unwrap();
    augmented.then(Cutout::of(2)).unwrap().then(Noise::of(0.1)).unwrap().mixup(&["x", "y"]).unwrap()
}

#[test]
fn what_becomes_of_an_example_is_a_function_of_seed_epoch_and_place() {
    let set = set(23);
    let make = |set| all(set, 7);
    let rows = |augmented: &Augmented<'_>, epoch, places: &[usize]| {
        let mut batch = Vec::new();
        augmented.gather(epoch, places, &mut batch).unwrap();
        batch
    };
    let places: Vec<usize> = (0..23).collect();
    let whole = rows(&make(&set), 2, &places);
    assert_eq!(whole[0].shape()[..], [23, 4, 5, 2]);
    assert_eq!(make(&set).fields()[0].shape, [4, 5, 2]);
    for threads in [2, 3, 50] {
        assert_eq!(rows(&make(&set).threads(threads), 2, &places), whole, "{threads} threads");
    }
    // Another division into batches, another order.
    for (k, place) in places.iter().enumerate().rev() {
        let one = rows(&make(&set), 2, &[*place]);
        let (TensorData::F32(one), TensorData::F32(all)) = (&one[0], &whole[0]) else { panic!("pictures are f32") };
        assert_eq!(one.index_axis(ndarray::Axis(0), 0), all.index_axis(ndarray::Axis(0), k));
    }
    assert_ne!(rows(&make(&set), 3, &places)[0], whole[0], "another epoch");
    assert_ne!(rows(&all(&set, 8), 2, &places)[0], whole[0], "another seed");
    // Labels are shares that sum to 1, in the shares of the pictures; what is not mixed stays.
    let TensorData::F32(y) = &whole[1] else { panic!("labels are f32") };
    assert!(y.outer_iter().all(|row| (row.sum() - 1.0).abs() < 1e-6) && y.iter().any(|&v| v > 0.01 && v < 0.99));
    assert_eq!(whole[2].to_f64(), places.iter().map(|&place| place as f64).collect::<Vec<_>>());
}

#[test]
fn shifts_and_flips_move_whole_elements() {
    let set = set(1);
    let old = picture(&set, 0);
    let mut moves = std::collections::BTreeSet::new();
    for new in results(&Shift::by(2).background(-1.0)) {
        // The place of an element that is never moved out says how far all were.
        let at = |value: f32| new.values.iter().position(|&v| v == value).unwrap() as isize;
        let middle = old.at(2, 3, 0, 0.0);
        let (down, right) = (at(middle) / 14 - 2, at(middle) % 14 / 2 - 3);
        moves.insert((down, right));
        for (row, column, channel) in (0..5).flat_map(|r| (0..7).flat_map(move |c| (0..2).map(move |k| (r, c, k)))) {
            assert_eq!(new.at(row, column, channel, 0.0), old.at(row - down, column - right, channel, -1.0));
        }
    }
    assert!(moves.len() > 15 && moves.iter().all(|&(a, b)| a.abs() <= 2 && b.abs() <= 2), "{moves:?}");
    for (flip, is_horizontal) in [(Flip::horizontal(0.5), true), (Flip::vertical(0.5), false)] {
        let n_flipped = results(&flip).into_iter().filter(|new| new.values != old.values).inspect(|new| {
            for (row, column) in (0..5).flat_map(|r| (0..7).map(move |c| (r, c))) {
                let (r, c) = if is_horizontal { (row, 6 - column) } else { (4 - row, column) };
                assert_eq!(new.at(row, column, 1, 0.0), old.at(r, c, 1, 0.0));
            }
        });
        assert!((8..33).contains(&n_flipped.count()));
    }
    assert!(results(&Flip::horizontal(0.0)).iter().all(|new| new.values == old.values));
    assert!(results(&Flip::horizontal(1.0)).iter().all(|new| new.values != old.values));
}

#[test]
fn crops_are_pieces_and_cutouts_cover_squares() {
    let old = picture(&set(1), 0);
    for new in results(&Crop::to(3, 4)) {
        let first = old.values.iter().position(|&v| v == new.values[0]).unwrap() as isize;
        let (top, left) = (first / 14, first % 14 / 2);
        for (row, column) in (0..3).flat_map(|r| (0..4).map(move |c| (r, c))) {
            assert_eq!(new.at(row, column, 1, 0.0), old.at(top + row, left + column, 1, -1.0));
        }
    }
    for new in results(&Cutout::of(3)) {
        let n_zeros = new.values.iter().filter(|&&v| v == 0.0).count();
        assert!((4 * 2..=9 * 2).contains(&n_zeros), "{n_zeros}");
        assert!(new.values.iter().zip(&old.values).all(|(new, old)| *new == 0.0 || new == old));
    }
}

#[test]
fn no_turn_no_scale_and_no_distortion_change_nothing_and_a_half_turn_is_two_flips() {
    let old = picture(&set(1), 0);
    let near = |new: &Picture, old: &Picture| new.values.iter().zip(&old.values).all(|(a, b)| (a - b).abs() < 1e-3);
    assert!(results(&Rotate::by(0.0)).iter().all(|new| near(new, &old)));
    assert!(results(&Rescale::between(1.0, 1.0)).iter().all(|new| near(new, &old)));
    assert!(results(&Elastic::of(0.0, 3)).iter().all(|new| near(new, &old)));
    assert!(results(&Rotate::by(20.0)).iter().any(|new| !near(new, &old)));
    assert!(results(&Elastic::of(1.0, 3)).iter().any(|new| !near(new, &old)));
    // Twice as large: the middle stays, and a step is half a step.
    let large = &results(&Rescale::between(2.0, 2.0))[0];
    assert!((large.at(2, 3, 0, 0.0) - old.at(2, 3, 0, 0.0)).abs() < 1e-3);
    assert!((large.at(2, 5, 0, 0.0) - old.at(2, 4, 0, 0.0)).abs() < 1e-3);
    assert!((large.at(2, 4, 0, 0.0) - 0.5 * (old.at(2, 3, 0, 0.0) + old.at(2, 4, 0, 0.0))).abs() < 1e-3);
}

#[test]
fn noise_brightness_and_contrast_have_their_sizes() {
    let x = Array3::<f32>::zeros((200, 20, 20));
    let set = Table::new().with("x", x).unwrap();
    let mut batch = Vec::new();
    let noisy = Augmented::new(&set, "x", 1).unwrap().then(Noise::of(0.5)).unwrap();
    noisy.gather(0, &(0..200).collect::<Vec<_>>(), &mut batch).unwrap();
    let values = batch[0].to_f64();
    let n = values.len() as f64;
    let moment = |k: i32| values.iter().map(|v| (2.0 * v).powi(k)).sum::<f64>() / n;
    assert!(moment(1).abs() < 0.02 && (moment(2) - 1.0).abs() < 0.02 && (moment(4) - 3.0).abs() < 0.15, "{n}");
    let old = picture(&super::tests::set(1), 0);
    for new in results(&Brightness::by(3.0)) {
        let change = new.values[0] - old.values[0];
        assert!(change.abs() <= 3.0 && new.values.iter().zip(&old.values).all(|(a, b)| (a - b - change).abs() < 1e-3));
    }
    let mean = |picture: &Picture| picture.values.iter().sum::<f32>() / picture.values.len() as f32;
    for new in results(&Contrast::between(0.5, 2.0)) {
        let factor = (new.values[0] - mean(&old)) / (old.values[0] - mean(&old));
        assert!((0.499..2.001).contains(&factor) && (mean(&new) - mean(&old)).abs() < 1e-2);
    }
}

#[test]
fn what_has_no_meaning_is_refused() {
    let set = set(3);
    let new = || Augmented::new(&set, "x", 1).unwrap();
    assert!(Augmented::new(&set, "z", 1).is_err() && Augmented::new(&set, "place", 1).is_err());
    let films = Table::new().with("x", ndarray::Array5::<f32>::zeros((3, 2, 2, 2, 1))).unwrap();
    let error = Augmented::new(&films, "x", 1).unwrap_err().to_string();
    assert!(error.contains("pictures or sounds of f32") && error.contains("[2, 2, 2, 1]"), "{error}");
    for bad in [f32::NAN, -1.0, f32::INFINITY] {
        assert!(new().then(Noise::of(bad)).is_err() && new().then(Brightness::by(bad)).is_err());
        assert!(new().then(Contrast::between(bad, 1.0)).is_err() && new().then(Rescale::between(bad, 1.0)).is_err());
        assert!(new().then(Rotate::by(bad)).is_err() && new().then(Flip::horizontal(bad)).is_err());
        assert!(new().then(Elastic::of(bad, 3)).is_err());
    }
    assert!(new().then(Contrast::between(2.0, 1.0)).is_err() && new().then(Elastic::of(1.0, 0)).is_err());
    assert!(new().then(Shift::by(5)).is_err() && new().then(Cutout::of(8)).is_err());
    let error = new().then(Crop::to(6, 2)).unwrap_err().to_string();
    assert!(error.contains("a piece of pictures of 5 by 7") && error.contains("6 by 2"), "{error}");
    assert!(new().then(Crop::to(3, 3)).unwrap().then(Crop::to(4, 3)).is_err(), "what is left is smaller");
    assert!(new().mixup(&["place"]).is_err() && new().mixup(&["z"]).is_err());
    assert!(new().gather(0, &[3], &mut Vec::new()).is_err());
    // Of nothing, nothing is made.
    let empty = Table::new().with("x", Array4::<f32>::zeros((0, 2, 2, 1))).unwrap();
    let augmented = Augmented::new(&empty, "x", 1).unwrap().then(Noise::of(1.0)).unwrap().mixup(&["x"]).unwrap();
    augmented.gather(0, &[], &mut Vec::new()).unwrap();
}

/// A change that does not make what it says.
struct Cut;

impl Augment for Cut {
    fn shape(&self, shape: [usize; 3]) -> Result<[usize; 3], (String, String)> {
        Ok(shape)
    }

    fn apply(&self, picture: &mut Picture, _: &mut Draw) {
        picture.values.truncate(3);
    }
}

/// A change that says what cannot be.
struct Endless;

impl Augment for Endless {
    fn shape(&self, _: [usize; 3]) -> Result<[usize; 3], (String, String)> {
        Ok([usize::MAX, 2, 1])
    }

    fn apply(&self, _: &mut Picture, _: &mut Draw) {}
}

#[test]
fn a_change_of_ones_own_that_is_wrong_is_an_error() {
    let set = set(4);
    for threads in [1, 2] {
        let augmented = Augmented::new(&set, "x", 1).unwrap().then(Cut).unwrap().then(Flip::vertical(1.0)).unwrap();
        let error = augmented.threads(threads).gather(0, &[0, 1, 2], &mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains("3 elements") && error.contains("70 elements"), "{error}");
    }
    let error = Augmented::new(&set, "x", 1).unwrap().then(Endless).unwrap_err().to_string();
    assert!(error.contains("at most"), "{error}");
}

#[test]
fn what_lies_very_far_outside_is_background() {
    let set = set(2);
    for change in [Elastic::of(f32::MAX, 2), Elastic::of(1e30, usize::MAX)] {
        let augmented = Augmented::new(&set, "x", 1).unwrap().then(change).unwrap();
        let mut batch = Vec::new();
        augmented.gather(0, &[0, 1], &mut batch).unwrap();
        assert!(batch[0].to_f64().iter().all(|x| x.is_finite()));
    }
    let small = Augmented::new(&set, "x", 1).unwrap().then(Rescale::between(1e-45, 1e-45)).unwrap();
    let mut batch = Vec::new();
    small.gather(0, &[0], &mut batch).unwrap();
    assert_eq!(batch[0].to_f64().iter().filter(|x| **x != 0.0).count(), 2, "the middle alone, of two channels");
}

#[test]
fn palettes_change_channels_and_lenses_bend() {
    let set = set(1);
    let old = picture(&set, 0);
    for new in results(&Palette::by(0.5)) {
        // Each channel is a linear function of what it was.
        for channel in 0..2 {
            let pairs: Vec<(f32, f32)> =
                old.values.iter().zip(&new.values).skip(channel).step_by(2).map(|(a, b)| (*a, *b)).collect();
            let slope = (pairs[34].1 - pairs[0].1) / (pairs[34].0 - pairs[0].0);
            assert!((0.5..=1.5).contains(&slope), "{slope}");
            assert!(pairs.iter().all(|(a, b)| (b - pairs[0].1 - slope * (a - pairs[0].0)).abs() < 1e-3));
        }
    }
    assert_eq!(results(&Palette::by(0.0))[0].values, old.values);
    assert_eq!(results(&Lens::between(0.0, 0.0))[0].values, old.values);
    // A barrel shows in the corner what is beyond it: nothing. The middle stays.
    let middle = |picture: &Picture| picture.at(2, 3, 1, -1.0);
    for new in results(&Lens::between(0.3, 0.6)) {
        assert!(new.at(0, 0, 0, -1.0) < old.at(0, 0, 0, -1.0) && middle(&new) == middle(&old));
    }
    // A pincushion shows in the corner what is nearer to the middle.
    for new in results(&Lens::between(-0.3, -0.1)) {
        assert!(new.at(0, 0, 0, -1.0) > old.at(0, 0, 0, -1.0) && middle(&new) == middle(&old));
    }
    for strengths in [(-0.4, 0.0), (0.2, 0.1), (0.0, f32::NAN), (f32::NAN, 0.0)] {
        assert!(Lens::between(strengths.0, strengths.1).shape([5, 7, 2]).is_err());
    }
    assert!(Palette::by(1.5).shape([5, 7, 2]).is_err() && Palette::by(f32::NAN).shape([5, 7, 2]).is_err());
}

#[test]
fn sounds_are_moved_and_made_higher() {
    let n = 512;
    let wave = |i: usize| libm::sinf(i as f32 * std::f32::consts::TAU / 32.0);
    let set = Table::new().with("x", Array2::from_shape_fn((3, n), |(_, i)| wave(i))).unwrap();
    let rows = |augmented: &Augmented<'_>, epoch| {
        let mut batch = Vec::new();
        augmented.gather(epoch, &[0, 1, 2], &mut batch).unwrap();
        let TensorData::F32(x) = &batch[0] else { panic!("f32") };
        assert_eq!(x.shape(), [3, n]);
        x.clone()
    };
    let shifted = Augmented::new(&set, "x", 1).unwrap().then(TimeShift::by(100)).unwrap();
    for row in rows(&shifted, 0).outer_iter() {
        let shift = (-100..=100).find(|shift: &isize| {
            (0..n as isize).all(|i| {
                let from = i - shift;
                let value = if (0..n as isize).contains(&from) { wave(from as usize) } else { 0.0 };
                row[i as usize] == value
            })
        });
        assert!(shift.is_some());
    }
    let crossings = |row: ndarray::ArrayViewD<'_, f32>| {
        // Per sample, before the silence at the end.
        let row: Vec<f32> = row.iter().copied().collect();
        let end = row.iter().rposition(|v| *v != 0.0).unwrap();
        (1..end).filter(|&i| row[i - 1] < 0.0 && row[i] >= 0.0).count() as f32 / end as f32
    };
    let pitched = Augmented::new(&set, "x", 1).unwrap().then(Pitch::by(12.0)).unwrap();
    let mut seen = Vec::new();
    for epoch in 0..10 {
        seen.extend(rows(&pitched, epoch).outer_iter().map(|row| crossings(row) * 32.0));
    }
    assert!(seen.iter().all(|f| (0.4..2.2).contains(f)), "{seen:?}");
    assert!(seen.iter().any(|f| *f < 0.8) && seen.iter().any(|f| *f > 1.3), "{seen:?}");
    let same = Augmented::new(&set, "x", 1).unwrap().then(Pitch::by(0.0)).unwrap();
    assert_eq!(rows(&same, 0).as_slice().unwrap()[..n], (0..n).map(wave).collect::<Vec<_>>());
    assert!(rows(&Augmented::new(&set, "x", 1).unwrap().then(Noise::of(0.1)).unwrap(), 0)[[0, 0]] != 0.0);
    // What is for sounds is not for pictures, and settings have limits.
    let refused = |change: &dyn Augment, shape| change.shape(shape).is_err();
    assert!(refused(&TimeShift::by(3), [5, 7, 1]) && refused(&Pitch::by(1.0), [5, 7, 1]));
    assert!(
        refused(&TimeShift::by(7), [1, 7, 1])
            && refused(&Pitch::by(-1.0), [1, 7, 1])
            && refused(&Pitch::by(f32::NAN), [1, 7, 1])
    );
}

#[test]
fn words_are_replaced_by_those_of_the_table() {
    let words = crate::Vocabulary::new(["a", "big", "large", "huge", "dog"]).unwrap();
    let ids = Array2::from_shape_fn((200, 5), |(_, k)| k as i64);
    let set = Table::new().with("x", ids).unwrap().with("f", Array1::from_elem(200, 0.5f32)).unwrap();
    let synonyms = |seed| Synonyms::new(&set, "x", &words, seed).unwrap();
    let table = "big, large huge\n\n";
    let changed = synonyms(3).groups(table).unwrap().probability(0.5).unwrap();
    let rows = |set: &Synonyms<'_>, epoch| {
        let mut batch = Vec::new();
        set.gather(epoch, &(0..200).collect::<Vec<_>>(), &mut batch).unwrap();
        batch[0].to_f64()
    };
    let first = rows(&changed, 0);
    let mut counts = [0; 5];
    for row in first.chunks(5) {
        assert!((row[0], row[4]) == (0.0, 4.0) && row[1..4].iter().all(|id| (1.0..=3.0).contains(id)));
        counts[row[1] as usize] += 1;
    }
    assert!((70..130).contains(&counts[1]) && counts[2] > 25 && counts[3] > 25, "{counts:?}");
    assert_eq!(rows(&changed, 0), first);
    assert_ne!(rows(&changed, 1), first);
    let mut one = Vec::new();
    changed.gather(0, &[17], &mut one).unwrap();
    assert_eq!(one[0].to_f64(), first[85..90]);
    let error = synonyms(3).groups("big tiny").unwrap_err().to_string();
    assert!(error.contains("\"tiny\""), "{error}");
    assert!(Synonyms::new(&set, "f", &words, 0).is_err() && Synonyms::new(&set, "z", &words, 0).is_err());
    assert!(synonyms(0).probability(1.5).is_err() && synonyms(0).probability(f32::NAN).is_err());
}
