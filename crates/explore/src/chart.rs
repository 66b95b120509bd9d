//! Charts as SVG: the roofline with every step on it, what each thread did when, the arena over the steps, bars.
//!
//! Pages of documentation show them as they are, and the explorer takes the same ones.

use std::fmt::Write;
use std::time::Duration;

use cotangent_exec::{Executable, Profile, Span, Target};
use cotangent_kernel::{BufferId, Plan, Step};
use cotangent_scalar::plain::is_hidden;

use crate::memory::{Peak, offset};

/// Colors of what is told apart.
const KERNEL: &str = "#1f77b4";
const PRODUCT: &str = "#d62728";
const OTHER: &str = "#2ca02c";

/// A chart under way.
struct Svg {
    out: String,
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if is_hidden(c) => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

impl Svg {
    fn new(width: f64, height: f64) -> Self {
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
             height=\"{height:.0}\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"11\">\n"
        );
        let _ = writeln!(out, "<rect width=\"{width:.0}\" height=\"{height:.0}\" fill=\"#ffffff\"/>");
        Svg { out }
    }

    fn line(&mut self, [x0, y0, x1, y1]: [f64; 4], stroke: &str) {
        let _ = writeln!(
            self.out,
            "<line x1=\"{x0:.1}\" y1=\"{y0:.1}\" x2=\"{x1:.1}\" y2=\"{y1:.1}\" stroke=\"{stroke}\"/>"
        );
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, text: &str) {
        let text = escaped(text);
        let _ = writeln!(
            self.out,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"#222222\">{text}</text>"
        );
    }

    /// A box of a step, with words that a pointer on it shows.
    fn rect(&mut self, [x, y, width, height]: [f64; 4], fill: &str, step: Option<usize>, title: &str) {
        let step = step.map_or(String::new(), |step| format!(" data-step=\"{step}\""));
        let _ = writeln!(
            self.out,
            "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{width:.2}\" height=\"{height:.2}\" fill=\"{fill}\" stroke=\"#555555\" \
             stroke-width=\"0.3\"{step}><title>{}</title></rect>",
            escaped(title)
        );
    }

    fn circle(&mut self, [x, y]: [f64; 2], radius: f64, fill: &str, step: usize, title: &str) {
        let _ = writeln!(
            self.out,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\" fill=\"{fill}\" fill-opacity=\"0.6\" stroke=\"#333333\" \
             stroke-width=\"0.5\" data-step=\"{step}\"><title>{}</title></circle>",
            escaped(title)
        );
    }

    fn end(mut self) -> String {
        self.out.push_str("</svg>\n");
        self.out
    }
}

/// What a step is, by color.
fn color(step: &Step) -> &'static str {
    match step {
        Step::Kernel(_) => KERNEL,
        Step::Product { .. } => PRODUCT,
        _ => OTHER,
    }
}

fn legend(svg: &mut Svg, x: f64, y: f64) {
    for (k, (fill, what)) in [(PRODUCT, "product"), (KERNEL, "kernel"), (OTHER, "other step")].into_iter().enumerate() {
        let x = x + 90.0 * k as f64;
        svg.rect([x, y - 9.0, 10.0, 10.0], fill, None, what);
        svg.text(x + 14.0, y, "start", what);
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// An axis in decades.
struct Decades {
    first: i32,
    last: i32,
    from: f64,
    to: f64,
}

impl Decades {
    fn around(least: f64, most: f64, from: f64, to: f64) -> Self {
        let first = least.log10().floor() as i32;
        Decades { first, last: (most.log10().ceil() as i32).max(first + 1), from, to }
    }

    fn place(&self, value: f64) -> f64 {
        let span = f64::from(self.last - self.first);
        let at = ((value.log10() - f64::from(self.first)) / span).clamp(0.0, 1.0);
        self.from + at * (self.to - self.from)
    }

    fn marks(&self) -> impl Iterator<Item = (f64, String)> {
        (self.first..=self.last).map(|k| (self.place(10f64.powi(k)), format!("{}", 10f64.powi(k))))
    }
}

/// A step below the roof.
struct Point {
    step: usize,
    /// Operations for each byte.
    at: f64,
    /// Operations in a nanosecond.
    rate: f64,
    ns: f64,
    /// Of what the roof allows.
    share: f64,
}

/// The roofline: each step by its operations for each byte that it moves, and its operations a second, below what the target's
/// peaks allow on one thread for each level of memory. Without a profile, a step takes the time that is predicted for it. The area
/// of a circle is the step's share of the time.
pub fn roofline(program: &Executable, profile: Option<&Profile>) -> String {
    let (plan, target) = (program.plan(), program.target());
    let mut points = Vec::new();
    for s in 0..plan.steps.len() {
        let work = program.work(s);
        let measured = profile.and_then(|profile| profile.steps.get(s)).map(|times| micros(times.median) * 1e3);
        let ns = measured.unwrap_or_else(|| program.predicted_ns(s));
        if work.flop > 0.0 && work.bytes > 0 && ns > 0.0 {
            points.push(Point {
                step: s,
                at: work.flop / work.bytes as f64,
                rate: work.flop / ns,
                ns,
                share: work.least_nanos / ns,
            });
        }
    }
    let peak = peak_gflops(target);
    let least = |value: fn(&Point) -> f64, start: f64| points.iter().map(value).fold(start, f64::min);
    let most = |value: fn(&Point) -> f64, start: f64| points.iter().map(value).fold(start, f64::max);
    const SIZE: [f64; 2] = [760.0, 420.0];
    let mut svg = Svg::new(SIZE[0], SIZE[1]);
    let x = Decades::around(least(|p| p.at, 0.1), most(|p| p.at, 100.0), 60.0, SIZE[0] - 20.0);
    let y = Decades::around(least(|p| p.rate, 0.5), most(|p| p.rate, peak * 1.2), SIZE[1] - 50.0, 30.0);
    for (at, mark) in x.marks() {
        svg.line([at, y.from, at, y.to], "#e5e5e5");
        svg.text(at, y.from + 15.0, "middle", &mark);
    }
    for (at, mark) in y.marks() {
        svg.line([x.from, at, x.to, at], "#e5e5e5");
        svg.text(x.from - 6.0, at + 4.0, "end", &mark);
    }
    svg.text((x.from + x.to) / 2.0, SIZE[1] - 14.0, "middle", "operations for each byte moved");
    svg.text(x.from, 18.0, "start", "GFLOP/s");
    let [left, right] = [x.first, x.last].map(|k| 10f64.powi(k));
    let costs = target.costs();
    let levels = [
        ("first-level cache", costs.first_byte_ns),
        ("second-level cache", costs.near_byte_ns),
        ("third-level cache", costs.third_byte_ns),
        ("memory", costs.far_byte_ns),
    ];
    let mut label = y.to;
    for (name, ns) in levels {
        let bytes = 1.0 / ns;
        // Where the roof leaves the chart at the bottom, it begins.
        let start = left.max(10f64.powi(y.first) / bytes);
        let end = (peak / bytes).min(right);
        svg.line([x.place(start), y.place(start * bytes), x.place(end), y.place(end * bytes)], "#888888");
        // Levels that are about as fast have their names below each other.
        label = f64::max(label + 12.0, y.place(start * bytes) - 5.0);
        svg.text(x.place(start) + 4.0, label, "start", &format!("{name} {bytes:.0} GB/s"));
    }
    svg.line([x.place((peak * costs.first_byte_ns).max(left)), y.place(peak), x.to, y.place(peak)], "#888888");
    svg.text(x.to, y.place(peak) - 5.0, "end", &format!("multiply-adds {peak:.0} GFLOP/s"));
    let total: f64 = points.iter().map(|point| point.ns).sum();
    // The large ones first, so that none hides another.
    points.sort_by(|a, b| b.ns.total_cmp(&a.ns));
    for Point { step: s, at, rate, ns, share } in points {
        let radius = (900.0 * ns / total).sqrt().clamp(3.0, 30.0);
        let title = format!(
            "step {s}: {}\n{:.2} µs, {rate:.1} GFLOP/s, {at:.2} operations a byte, {:.0} % of the roofline",
            plan.step_text(&plan.steps[s]),
            ns * 1e-3,
            100.0 * share
        );
        svg.circle([x.place(at), y.place(rate)], radius, color(&plan.steps[s]), s, &title);
    }
    legend(&mut svg, x.to - 270.0, 18.0);
    svg.end()
}

/// The peak of products of f32 on one thread.
fn peak_gflops(target: &Target) -> f64 {
    1.0 / target.flop_time(1.0, 4)
}

/// When something began, and when all of it was over.
fn ends(spans: &[Span]) -> (Duration, Duration) {
    let start = spans.first().map_or(Duration::ZERO, |span| span.start);
    (start, spans.iter().map(|span| span.end).max().unwrap_or(start))
}

/// The spans of the shortest run among those that were noted.
fn shortest_run(spans: &[Span]) -> &[Span] {
    let begins = |span: &Span| span.step == 0 && !span.is_part;
    let starts: Vec<usize> = (0..spans.len()).filter(|&at| begins(&spans[at])).collect();
    let n = spans.len();
    let bounds = starts.iter().zip(starts.iter().skip(1).chain(std::iter::once(&n)));
    let runs = bounds.map(|(&from, &to)| &spans[from..to]);
    runs.min_by_key(|run| ends(run).1 - ends(run).0).unwrap_or_default()
}

/// What each thread did in the shortest of the last runs: a row for a thread; the caller's has the steps, the others' their shares.
pub fn timeline(program: &Executable, profile: &Profile) -> String {
    let (plan, n) = (program.plan(), profile.n_threads.max(1));
    let run = shortest_run(&profile.spans);
    let (start, end) = ends(run);
    let total = micros(end - start).max(1e-3);
    let (width, row) = (960.0, 46.0);
    let mut svg = Svg::new(width, 60.0 + row * n as f64);
    let scale = (width - 90.0) / total;
    for thread in 0..n {
        let name = if thread == 0 { "caller".to_owned() } else { format!("worker {thread}") };
        svg.text(70.0, 30.0 + row * thread as f64 + 24.0, "end", &name);
        svg.line([80.0, 34.0 + row * (thread + 1) as f64, width - 10.0, 34.0 + row * (thread + 1) as f64], "#e5e5e5");
    }
    for span in run {
        let text = plan.step_text(&plan.steps[span.step]);
        let from = 80.0 + scale * micros(span.start - start);
        let took = micros(span.end - span.start);
        let (offset, height) = if span.is_part { (18.0, 18.0) } else { (0.0, 16.0) };
        let what = if span.is_part { "its share of " } else { "" };
        let at = [from, 30.0 + row * span.thread as f64 + offset, (scale * took).max(0.3), height];
        svg.rect(
            at,
            color(&plan.steps[span.step]),
            Some(span.step),
            &format!("{took:.2} µs: {what}step {}: {text}", span.step),
        );
    }
    let bottom = 30.0 + row * n as f64 + 20.0;
    svg.text(80.0, bottom, "start", "0");
    svg.text(width - 10.0, bottom, "end", &format!("{total:.1} µs"));
    legend(&mut svg, 80.0, 18.0);
    svg.end()
}

/// The arena over the steps: from left to right the steps, from top to bottom the bytes. What is alive at the peak is red.
pub fn arena(plan: &Plan, name: impl Fn(BufferId) -> String) -> String {
    let (width, height, peak) = (960.0, 320.0, Peak::of(plan));
    let mut svg = Svg::new(width, height + 30.0);
    let n = plan.steps.len().max(1) as f64;
    let scale = height / plan.arena_bytes.max(1) as f64;
    for id in (0..plan.buffers.len() as u32).map(BufferId) {
        let decl = &plan.buffers[id.index()];
        let Some(at) = offset(plan, id).filter(|_| !decl.live.is_empty()) else { continue };
        let [from, to] = [decl.live.start, decl.live.end].map(|step| step as f64 * width / n);
        let tall = (decl.n_bytes() as f64 * scale).max(0.5);
        let fill = if peak.live.contains(&id) { "#f5b7b1" } else { "#aed6f1" };
        let title = format!(
            "b{} {}: {} × {} = {}, steps {}..{}",
            id.0,
            name(id),
            decl.n_elements,
            decl.dtype,
            cotangent_host::Bytes(decl.n_bytes()),
            decl.live.start,
            decl.live.end
        );
        svg.rect([from, at as f64 * scale, to - from, tall], fill, None, &title);
    }
    let title = format!("the peak, step {}", peak.step);
    svg.rect([peak.step as f64 * width / n, 0.0, width / n, height], "rgba(176,58,46,0.15)", Some(peak.step), &title);
    let total = cotangent_host::Bytes(plan.arena_bytes);
    svg.text(
        0.0,
        height + 18.0,
        "start",
        &format!("{} steps, arena {total}, peak at step {}", plan.steps.len(), peak.step),
    );
    svg.end()
}

/// Bars from left to right: a name, a length and what stands behind it.
pub fn bars(title: &str, rows: &[(String, f64, String)]) -> String {
    let (width, row) = (720.0, 24.0);
    let mut svg = Svg::new(width, 34.0 + row * rows.len() as f64);
    svg.text(10.0, 18.0, "start", title);
    let most = rows.iter().map(|(_, value, _)| *value).fold(f64::MIN_POSITIVE, f64::max);
    for (k, (name, value, text)) in rows.iter().enumerate() {
        let y = 28.0 + row * k as f64;
        let long = 330.0 * (value / most).clamp(0.0, 1.0);
        svg.text(180.0, y + 14.0, "end", name);
        svg.rect([188.0, y, long, 18.0], if k == 0 { OTHER } else { KERNEL }, None, text);
        svg.text(194.0 + long, y + 14.0, "start", text);
    }
    svg.end()
}
