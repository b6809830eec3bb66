//! The parts of a page that the toml of an exercise provides.

use workbook::{Exercise, Week};

/// Returns the block below the title of an exercise's page: the question, the
/// minutes and the path, and the commands.
pub(crate) fn question(exercise: &Exercise) -> String {
    let Exercise { name, spec, .. } = exercise;
    format!(
        "<div class=\"exercise\">\n\
         <p>{}</p>\n\
         <p lang=\"zh\">{}</p>\n\
         <p>{} minutes, on the path <em>{}</em>. \
         Start the exercise: <code>cargo wb start {name}</code>. \
         Run the example: <code>cargo wb demo {}</code></p>\n\
         </div>",
        html(&spec.question.en),
        html(&spec.question.zh),
        spec.minutes,
        route(exercise),
        spec.example,
    )
}

/// Returns a table of the exercises of a week, for the first page of the week.
pub(crate) fn table(week: &Week) -> String {
    let mut table = "| Exercise | Minutes | Path |\n|---|--:|---|".to_owned();
    for exercise in &week.exercises {
        let Exercise { name, spec, .. } = exercise;
        let (title, minutes) = (&spec.title, spec.minutes);
        let route = route(exercise);
        table += &format!("\n| [{title}]({name}.md) | {minutes} | {route} |");
    }
    table
}

/// Returns the path of an exercise, and whether the exercise is starred.
fn route(exercise: &Exercise) -> String {
    let star = if exercise.spec.starred { ", starred" } else { "" };
    format!("{}{star}", exercise.spec.path)
}

/// Converts one paragraph of markdown to HTML, without the `<p>` around it.
pub(crate) fn html(markdown: &str) -> String {
    let mut html = String::new();
    let parser = pulldown_cmark::Parser::new(markdown);
    pulldown_cmark::html::push_html(&mut html, parser);
    let html = html.trim();
    let inner = html.strip_prefix("<p>").and_then(|p| p.strip_suffix("</p>"));
    inner.unwrap_or(html).to_owned()
}
