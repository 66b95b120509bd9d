//! Charts as SVG: learning curves, errors against sizes, points in the plane with what a net makes of the plane.
//!
//! Why it exists: a run should leave a picture behind that opens in any browser, without a plotting library in another
//! language. One [`Plot`] is one pair of axes with marks in it; [`grid`] puts several into one picture.
//!
//! Assumes: at most some ten thousand points; each becomes text. Promises: the text is a function of the marks alone; a
//! value that is not finite, or not positive on a logarithmic axis, is a gap and never an error; colors can be told apart
//! by colorblind readers (the palette of Okabe and Ito) and repeat after seven marks.
//!
//! ```
//! use cotangent_train::plot::Plot;
//!
//! let errors = [(8.0, 0.31), (32.0, 0.09), (128.0, 0.02)];
//! let svg = Plot::new("Error against width")
//!     .x_label("neurons")
//!     .y_label("largest error")
//!     .log_x()
//!     .log_y()
//!     .line("sigmoid", errors)
//!     .level("good enough", 0.05)
//!     .to_svg();
//! assert!(svg.starts_with("<svg") && svg.contains("largest error"));
//! ```

mod axis;
mod draw;
mod legend;

use std::path::Path;

use cotangent_data::DataError;
use cotangent_data::files::write_text;
use ndarray::ArrayView2;

/// What a mark looks like.
#[derive(Clone, Debug, PartialEq)]
enum Mark {
    /// A line through the points.
    Line { dashed: bool, dots: bool },
    /// A dot for each point.
    Dots,
    /// A bar from zero for each point; the first number is the middle of its foot.
    Bars,
}

/// Points with a name.
#[derive(Clone, Debug, PartialEq)]
struct Series {
    name: String,
    mark: Mark,
    points: Vec<(f64, f64)>,
}

/// Values on a rectangle of the plane, drawn behind the marks.
#[derive(Clone, Debug, PartialEq)]
struct Heat {
    x: (f64, f64),
    y: (f64, f64),
    n_columns: usize,
    /// From -1 (blue) over 0 (white) to 1 (orange), row by row from the lowest y.
    values: Vec<f64>,
}

/// One pair of axes and the marks in it. Methods add to it and hand it on; see the [module](self).
#[derive(Clone, Debug, PartialEq)]
pub struct Plot {
    title: String,
    x_label: String,
    y_label: String,
    log_x: bool,
    log_y: bool,
    x_range: Option<(f64, f64)>,
    y_range: Option<(f64, f64)>,
    series: Vec<Series>,
    levels: Vec<(String, f64)>,
    heat: Option<Heat>,
    without_ticks: bool,
}

impl Plot {
    /// Empty axes under a title.
    pub fn new(title: impl Into<String>) -> Self {
        Plot {
            title: title.into(),
            x_label: String::new(),
            y_label: String::new(),
            log_x: false,
            log_y: false,
            x_range: None,
            y_range: None,
            series: Vec::new(),
            levels: Vec::new(),
            heat: None,
            without_ticks: false,
        }
    }

    /// What the horizontal axis is, with its unit.
    pub fn x_label(mut self, label: impl Into<String>) -> Self {
        self.x_label = label.into();
        self
    }

    /// What the vertical axis is, with its unit.
    pub fn y_label(mut self, label: impl Into<String>) -> Self {
        self.y_label = label.into();
        self
    }

    /// A logarithmic horizontal axis; what is not positive is left out.
    pub fn log_x(mut self) -> Self {
        self.log_x = true;
        self
    }

    /// A logarithmic vertical axis; what is not positive is left out.
    pub fn log_y(mut self) -> Self {
        self.log_y = true;
        self
    }

    /// The ends of the horizontal axis, instead of those of the marks; what lies outside is cut off.
    pub fn x_range(mut self, from: f64, to: f64) -> Self {
        self.x_range = Some((from, to));
        self
    }

    /// The ends of the vertical axis, instead of those of the marks; what lies outside is cut off.
    pub fn y_range(mut self, from: f64, to: f64) -> Self {
        self.y_range = Some((from, to));
        self
    }

    /// Axes without ticks and numbers, for pictures whose places mean nothing: the cells of a [`heat`](Plot::heat) are squares then.
    pub fn without_ticks(mut self) -> Self {
        self.without_ticks = true;
        self
    }

    /// A line through points `(x, y)`, in their order. An empty name keeps it out of the legend.
    pub fn line(self, name: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        self.series(name, Mark::Line { dashed: false, dots: false }, points)
    }

    /// A dashed line, for what the full lines are compared with.
    pub fn dashed(self, name: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        self.series(name, Mark::Line { dashed: true, dots: false }, points)
    }

    /// A line with a dot at each point, for few points.
    pub fn dotted_line(self, name: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        self.series(name, Mark::Line { dashed: false, dots: true }, points)
    }

    /// A dot at each point `(x, y)`.
    pub fn dots(self, name: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        self.series(name, Mark::Dots, points)
    }

    /// A bar from zero up to `y` around each `x`, as wide as the least distance between them: a histogram.
    pub fn bars(self, name: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        self.series(name, Mark::Bars, points)
    }

    /// A thin horizontal line across the plot with a word at it: a target, a published figure.
    pub fn level(mut self, name: impl Into<String>, y: f64) -> Self {
        self.levels.push((name.into(), y));
        self
    }

    /// Colors behind the marks: `values[row][column]` from -1 (blue) over 0 (white) to 1 (orange) in equal cells of the
    /// rectangle from `x.0` to `x.1` and `y.0` to `y.1`, the first row at `y.0`. For linear axes.
    pub fn heat(mut self, x: (f64, f64), y: (f64, f64), values: ArrayView2<'_, f64>) -> Self {
        self.heat = Some(Heat { x, y, n_columns: values.ncols(), values: values.iter().copied().collect() });
        self
    }

    fn series(mut self, name: impl Into<String>, mark: Mark, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        self.series.push(Series { name: name.into(), mark, points: points.into_iter().collect() });
        self
    }

    /// The picture, 640 × 420 units, as the text of an SVG file.
    pub fn to_svg(&self) -> String {
        grid("", 1, std::slice::from_ref(self))
    }

    /// Writes the picture to a file; folders on the way are made.
    ///
    /// # Errors
    /// [`DataError::Io`] if the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), DataError> {
        write_text(path, &self.to_svg())
    }
}

/// Several plots in one picture, row by row, under a common title (none if empty), as the text of an SVG file.
pub fn grid(title: &str, n_columns: usize, plots: &[Plot]) -> String {
    draw::picture(title, n_columns.max(1), plots)
}

/// Writes a [`grid`] to a file; folders on the way are made.
///
/// # Errors
/// [`DataError::Io`] if the file cannot be written.
pub fn save_grid(path: impl AsRef<Path>, title: &str, n_columns: usize, plots: &[Plot]) -> Result<(), DataError> {
    write_text(path, &grid(title, n_columns, plots))
}
