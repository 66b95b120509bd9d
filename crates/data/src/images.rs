//! Folders of pictures: a folder for each class, PNG or JPEG. Needs the feature `images`.
//!
//! Why it exists: that is how collections of pictures come, and they rarely fit into memory. Only the names of files are kept;
//! pictures are decoded when a batch needs them, by a trainer on a thread that works ahead of the steps.
//!
//! Assumes: `folder/CLASS/picture.png`. Names that begin with a dot are passed over; whatever else is no picture is an error.
//! Promises: classes and files are in the order of their names, so ids and places do not depend on the file system; what becomes of a
//! picture does not depend on the number of threads; a damaged file is an error that names it, and its claims about its size are
//! not believed beyond a limit.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use std::thread;

use cotangent_graph::TensorData;
use cotangent_host::float::in_default;
use cotangent_scalar::DType;
use image::{DynamicImage, ImageError, ImageReader, Limits, imageops::FilterType};
use ndarray::{Array1, ArrayD, IxDyn};

use crate::DataError;
use crate::batches::{Order, places_in_epoch};
use crate::reading::open;
use crate::table::{Examples, Field, check_places};
use crate::text::Vocabulary;

/// Rows or columns of a picture at most.
const MOST_SIDE: u32 = 1 << 15;
/// Bytes of a decoded picture at most.
const MOST_BYTES: u64 = 1 << 29;

/// Pictures in folders by their class, as examples: the field `x`, `[height, width, channels]` of f32 in [0, 1], and the field `y`,
/// the class, i64.
#[derive(Clone, Debug)]
pub struct ImageFolder {
    folder: PathBuf,
    files: Vec<PathBuf>,
    labels: Vec<i64>,
    classes: Vocabulary,
    /// Height, width, channels.
    shape: [usize; 3],
    /// Whether pictures of another size are scaled to it.
    is_scaled: bool,
    n_threads: usize,
}

impl ImageFolder {
    /// The pictures of a folder, in color, of the size that the first one has.
    ///
    /// # Errors
    /// [`DataError::Missing`] or [`DataError::Io`] if it cannot be read, [`DataError::Malformed`] if it has no class, a class no
    /// picture, or if a file in it is none.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self, DataError> {
        let folder = folder.as_ref();
        let malformed = |path: &Path, required: &str, got: &str, fix: &str| DataError::Malformed {
            name: path.display().to_string(),
            part: "folder",
            required: required.to_owned(),
            got: got.to_owned(),
            fix: fix.to_owned(),
        };
        let layout = "pictures stand in a folder for each class: folder/CLASS/picture.png";
        let mut by_class: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
        for (name, path) in entries(folder)? {
            if !path.is_dir() {
                return Err(malformed(&path, "a folder of pictures", "a file", layout));
            }
            let mut files = Vec::new();
            for (_, file) in entries(&path)? {
                if !is_picture(&file) {
                    let got = if file.is_dir() { "a folder" } else { "another file" };
                    return Err(malformed(&file, "a file .png, .jpg or .jpeg", got, "move it elsewhere"));
                }
                files.push(file);
            }
            if files.is_empty() {
                return Err(malformed(&path, "at least one picture", "none", "remove the folder, or fill it"));
            }
            by_class.insert(name, files);
        }
        if by_class.is_empty() {
            return Err(malformed(folder, "a folder for each class", "none", layout));
        }
        let classes = Vocabulary::of(by_class.keys().map(String::as_str));
        let labels = by_class.values().enumerate().flat_map(|(class, files)| vec![class as i64; files.len()]).collect();
        let files: Vec<PathBuf> = by_class.into_values().flatten().collect();
        let first = decoded(&files[0])?;
        let shape = [first.height() as usize, first.width() as usize, 3];
        Ok(ImageFolder { folder: folder.to_owned(), files, labels, classes, shape, is_scaled: false, n_threads: 1 })
    }

    /// Scales all pictures to a size, whatever their sides' ratio was, each place a mean of those that it takes the place of.
    ///
    /// # Errors
    /// [`DataError::Mismatch`] for a size of 0 or beyond 32,768.
    pub fn size(mut self, height: usize, width: usize) -> Result<Self, DataError> {
        if [height, width].iter().any(|&n| n == 0 || n > MOST_SIDE as usize) {
            return Err(self.mismatch(&format!("a size of 1 to {MOST_SIDE}"), format!("{height} by {width}")));
        }
        (self.shape, self.is_scaled) = ([height, width, self.shape[2]], true);
        Ok(self)
    }

    /// One channel, the luminance (Rec. 709), instead of red, green and blue.
    pub fn gray(mut self) -> Self {
        self.shape[2] = 1;
        self
    }

    /// Gives classes the ids of another folder, that of the training pictures.
    ///
    /// # Errors
    /// [`DataError::Mismatch`] for a class that has none there.
    pub fn classes_of(mut self, classes: &Vocabulary) -> Result<Self, DataError> {
        let of = |label: &i64| self.classes.entries()[*label as usize].as_str();
        let id = |label: &i64| {
            let id = classes.id(of(label)).map(|id| id as i64);
            id.ok_or_else(|| self.mismatch(&format!("classes of {:?}", classes.entries()), format!("{:?}", of(label))))
        };
        self.labels = self.labels.iter().map(id).collect::<Result<_, _>>()?;
        self.classes = classes.clone();
        Ok(self)
    }

    /// The threads that decode a batch, at least 1. They never change what is made.
    pub fn threads(mut self, n: usize) -> Self {
        self.n_threads = n.max(1);
        self
    }

    /// The names of the classes, by their ids.
    pub fn classes(&self) -> &Vocabulary {
        &self.classes
    }

    /// The files by their places.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    fn mismatch(&self, required: &str, got: String) -> DataError {
        DataError::Mismatch {
            of: self.folder.display().to_string(),
            required: required.to_owned(),
            got,
            fix: "`ImageFolder::size` scales pictures, `classes_of` takes the classes of the training pictures"
                .to_owned(),
        }
    }

    /// Writes the elements of a picture.
    fn write(&self, path: &Path, to: &mut [f32]) -> Result<(), DataError> {
        let [height, width, channels] = self.shape;
        let mut picture = decoded(path)?;
        let size = (picture.height() as usize, picture.width() as usize);
        if size != (height, width) {
            if !self.is_scaled {
                return Err(DataError::Malformed {
                    name: path.display().to_string(),
                    part: "size",
                    required: format!("{height} by {width}, as the first picture has"),
                    got: format!("{} by {}", size.0, size.1),
                    fix: "`ImageFolder::size` scales all pictures to one size".to_owned(),
                });
            }
            picture = picture.resize_exact(width as u32, height as u32, FilterType::Triangle);
        }
        let levels = if channels == 1 { picture.into_luma8().into_raw() } else { picture.into_rgb8().into_raw() };
        to.iter_mut().zip(levels).for_each(|(to, level)| *to = f32::from(level) / 255.0);
        Ok(())
    }
}

/// Reads one picture as `[height, width, channels]` of f32 in [0, 1], scaled to that shape: 1 channel is gray, 3 are red, green and
/// blue.
///
/// # Errors
/// [`DataError`] if there is no picture of these formats; [`DataError::Mismatch`] for another number of channels.
pub fn read_image(path: impl AsRef<Path>, [height, width, channels]: [usize; 3]) -> Result<ArrayD<f32>, DataError> {
    let path = path.as_ref();
    let folder = ImageFolder {
        folder: path.to_owned(),
        files: Vec::new(),
        labels: Vec::new(),
        classes: Vocabulary::default(),
        shape: [height, width, channels],
        is_scaled: true,
        n_threads: 1,
    };
    if !matches!(channels, 1 | 3) {
        return Err(folder.mismatch("1 or 3 channels", channels.to_string()));
    }
    let folder = folder.size(height, width)?;
    let mut values = vec![0.0; height * width * channels];
    in_default(|| folder.write(path, &mut values))?;
    Ok(ArrayD::from_shape_vec(IxDyn(&[height, width, channels]), values).expect("as many values as the shape has"))
}

/// What stands in a folder, by name, but for what begins with a dot.
fn entries(folder: &Path) -> Result<BTreeMap<String, PathBuf>, DataError> {
    let io = |source| DataError::io(folder, "read", source);
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            return Err(DataError::Malformed {
                name: path.display().to_string(),
                part: "name",
                required: "UTF-8".to_owned(),
                got: "other bytes".to_owned(),
                fix: "rename it".to_owned(),
            });
        };
        if !name.starts_with('.') {
            found.insert(name.to_owned(), path);
        }
    }
    Ok(found)
}

fn is_picture(path: &Path) -> bool {
    let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
    !path.is_dir() && extension.is_some_and(|e| ["png", "jpg", "jpeg"].iter().any(|known| e == *known))
}

/// Decodes a file, by what is in it and not by its name.
fn decoded(path: &Path) -> Result<DynamicImage, DataError> {
    let io = |source| DataError::io(path, "read", source);
    let malformed = |got: String| DataError::Malformed {
        name: path.display().to_string(),
        part: "picture",
        required: "PNG or JPEG".to_owned(),
        got,
        fix: "save it again, or take it out of the folder".to_owned(),
    };
    let (mut file, length) = open(path)?;
    crate::reading::ask(&path.display().to_string(), length)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(io)?;
    let mut reader = ImageReader::new(BufReader::new(Cursor::new(bytes))).with_guessed_format().map_err(io)?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MOST_SIDE);
    limits.max_image_height = Some(MOST_SIDE);
    limits.max_alloc = Some(MOST_BYTES);
    reader.limits(limits);
    reader.decode().map_err(|error| match error {
        ImageError::Limits(_) => {
            DataError::TooLarge { name: path.display().to_string(), expansion: None, most: MOST_BYTES }
        }
        ImageError::Unsupported(error) => malformed(format!("another format ({error})")),
        error => malformed(format!("a damaged file ({error})")),
    })
}

impl Examples for ImageFolder {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn fields(&self) -> Vec<Field> {
        let x = Field { name: "x".to_owned(), dtype: DType::F32, shape: self.shape.to_vec() };
        vec![x, Field { name: "y".to_owned(), dtype: DType::I64, shape: Vec::new() }]
    }

    fn places(&self, order: Order, seed: u64, epoch: u64) -> Result<Vec<usize>, DataError> {
        Ok(places_in_epoch(order, &self.labels, seed, epoch))
    }

    fn gather(&self, _epoch: u64, places: &[usize], batch: &mut Vec<TensorData>) -> Result<(), DataError> {
        check_places(places, self.len())?;
        let n: usize = self.shape.iter().product();
        let mut values = vec![0.0; places.len() * n];
        let share = places.len().div_ceil(self.n_threads).max(1);
        let work = |places: &[usize], to: &mut [f32]| {
            in_default(|| {
                let mut pairs = places.iter().zip(to.chunks_mut(n));
                pairs.try_for_each(|(&place, to)| self.write(&self.files[place], to))
            })
        };
        thread::scope(|scope| {
            let parts = places.chunks(share).zip(values.chunks_mut(share * n));
            let workers: Vec<_> = parts.map(|(places, to)| scope.spawn(move || work(places, to))).collect();
            // The first place's error, whichever thread ends first.
            workers
                .into_iter()
                .try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })?;
        let shape: Vec<usize> = [places.len()].into_iter().chain(self.shape).collect();
        let values = ArrayD::from_shape_vec(IxDyn(&shape), values).expect("as many values as the shape has");
        let labels: Array1<i64> = places.iter().map(|&place| self.labels[place]).collect();
        batch.clear();
        batch.extend([values.into(), labels.into()]);
        Ok(())
    }

    fn is_slow(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use image::{GrayImage, Rgb, RgbImage};

    use super::*;
    use crate::Table;

    /// A folder of this test, removed at its end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("cotangent-images-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&folder);
            for class in ["dogs", "cats"] {
                fs::create_dir_all(folder.join(class)).unwrap();
            }
            Scratch(folder)
        }

        /// Three pictures of each class, whose elements say class, number and place.
        fn filled(name: &str) -> Self {
            let scratch = Scratch::new(name);
            for (class, level) in [("cats", 10), ("dogs", 100)] {
                for k in 0..3u8 {
                    let pixel = |x: u32, y: u32| Rgb([level + k, x as u8, y as u8]);
                    RgbImage::from_fn(4, 3, pixel).save(scratch.0.join(class).join(format!("{k}.png"))).unwrap();
                }
            }
            scratch
        }

        fn message(&self) -> String {
            ImageFolder::open(&self.0).and_then(|folder| Table::of(&folder)).unwrap_err().to_string()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn classes_are_folders_and_pictures_are_what_was_saved() {
        let scratch = Scratch::filled("plain");
        fs::write(scratch.0.join("cats/.hidden"), "").unwrap();
        let folder = ImageFolder::open(&scratch.0).unwrap();
        assert_eq!(folder.classes().entries(), ["cats", "dogs"]);
        let table = Table::of(&folder).unwrap();
        assert_eq!(table.get("y").unwrap().to_f64(), [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
        let TensorData::F32(x) = table.get("x").unwrap() else { panic!("f32") };
        assert_eq!(x.shape(), [6, 3, 4, 3]);
        for ((i, y, column, channel), &got) in x.view().into_dimensionality::<ndarray::Ix4>().unwrap().indexed_iter() {
            let level = [[10, 100][i / 3] + i % 3, column, y][channel];
            assert_eq!(got, level as f32 / 255.0);
        }
        // Threads change nothing, and neither does the size of batches.
        for n in [2, 5] {
            let mut batch = Vec::new();
            folder.clone().threads(n).gather(0, &[5, 0, 3], &mut batch).unwrap();
            assert_eq!(batch[0], table.select(&[5, 0, 3]).unwrap().get("x").unwrap().clone());
        }
        let gray = Table::of(&folder.clone().gray()).unwrap();
        assert_eq!(gray.get("x").unwrap().shape()[..], [6, 3, 4, 1]);
    }

    #[test]
    fn jpeg_and_scaling_stay_near_what_was_saved() {
        let scratch = Scratch::new("jpeg");
        GrayImage::from_fn(32, 32, |x, _| image::Luma([x as u8 * 8])).save(scratch.0.join("cats/a.JPG")).unwrap();
        GrayImage::from_fn(16, 16, |x, _| image::Luma([x as u8 * 16])).save(scratch.0.join("dogs/b.png")).unwrap();
        let folder = ImageFolder::open(&scratch.0).unwrap().gray();
        let error = Table::of(&folder).unwrap_err().to_string();
        assert!(error.contains("b.png: size: required 32 by 32") && error.contains("got 16 by 16"), "{error}");
        let table = Table::of(&folder.size(8, 8).unwrap()).unwrap();
        let values = table.get("x").unwrap().to_f64();
        let (cat, dog) = values.split_at(64);
        let differ = cat.iter().zip(dog).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(differ < 0.05, "{differ}");
        assert!((cat[3] - (3.5 * 4.0 * 8.0 - 4.0) / 255.0).abs() < 0.05, "{}", cat[3]);
        let one = read_image(scratch.0.join("cats/a.JPG"), [8, 8, 1]).unwrap();
        assert_eq!(one.iter().map(|&v| f64::from(v)).collect::<Vec<_>>(), cat);
        assert!(read_image(scratch.0.join("cats/a.JPG"), [8, 8, 2]).is_err());
    }

    #[test]
    fn the_classes_of_the_training_pictures_keep_their_ids() {
        let (train, held_out) = (Scratch::filled("train"), Scratch::filled("held"));
        fs::rename(train.0.join("cats"), train.0.join("ants")).unwrap();
        fs::rename(held_out.0.join("cats"), held_out.0.join("zebras")).unwrap();
        let classes = Vocabulary::of(["ants", "dogs", "zebras"]);
        let folder = ImageFolder::open(&held_out.0).unwrap().classes_of(&classes).unwrap();
        assert_eq!(Table::of(&folder).unwrap().get("y").unwrap().to_f64(), [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]);
        let known = ImageFolder::open(&train.0).unwrap().classes().clone();
        let error = ImageFolder::open(&held_out.0).unwrap().classes_of(&known).unwrap_err().to_string();
        assert!(error.contains("\"ants\", \"dogs\"") && error.contains("got \"zebras\""), "{error}");
    }

    #[test]
    fn all_kinds_of_png_are_read() {
        let scratch = Scratch::new("kinds");
        let save = |name: &str, picture: DynamicImage| picture.save(scratch.0.join(name)).unwrap();
        save("cats/a.png", DynamicImage::ImageRgb16(image::ImageBuffer::from_pixel(2, 2, Rgb([257u16, 514, 65535]))));
        save("cats/b.png", DynamicImage::ImageLumaA8(image::ImageBuffer::from_pixel(2, 2, image::LumaA([51u8, 0]))));
        save("cats/c.png", DynamicImage::ImageLuma16(image::ImageBuffer::from_pixel(2, 2, image::Luma([257u16]))));
        save("dogs/d.png", DynamicImage::ImageRgba8(image::ImageBuffer::from_pixel(2, 2, image::Rgba([1u8, 2, 3, 4]))));
        let table = Table::of(&ImageFolder::open(&scratch.0).unwrap()).unwrap();
        let values = table.get("x").unwrap().to_f64();
        let firsts: Vec<f64> = values.chunks(12).flat_map(|picture| picture[..3].iter().map(|v| v * 255.0)).collect();
        let expected = [1.0, 2.0, 255.0, 51.0, 51.0, 51.0, 1.0, 1.0, 1.0, 1.0, 2.0, 3.0];
        assert!(firsts.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-4), "{firsts:?}");
    }

    #[cfg(unix)]
    #[test]
    fn links_that_lead_nowhere_or_back_are_named() {
        use std::os::unix::fs::symlink;
        for (at, to, says) in [
            ("loop", "loop", "loop: folder: required a folder of pictures"),
            ("dogs/up", "..", "up: folder: required a file .png, .jpg or .jpeg, got a folder"),
            ("dogs/a.png", "a.png", "a.png"),
            ("dogs/gone.png", "nowhere.png", "gone.png"),
        ] {
            let scratch = Scratch::filled("links");
            symlink(to, scratch.0.join(at)).unwrap();
            assert!(scratch.message().contains(says), "{at}: {}", scratch.message());
        }
        // A class may be a link to a folder elsewhere.
        let (scratch, other) = (Scratch::filled("linked"), Scratch::filled("elsewhere"));
        symlink(other.0.join("cats"), scratch.0.join("eels")).unwrap();
        assert_eq!(ImageFolder::open(&scratch.0).unwrap().len(), 9);
    }

    #[test]
    fn what_is_no_picture_is_named() {
        let scratch = Scratch::filled("wrong");
        let path = scratch.0.join("dogs/1.png");
        let whole = fs::read(&path).unwrap();
        for bytes in [&whole[..whole.len() / 2], &whole[..7], b"", b"GIF89a and so on", &whole[1..]] {
            fs::write(&path, bytes).unwrap();
            let message = scratch.message();
            assert!(message.contains("1.png: picture: required PNG or JPEG"), "{message}");
        }
        // A header that claims 2^31 columns: nothing of that size is asked for.
        let mut huge = whole.clone();
        huge[16..20].copy_from_slice(&0x7fff_ffffu32.to_be_bytes());
        fs::write(&path, huge).unwrap();
        assert!(scratch.message().contains("1.png"), "{}", scratch.message());
        // One of no columns, and one whose every byte is turned.
        let mut empty = whole.clone();
        empty[16..20].copy_from_slice(&[0; 4]);
        fs::write(&path, empty).unwrap();
        assert!(scratch.message().contains("1.png"), "{}", scratch.message());
        for at in 8..whole.len() - 12 {
            let mut turned = whole.clone();
            turned[at] ^= 0xff;
            fs::write(&path, turned).unwrap();
            // Some kinds of damage are let pass by the format's own rules, and none is a panic.
            let _ = ImageFolder::open(&scratch.0).and_then(|folder| Table::of(&folder));
        }
        fs::remove_file(&path).unwrap();
        fs::write(scratch.0.join("dogs/notes.txt"), "").unwrap();
        assert!(scratch.message().contains("notes.txt: folder: required a file .png"), "{}", scratch.message());
        fs::remove_file(scratch.0.join("dogs/notes.txt")).unwrap();
        fs::create_dir(scratch.0.join("eels")).unwrap();
        assert!(scratch.message().contains("eels: folder: required at least one picture"), "{}", scratch.message());
        fs::remove_dir(scratch.0.join("eels")).unwrap();
        fs::write(scratch.0.join("a.png"), whole).unwrap();
        assert!(scratch.message().contains("a.png: folder: required a folder of pictures"), "{}", scratch.message());
        assert!(matches!(ImageFolder::open(scratch.0.join("no")), Err(DataError::Missing { .. })));
        let empty = Scratch::new("empty");
        fs::remove_dir(empty.0.join("cats")).unwrap();
        fs::remove_dir(empty.0.join("dogs")).unwrap();
        assert!(empty.message().contains("required a folder for each class, got none"), "{}", empty.message());
        let filled = Scratch::filled("size");
        assert!(ImageFolder::open(&filled.0).unwrap().size(0, 8).is_err());
    }
}
