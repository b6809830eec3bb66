//! How do throughput and latency depend on the value size? Charts as SVG files.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use plotters::prelude::*;

use crate::client::Kind;
use crate::measure::{Measured, PERCENTILES};

/// Colours that differ also for colour-blind readers.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];

struct Line {
    name: String,
    /// The value size, and the median, the lowest and the highest result.
    points: Vec<(f64, [f64; 3])>,
}

/// Writes a chart of the throughput of each command, and of the latencies of
/// each command and pipeline depth. Returns the number of files.
pub(crate) fn write(
    dir: &Path,
    measured: &[Measured],
) -> anyhow::Result<usize> {
    fs::create_dir_all(dir)?;
    let mut charts = Vec::new();
    let mut kinds: Vec<Kind> = measured.iter().map(|one| one.kind).collect();
    kinds.dedup_by_key(|kind| (kind.command, kind.depth));
    kinds.sort_by_key(|kind| (kind.command.name(), kind.depth));
    kinds.dedup_by_key(|kind| (kind.command, kind.depth));
    for kind in &kinds {
        let (command, depth) = (kind.command.name(), kind.depth);
        let ours = measured.iter().filter(|one| {
            one.tool == measured[0].tool
                && (one.kind.command, one.kind.depth) == (kind.command, depth)
        });
        let title = match depth {
            1 => format!("{command}: latency"),
            _ => {
                format!("{command}: latency of {depth} commands in a pipeline")
            }
        };
        let file = format!("latency-{command}-{depth}.svg");
        let lines = latencies(&ours.collect::<Vec<_>>());
        charts.push((file, svg(&title, "milliseconds", &lines)?));
    }
    kinds.dedup_by_key(|kind| kind.command);
    for kind in kinds {
        let command = kind.command.name();
        let lines = throughputs(measured, kind);
        let title = format!("{command}: throughput");
        let file = format!("throughput-{command}.svg");
        charts.push((file, svg(&title, "requests per second", &lines)?));
    }
    for (file, svg) in &charts {
        let path = dir.join(file.to_lowercase());
        fs::write(&path, svg)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(charts.len())
}

/// Draws the throughput of `redis_bench` from the rows of a CSV file.
pub(crate) fn of_csv(csv: &str) -> anyhow::Result<String> {
    let mut lines: Vec<Line> = Vec::new();
    for row in csv.lines().skip(1) {
        let fields: Vec<_> = row.split(',').collect();
        let [tool, command, bytes, depth, _, median, min, max, ..] = fields[..]
        else {
            anyhow::bail!("a row has too few fields: {row}");
        };
        if tool != "redis_bench" {
            continue;
        }
        let name = format!("{command}, P = {depth}");
        let point =
            (bytes.parse()?, [median.parse()?, min.parse()?, max.parse()?]);
        match lines.iter_mut().find(|line| line.name == name) {
            Some(line) => line.points.push(point),
            None => lines.push(Line { name, points: vec![point] }),
        }
    }
    let title = "redis_bench: throughput by value size";
    svg(title, "requests per second", &lines)
}

fn latencies(measured: &[&Measured]) -> Vec<Line> {
    let line = |(index, (name, _)): (usize, &(&str, f64))| {
        let points = measured.iter().filter_map(|one| {
            let spread = one.latency(index);
            // Not drawn if requests in a run had no answer.
            let latencies = [spread.median?, spread.min?, spread.max?];
            let ms = latencies.map(|latency| latency.as_secs_f64() * 1000.0);
            Some((one.kind.value_len as f64, ms))
        });
        Line { name: (*name).to_owned(), points: points.collect() }
    };
    PERCENTILES.iter().enumerate().map(line).collect()
}

/// Returns a line for each tool and pipeline depth.
fn throughputs(measured: &[Measured], kind: Kind) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for one in measured.iter().filter(|one| one.kind.command == kind.command) {
        let name = format!("{}, P = {}", one.tool, one.kind.depth);
        let point = (one.kind.value_len as f64, one.throughput());
        match lines.iter_mut().find(|line| line.name == name) {
            Some(line) => line.points.push(point),
            None => lines.push(Line { name, points: vec![point] }),
        }
    }
    lines
}

/// Draws the lines with the range of each point. Both axes are logarithmic.
fn svg(title: &str, y_name: &str, lines: &[Line]) -> anyhow::Result<String> {
    let points = lines.iter().flat_map(|line| &line.points);
    let (mut x, mut y) = ([f64::MAX, 0.0], [f64::MAX, 0.0_f64]);
    for (size, [_, min, max]) in points {
        x = [size.min(x[0]), size.max(x[1])];
        y = [min.min(y[0]), max.max(y[1])];
    }
    anyhow::ensure!(x[1] > 0.0 && y[0] > 0.0, "{title}: there is no point");
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, (760, 420));
    let area = area.into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 20))
        .margin(14)
        .x_label_area_size(44)
        .y_label_area_size(80)
        .build_cartesian_2d(
            (x[0] / 1.2..x[1] * 1.2).log_scale(),
            // Below the lines is the legend.
            (y[0] / 8.0..y[1] * 1.5).log_scale(),
        )?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("bytes of a value")
        .y_desc(y_name)
        .x_label_formatter(&|x| format!("{x}"))
        .y_label_formatter(&|y| format!("{y}"))
        .label_style(("sans-serif", 14))
        .axis_desc_style(("sans-serif", 15))
        .draw()?;
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let style = colour.stroke_width(2);
        let middle = line.points.iter().map(|(x, [median, ..])| (*x, *median));
        chart
            .draw_series(LineSeries::new(middle, style).point_size(3))?
            .label(&line.name)
            .legend(move |(x, y)| {
                PathElement::new([(x, y), (x + 18, y)], style)
            });
        let ranges = line.points.iter().map(|(x, [_, min, max])| {
            PathElement::new([(*x, *min), (*x, *max)], colour.stroke_width(1))
        });
        chart.draw_series(ranges)?;
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 14))
        .position(SeriesLabelPosition::LowerLeft)
        .draw()?;
    area.present()?;
    drop(chart);
    drop(area);
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_names_its_lines() {
        let points = vec![(10.0, [2.0, 1.0, 3.0]), (5000.0, [9.0, 8.0, 9.0])];
        let lines = ["p50", "p99"]
            .map(|name| Line { name: name.to_owned(), points: points.clone() });
        let svg = svg("GET: latency", "milliseconds", &lines).unwrap();
        for text in ["GET: latency", "milliseconds", "p50", "p99"] {
            assert!(svg.contains(text), "{text} is missing in {svg}");
        }
    }

    #[test]
    fn a_chart_of_a_file_has_a_line_for_each_command_and_depth() {
        let csv = "header\nredis_bench,GET,10,1,3,200,150,250,x\n\
                   redis-benchmark,GET,10,2,3,200,150,250,x\n\
                   redis_bench,SET,10,16,3,200,150,250,x\n";
        let svg = of_csv(csv).expect("the file is valid");
        assert!(svg.contains("GET, P = 1") && svg.contains("SET, P = 16"));
        assert!(!svg.contains("P = 2"), "a line of the other tool");
    }

    #[test]
    fn a_chart_without_points_is_refused() {
        assert!(svg("GET: latency", "milliseconds", &[]).is_err());
    }
}
