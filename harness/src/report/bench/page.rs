//! A page as parts, written as one HTML file that needs nothing else, and as Markdown with the same text and tables.

use super::figure::Figure;
use crate::bench::table::Table;

/// What a page is made of, from top to bottom.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// A section of the page.
    Section(String),
    /// A heading inside one.
    Heading(String),
    /// A paragraph.
    Text(String),
    /// A command.
    Command(String),
    /// A list.
    List(Vec<String>),
    /// A table.
    Table(Table),
    /// Charts side by side.
    Figures(Vec<Figure>),
}

/// A page.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Page {
    /// Its title.
    pub title: String,
    /// Its parts.
    pub parts: Vec<Part>,
}

const STYLE: &str = include_str!("style.css");

impl Page {
    /// The whole file: no script, nothing from elsewhere, light or dark as the reader's system is.
    pub fn html(&self) -> String {
        let title = escaped(&self.title);
        let body: String = self.parts.iter().map(html).collect();
        let sections = self.parts.iter().filter_map(|part| if let Part::Section(text) = part { Some(text) } else { None });
        let links: String = sections.map(|text| format!("<li><a href=\"#{}\">{}</a></li>\n", anchor(text), escaped(text))).collect();
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n<link rel=\"icon\" href=\"data:,\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n<nav><ul>\n{links}</ul></nav>\n{body}</main>\n</body>\n</html>\n"
        )
    }

    /// The same as Markdown; charts are in `index.html`.
    pub fn markdown(&self) -> String {
        let parts: Vec<String> = self.parts.iter().filter_map(markdown).collect();
        format!("# {}\n\nWith charts: [index.html](index.html).\n\n{}\n", self.title, parts.join("\n\n"))
    }
}

/// Text as HTML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The place of a section: its letters and digits.
fn anchor(text: &str) -> String {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-").to_lowercase()
}

/// Whether a cell reads as a number and stands at the right: short, and from a digit or a sign on.
fn is_number(cell: &str) -> bool {
    cell.len() < 22 && !cell.contains(',') && cell.trim_start_matches(['-', '+']).starts_with(|first: char| first.is_ascii_digit())
}

fn html(part: &Part) -> String {
    match part {
        Part::Section(text) => format!("<h2 id=\"{}\">{}</h2>\n", anchor(text), escaped(text)),
        Part::Heading(text) => format!("<h3>{}</h3>\n", escaped(text)),
        Part::Text(text) => format!("<p>{}</p>\n", escaped(text)),
        Part::Command(text) => format!("<pre>{}</pre>\n", escaped(text)),
        Part::List(items) => {
            let items: String = items.iter().map(|item| format!("<li>{}</li>\n", escaped(item))).collect();
            format!("<ul>\n{items}</ul>\n")
        }
        Part::Table(table) => html_table(table),
        Part::Figures(figures) => {
            let figures: String = figures.iter().map(html_figure).collect();
            format!("<div class=\"figures\">\n{figures}</div>\n")
        }
    }
}

/// A table whose cells name their column, so that a narrow screen can show a row as a list.
fn html_table(table: &Table) -> String {
    let [heading, rows @ ..] = table.rows() else { return String::new() };
    let heads: String = heading.iter().map(|cell| format!("<th>{}</th>", escaped(cell))).collect();
    let row = |cells: &Vec<String>| {
        let cell = |(column, (cell, name)): (usize, (&String, &String))| {
            let class = match cell.as_str() {
                "-" | "" => " class=\"none\"",
                cell if column > 0 && is_number(cell) => " class=\"number\"",
                _ => "",
            };
            format!("<td data-label=\"{}\"{class}>{}</td>", escaped(name), escaped(cell))
        };
        format!("<tr>{}</tr>\n", cells.iter().zip(heading).enumerate().map(cell).collect::<String>())
    };
    let body: String = rows.iter().map(row).collect();
    format!("<div class=\"table\"><table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n")
}

fn html_figure(figure: &Figure) -> String {
    let key =
        |key: &super::figure::Key| format!("<li><span style=\"color:{}\">{}</span> {}</li>", key.colour, key.sign, escaped(&key.name));
    let legend: String = figure.legend.iter().map(key).collect();
    let legend = if legend.is_empty() { String::new() } else { format!("<ul class=\"legend\">{legend}</ul>\n") };
    let (title, note) = (escaped(&figure.title), escaped(&figure.note));
    format!("<figure>\n<h4>{title}</h4>\n{legend}{}\n<figcaption>{note}</figcaption>\n</figure>\n", figure.picture.trim_end())
}

/// A part as Markdown; none of a chart.
fn markdown(part: &Part) -> Option<String> {
    Some(match part {
        Part::Section(text) => format!("## {text}"),
        Part::Heading(text) => format!("### {text}"),
        Part::Text(text) => text.clone(),
        Part::Command(text) => format!("```sh\n{text}\n```"),
        Part::List(items) => items.iter().map(|item| format!("- {item}")).collect::<Vec<_>>().join("\n"),
        Part::Table(table) => table.markdown().trim_end().to_owned(),
        Part::Figures(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_record_says_is_text_in_a_page_and_not_markup() {
        let mut table = Table::new(&["case", "median"]);
        table.row(["<b>\"a\" & b</b>".to_owned(), "1.50 s".to_owned()]);
        table.row(["1.3B".to_owned(), "-".to_owned()]);
        let parts = vec![Part::Section("A, b".to_owned()), Part::Table(table), Part::List(vec!["<script>".to_owned()])];
        let page = Page { title: "a < b".to_owned(), parts };
        let html = page.html();
        assert!(
            html.contains("&lt;b&gt;&quot;a&quot; &amp; b&lt;/b&gt;") && !html.contains("<script") && html.contains("<h1>a &lt; b</h1>"),
            "{html}"
        );
        assert!(
            html.contains("<td data-label=\"median\" class=\"number\">1.50 s</td>") && html.contains("class=\"none\">-</td>"),
            "{html}"
        );
        // a name may begin with a digit; a section has its place in the list at the top
        assert!(html.contains("<td data-label=\"case\">1.3B</td>"), "{html}");
        assert!(html.contains("<a href=\"#a-b\">A, b</a>") && html.contains("<h2 id=\"a-b\">A, b</h2>"), "{html}");
        assert!(page.markdown().contains("| 1.3B | - |"));
    }
}
