//! Plots of curves as SVG, readable on light and on dark ground.

use plotters::{
    coord::{
        Shift,
        ranged1d::{AsRangedCoord, Ranged, ValueFormatter},
    },
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::curve::{Curve, Point};

const SIZE: (u32, u32) = (860, 480);
const FONT: &str = "sans-serif";

/// Room for the values that lines end at, and height of one, in pixels.
const VALUES_WIDTH: i32 = 76;
const VALUE_HEIGHT: i32 = 15;

/// Ink, faint ink, grid and ground on light ground. No line has one of these colours.
const INK: RGBColor = RGBColor(0x1f, 0x23, 0x28);
const FAINT: RGBColor = RGBColor(0x59, 0x63, 0x6e);
const GRID: RGBColor = RGBColor(0xd8, 0xde, 0xe4);
const GROUND: RGBColor = RGBColor(0xff, 0xff, 0xff);

/// These are told apart by people who see few colours, and on both grounds.
const LINES: [RGBColor; 5] = [
    RGBColor(0x1f, 0x77, 0xd0),
    RGBColor(0xe0, 0x6c, 0x00),
    RGBColor(0x2a, 0x9d, 0x5c),
    RGBColor(0xb4, 0x4f, 0xc4),
    RGBColor(0x8a, 0x8f, 0x00),
];

/// The same colours where the reader prefers dark ground.
const DARK: &str = "<style>@media (prefers-color-scheme: dark) { \
    [fill=\"#1F2328\"] { fill: #e6edf3 } [fill=\"#59636E\"] { fill: #9aa4af } \
    [fill=\"#FFFFFF\"] { fill: #0d1117 } [stroke=\"#59636E\"] { stroke: #9aa4af } \
    [stroke=\"#D8DEE4\"] { stroke: #30363d } }</style>";

type Failed = DrawingAreaErrorKind<std::io::Error>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The plot of `curve`.
///
/// # Errors
/// If a curve has no points, or values that its axes cannot show.
pub fn svg(curve: &Curve) -> Result<String, String> {
    let mut text = String::new();
    draw(curve, SVGBackend::with_string(&mut text, SIZE))
        .map_err(|error| format!("{}: {error}", curve.name))?;
    // Right behind the opening tag.
    let opened = text.find('>').map_or(0, |at| at + 1);
    text.insert_str(opened, DARK);
    Ok(text)
}

fn draw(curve: &Curve, backend: SVGBackend<'_>) -> Result<(), Failed> {
    let root = backend.into_drawing_area();
    root.fill(&GROUND)?;
    let (head, body) = root.split_vertically(72);
    heading(curve, &head)?;
    let x = axis(points(curve).map(|point| point.x));
    let y = axis(points(curve).flat_map(|point| [point.y.lowest, point.y.highest]));
    chart(curve, &body, x, y)?;
    root.present()
}

fn points(curve: &Curve) -> impl Iterator<Item = &Point> {
    curve.series.iter().flat_map(|series| &series.points)
}

/// Title, subtitle, and which line is what.
fn heading(curve: &Curve, area: &Area<'_>) -> Result<(), Failed> {
    let text = |text: &str, size: i32, colour: RGBColor, x: i32, y: i32| {
        area.draw(&Text::new(text.to_owned(), (x, y), (FONT, size).into_font().color(&colour)))
    };
    let title = (FONT, 21, FontStyle::Bold).into_font().color(&INK);
    area.draw(&Text::new(curve.title.clone(), (16, 10), title))?;
    text(&curve.subtitle, 15, FAINT, 16, 34)?;
    let mut left = 18;
    for (series, colour) in curve.series.iter().zip(LINES.iter().cycle()) {
        area.draw(&PathElement::new([(left, 60), (left + 20, 60)], colour.stroke_width(3)))?;
        text(&series.label, 15, INK, left + 26, 54)?;
        // The width of text is not known here; this is what letters of this size take, about.
        left += 52 + (series.label.chars().count() * 13 / 2) as i32;
    }
    Ok(())
}

/// From the lowest to the highest of `values`, in whole powers of ten.
fn axis(values: impl Iterator<Item = f64>) -> impl Axis {
    let (lowest, highest) = values
        .fold((f64::INFINITY, 0.0_f64), |(lowest, highest), value| (lowest.min(value), highest.max(value)));
    let start = 10_f64.powf(lowest.max(1e-3).log10().floor());
    let end = 10_f64.powf(highest.max(1e-3).log10().ceil()).max(start * 10.0);
    let powers = std::iter::successors(Some(start), |power| Some(power * 10.0));
    let powers: Vec<f64> = powers.take_while(|&power| power <= end * 1.001).collect();
    let between = powers.iter().flat_map(|power| (2..10).map(move |factor| power * f64::from(factor)));
    let between = between.filter(|&value| value <= end).collect::<Vec<_>>();
    (start..end).log_scale().with_key_points(powers).with_light_points(between)
}

trait Axis: AsRangedCoord<Value = f64, CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>> {}
impl<T> Axis for T where
    T: AsRangedCoord<Value = f64, CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>>
{
}

fn chart(curve: &Curve, area: &Area<'_>, x: impl Axis, y: impl Axis) -> Result<(), Failed> {
    let mut chart = ChartBuilder::on(area)
        .margin_right(VALUES_WIDTH)
        .margin_bottom(8)
        .margin_top(8)
        .margin_left(10)
        .x_label_area_size(48)
        .y_label_area_size(80)
        .build_cartesian_2d(x, y)?;
    let label = |size: i32| (FONT, size).into_font().color(&FAINT);
    chart
        .configure_mesh()
        .axis_style(FAINT)
        .bold_line_style(GRID)
        .light_line_style(GRID.mix(0.35))
        .label_style(label(15))
        .axis_desc_style(label(16))
        .x_desc(curve.x.label.clone())
        .y_desc(curve.y.label.clone())
        .x_label_formatter(&|value| curve.x.unit.show(*value))
        .y_label_formatter(&|value| curve.y.unit.show(*value))
        .draw()?;
    for (series, colour) in curve.series.iter().zip(LINES.iter().cycle()) {
        let medians = || series.points.iter().map(|point| (point.x, point.y.median));
        let spread = series.points.iter().map(|point| {
            PathElement::new([(point.x, point.y.lowest), (point.x, point.y.highest)], colour.stroke_width(1))
        });
        chart.draw_series(spread)?;
        chart.draw_series(LineSeries::new(medians(), colour.stroke_width(2)))?;
        chart.draw_series(medians().map(|place| Circle::new(place, 3, colour.filled())))?;
    }
    let colours = LINES.into_iter().cycle();
    let ends = curve.series.iter().zip(colours).filter_map(|(series, colour)| {
        let last = series.points.last()?.y.median;
        let place = chart.backend_coord(&(series.points.last()?.x, last));
        Some(End { value: curve.y.unit.show(last), place, colour })
    });
    end_values(ends.collect(), area)
}

/// Where a line ends.
struct End {
    value: String,
    /// In pixels of the whole plot.
    place: (i32, i32),
    colour: RGBColor,
}

/// What each line ends at, beside it; those that would cover each other are moved apart.
fn end_values(mut ends: Vec<End>, area: &Area<'_>) -> Result<(), Failed> {
    let (left, top) = area.get_base_pixel();
    ends.sort_unstable_by_key(|end| end.place.1);
    let mut free = i32::MIN;
    for End { value, place: (x, y), colour } in ends {
        let y = y.max(free);
        free = y + VALUE_HEIGHT;
        let style = (FONT, 15).into_font().color(&colour).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(value, (x - left + 8, y - top), style))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{
        super::curve::{Series, Spread, Unit},
        *,
    };

    fn drawn(values: &[f64]) -> String {
        let mut series = Series::new("a line");
        for (n, &value) in values.iter().enumerate() {
            series.add(
                10_usize.pow(n as u32),
                Spread { lowest: value / 2.0, median: value, highest: value * 1.5 },
            );
        }
        let (x, y) = (("modules", Unit::Count), ("time", Unit::Nanoseconds));
        svg(&Curve::new("name", "A title", "what <exactly>", x, y, [series])).expect("it can be drawn")
    }

    #[test]
    fn a_plot_says_what_it_shows() {
        let plot = drawn(&[12.0, 340.0, 56_000.0]);
        for text in
            ["A title", "what &lt;exactly&gt;", "modules", "time", "a line", "56 µs", "prefers-color-scheme"]
        {
            assert!(plot.contains(text), "{text}: {plot}");
        }
        assert_eq!([plot.matches("<circle").count(), plot.matches("<style>").count()], [3, 1]);
    }

    #[test]
    fn one_point_and_zero_can_be_drawn() {
        assert!([5.0, 0.0].iter().all(|value| drawn(&[*value]).contains("<circle")));
    }
}
