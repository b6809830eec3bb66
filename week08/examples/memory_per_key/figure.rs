//! Draws the overhead of a key from the model.

use plotters::prelude::*;
use week08::memory_per_key::Model;

const SIZE: (u32, u32) = (760, 440);
const KEYS: u64 = 1 << 20;
const KEY_LEN: u64 = 16;
const LONGEST: u64 = 400;

/// Colours that colour-blind readers can tell apart (Okabe and Ito).
const LINES: [(&str, Model, RGBColor); 2] = [
    ("Redis 7.0, jemalloc", Model::Redis70, RGBColor(213, 94, 0)),
    ("Valkey 9.1, glibc", Model::Valkey91, RGBColor(86, 180, 233)),
];

/// Returns an SVG file: the bytes beyond key and value, by the value's length.
pub(crate) fn overhead() -> String {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    area.fill(&WHITE).expect("a string grows");
    let number = |value: &f64| format!("{value}");
    let title = "1,048,576 keys of 16 bytes: what each costs beyond its data";
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 20))
        .margin(14)
        .x_label_area_size(42)
        .y_label_area_size(58)
        .build_cartesian_2d(0.0..LONGEST as f64, 0.0..160.0)
        .expect("ranges");
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("length of the value, bytes")
        .y_desc("overhead of a key, bytes")
        .x_label_formatter(&number)
        .y_label_formatter(&number)
        .label_style(("sans-serif", 14))
        .axis_desc_style(("sans-serif", 15))
        .draw()
        .expect("a string grows");
    for (name, model, colour) in LINES {
        let style = colour.stroke_width(2);
        let points = (0..=LONGEST).map(|value_len| {
            let bytes = model.bytes(KEYS, KEY_LEN, value_len);
            let each = bytes.expect("a covered cell") / KEYS;
            (value_len as f64, (each - KEY_LEN - value_len) as f64)
        });
        chart
            .draw_series(LineSeries::new(points, style))
            .expect("a string grows")
            .label(name)
            .legend(move |(x, y)| {
                PathElement::new([(x, y), (x + 18, y)], style)
            });
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 14))
        .position(SeriesLabelPosition::UpperLeft)
        .draw()
        .expect("a string grows");
    drop(chart);
    area.present().expect("a string grows");
    drop(area);
    svg
}
