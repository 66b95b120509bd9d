//! The legend of a plot: where it hides nothing, and how it is drawn.

use std::fmt::Write;

use super::draw::{ASCENT, BOTTOM, COLORS, DESCENT, Frame, HEIGHT, LEFT, LINES, RIGHT, TOP, WIDTH, text};
use super::{Mark, Plot};

/// The height of a line, and what stands left of the names.
const LINE: f64 = 19.0;
const KEY: f64 = 41.0;
/// The distance from the frame, and what a mark should keep from the legend.
const DISTANCE: f64 = 10.0;
const CLEARANCE: f64 = 5.0;
/// Places that are tried between the corners, along each side.
const N_PLACES: usize = 5;

/// The box with the names of the series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Legend {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
    /// So many places on marks are behind it.
    pub(super) n_hidden: usize,
}

impl Legend {
    /// Where it hides the least: a corner if one is free. `None` if no series has a name.
    pub(super) fn place(frame: &Frame<'_>) -> Option<Legend> {
        let names = || frame.plot.series.iter().map(|s| s.name.as_str()).filter(|name| !name.is_empty());
        let longest = names().map(width_of).fold(0.0, f64::max);
        let (width, height) = (KEY + longest + 9.0, 10.0 + LINE * names().count() as f64);
        let (left, right) = (LEFT + DISTANCE, WIDTH - RIGHT - DISTANCE - width);
        let (top, bottom) = (TOP + DISTANCE, HEIGHT - BOTTOM - DISTANCE - height);
        // The words at levels are not to be hidden either.
        let words = frame.words().into_iter().flat_map(|word| {
            let n = ((word.right - word.left) / CLEARANCE) as usize;
            (0..=n)
                .flat_map(move |k| [word.y - ASCENT, word.y + DESCENT].map(|y| (word.left + CLEARANCE * k as f64, y)))
        });
        let marks: Vec<(f64, f64)> = frame.marks.iter().copied().chain(words).collect();
        let at = |(x, y): (f64, f64)| {
            let inside = |p: &&(f64, f64)| {
                (x - CLEARANCE..=x + width + CLEARANCE).contains(&p.0)
                    && (y - CLEARANCE..=y + height + CLEARANCE).contains(&p.1)
            };
            Legend { x, y, width, height, n_hidden: marks.iter().filter(inside).count() }
        };
        let corners = [(right, top), (left, top), (right, bottom), (left, bottom)];
        let part = |from: f64, to: f64, k: usize| from + (to - from) * k as f64 / (N_PLACES - 1) as f64;
        let others =
            (0..N_PLACES * N_PLACES).map(|k| (part(right, left, k % N_PLACES), part(top, bottom, k / N_PLACES)));
        let places = corners.into_iter().chain(others).map(at);
        if longest > 0.0 { places.min_by_key(|legend| legend.n_hidden) } else { None }
    }

    pub(super) fn draw(&self, out: &mut String, plot: &Plot) {
        let Legend { x, y, width, height, .. } = self;
        let _ = writeln!(
            out,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"4\" fill=\"white\" \
             fill-opacity=\"0.88\" stroke=\"{LINES}\"/>"
        );
        let named = plot.series.iter().enumerate().filter(|(_, series)| !series.name.is_empty());
        for (line, (i, series)) in named.enumerate() {
            let color = COLORS[i % COLORS.len()];
            let middle = y + 5.0 + LINE * (line as f64 + 0.5);
            let (from, to) = (x + 9.0, x + 33.0);
            let _ = match &series.mark {
                Mark::Line { dashed, .. } => {
                    let dash = if *dashed { " stroke-dasharray=\"7 4\"" } else { "" };
                    writeln!(
                        out,
                        "<line x1=\"{from:.1}\" y1=\"{middle:.1}\" x2=\"{to:.1}\" y2=\"{middle:.1}\" stroke=\"{color}\" stroke-width=\"2.5\"{dash}/>"
                    )
                }
                Mark::Dots => {
                    writeln!(out, "<circle cx=\"{:.1}\" cy=\"{middle:.1}\" r=\"4\" fill=\"{color}\"/>", from + 12.0)
                }
                Mark::Bars => writeln!(
                    out,
                    "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"12\" height=\"10\" fill=\"{color}\" fill-opacity=\"0.65\"/>",
                    from + 6.0,
                    middle - 5.0
                ),
            };
            text(out, (x + KEY, middle + 4.0), "start", "font-size=\"12\"", &series.name);
        }
    }
}

/// The width of a text of 12 units in a wide font of the pictures' family, roughly.
pub(super) fn width_of(text: &str) -> f64 {
    let width = |c: char| match c {
        'i' | 'j' | 'l' | 'I' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' => 3.9,
        ' ' | '-' | '(' | ')' | '[' | ']' | 'f' | 'r' | 't' => 4.8,
        'm' | 'w' | 'M' | 'W' | '%' | '@' => 11.5,
        c if c.is_uppercase() => 8.5,
        _ => 7.5,
    };
    text.chars().map(width).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the legend's box is in a picture: x, y, width, height.
    fn legend(svg: &str) -> [f64; 4] {
        let line = svg.lines().find(|line| line.contains("rx=\"4\"")).expect("a legend");
        ["x", "y", "width", "height"].map(|name| {
            let (_, rest) = line.split_once(&format!(" {name}=\"")).expect("the attribute");
            rest.split('"').next().and_then(|number| number.parse().ok()).expect("a number")
        })
    }

    #[test]
    fn a_legend_stands_where_no_line_is_and_makes_room_if_there_is_none() {
        let rising = Plot::new("").line("rising", [(0.0, 0.0), (1.0, 1.0)]);
        let [x, y, ..] = legend(&rising.to_svg());
        assert!(x < WIDTH / 2.0 && y < HEIGHT / 2.0, "the upper left corner is free: {x}, {y}");

        // Lines all over the plot: room is made above them.
        let mut full = Plot::new("");
        for k in 0..=20 {
            let y = f64::from(k);
            full = full.line(if k % 4 == 0 { "a name" } else { "" }, [(0.0, y), (1.0, y)]);
        }
        let svg = full.to_svg();
        let [_, y, _, height] = legend(&svg);
        let tops = svg.lines().filter(|line| line.contains("<polyline"));
        let highest = tops
            .filter_map(|line| line.split(['"', ' ', ',']).nth(3)?.parse::<f64>().ok())
            .fold(f64::INFINITY, f64::min);
        assert!(y + height < highest, "{y} + {height} is above {highest}");

        // Given ends stay as they are.
        let [_, y, _, height] = legend(&full.y_range(0.0, 20.0).to_svg());
        assert!(y >= TOP && y + height <= HEIGHT - BOTTOM);
        assert!(!Plot::new("").line("", [(0.0, 0.0)]).to_svg().contains("rx=\"4\""), "no names, no legend");
    }

    #[test]
    fn the_word_at_a_level_avoids_marks() {
        let x = |plot: Plot| {
            let svg = plot.level("target", 1.0).to_svg();
            let line = svg.lines().find(|line| line.contains(">target<")).expect("the word");
            line.split('"').nth(1).and_then(|x| x.parse::<f64>().ok()).expect("a number")
        };
        assert!(x(Plot::new("").line("", [(0.0, 0.0), (1.0, 2.0)])) > WIDTH / 2.0);
        assert!(x(Plot::new("").line("", [(0.0, 3.0), (0.6, 1.05), (1.0, 1.05)])) < WIDTH / 2.0);
    }

    #[test]
    fn the_word_at_the_highest_level_stands_inside_the_frame_and_not_in_the_legend() {
        let falling = (0..10).map(|k| (f64::from(k), 4.07 - 0.15 * f64::from(k)));
        let svg = Plot::new("").line("training", falling).level("guessing", 4.11).to_svg();
        let line = svg.lines().find(|line| line.contains(">guessing<")).expect("the word");
        let number = |k: usize| line.split('"').nth(k).and_then(|x| x.parse::<f64>().ok()).expect("a number");
        let (left, y) = (number(1), number(3));
        assert!(y - ASCENT >= TOP, "{y}");
        let [box_x, box_y, width, height] = legend(&svg);
        let apart_x = left > box_x + width || left + width_of("guessing") < box_x;
        assert!(apart_x || y + DESCENT < box_y || y - ASCENT > box_y + height, "{svg}");
    }

    #[test]
    fn wide_letters_take_more_room() {
        assert!(width_of("momentum") > 1.5 * width_of("illicit"));
    }
}
