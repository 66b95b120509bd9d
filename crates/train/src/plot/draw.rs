//! From plots to the text of an SVG file.

use std::fmt::Write;

use super::axis::Axis;
use super::legend::{Legend, width_of};
use super::{Heat, Mark, Plot};

/// The size of one plot and the room around its axes, in units of the picture.
pub(super) const WIDTH: f64 = 640.0;
pub(super) const HEIGHT: f64 = 420.0;
pub(super) const LEFT: f64 = 78.0;
pub(super) const RIGHT: f64 = 22.0;
pub(super) const TOP: f64 = 46.0;
pub(super) const BOTTOM: f64 = 56.0;
const TITLE_HEIGHT: f64 = 44.0;
/// Okabe and Ito's palette without its yellow, which is too pale on white, and with black last.
pub(super) const COLORS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#222222"];
const TEXT: &str = "#222222";
const FAINT: &str = "#6b7280";
pub(super) const LINES: &str = "#e5e7eb";
/// Shades of the heat map on each side of white; neighbors of one shade become one rectangle.
const N_SHADES: f64 = 12.0;
/// Cells of the heat map reach so far into the next ones, so that viewers that smooth edges show no lines between them.
const SEAM: f64 = 0.5;

pub(super) fn picture(title: &str, n_columns: usize, plots: &[Plot]) -> String {
    let top = if title.is_empty() { 0.0 } else { TITLE_HEIGHT };
    let n_columns = n_columns.min(plots.len().max(1));
    let n_rows = plots.len().div_ceil(n_columns);
    let (width, height) = (WIDTH * n_columns as f64, top + HEIGHT * n_rows as f64);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" font-family=\"Helvetica, Arial, 'DejaVu Sans', sans-serif\" font-size=\"13\" fill=\"{TEXT}\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    if !title.is_empty() {
        text(&mut out, (width / 2.0, 30.0), "middle", "font-size=\"19\" font-weight=\"bold\"", title);
    }
    for (i, plot) in plots.iter().enumerate() {
        let (x, y) = ((i % n_columns) as f64 * WIDTH, top + (i / n_columns) as f64 * HEIGHT);
        let _ = writeln!(out, "<g transform=\"translate({x},{y})\">");
        Frame::new(plot, i).draw(&mut out);
        out.push_str("</g>\n");
    }
    out.push_str("</svg>\n");
    out
}

/// A plot with its axes.
pub(super) struct Frame<'a> {
    pub(super) plot: &'a Plot,
    /// Its number in the picture, for ids.
    number: usize,
    x: Axis,
    y: Axis,
    /// What the axes go around: left, top, width and height.
    area: [f64; 4],
    legend: Option<Legend>,
    /// Places on the marks at small distances.
    pub(super) marks: Vec<(f64, f64)>,
}

/// The word at a level: its name, where it starts and ends, and its base line.
pub(super) struct Word<'a> {
    name: &'a str,
    pub(super) left: f64,
    pub(super) right: f64,
    pub(super) y: f64,
}

/// How far the letters of a word at a level reach above and below its base line.
pub(super) const ASCENT: f64 = 10.0;
pub(super) const DESCENT: f64 = 3.0;

/// The vertical axis is stretched by so much at a time, and so often at most, for a legend that finds no room.
const HEADROOM: f64 = 0.08;
const MAX_STRETCHES: usize = 7;

impl<'a> Frame<'a> {
    fn new(plot: &'a Plot, number: usize) -> Self {
        let points = || plot.series.iter().flat_map(|series| series.points.iter());
        let has_bars = plot.series.iter().any(|series| series.mark == Mark::Bars);
        let (mut heat_x, mut heat_y) = (plot.x_range, plot.y_range);
        if let Some(heat) = &plot.heat {
            heat_x = heat_x.or(Some(heat.x));
            heat_y = heat_y.or(Some(heat.y));
        }
        let bar_width = plot.series.iter().filter(|s| s.mark == Mark::Bars).map(|s| bar_width(&s.points));
        let half = bar_width.fold(0.0, f64::max) / 2.0;
        let xs = points().flat_map(|p| [p.0 - half, p.0 + half]);
        let ys = points().map(|p| p.1).chain(plot.levels.iter().map(|l| l.1));
        let ys = ys.chain(has_bars.then_some(0.0));
        let x = Axis::new(xs, plot.log_x, heat_x).whole(points().map(|p| p.0));
        let y = Axis::new(ys, plot.log_y, heat_y);
        let mut frame = Frame { plot, number, x, y, area: area(plot), legend: None, marks: Vec::new() };
        frame.place();
        if heat_y.is_none() {
            // Room above the marks, if that is what it takes not to hide any of them.
            for _ in 0..MAX_STRETCHES {
                if frame.legend.as_ref().is_none_or(|legend| legend.n_hidden == 0) {
                    break;
                }
                frame.y = frame.y.stretched(HEADROOM);
                frame.place();
            }
        }
        frame
    }

    /// Finds out where the marks are, and where the legend hides the fewest of them.
    fn place(&mut self) {
        self.marks = self.plot.series.iter().flat_map(|series| self.dense(&series.points)).collect();
        self.legend = Legend::place(self);
    }

    /// Places on a line at small distances, so that a long piece of it counts as being there too.
    fn dense(&self, points: &[(f64, f64)]) -> Vec<(f64, f64)> {
        let placed: Vec<(f64, f64)> = points.iter().filter_map(|&p| self.at(p)).collect();
        let between = placed.windows(2).flat_map(|ends| {
            let ((x0, y0), (x1, y1)) = (ends[0], ends[1]);
            let n = ((x1 - x0).hypot(y1 - y0) / 8.0).clamp(1.0, 100.0) as usize;
            (1..n).map(move |i| i as f64 / n as f64).map(move |t| (x0 + t * (x1 - x0), y0 + t * (y1 - y0)))
        });
        placed.iter().copied().chain(between).collect()
    }

    /// Where `(x, y)` stands in the plot's own units.
    pub(super) fn at(&self, (x, y): (f64, f64)) -> Option<(f64, f64)> {
        // Far beyond the frame there is nothing to see, and viewers have their limits.
        let (x, y) = (self.x.place(x)?.clamp(-9.0, 9.0), self.y.place(y)?.clamp(-9.0, 9.0));
        let [left, top, width, height] = self.area;
        Some((left + x * width, top + (1.0 - y) * height))
    }

    fn draw(&self, out: &mut String) {
        let ([left, top, width, height], id) = (self.area, self.number);
        let _ = writeln!(
            out,
            "<clipPath id=\"frame{id}\"><rect x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\"/></clipPath>"
        );
        if self.plot.heat.is_none() && !self.plot.without_ticks {
            self.grid_lines(out);
        }
        let _ = writeln!(out, "<g clip-path=\"url(#frame{id})\">");
        if let Some(heat) = &self.plot.heat {
            self.heat(out, heat);
        }
        self.levels(out);
        for (i, series) in self.plot.series.iter().enumerate() {
            self.marks(out, &series.mark, &series.points, COLORS[i % COLORS.len()]);
        }
        out.push_str("</g>\n");
        let _ = writeln!(
            out,
            "<rect x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" fill=\"none\" stroke=\"#9ca3af\"/>"
        );
        self.labels(out);
        if let Some(legend) = &self.legend {
            legend.draw(out, self.plot);
        }
    }

    fn grid_lines(&self, out: &mut String) {
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        let mut line = |x1: f64, y1: f64, x2: f64, y2: f64, labeled: bool| {
            let color = if labeled { LINES } else { "#f3f4f6" };
            let _ =
                writeln!(out, "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{color}\"/>");
        };
        for tick in self.x.ticks() {
            if let Some((x, _)) = self.at((tick.value, self.y.low)) {
                line(x, TOP, x, bottom, tick.label.is_some());
            }
        }
        for tick in self.y.ticks() {
            if let Some((_, y)) = self.at((self.x.low, tick.value)) {
                line(LEFT, y, right, y, tick.label.is_some());
            }
        }
    }

    /// Title, labels of the axes, and labels of the ticks.
    fn labels(&self, out: &mut String) {
        let (middle_x, middle_y) = ((LEFT + WIDTH - RIGHT) / 2.0, (TOP + HEIGHT - BOTTOM) / 2.0);
        text(out, (middle_x, 28.0), "middle", "font-size=\"16\" font-weight=\"bold\"", &self.plot.title);
        text(out, (middle_x, HEIGHT - 14.0), "middle", "", &self.plot.x_label);
        let turned = format!("transform=\"rotate(-90 20 {middle_y})\"");
        text(out, (20.0, middle_y), "middle", &turned, &self.plot.y_label);
        if self.plot.without_ticks {
            return;
        }
        let style = format!("font-size=\"12\" fill=\"{FAINT}\"");
        for tick in self.x.ticks() {
            if let (Some(label), Some((x, _))) = (tick.label, self.at((tick.value, self.y.low))) {
                text(out, (x, HEIGHT - BOTTOM + 17.0), "middle", &style, &label);
            }
        }
        for tick in self.y.ticks() {
            if let (Some(label), Some((_, y))) = (tick.label, self.at((self.x.low, tick.value))) {
                text(out, (LEFT - 7.0, y + 4.0), "end", &style, &label);
            }
        }
    }

    fn levels(&self, out: &mut String) {
        for (_, level) in &self.plot.levels {
            if let Some((_, y)) = self.at((self.x.low, *level)) {
                let right = WIDTH - RIGHT;
                let _ = writeln!(
                    out,
                    "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"{FAINT}\" stroke-dasharray=\"2 3\"/>"
                );
            }
        }
        for word in self.words() {
            let style = format!("font-size=\"12\" fill=\"{FAINT}\"");
            text(out, (word.left, word.y), "start", &style, word.name);
        }
    }

    /// The words at the levels: above the line on the right, unless marks are there and elsewhere fewer.
    pub(super) fn words(&self) -> Vec<Word<'a>> {
        let of_level = |(name, level): &'a (String, f64)| {
            let (_, y) = self.at((self.x.low, *level))?;
            let width = width_of(name);
            let (right, left) = (WIDTH - RIGHT - 6.0 - width, LEFT + 6.0);
            let places = [(right, y - 5.0), (left, y - 5.0), (right, y + 14.0), (left, y + 14.0)];
            let behind = |&(x, y): &(f64, f64)| {
                let inside = |p: &&(f64, f64)| {
                    (x..x + width).contains(&p.0) && (y - ASCENT - 4.0..y + DESCENT + 2.0).contains(&p.1)
                };
                self.marks.iter().filter(inside).count()
            };
            let inside = |&(_, y): &(f64, f64)| {
                (TOP..=HEIGHT - BOTTOM).contains(&(y - ASCENT)) && y + DESCENT <= HEIGHT - BOTTOM
            };
            // A level outside of the frame has no word.
            let (left, y) = places.into_iter().filter(inside).min_by_key(behind)?;
            Some(Word { name, left, right: left + width, y })
        };
        self.plot.levels.iter().filter_map(of_level).collect()
    }

    fn marks(&self, out: &mut String, mark: &Mark, points: &[(f64, f64)], color: &str) {
        match mark {
            Mark::Line { dashed, dots } => {
                let dash = if *dashed { " stroke-dasharray=\"7 4\"" } else { "" };
                // A value that cannot be shown interrupts the line.
                let pieces = points.iter().map(|&p| self.at(p)).collect::<Vec<_>>();
                for piece in pieces.split(Option::is_none).filter(|piece| piece.len() > 1) {
                    let path: Vec<String> = piece.iter().flatten().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
                    let _ = writeln!(
                        out,
                        "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\" \
                         stroke-linejoin=\"round\"{dash}/>",
                        path.join(" ")
                    );
                }
                let lonely = pieces.split(Option::is_none).filter(|piece| piece.len() == 1).flatten();
                let dotted = pieces.iter().filter(|_| *dots);
                for (x, y) in lonely.chain(dotted).flatten() {
                    let _ = writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{color}\"/>");
                }
            }
            Mark::Dots => {
                // A handful is to be seen, a cloud to be seen through.
                let radius = if points.len() <= 10 { 5.5 } else { 3.0 };
                for (x, y) in points.iter().filter_map(|&p| self.at(p)) {
                    let _ = writeln!(
                        out,
                        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"{color}\" fill-opacity=\"0.75\" \
                         stroke=\"white\" stroke-width=\"0.6\"/>"
                    );
                }
            }
            Mark::Bars => {
                let half = bar_width(points) / 2.0;
                let foot = if self.plot.log_y { self.y.low } else { 0.0 };
                for &(x, y) in points {
                    let corners = self.at((x - half, y)).zip(self.at((x + half, foot)));
                    if let Some(((left, a), (right, b))) = corners {
                        let _ = writeln!(
                            out,
                            "<rect x=\"{left:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{color}\" \
                             fill-opacity=\"0.65\" stroke=\"white\" stroke-width=\"0.5\"/>",
                            a.min(b),
                            right - left,
                            (a - b).abs()
                        );
                    }
                }
            }
        }
    }

    fn heat(&self, out: &mut String, heat: &Heat) {
        let n_columns = heat.n_columns.max(1);
        let n_rows = heat.values.len() / n_columns;
        let corner = |column: usize, row: usize| {
            let part = |ends: (f64, f64), i: usize, n: usize| ends.0 + (ends.1 - ends.0) * i as f64 / n as f64;
            self.at((part(heat.x, column, n_columns), part(heat.y, row, n_rows)))
        };
        for (row, values) in heat.values.chunks_exact(n_columns).enumerate() {
            let shades: Vec<i32> = values.iter().map(|v| (v.clamp(-1.0, 1.0) * N_SHADES).round() as i32).collect();
            let mut start = 0;
            for run in shades.chunk_by(|a, b| a == b) {
                let end = start + run.len();
                if let Some(((left, low), (right, high))) = corner(start, row).zip(corner(end, row + 1)) {
                    let _ = writeln!(
                        out,
                        "<rect x=\"{left:.1}\" y=\"{high:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\" \
                         shape-rendering=\"crispEdges\"/>",
                        right - left + SEAM,
                        low - high + SEAM,
                        shade(f64::from(run[0]) / N_SHADES)
                    );
                }
                start = end;
            }
        }
    }
}

/// The room that the axes have: all of it, but for pictures, whose cells are squares.
fn area(plot: &Plot) -> [f64; 4] {
    let (width, height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    let cells = plot.heat.as_ref().filter(|heat| plot.without_ticks && heat.n_columns > 0 && !heat.values.is_empty());
    let Some(heat) = cells else { return [LEFT, TOP, width, height] };
    let (n_columns, n_rows) = (heat.n_columns as f64, (heat.values.len() / heat.n_columns) as f64);
    let side = (width / n_columns).min(height / n_rows);
    let (w, h) = (side * n_columns, side * n_rows);
    [LEFT + (width - w) / 2.0, TOP + (height - h) / 2.0, w, h]
}

/// The least distance between bars, or 1 if there is only one.
fn bar_width(points: &[(f64, f64)]) -> f64 {
    let mut xs: Vec<f64> = points.iter().map(|p| p.0).filter(|x| x.is_finite()).collect();
    xs.sort_by(f64::total_cmp);
    let least = xs.windows(2).map(|pair| pair[1] - pair[0]).filter(|d| *d > 0.0).fold(f64::INFINITY, f64::min);
    if least.is_finite() { least } else { 1.0 }
}

/// From blue (-1) over white to orange (1), pale enough for dots on it.
fn shade(value: f64) -> String {
    let end = if value < 0.0 { [86.0, 156.0, 214.0] } else { [236.0, 152.0, 84.0] };
    let [r, g, b] = end.map(|c| (255.0 + (c - 255.0) * value.abs()).round() as u8);
    format!("#{r:02x}{g:02x}{b:02x}")
}

pub(super) fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, style: &str, text: &str) {
    if !text.is_empty() {
        let _ =
            writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {style}>{}</text>", escape(text));
    }
}

/// Text that stands for itself in XML; what XML cannot hold at all becomes a question mark.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('?'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn what_cannot_be_shown_interrupts_a_line() {
        let points = [(1.0, 1.0), (2.0, 2.0), (3.0, f64::NAN), (4.0, 4.0), (5.0, 5.0), (6.0, -1.0), (7.0, 3.0)];
        let svg = Plot::new("t").log_y().line("a", points).to_svg();
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert_eq!(svg.matches("<circle").count(), 1, "the last point stands alone");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn text_is_escaped() {
        let svg = Plot::new("a < b & \"c\"\u{7}").x_label("x>0").line("<script>", [(0.0, 0.0)]).to_svg();
        assert!(svg.contains("a &lt; b &amp; &quot;c&quot;?") && svg.contains("x&gt;0") && !svg.contains("<script>"));
    }

    #[test]
    fn all_marks_are_drawn_and_nothing_breaks_on_nothing() {
        let plot = Plot::new("all")
            .line("line", [(0.0, 0.0), (1.0, 1.0)])
            .dashed("dashed", [(0.0, 1.0), (1.0, 0.0)])
            .dotted_line("dotted", [(0.0, 0.5), (1.0, 0.5)])
            .dots("dots", [(0.5, 0.5)])
            .bars("bars", [(0.0, 1.0), (0.5, -1.0)])
            .level("level", 0.75)
            .heat((0.0, 1.0), (0.0, 1.0), array![[-1.0, -1.0], [0.0, 1.0]].view());
        let svg = plot.to_svg();
        for what in ["<polyline", "stroke-dasharray=\"7 4\"", "<circle", "fill-opacity=\"0.65\"", "level", "#569cd6"] {
            assert!(svg.contains(what), "{what}");
        }
        let nothing = Plot::new("").line("", []).bars("b", []).heat((0.0, 0.0), (0.0, 0.0), array![[]].view());
        assert!(nothing.to_svg().ends_with("</svg>\n"));
        let several = super::super::grid("together", 2, &[plot.clone(), nothing, plot]);
        assert!(several.contains("together") && several.contains("translate(640,44)") && several.contains("frame2"));
        assert!(super::super::grid("", 0, &[]).contains("</svg>"));
    }
}
