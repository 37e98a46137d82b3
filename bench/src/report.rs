//! Draws results as SVG, one file for each row that compares something.
//!
//! Bars are medians, the thin line is from the slowest round to the fastest. Colours are readable on a white and on a
//! dark page, since the page's own colour is not known.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use crate::json::{self, Value};
use crate::results::number;

/// Rows that are drawn. Others are single numbers, better read than seen.
const DRAWN: [&str; 9] = [
    "serve",
    "serve-cpu",
    "refuse-access",
    "refuse-limit",
    "names",
    "late-median",
    "thousand",
    "pending",
    "slots-serve",
];

const WIDTH: f64 = 760.0;
const LABELS: f64 = 210.0;
const FIGURES: f64 = 90.0;
const LINE: f64 = 28.0;
const TOP: f64 = 44.0;

struct Bar {
    name: String,
    median: f64,
    low: f64,
    high: f64,
}

/// Reads `results` and writes a file for each row into `folder`.
pub fn draw(results: &Path, folder: &Path) -> io::Result<()> {
    let tree = json::parse(&fs::read_to_string(results)?)
        .ok_or_else(|| io::Error::other(format!("{}: not what bench writes", results.display())))?;
    fs::create_dir_all(folder)?;
    for row in tree.get("rows").list() {
        let id = row.get("id").text();
        let bars: Vec<Bar> = row.get("subjects").list().iter().filter_map(bar).collect();
        if DRAWN.contains(&id) && bars.len() > 1 {
            let file = folder.join(format!("{id}.svg"));
            fs::write(&file, plot(row.get("title").text(), row.get("unit").text(), &bars))?;
            println!("{}", file.display());
        }
    }
    Ok(())
}

fn bar(subject: &Value) -> Option<Bar> {
    let values: Vec<f64> = subject.get("values").list().iter().filter_map(Value::number).collect();
    Some(Bar {
        name: subject.get("name").text().to_owned(),
        median: subject.get("median").number()?,
        low: values.iter().copied().fold(f64::INFINITY, f64::min),
        high: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
    })
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn plot(title: &str, unit: &str, bars: &[Bar]) -> String {
    let most = bars.iter().map(|bar| bar.high).fold(0.0, f64::max);
    let scale = (WIDTH - LABELS - FIGURES) / most.max(f64::MIN_POSITIVE);
    let height = TOP + LINE * bars.len() as f64 + 8.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\" role=\"img\">\n\
         <title>{title}</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"8\" y=\"22\" font-size=\"15\" fill=\"#1f2328\">{title}, {unit}</text>\n",
        title = escaped(title),
        unit = escaped(unit)
    );
    for (index, bar) in bars.iter().enumerate() {
        let y = TOP + LINE * index as f64;
        let middle = y + LINE / 2.0 - 3.0;
        // What is a limit and not a program stands back.
        let fill = match bar.name.as_str() {
            name if name.starts_with("couriertcpd") || index == 0 => "#1a7f5a",
            name if name.starts_with("bare") => "#c4c9d0",
            _ => "#6e8bb7",
        };
        let (length, low, high) = (bar.median * scale, LABELS + bar.low * scale, LABELS + bar.high * scale);
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#1f2328\">{}</text>\n\
             <rect x=\"{LABELS}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{:.0}\" fill=\"{fill}\"/>\n\
             <path d=\"M{low:.1} {middle:.1}H{high:.1}\" stroke=\"#1f2328\" stroke-width=\"1\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"#1f2328\">{}</text>",
            LABELS - 8.0,
            middle + 5.0,
            escaped(&bar.name),
            LINE - 6.0,
            high.max(LABELS + length) + 6.0,
            middle + 5.0,
            number(bar.median)
        );
    }
    svg.push_str("</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_keep_their_proportions_and_names_are_escaped() {
        let bar = |name: &str, median| Bar { name: name.to_owned(), median, low: median, high: median };
        let svg = plot("a < b", "1/s", &[bar("x & y", 200.0), bar("z", 100.0)]);
        assert!(svg.contains("a &lt; b, 1/s") && svg.contains("x &amp; y"), "{svg}");
        let widths: Vec<f64> = svg
            .split("width=\"")
            .filter_map(|part| part.split('"').next()?.parse().ok())
            .filter(|width| *width != WIDTH && *width > 1.0)
            .collect();
        let [whole, half] = widths[..] else { panic!("{svg}") };
        assert_eq!(whole, half * 2.0);
    }
}
