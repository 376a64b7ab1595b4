//! Text of somebody else.

use maud::{Markup, Render, html};

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

/// The same as plain text, for attributes and titles, which cannot have elements.
pub fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match is_hidden(c) {
            true => plain.push_str(&format!("U+{:04X}", u32::from(c))),
            false => plain.push(c),
        }
    }
    plain
}

/// A text of somebody else in a line of ours: its direction does not change the rest of the line.
pub fn foreign(text: &str) -> Markup {
    html! { bdi { (visible(text)) } }
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
        assert_eq!(plain("a\u{202e}\"<"), "aU+202E\"<");
    }
}
