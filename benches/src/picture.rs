//! Pictures as SVG text: lines over two axes, nothing else.

use std::fmt::Write;

use serde_json::Value;

use crate::results::Results;

const WIDTH: f64 = 820.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 80.0;
/// Room for the legend.
const RIGHT: f64 = 230.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 60.0;
/// Told apart also without colours, by their order in the legend.
const COLOURS: [&str; 8] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999",
];

/// Requests in flight on each of 4 connections, in the cases `window-DURABILITY-N`.
const WINDOWS: [u32; 5] = [1, 8, 64, 256, 512];
/// Durabilities with a case for each window.
const DURABILITIES: [&str; 2] = ["sync", "async"];
/// Cases whose latencies are shown: name, which latency, legend.
const LATENCIES: [(&str, &str, &str); 4] = [
    ("e2e-async-1k", "delivery", "e2e async 1 k/s"),
    ("e2e-async-10k", "delivery", "e2e async 10 k/s"),
    ("e2e-sync-1k", "delivery", "e2e sync 1 k/s"),
    ("sync-half", "send", "ack sync, half rate"),
];

/// A line with its name.
#[derive(Clone, Debug, PartialEq)]
struct Series {
    name: String,
    points: Vec<(f64, f64)>,
}

/// An axis: where its marks stand, and what is written there.
#[derive(Clone, Debug, PartialEq)]
struct Axis {
    title: &'static str,
    marks: Vec<(f64, String)>,
}

/// Whether there is anything to show of throughput by requests in flight.
#[must_use]
pub fn has_windows(results: &Results) -> bool {
    let first = DURABILITIES.map(|durability| format!("window-{durability}-{}", WINDOWS[0]));
    first
        .iter()
        .any(|case| !results.contenders(case).is_empty())
}

/// Throughput by requests in flight.
#[must_use]
pub fn window(results: &Results) -> String {
    let mut series = Vec::new();
    for durability in DURABILITIES {
        let case = |window: u32| format!("window-{durability}-{window}");
        for contender in results.contenders(&case(WINDOWS[0])) {
            let points = WINDOWS.iter().filter_map(|window| {
                let rate = results.spread(&case(*window), contender, "/messages_per_second")?;
                Some((f64::from(*window * 4).log2(), rate.median / 1_000.0))
            });
            series.push(Series {
                name: format!("{contender} {durability}"),
                points: points.collect(),
            });
        }
    }
    let x = Axis {
        title: "requests in flight, 4 connections",
        marks: WINDOWS
            .iter()
            .map(|window| (f64::from(window * 4).log2(), (window * 4).to_string()))
            .collect(),
    };
    let top = largest(&series);
    let step = step_of(top);
    let steps = (0..=10).map(|at| step * f64::from(at));
    let y = Axis {
        title: "thousand messages per second",
        marks: steps
            .take_while(|value| *value <= top + step)
            .map(|value| (value, format!("{value}")))
            .collect(),
    };
    draw("Throughput by requests in flight", &x, &y, &series)
}

/// Latency by percentile: the first round of each case, both axes logarithmic.
#[must_use]
pub fn latency(results: &Results) -> String {
    let mut series = Vec::new();
    for (case, kind, name) in LATENCIES {
        for contender in results.contenders(case) {
            let report = results.reports(case, contender).next();
            let points =
                report.and_then(|report| report.pointer(&format!("/latency_us/{kind}/points")));
            let points = points
                .and_then(Value::as_array)
                .map_or(&[][..], Vec::as_slice);
            series.push(Series {
                name: format!("{contender} {name}"),
                points: points.iter().filter_map(latency_point).collect(),
            });
        }
    }
    let nines = [
        (0.0, "0 %"),
        (1.0, "90 %"),
        (2.0, "99 %"),
        (3.0, "99.9 %"),
        (4.0, "99.99 %"),
    ];
    let x = Axis {
        title: "share of the messages",
        marks: nines.map(|(at, text)| (at, text.to_owned())).to_vec(),
    };
    let y = Axis {
        title: "latency",
        marks: ["10 us", "100 us", "1 ms", "10 ms", "100 ms", "1 s"]
            .iter()
            .zip(1_u8..)
            .map(|(text, at)| (f64::from(at), (*text).to_owned()))
            .collect(),
    };
    draw("Latency by percentile", &x, &y, &series)
}

/// From (percent, microseconds) to the places on the axes.
fn latency_point(point: &Value) -> Option<(f64, f64)> {
    let (percent, micros) = (point[0].as_f64()?, point[1].as_f64()?);
    let nines = -(1.0 - percent / 100.0).log10();
    (nines <= 4.0).then(|| (nines.max(0.0), micros.max(10.0).log10().min(6.0)))
}

fn largest(series: &[Series]) -> f64 {
    let points = series.iter().flat_map(|series| &series.points);
    points.map(|point| point.1).fold(1.0, f64::max)
}

/// A round number of which about five to ten reach `top`.
fn step_of(top: f64) -> f64 {
    let power = 10_f64.powf((top / 10.0).log10().ceil());
    let steps = [power / 5.0, power / 2.0, power];
    let fits = steps.iter().find(|step| **step * 10.0 >= top);
    fits.copied().unwrap_or(power)
}

fn draw(title: &str, x: &Axis, y: &Axis, series: &[Series]) -> String {
    let range = |axis: &Axis| {
        let ends = (axis.marks.first(), axis.marks.last());
        let ends = ends.0.zip(ends.1).map(|(first, last)| (first.0, last.0));
        ends.filter(|(low, high)| low < high).unwrap_or((0.0, 1.0))
    };
    let place = |value: f64, (low, high): (f64, f64), from: f64, to: f64| {
        from + (value - low) / (high - low) * (to - from)
    };
    let (x_range, y_range) = (range(x), range(y));
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let at_x = |value: f64| place(value, x_range, LEFT, right);
    let at_y = |value: f64| place(value, y_range, bottom, TOP);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    text(&mut out, LEFT, TOP - 16.0, "start", title);
    for (value, name) in &x.marks {
        let at = at_x(*value);
        line(&mut out, (at, TOP), (at, bottom), "#dddddd");
        text(&mut out, at, bottom + 18.0, "middle", name);
    }
    for (value, name) in &y.marks {
        let at = at_y(*value);
        line(&mut out, (LEFT, at), (right, at), "#dddddd");
        text(&mut out, LEFT - 8.0, at + 4.0, "end", name);
    }
    text(&mut out, LEFT, bottom + 42.0, "start", x.title);
    text(&mut out, right, TOP - 16.0, "end", y.title);
    for (number, series) in series.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let points: Vec<_> = series
            .points
            .iter()
            .map(|(x, y)| format!("{:.1},{:.1}", at_x(*x), at_y(*y)))
            .collect();
        let points = points.join(" ");
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{points}\"/>"
        );
        let height = TOP + 18.0 * number as f64 + 6.0;
        line(
            &mut out,
            (right + 10.0, height),
            (right + 30.0, height),
            colour,
        );
        text(&mut out, right + 36.0, height + 4.0, "start", &series.name);
    }
    out.push_str("</svg>\n");
    out
}

fn line(out: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> Results {
        let mut lines = String::new();
        for (window, rate) in [(1, 10_000), (8, 80_000), (64, 300_000), (512, 400_000)] {
            let _ = writeln!(
                lines,
                "{{\"case\":\"window-sync-{window}\",\"contender\":\"a<b\",\"report\":\
                 {{\"valid\":true,\"messages_per_second\":{rate}}}}}"
            );
        }
        lines.push_str(
            "{\"case\":\"e2e-sync-1k\",\"contender\":\"qmq\",\"report\":{\"valid\":true,\
             \"latency_us\":{\"delivery\":{\"points\":[[0.0,50.0],[50.0,100.0],[99.0,1000.0],\
             [100.0,9000.0]]}}}}\n",
        );
        Results::parse(&lines).unwrap()
    }

    #[test]
    fn a_line_goes_through_its_points_within_the_frame() {
        for (picture, points) in [(window(&results()), 4), (latency(&results()), 3)] {
            let drawn = picture.split("points=\"").nth(1).unwrap();
            let drawn: Vec<_> = drawn.split('"').next().unwrap().split(' ').collect();
            assert_eq!(drawn.len(), points, "{picture}");
            for point in drawn {
                let (x, y) = point.split_once(',').unwrap();
                let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
                assert!((LEFT..=WIDTH - RIGHT).contains(&x), "{point}");
                assert!((TOP..=HEIGHT - BOTTOM).contains(&y), "{point}");
            }
        }
        assert!(window(&results()).contains("a&lt;b sync"));
    }

    #[test]
    fn nothing_measured_is_an_empty_picture() {
        let none = Results::default();
        for picture in [window(&none), latency(&none)] {
            assert!(!picture.contains("polyline") && picture.ends_with("</svg>\n"));
        }
    }

    #[test]
    fn steps_are_round() {
        for (top, step) in [(9.0, 1.0), (14.0, 2.0), (450.0, 50.0), (1_900.0, 200.0)] {
            assert_eq!(step_of(top), step, "{top}");
        }
    }
}
