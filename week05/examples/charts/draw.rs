//! Draws line charts as SVG.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// A line chart.
pub(crate) struct Chart<'a> {
    /// What the chart shows.
    pub(crate) title: &'a str,
    /// The horizontal axis.
    pub(crate) x: Axis<'a>,
    /// The vertical axis.
    pub(crate) y: Axis<'a>,
    /// The lines.
    pub(crate) lines: Vec<Line<'a>>,
    /// A part of the horizontal axis that is shaded, and what happens there.
    pub(crate) shaded: Option<(f64, f64, &'a str)>,
}

/// An axis of a chart.
pub(crate) struct Axis<'a> {
    /// What it measures, with the unit.
    pub(crate) name: &'a str,
    /// Its first and its last value.
    pub(crate) range: (f64, f64),
    /// Equal factors have equal lengths.
    pub(crate) logarithmic: bool,
}

/// A line of a chart.
pub(crate) struct Line<'a> {
    /// Its name in the legend.
    pub(crate) name: &'a str,
    /// Its points. A gap follows a point without a value.
    pub(crate) points: Vec<(f64, Option<f64>)>,
}

const SIZE: (u32, u32) = (760, 440);

/// Colours that colour-blind readers can tell apart (Okabe and Ito).
const COLOURS: [RGBColor; 5] = [
    RGBColor(0, 0, 0),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
];

impl Chart<'_> {
    /// Returns the chart as an SVG file.
    ///
    /// # Panics
    ///
    /// Panics if a chart has more lines than there are colours.
    pub(crate) fn to_svg(&self) -> String {
        let mut svg = String::new();
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE).expect("a string grows");
        let mut builder = ChartBuilder::on(&area);
        builder
            .caption(self.title, ("sans-serif", 20))
            .margin(14)
            .x_label_area_size(42)
            .y_label_area_size(58);
        let ((x0, x1), (y0, y1)) = (self.x.range, self.y.range);
        // plotters has a type of its own for each kind of axis.
        if self.x.logarithmic {
            let x = (x0..x1).log_scale();
            let mut chart =
                builder.build_cartesian_2d(x, y0..y1).expect("ranges");
            self.draw(&mut chart);
        } else {
            let mut chart =
                builder.build_cartesian_2d(x0..x1, y0..y1).expect("ranges");
            self.draw(&mut chart);
        }
        area.present().expect("a string grows");
        drop(area);
        svg
    }

    fn draw<'a, X>(
        &self,
        chart: &mut ChartContext<
            'a,
            SVGBackend<'a>,
            Cartesian2d<X, plotters::coord::types::RangedCoordf64>,
        >,
    ) where
        X: Ranged<ValueType = f64>
            + plotters::coord::ranged1d::ValueFormatter<f64>,
    {
        let number = |value: &f64| format!("{}", rounded(*value));
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc(self.x.name)
            .y_desc(self.y.name)
            .x_label_formatter(&number)
            .y_label_formatter(&number)
            .label_style(("sans-serif", 14))
            .axis_desc_style(("sans-serif", 15))
            .draw()
            .expect("a string grows");
        let top = self.y.range.1;
        if let Some((from, to, text)) = self.shaded {
            let area = Rectangle::new(
                [(from, self.y.range.0), (to, top)],
                BLACK.mix(0.08).filled(),
            );
            let style = ("sans-serif", 14)
                .into_font()
                .color(&BLACK)
                .pos(Pos::new(HPos::Left, VPos::Top));
            let label = Text::new(text.to_owned(), (from, top), style);
            chart.draw_series([area]).expect("a string grows");
            chart.draw_series([label]).expect("a string grows");
        }
        assert!(self.lines.len() <= COLOURS.len(), "a line has no colour");
        for (line, colour) in self.lines.iter().zip(COLOURS) {
            let style = colour.stroke_width(2);
            let parts = line.points.split(|(_, y)| y.is_none());
            for (part, is_first) in
                parts.zip([true].into_iter().chain(std::iter::repeat(false)))
            {
                let points = part.iter().filter_map(|&(x, y)| {
                    Some((rounded(x), rounded(y?.min(top))))
                });
                let drawn = chart
                    .draw_series(LineSeries::new(points, style))
                    .expect("a string grows");
                if is_first {
                    drawn.label(line.name).legend(move |(x, y)| {
                        PathElement::new([(x, y), (x + 18, y)], style)
                    });
                }
            }
        }
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.3))
            .label_font(("sans-serif", 14))
            .position(SeriesLabelPosition::UpperRight)
            .draw()
            .expect("a string grows");
    }
}

/// Rounds to a thousandth, so that a figure is the same on every machine.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
