//! Parts that several pages have, in the markup of the design. Whatever comes from outside passes [`visible`].

use maud::{Markup, Render, html};

use super::request::PageRequest;
use super::view::Problem;

/// A text of somebody else: its control characters and those that turn the direction of text are written out, like `U+202E`.
pub struct Visible<'a>(&'a str);

/// Shows a text of somebody else.
pub fn visible(text: &str) -> Visible<'_> {
    Visible(text)
}

fn is_hidden(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t')
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

impl Render for Visible<'_> {
    fn render_to(&self, out: &mut String) {
        let mut rest = self.0;
        while let Some(at) = rest.find(is_hidden) {
            let (before, after) = rest.split_at(at);
            before.render_to(out);
            let mut chars = after.chars();
            if let Some(hidden) = chars.next() {
                let name = format!("U+{:04X}", u32::from(hidden));
                html! { span.cp { (name) } }.render_to(out);
            }
            rest = chars.as_str();
        }
        rest.render_to(out);
    }
}

/// A text of somebody else in a line of ours: its direction does not change the rest of the line.
pub fn foreign(text: &str) -> Markup {
    html! { bdi { (visible(text)) } }
}

/// What a change did.
pub fn note(text: &str) -> Markup {
    html! { div.note.ok role="status" { div { (visible(text)) } } }
}

/// Why something was refused, and what to do.
pub fn problem(problem: &Problem) -> Markup {
    html! {
        div.note.bad role="alert" {
            div {
                p.strong { (visible(&problem.message)) }
                p { (visible(&problem.hint)) }
                @if !problem.fields.is_empty() {
                    ul { @for field in &problem.fields { li { code { (visible(&field.path)) } ": " (visible(&field.message)) } } }
                }
                p.small.soft {
                    code { (visible(&problem.code)) }
                    @if let Some(id) = &problem.request_id { " " code { (visible(id)) } }
                }
            }
        }
    }
}

/// An empty list: why it is empty, and the command that adds something.
pub fn empty(text: &str, command: Option<&str>) -> Markup {
    html! { div.empty { p { (text) } @if let Some(command) = command { (copied(command)) } } }
}

/// A text with a button that copies it; without the script, a text.
pub fn copied(text: &str) -> Markup {
    html! { div.copy { code { (visible(text)) } button.button.small.js-only type="button" data-copy { "Copy" } } }
}

/// A state as a word with an icon, so that colour is not all.
pub fn status(word: &str) -> Markup {
    let class = match word {
        "delivered" | "active" | "verified" | "ok" | "found" | "enabled" | "confirmed" | "succeeded" => {
            "badge ok"
        }
        "deferred" | "paused" | "warning" | "failing" | "pending" | "mismatch" | "expired_soon" => {
            "badge warn"
        }
        "bounced" | "expired" | "revoked" | "suspended" | "failed" | "error" | "missing" | "disabled"
        | "complained" => "badge bad",
        "queued" | "scheduled" | "in_flight" => "badge run",
        _ => "badge",
    };
    html! { span class=(class) { (visible(word)) } }
}

/// A link to the next page of a list.
pub fn more(href: &str) -> Markup {
    html! { a.more href=(href) rel="next" { "Older" } }
}

/// The head of a page: the way to it, its name, its actions.
pub fn head(crumb: Option<(&str, &str)>, title: &str, actions: &Markup) -> Markup {
    html! {
        header.head {
            div {
                @if let Some((href, name)) = crumb { p.crumbs { a href=(href) { (name) } } }
                h1 { (visible(title)) }
            }
            div.row { (actions) }
        }
    }
}

/// A form with the token of the session; `action` is a path of the pages.
pub fn form(request: &PageRequest, action: &str, fields: &Markup) -> Markup {
    html! { form method="post" action=(request.href(action)) { (request.token()) (fields) } }
}

/// A button that asks before it changes something: the form opens under it, also without the script. `fields` ends with a
/// button.
pub fn confirm(request: &PageRequest, action: &str, label: &str, question: &str, fields: &Markup) -> Markup {
    html! {
        details.confirm {
            summary.button.danger { (label) }
            form method="post" action=(request.href(action)) { (request.token()) p { (visible(question)) } (fields) }
        }
    }
}

/// A framed part of a page. `name` in `data-part` lets the script renew it.
pub fn panel(title: &str, name: Option<&str>, body: &Markup) -> Markup {
    html! { section.panel data-part=[name] { @if !title.is_empty() { header { h2 { (title) } } } (body) } }
}

/// A column of a table: heading, class, and what a phone shows before the value.
pub struct Column(pub &'static str, pub &'static str, pub Option<&'static str>);

/// A table that becomes cards on a phone. `rows` has a cell for each column.
pub fn table(columns: &[Column], rows: &[Vec<Markup>]) -> Markup {
    html! {
        table.cards {
            thead {
                tr {
                    @for Column(heading, class, _) in columns {
                        th scope="col" class=[class.starts_with("num").then_some("num")] {
                            @if heading.is_empty() { span.sr { "Actions" } } @else { (heading) }
                        }
                    }
                }
            }
            tbody {
                @for row in rows {
                    tr {
                        @for (Column(_, class, label), cell) in columns.iter().zip(row) {
                            td class=[(!class.is_empty()).then_some(class)] data-label=[label.filter(|_| !cell.0.is_empty())] { (cell) }
                        }
                    }
                }
            }
        }
    }
}

/// A labelled input of a form. `kind` is the type of the input.
pub fn input(label: &str, name: &str, kind: &str, value: &str, hint: Option<&str>) -> Markup {
    let (id, hint_id) = (format!("f-{name}"), format!("f-{name}-hint"));
    html! {
        div.field {
            label for=(id) { (label) }
            input id=(id) name=(name) type=(kind) value=(value) aria-describedby=[hint.map(|_| &hint_id)];
            @if let Some(hint) = hint { p.hint id=(hint_id) { (hint) } }
        }
    }
}

/// A labelled choice of a form: the value and the word of each option.
pub fn select(label: &str, name: &str, chosen: &str, options: &[(&str, &str)]) -> Markup {
    let id = format!("f-{name}");
    html! {
        div.field {
            label for=(id) { (label) }
            select id=(id) name=(name) {
                @for (value, word) in options { option value=(value) selected[*value == chosen] { (word) } }
            }
        }
    }
}

/// Text of several lines with a button that copies it.
pub fn block(text: &str) -> Markup {
    html! { div.block { pre tabindex="0" { (visible(text)) } button.button.small.js-only type="button" data-copy { "Copy" } } }
}

/// Names and values.
pub fn pairs(pairs: &[(&str, Markup)]) -> Markup {
    html! { dl.kv { @for (name, value) in pairs { dt { (name) } dd { (value) } } } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_characters_are_written_out_and_markup_is_text() {
        let shown = |text: &str| visible(text).render().into_string();
        assert_eq!(shown("a<b> & \"c\""), "a&lt;b&gt; &amp; &quot;c&quot;");
        assert_eq!(shown("exe\u{202e}gpj"), "exe<span class=\"cp\">U+202E</span>gpj");
        assert_eq!(shown("\0\r\n\t"), "<span class=\"cp\">U+0000</span><span class=\"cp\">U+000D</span>\n\t");
        assert_eq!(shown("パスワード"), "パスワード");
    }
}
