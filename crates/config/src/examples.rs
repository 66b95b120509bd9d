//! The data of a configuration: read, divided, and described so that a model knows what it was trained on.

use std::path::{Path, PathBuf};

use cotangent_data::csv::Column;
use cotangent_data::idx::read_idx;
use cotangent_data::npz::read_npz;
use cotangent_data::{
    Cifar10, Csv, DataError, Dataset, Examples, Field, ImageFolder, Mnist, Order, Standardizer, Table,
};
use cotangent_graph::{Code, Diag, HostTensor, TensorData};
use cotangent_train::TrainError;
use cotangent_train::model::Form;
use ndarray::{Array1, ArrayD, ArrayViewD, Axis, Ix1};

use crate::sections::{self, Config, Data, Normalize, Order as Sequence, Target};

/// The names of CIFAR-10's classes.
const CIFAR: [&str; 10] = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// Examples with what is to be predicted.
#[derive(Clone, Debug, PartialEq)]
pub enum Set {
    /// A class each.
    Classes(Dataset<i64>),
    /// A number each.
    Numbers(Dataset<f32>),
}

macro_rules! each {
    ($set:expr, $of:ident => $body:expr) => {
        match $set {
            Set::Classes($of) => $body,
            Set::Numbers($of) => $body,
        }
    };
}

impl Set {
    /// The features, `[n, ..]`.
    pub fn features(&self) -> ArrayViewD<'_, f32> {
        each!(self, of => of.features())
    }

    fn split(&self, share: f64, seed: u64) -> Result<(Set, Set), DataError> {
        match self {
            Set::Classes(of) => {
                let (kept, held) = of.split(share, Order::Stratified, seed)?;
                Ok((Set::Classes(kept), Set::Classes(held)))
            }
            Set::Numbers(of) => {
                let (kept, held) = of.split(share, Order::Shuffled, seed)?;
                Ok((Set::Numbers(kept), Set::Numbers(held)))
            }
        }
    }

    fn head(&self, n: usize) -> Set {
        match self {
            Set::Classes(of) => Set::Classes(of.head(n)),
            Set::Numbers(of) => Set::Numbers(of.head(n)),
        }
    }
}

impl Examples for Set {
    fn len(&self) -> usize {
        each!(self, of => of.len())
    }

    fn fields(&self) -> Vec<Field> {
        each!(self, of => of.fields())
    }

    fn places(&self, order: Order, seed: u64, epoch: u64) -> Result<Vec<usize>, DataError> {
        each!(self, of => of.places(order, seed, epoch))
    }

    fn gather(&self, epoch: u64, places: &[usize], batch: &mut Vec<TensorData>) -> Result<(), DataError> {
        each!(self, of => of.gather(epoch, places, batch))
    }
}

/// Everything that a training takes of data.
#[derive(Clone, Debug)]
pub struct Sets {
    /// To train on.
    pub train: Set,
    /// To validate on after every epoch.
    pub validation: Option<Set>,
    /// To test on at the end.
    pub test: Option<Set>,
    /// The names of classes; none for numbers.
    pub labels: Vec<String>,
    /// What the features are made of.
    pub form: Form,
    /// What features are normalized by, measured on the training set.
    pub standardizer: Option<Standardizer>,
}

impl Sets {
    /// Reads and divides the data of a configuration.
    ///
    /// # Errors
    /// What is wrong with a file, or the configuration asks for what the data has not.
    pub fn load(config: &Config) -> Result<Self, TrainError> {
        let Read { train, test, labels, form } = read(config)?;
        let of = &config.preparation;
        let wrong = |text: &str| TrainError::from(Diag::new(Code::Config, text).at(config.data.at.clone()));
        let train = of.examples.map_or_else(|| train.clone(), |n| train.head(n));
        let (train, validation) = match &test {
            Some(test) if of.validate_on_test => (train, Some(test.clone())),
            None if of.validate_on_test => return Err(wrong("`validate_on_test` requires a test set, got none")),
            _ if of.validation > 0.0 => {
                let (train, held) = train.split(of.validation, config.seed)?;
                let held = (!held.is_empty()).then_some(held);
                (train, held)
            }
            _ => (train, None),
        };
        if test.as_ref().is_some_and(|test| test.is_empty()) {
            return Err(wrong("the test set requires at least one example, got none"));
        }
        if train.is_empty() {
            return Err(wrong("the training set requires at least one example, got none"));
        }
        if validation.is_none() && (config.training.patience.is_some() || config.training.plateau.is_some()) {
            return Err(wrong("`patience` and `plateau` require a validation set, got none"));
        }
        let standardizer = match of.normalize {
            Normalize::None => None,
            Normalize::Standardize => Some(Standardizer::fit(train.features())?),
        };
        Ok(Sets { train, validation, test, labels, form, standardizer })
    }

    /// The set that a finished model is judged by: the test's, else the validation's, else the training's.
    pub fn judge(&self) -> (&'static str, &Set) {
        match (&self.test, &self.validation) {
            (Some(test), _) => ("test", test),
            (None, Some(validation)) => ("validation", validation),
            (None, None) => ("training", &self.train),
        }
    }
}

/// What was read.
struct Read {
    train: Set,
    test: Option<Set>,
    labels: Vec<String>,
    form: Form,
}

fn read(config: &Config) -> Result<Read, TrainError> {
    Ok(match &config.data.value {
        Data::Mnist(of) => {
            let mnist = of.folder.as_ref().map_or_else(Mnist::find, Mnist::load)?;
            let (train, test) = mnist.into_parts();
            let set = |split: cotangent_data::mnist::Split| {
                let (features, labels) = split.into_dataset().into_parts();
                let n = labels.len();
                let pictures = features.into_shape_with_order((n, 28, 28));
                let pictures = pictures.map_err(|error| TrainError::Invalid {
                    of: "pictures of MNIST".to_owned(),
                    required: "28 × 28 elements".to_owned(),
                    got: error.to_string(),
                })?;
                Ok::<_, TrainError>(Set::Classes(Dataset::new(pictures.into_dyn(), labels)?))
            };
            let labels = (0..10).map(|digit| digit.to_string()).collect();
            Read { train: set(train)?, test: Some(set(test)?), labels, form: Form::Pictures }
        }
        Data::Cifar(of) => {
            let cifar = Cifar10::load(&of.folder)?;
            let (train, test) = (cifar.train().to_dataset(), cifar.test().to_dataset());
            let labels = CIFAR.map(str::to_owned).to_vec();
            Read { train: Set::Classes(train), test: Some(Set::Classes(test)), labels, form: Form::Pictures }
        }
        Data::Idx(of) => {
            let train = idx(&of.examples, &of.labels)?;
            let test = match (&of.test_examples, &of.test_labels) {
                (Some(examples), Some(labels)) => Some(idx(examples, labels)?),
                (None, None) => None,
                _ => {
                    let text = "`test_examples` and `test_labels` require each other, got one of them";
                    return Err(Diag::new(Code::Config, text).at(config.data.at.clone()).into());
                }
            };
            numbered(train, test)
        }
        Data::Npz(of) => {
            let test = of.test.as_deref().map(npz).transpose()?;
            numbered(npz(&of.file)?, test)
        }
        Data::Csv(of) => csv(of)?,
        Data::Images(of) => images(of)?,
    })
}

/// A table whose columns are read as the training file suggests.
fn csv(of: &sections::Csv) -> Result<Read, TrainError> {
    let label = match of.target {
        Target::Class => Column::category(&of.label),
        Target::Number => Column::number(&of.label),
    };
    let columns = Csv::suggested(&of.file, label, of.columns.as_deref())?;
    let reader = columns.fit(&of.file)?;
    let entries = reader.columns("y").first().and_then(Column::entries);
    let labels = entries.map(|entries| entries.entries().to_vec()).unwrap_or_default();
    let set = |path: &PathBuf| set_of(&reader.read(path)?, path);
    let (train, test) = (set(&of.file)?, of.test.as_ref().map(set).transpose()?);
    Ok(Read { train, test, labels, form: Form::Table(reader.without(&["y"])?) })
}

/// Pictures in folders by their class, read into memory.
fn images(of: &sections::Images) -> Result<Read, TrainError> {
    let open = |folder: &PathBuf| {
        let pictures = ImageFolder::open(folder)?;
        Ok::<_, DataError>(if of.gray { pictures.gray() } else { pictures })
    };
    let first = open(&of.folder)?;
    let classes = first.classes().clone();
    let shape = first.fields().swap_remove(0).shape;
    let size = (of.height.unwrap_or(shape[0]), of.width.unwrap_or(shape[1]));
    let is_scaled = of.height.is_some() || of.width.is_some();
    let sized = |pictures: ImageFolder| if is_scaled { pictures.size(size.0, size.1) } else { Ok(pictures) };
    let train = set_of(&Table::of(&sized(first)?)?, &of.folder)?;
    let test = match &of.test {
        Some(folder) => {
            // Those of the test are of the training pictures' size, whatever the first of them is.
            let pictures = open(folder)?.classes_of(&classes)?.size(size.0, size.1)?;
            Some(set_of(&Table::of(&pictures)?, folder)?)
        }
        None => None,
    };
    Ok(Read { train, test, labels: classes.entries().to_vec(), form: Form::Pictures })
}

/// The fields `x` and `y` of a table.
fn set_of(table: &Table, path: &Path) -> Result<Set, TrainError> {
    let shape = |of: &str| table.get(of).map(|values| values.ty().to_string()).unwrap_or_default();
    let Some(TensorData::F32(features)) = table.get("x").cloned() else {
        return Err(invalid(path, "features of f32", shape("x")));
    };
    let wrong = || invalid(path, "labels, one for each row", shape("y"));
    match table.get("y").cloned() {
        Some(TensorData::I64(y)) => {
            let y = y.into_owned().into_dimensionality::<Ix1>().map_err(|_| wrong())?;
            Ok(Set::Classes(Dataset::new(features.into_owned(), y)?))
        }
        Some(TensorData::F32(y)) => {
            let y = y.into_owned().into_dimensionality::<Ix1>().map_err(|_| wrong())?;
            Ok(Set::Numbers(Dataset::new(features.into_owned(), y)?))
        }
        _ => Err(wrong()),
    }
}

/// Sets whose classes have no names but their numbers.
fn numbered(train: Set, test: Option<Set>) -> Read {
    let labels = match &train {
        Set::Classes(of) => {
            let n = of.labels().iter().max().map_or(0, |&most| most + 1);
            (0..n).map(|class| class.to_string()).collect()
        }
        Set::Numbers(_) => Vec::new(),
    };
    let is_picture = matches!(train.features().shape()[1..], [_, _] | [_, _, 1 | 3]);
    let form = if is_picture { Form::Pictures } else { Form::Arrays };
    Read { train, test, labels, form }
}

fn invalid(path: &Path, required: &str, got: String) -> TrainError {
    TrainError::Invalid { of: path.display().to_string(), required: required.to_owned(), got }
}

fn idx(examples: &Path, labels: &Path) -> Result<Set, TrainError> {
    let array = read_idx(examples)?;
    let features: ArrayD<f32> = match array {
        HostTensor::U8(bytes) => bytes.mapv(|byte| f32::from(byte) / 255.0),
        HostTensor::I32(a) => a.mapv(|v| v as f32),
        HostTensor::F32(a) => a.into_owned(),
        HostTensor::F64(a) => a.mapv(|v| v as f32),
        other => return Err(invalid(examples, "examples of bytes, i32 or floats", other.dtype().to_string())),
    };
    let array = read_idx(labels)?;
    let classes: ArrayD<i64> = match array {
        HostTensor::U8(a) => a.mapv(i64::from),
        HostTensor::I32(a) => a.mapv(i64::from),
        other => return Err(invalid(labels, "labels of whole numbers", other.dtype().to_string())),
    };
    Ok(Set::Classes(Dataset::new(features, classes_of(classes, labels)?)?))
}

/// Classes, one for each example.
fn classes_of(labels: ArrayD<i64>, path: &Path) -> Result<Array1<i64>, TrainError> {
    /// More are a mistake, and would be as many outputs.
    const MOST: i64 = 100_000;
    let shape = format!("{:?}", labels.shape());
    let labels = labels.into_dimensionality::<Ix1>().map_err(|_| invalid(path, "labels [n]", shape))?;
    match labels.iter().find(|label| !(0..MOST).contains(*label)) {
        Some(label) => Err(invalid(path, "classes from 0 to 99999", label.to_string())),
        None => Ok(labels),
    }
}

fn npz(path: &Path) -> Result<Set, TrainError> {
    let mut arrays = read_npz(path)?;
    let names = format!("{:?}", arrays.keys().collect::<Vec<_>>());
    let mut array = |name: &str| {
        let required = format!("an array `{name}`");
        arrays.remove(name).ok_or_else(|| invalid(path, &required, names.clone()))
    };
    let features: ArrayD<f32> = match array("x")? {
        HostTensor::F32(a) => a.into_owned(),
        HostTensor::F64(a) => a.mapv(|v| v as f32),
        HostTensor::U8(a) => a.mapv(|v| f32::from(v) / 255.0),
        other => return Err(invalid(path, "`x` of floats or bytes", other.dtype().to_string())),
    };
    if features.ndim() == 0 || features.len_of(Axis(0)) == 0 {
        return Err(invalid(path, "`x` [n, ..] with at least one example", format!("{:?}", features.shape())));
    }
    let numbers = |y: ArrayD<f32>| {
        let shape = format!("`y` {:?}", y.shape());
        y.into_dimensionality::<Ix1>().map_err(|_| invalid(path, "`y` [n]", shape))
    };
    Ok(match array("y")? {
        HostTensor::I64(a) => Set::Classes(Dataset::new(features, classes_of(a.into_owned(), path)?)?),
        HostTensor::I32(a) => Set::Classes(Dataset::new(features, classes_of(a.mapv(i64::from), path)?)?),
        HostTensor::U8(a) => Set::Classes(Dataset::new(features, classes_of(a.mapv(i64::from), path)?)?),
        HostTensor::Bool(a) => Set::Classes(Dataset::new(features, classes_of(a.mapv(i64::from), path)?)?),
        HostTensor::F32(a) => Set::Numbers(Dataset::new(features, numbers(a.into_owned())?)?),
        HostTensor::F64(a) => Set::Numbers(Dataset::new(features, numbers(a.mapv(|v| v as f32))?)?),
    })
}

impl From<Sequence> for Order {
    fn from(order: Sequence) -> Self {
        match order {
            Sequence::Shuffled => Order::Shuffled,
            Sequence::Given => Order::Given,
            Sequence::Stratified => Order::Stratified,
            Sequence::Balanced => Order::Balanced,
        }
    }
}
