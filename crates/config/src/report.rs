//! A page about a training: curves, figures, the confusion matrix, the worst mistakes, the first filters. One file of HTML that
//! needs nothing else, with pictures as data.
//!
//! Promises: texts from files stay texts.

use std::fmt::Write;

use cotangent_data::safetensors::Tensors;
use cotangent_train::model::Form;
use cotangent_train::plot::grid;
use cotangent_train::{Confusion, Evaluation, Histograms, History, Plot, TrainError, metrics};
use ndarray::{Array3, ArrayViewD, Axis};

use crate::examples::{Set, Sets};

/// The most mistakes that are shown.
const MISTAKES: usize = 24;
/// The most filters that are shown.
const FILTERS: usize = 64;

/// What a report is about.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The heading.
    pub title: &'a str,
    /// The text of the configuration.
    pub configuration: &'a str,
    /// The epochs.
    pub history: &'a History,
    /// The name of the set that the model is judged by.
    pub set: &'a str,
    /// Its figures.
    pub evaluation: &'a Evaluation,
    /// What the call took, in seconds.
    pub seconds: f64,
    /// On how many threads.
    pub n_threads: usize,
    /// The layers.
    pub summary: &'a str,
    /// What is unusual about it, with advice.
    pub diagnosis: Option<&'a str>,
    /// The numbers before and after activation functions, with the weights at the end.
    pub activations: &'a Histograms,
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:62rem;padding:0 1rem;color:#1b1f24}\
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.2rem;border-bottom:1px solid #d0d7de}\
table{border-collapse:collapse}td,th{padding:.2rem .6rem;text-align:right;font-variant-numeric:tabular-nums}\
.wide{overflow-x:auto}figure{display:inline-block;margin:.4rem;text-align:center;font-size:.8rem;vertical-align:top}\
figure img{image-rendering:pixelated;border:1px solid #d0d7de;background:#000}figcaption{max-width:8rem}\
pre{white-space:pre-wrap;background:#f6f8fa;padding:.8rem;overflow-x:auto;font-size:.85rem}svg{max-width:100%;height:auto}\
.confusion td{min-width:2.2rem;text-align:center}";

/// The page. `outputs` are the model's for the features of `judge`.
///
/// # Errors
/// What cannot be counted: outputs that are no numbers.
pub fn page(
    about: &About<'_>,
    judge: &Set,
    sets: &Sets,
    outputs: ArrayViewD<'_, f32>,
    weights: &Tensors,
) -> Result<String, TrainError> {
    let mut out = String::from("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    out.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">");
    let title = escaped(about.title);
    let _ = write!(out, "<title>{title}</title><style>{STYLE}</style></head><body>\n<h1>Training by {title}</h1>\n");
    figures(&mut out, about, sets);
    let _ = writeln!(out, "<h2>Diagnosis</h2>\n<pre>{}</pre>", escaped(about.diagnosis.unwrap_or("nothing unusual")));
    let curves = about.history.curves();
    let _ = writeln!(out, "<h2>Curves</h2>\n<div class=\"wide\">{}</div>", grid("", curves.len(), &curves));
    match judge {
        Set::Classes(set) => {
            let confusion = Confusion::new(outputs.view(), set.labels())?;
            confused(&mut out, about.set, &confusion, &sets.labels);
            mistakes(&mut out, about.set, judge, outputs.view(), set.labels().as_slice().unwrap_or_default(), sets)?;
        }
        Set::Numbers(set) => scatter(&mut out, about.set, outputs.iter().zip(set.labels())),
    }
    filters(&mut out, judge, weights);
    activations(&mut out, about.activations);
    let _ = writeln!(out, "<h2>Layers</h2>\n<pre>{}</pre>", escaped(about.summary));
    let _ = writeln!(out, "<h2>Configuration</h2>\n<pre>{}</pre>", escaped(about.configuration));
    out.push_str("</body></html>\n");
    Ok(out)
}

fn activations(out: &mut String, of: &Histograms) {
    if of.layers.is_empty() {
        return;
    }
    out.push_str("<h2>Activations</h2>\n<p>After training; those before it are in <code>activations.svg</code>.</p>\n");
    let _ = writeln!(out, "<pre>{}</pre>\n<div class=\"wide\">{}</div>", escaped(&of.to_string()), of.to_svg());
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn figures(out: &mut String, about: &About<'_>, sets: &Sets) {
    out.push_str("<table>\n");
    let mut row = |name: &str, value: String| {
        let _ = writeln!(out, "<tr><th>{name}</th><td>{value}</td></tr>");
    };
    if let Some(accuracy) = about.evaluation.accuracy {
        row(&format!("{} error", about.set), format!("{:.2} %", 100.0 * (1.0 - accuracy)));
    }
    row(&format!("{} loss", about.set), format!("{:.4}", about.evaluation.loss));
    let n = |set: &Option<Set>| set.as_ref().map_or(0, cotangent_data::Examples::len).to_string();
    row("training examples", cotangent_data::Examples::len(&sets.train).to_string());
    row("validation examples", n(&sets.validation));
    row("test examples", n(&sets.test));
    row("epochs", about.history.len().to_string());
    let trained: f64 = about.history.iter().map(|epoch| epoch.seconds).sum();
    row("time in steps", format!("{trained:.1} s on {} threads", about.n_threads));
    if let Some(last) = about.history.last() {
        let rate = cotangent_data::Examples::len(&sets.train) as f64 / last.seconds.max(1e-9);
        row("last epoch", format!("{:.2} s, {rate:.0} examples/s", last.seconds));
    }
    row("this call", format!("{:.1} s with evaluation", about.seconds));
    out.push_str("</table>\n");
}

fn confused(out: &mut String, set: &str, confusion: &Confusion, labels: &[String]) {
    /// Larger tables are no pictures any more.
    const MOST: usize = 40;
    let _ = writeln!(out, "<h2>Confusion on the {set} set</h2>");
    let counts = confusion.counts();
    if labels.len() > MOST {
        let _ = writeln!(out, "<p>{} classes: too many for a table.</p>", labels.len());
        return;
    }
    out.push_str("<p>Rows are what examples are, columns what they were taken for.</p>\n<div class=\"wide\"><table class=\"confusion\">");
    let name = |k: usize| escaped(labels.get(k).map_or("", String::as_str));
    let heads: String = (0..counts.ncols()).map(|k| format!("<th>{}</th>", name(k))).collect();
    let _ = writeln!(out, "<tr><th></th>{heads}<th>found</th></tr>");
    for (k, (row, recall)) in counts.outer_iter().zip(confusion.recall()).enumerate() {
        let total = row.sum().max(1) as f64;
        let cells: String = row
            .iter()
            .enumerate()
            .map(|(other, &count)| {
                let share = count as f64 / total;
                let color = if other == k { "46,160,67" } else { "218,54,51" };
                // Mistakes are rare: they are drawn darker than their share.
                let strength = if other == k { 0.6 * share } else { share.sqrt() };
                let text = if count == 0 { String::new() } else { count.to_string() };
                format!("<td style=\"background:rgba({color},{strength:.2})\">{text}</td>")
            })
            .collect();
        let _ = writeln!(out, "<tr><th>{}</th>{cells}<td>{:.1} %</td></tr>", name(k), 100.0 * recall);
    }
    out.push_str("</table></div>\n");
}

fn mistakes(
    out: &mut String,
    set: &str,
    judge: &Set,
    outputs: ArrayViewD<'_, f32>,
    labels: &[i64],
    sets: &Sets,
) -> Result<(), TrainError> {
    let probabilities = metrics::softmax(outputs.view())?;
    let classes = metrics::classes(outputs)?;
    let name = |class: i64| escaped(sets.labels.get(class as usize).map_or("", String::as_str));
    // How much more probable the wrong class was held than the right one.
    let mut wrong: Vec<(f32, usize)> = (0..labels.len())
        .filter(|&at| classes[at] != labels[at])
        .map(|at| (probabilities[[at, classes[at] as usize]] - probabilities[[at, labels[at] as usize]], at))
        .collect();
    wrong.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let _ = writeln!(out, "<h2>The worst of {} mistakes on the {set} set</h2>", wrong.len());
    let features = judge.features();
    for &(_, at) in wrong.iter().take(MISTAKES) {
        let (taken, is) = (classes[at], labels[at]);
        let share = 100.0 * probabilities[[at, taken as usize]];
        let caption = format!("{}: {} taken for {} ({share:.0} %)", at, name(is), name(taken));
        let row = features.index_axis(Axis(0), at);
        match picture(row.view().into_dyn()) {
            Some(source) if sets.form == Form::Pictures => {
                let _ = writeln!(
                    out,
                    "<figure><img width=\"84\" alt=\"{caption}\" src=\"{source}\"><figcaption>{caption}</figcaption></figure>"
                );
            }
            _ => {
                let some: Vec<String> = row.iter().take(12).map(|v| format!("{v:.4}")).collect();
                let _ = writeln!(out, "<p>{caption}: {}</p>", some.join(", "));
            }
        }
    }
    Ok(())
}

fn scatter<'a>(out: &mut String, set: &str, pairs: impl Iterator<Item = (&'a f32, &'a f32)>) {
    let points: Vec<(f64, f64)> = pairs.take(2000).map(|(&got, &is)| (f64::from(is), f64::from(got))).collect();
    let plot = Plot::new(format!("{set} set")).x_label("what it is").y_label("what was predicted");
    let (low, high) = points.iter().fold((f64::MAX, f64::MIN), |(low, high), (x, _)| (low.min(*x), high.max(*x)));
    let plot = plot.dots("", points).dashed("", [(low, low), (high, high)]);
    let _ = writeln!(out, "<h2>Predictions on the {set} set</h2>\n{}", plot.to_svg());
}

/// The filters of the first layer that has pictures of weights.
fn filters(out: &mut String, judge: &Set, weights: &Tensors) {
    let shape = judge.features().shape()[1..].to_vec();
    let [height, width, channels] = match shape[..] {
        [height, width] => [height, width, 1],
        [height, width, channels @ (1 | 3)] => [height, width, channels],
        _ => return,
    };
    let of_shape = |fits: &dyn Fn(&[usize]) -> bool| {
        let mut arrays = weights.iter().filter_map(|(name, tensor)| Some((name, tensor.array::<f32>()?)));
        arrays.find(|(_, array)| fits(array.shape()))
    };
    let conv = of_shape(&|shape| matches!(*shape, [_, _, c, _] if c == channels));
    let dense = of_shape(&|shape| matches!(*shape, [n, _] if n == height * width * channels));
    let Some((name, values)) = conv.or(dense) else { return };
    let n = values.shape().last().copied().unwrap_or(0).min(FILTERS);
    let _ = writeln!(
        out,
        "<h2>What the first neurons look for</h2>\n<p>The first {n} of <code>{}</code>; gray is zero.</p>",
        escaped(name)
    );
    for k in 0..n {
        let filter = values.index_axis(Axis(values.ndim() - 1), k);
        let most = filter.iter().fold(1e-12f32, |most, v| most.max(v.abs()));
        let filter = filter.mapv(|v| 0.5 + 0.5 * v / most);
        let rows = if conv.is_some() {
            filter.clone()
        } else {
            match filter.into_shape_with_order(vec![height, width, channels]) {
                Ok(rows) => rows,
                Err(_) => return,
            }
        };
        if let Some(source) = picture(rows.view()) {
            let _ = write!(out, "<figure><img width=\"56\" alt=\"filter {k}\" src=\"{source}\"></figure>");
        }
    }
    out.push('\n');
}

/// A picture `[height, width]` or with 1 or 3 channels of values from 0 to 1, as a data address of the BMP format, which is
/// uncompressed.
fn picture(values: ArrayViewD<'_, f32>) -> Option<String> {
    let rows: Array3<f32> = match values.ndim() {
        2 => values.insert_axis(Axis(2)).to_owned().into_dimensionality().ok()?,
        3 => values.to_owned().into_dimensionality().ok()?,
        _ => return None,
    };
    let (height, width, channels) = rows.dim();
    if height == 0 || width == 0 || height > 1024 || width > 1024 || !matches!(channels, 1 | 3) {
        return None;
    }
    let (stride, header) = ((3 * width).next_multiple_of(4), 54u32);
    let size = header + (stride * height) as u32;
    let mut bytes = Vec::with_capacity(size as usize);
    bytes.extend(b"BM");
    for word in [size, 0, header, 40, width as u32, height as u32, 1 | 24 << 16, 0, 0, 2835, 2835, 0, 0] {
        bytes.extend(word.to_le_bytes());
    }
    // Rows from the last on, blue first.
    for row in (0..height).rev() {
        let line = rows.index_axis(Axis(0), row);
        for place in line.outer_iter() {
            bytes.extend((0..3).rev().map(|k| (place[k % channels].clamp(0.0, 1.0) * 255.0).round() as u8));
        }
        bytes.resize(54 + stride * (height - row), 0);
    }
    Some(format!("data:image/bmp;base64,{}", base64(&bytes)))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = group.iter().enumerate().fold(0u32, |word, (k, &byte)| word | u32::from(byte) << (16 - 8 * k));
        let digit =
            |k: usize| if k <= group.len() { DIGITS[(word >> (18 - 6 * k)) as usize & 63] as char } else { '=' };
        text.extend((0..4).map(digit));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_standard() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn pictures_are_as_long_as_their_headers_say() {
        for (height, width, channels) in [(1, 1, 1), (2, 3, 3), (5, 4, 1), (7, 6, 3)] {
            let values = Array3::from_elem((height, width, channels), 0.5).into_dyn();
            let source = picture(values.view()).unwrap();
            let n = 54 + (3 * width).next_multiple_of(4) * height;
            assert_eq!(source.len() - "data:image/bmp;base64,".len(), n.div_ceil(3) * 4, "{height} {width} {channels}");
        }
        assert_eq!(picture(ndarray::ArrayD::zeros(vec![2, 2, 2]).view()), None);
    }
}
