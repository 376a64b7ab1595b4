//! The language of templates: a subset of Jinja without the constructs that can make a small template expensive. Pure.
//!
//! * No construct builds a large text from a small one: there are no operators that join texts, no list literals, no
//!   captures, no macros (`grammar`).
//! * Nesting is limited (`nesting`), so the engine cannot overflow the stack.
//! * Instructions, output, and the octets that filters and tests read are limited (`filters`).
//! * Each instruction is bounded. The API limits the data; lists are not compared item by item (`data`). Slices and the
//!   operator `in` are missing, because their cost cannot be charged; the test `in` is charged like a filter.
//!
//! HTML is escaped (`format`), `null` prints nothing, and an undefined variable is an error that names it (`fault`).

mod data;
mod fault;
mod filters;
mod format;
mod grammar;
mod nesting;

use std::io;

use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value};

pub use self::data::from_object;
use self::filters::Budget;

/// Octets of one rendered part of a message.
const OUTPUT_OCTETS_MAX: usize = 1024 * 1024;
/// Instructions of one part: enough for loops over a few thousand items. The most expensive one compares two texts.
const FUEL: u64 = 100_000;
/// Nested calls.
const DEPTH_MAX: usize = 50;

/// The media type of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Data is inserted unchanged.
    Text,
    /// Data is escaped.
    Html,
}

impl Form {
    /// The name of the template, which decides how data is escaped.
    fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Html => "html",
        }
    }
}

/// Why a template cannot be used: the line and the fault, for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RenderError(String);

impl RenderError {
    fn at(line: impl std::fmt::Display, what: impl std::fmt::Display) -> Self {
        Self(format!("line {line}: {what}"))
    }
}

/// Checks a source: the language, the nesting, the syntax.
pub fn check(source: &str) -> Result<(), RenderError> {
    Engine::default().compile(source, Form::Text).map(drop)
}

/// Compiles templates. The parts of one message share a budget, which limits what their filters read.
pub struct Engine {
    environment: Environment<'static>,
    budget: Budget,
}

impl Default for Engine {
    fn default() -> Self {
        let budget = Budget::default();
        Self { environment: environment(&budget), budget }
    }
}

impl Engine {
    /// Compiles a source. Fails if [`check`] does.
    pub fn compile<'e>(&'e self, source: &'e str, form: Form) -> Result<Part<'e>, RenderError> {
        grammar::check(source)?;
        let template = self.environment.template_from_named_str(form.name(), source);
        let template = template.map_err(|error| fault::describe(&error, source))?;
        Ok(Part { template, source })
    }

    /// Restores the whole budget, for the next message.
    pub fn restore_budget(&self) {
        self.budget.restore();
    }
}

/// A compiled part of a message.
pub struct Part<'e> {
    template: minijinja::Template<'e, 'e>,
    source: &'e str,
}

impl Part<'_> {
    /// Renders with data.
    pub fn render(&self, data: &Value) -> Result<String, RenderError> {
        let mut output = Bounded(Vec::new());
        match self.template.render_captured_to(data, &mut output).map(drop) {
            Err(_) if output.is_full() => Err(RenderError(format!(
                "the rendered text has more than {OUTPUT_OCTETS_MAX} octets: shorten the template or its data"
            ))),
            Err(error) => Err(fault::describe(&error, self.source)),
            Ok(()) => Ok(String::from_utf8_lossy(&output.0).into_owned()),
        }
    }
}

fn environment(budget: &Budget) -> Environment<'static> {
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_debug(false);
    environment.set_formatter(format::print);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(DEPTH_MAX);
    environment.set_auto_escape_callback(|name| match name {
        "html" => AutoEscape::Html,
        _ => AutoEscape::None,
    });
    filters::install(&mut environment, budget);
    environment
}

/// A writer that refuses to write more than [`OUTPUT_OCTETS_MAX`].
struct Bounded(Vec<u8>);

impl Bounded {
    fn is_full(&self) -> bool {
        self.0.len() >= OUTPUT_OCTETS_MAX
    }
}

impl io::Write for Bounded {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let taken = octets.len().min(OUTPUT_OCTETS_MAX - self.0.len());
        self.0.extend_from_slice(&octets[..taken]);
        // `write_all` fails when this returns zero.
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn put(source: &str, form: Form, data: serde_json::Value) -> Result<String, String> {
        let serde_json::Value::Object(data) = data else { panic!("{data}") };
        let data = from_object(data);
        let engine = Engine::default();
        engine.compile(source, form).and_then(|part| part.render(&data)).map_err(|error| error.to_string())
    }

    #[test]
    fn each_message_has_the_whole_budget() {
        let engine = Engine::default();
        let part = engine.compile("{% for n in list %}{{ text|length }}{% endfor %}", Form::Text).unwrap();
        // A message reads a bit more than half of the budget.
        let data = json!({"text": "x".repeat(22 * 1024), "list": vec![0; 100]});
        let serde_json::Value::Object(data) = data else { unreachable!() };
        let data = from_object(data);
        for _ in 0..3 {
            part.render(&data).unwrap();
            assert!(part.render(&data).unwrap_err().to_string().contains("read more than"));
            engine.restore_budget();
        }
    }

    #[test]
    fn data_is_inserted_unchanged_in_text_and_escaped_in_html() {
        let (source, data) = ("Dear {{ name }},", json!({"name": "<A & B>"}));
        assert_eq!(put(source, Form::Text, data.clone()).unwrap(), "Dear <A & B>,");
        assert_eq!(put(source, Form::Html, data.clone()).unwrap(), "Dear &lt;A &amp; B&gt;,");
        assert_eq!(put("{{ name|safe }}", Form::Html, data).unwrap(), "<A & B>");
    }

    #[test]
    fn the_language_has_conditions_loops_filters_tests_and_with() {
        let data = json!({
            "user": {"name": "ann"}, "paid": true, "tags": ["a", "b"],
            "items": [{"name": "Tea", "price": 2.5}, {"name": "Milk", "price": 1}],
        });
        let source = "{% if paid and user.name %}Thanks {{ user['name']|title }}{% else %}Hm{% endif %}:\n\
            {% for item in items %}{{ loop.index }}. {{ item.name }} {{ item.price|round(2) }}\n{% endfor %}\
            {{ tags|join(', ') }} {{ nickname|default('none') }} {% with first = items[0] %}{{ first.name|upper }}{% endwith %}\
            {% if (1 < 2) and 3 is not in items and 'a' is in tags %}!{% endif %}";
        assert_eq!(
            put(source, Form::Text, data).unwrap(),
            "Thanks Ann:\n1. Tea 2.5\n2. Milk 1\na, b none TEA!"
        );
    }

    #[test]
    fn an_undefined_variable_and_an_unclosed_block_are_errors_with_their_line() {
        let error = put("Dear\n{{ nmae }}", Form::Text, json!({"name": "x"})).unwrap_err();
        assert!(error.starts_with("line 2: "), "{error}");
        assert!(check("{% if x %}").unwrap_err().to_string().starts_with("line 1: "));
        assert!(check("{{ x").is_err());
    }

    #[test]
    fn an_error_names_the_variable_as_the_template_writes_it() {
        let data = json!({"user": {"name": "x", "gone": null}, "items": [{"n": 1}], "name": "x"});
        let undefined = |name: &str| {
            format!("line 1: `{name}` is undefined: add it to the data, or write `{name}|default('')`")
        };
        for (source, name) in [
            ("{{ nmae }}", "nmae"),
            ("Größe: {{ user.nmae }}", "user.nmae"),
            ("{{ user.nmae.x }}", "user.nmae.x"),
            ("{{ user['nmae'] }}", "user['nmae']"),
            ("{{ user.gone.x }}", "user.gone.x"),
            ("{% for item in items %}{{ item.nmae }}{% endfor %}", "item.nmae"),
            ("{% for item in itms %}{% endfor %}", "itms"),
            ("{% if nmae %}{% endif %}", "nmae"),
            ("{{ nmae|upper }}", "nmae"),
            ("é{{ user.nmae | trim }}", "user.nmae"),
            ("{{ items[7].x }}", "items[7].x"),
        ] {
            for form in [Form::Text, Form::Html] {
                assert_eq!(put(source, form, data.clone()).unwrap_err(), undefined(name), "{source}");
            }
        }
        for (source, part) in [
            ("{% if nmae == 3 %}{% endif %}", "a variable in `if nmae == 3` is undefined"),
            ("{{ nmae|length }}", "in `nmae`"),
            ("{{ user.name|round }}", "in `user.name`"),
        ] {
            let error = put(source, Form::Text, data.clone()).unwrap_err();
            assert!(error.contains(part), "{source}: {error}");
        }
    }

    #[test]
    fn a_slash_is_not_escaped_and_null_prints_nothing() {
        let data =
            json!({"url": "https://a.example/x?a=1&b='\"<>", "none": null, "list": ["a/b", null, "<"]});
        let escaped = "https://a.example/x?a=1&amp;b=&#x27;&quot;&lt;&gt;";
        for source in ["{{ url }}", "{{ url|e }}", "{{ url|escape|e }}"] {
            assert_eq!(put(source, Form::Html, data.clone()).unwrap(), escaped, "{source}");
        }
        for form in [Form::Text, Form::Html] {
            let source = "[{{ none }}{{ none|upper }}{{ none|e }}{{ none|title }}{{ none|trim }}{{ none|safe }}\
                {{ none|lower }}{{ none|capitalize }}{{ none|urlencode }}]{{ none is none }} {{ none|default('x') }}";
            assert_eq!(put(source, form, data.clone()).unwrap().to_lowercase(), "[]true ", "{form:?}");
        }
        assert_eq!(put("{{ list|join(', ') }}", Form::Text, data.clone()).unwrap(), "a/b, , <");
        assert_eq!(put("{{ list|join(', ') }}", Form::Html, data).unwrap(), "a/b, , &lt;");
    }

    #[test]
    fn constructs_that_multiply_texts_are_refused() {
        for source in [
            "{{ 'a' * 100000000 }}",
            "{{ 'a' ~ 'b' }}",
            "{{ 'a' + 'b' }}",
            "{{ '%1000000000d' % 1 }}",
            "{{ 'a'|indent(1000000000) }}",
            "{{ 'a'|replace('a', 'b') }}",
            "{{ '{:1000000000}'|format(1) }}",
            "{% set x %}{{ y }}{{ y }}{% endset %}",
            "{% set x = y %}",
            "{% macro m() %}{% endmacro %}",
            "{% filter upper %}{% endfilter %}",
            "{% for a in [x, x] %}{% endfor %}",
            "{% for a in (x, x) %}{% endfor %}",
            "{{ [x, x] }}",
            "{{ ((x, x)) }}",
            "{{ {'a': x} }}",
            "{{ x if [x] else y }}",
            "{{ [[x], [x]]|sum }}",
            "{% include 'x' %}",
            "{{ x[1:] }}",
            "{{ 'a' in x }}",
            "{{ 'a' not in x }}",
            "{% for a in x if a in y %}{% endfor %}",
            "{{ () }}",
        ] {
            assert!(check(source).is_err(), "{source}");
        }
        for function in ["namespace(a=1)", "dict(a=1)", "range(9)", "debug()"] {
            assert!(put(&format!("{{{{ {function} }}}}"), Form::Text, json!({})).is_err(), "{function}");
        }
    }

    #[test]
    fn reference_cycles_nested_named_arguments_and_calls_without_arguments_are_refused() {
        for source in [
            "{% for a in x %}{{ loop }}{% endfor %}",
            "{% for a in x %}{{ loop.changed(loop) }}{% endfor %}",
            "{% for a in x %}{% with l = loop %}{{ l.changed(l) }}{% endwith %}{% endfor %}",
            "{% for a in x %}{{ loop.cycle() }}{% endfor %}",
            "{% for a in x %}{{ (loop.cycle)() }}{% endfor %}",
            "{% for a in x %}{{ loop.cycle(a=a) }}{% endfor %}",
            "{% with a = y|default(k=y) %}{{ a }}{% endwith %}",
            "{% with a = y|d(k=y) %}{{ a }}{% endwith %}",
        ] {
            assert!(check(source).is_err(), "{source}");
        }
        let data = json!({"x": [[1], [2]], "loop": {"loop": 3}, "m": {"loop": 4}});
        let source = "{% for a in x recursive %}{% if a is sequence %}{{ loop(a) }}{% else %}\
            {{ loop.cycle('a', 'b') }}{{ loop.changed(a) }}{% endif %}{% endfor %} {{ m.loop }}{{ loop.loop }}\
            {{ x is defined() }}{{ y|default() }}{{ x|length() }}{{ x|sort(reverse=true)|length }}";
        assert_eq!(put(source, Form::Text, data).unwrap().to_lowercase(), "atrueatrue 43true22");
    }

    #[test]
    fn the_limits_of_nesting_are_reported_with_the_line() {
        let tag = |times| format!("Dear\n{{{{ {}x }}}}", "-".repeat(times));
        assert_eq!(check(&tag(399)), Ok(()));
        let error = check(&tag(400)).unwrap_err().to_string();
        assert!(error.starts_with("line 2: a tag has at most 400 names"), "{error}");
        let blocks = |times| format!("{{% if x %}}\n{}\n{{% endif %}}", "{% elif x %}".repeat(times));
        assert_eq!(check(&blocks(99)), Ok(()));
        let error = check(&blocks(100)).unwrap_err().to_string();
        assert!(error.starts_with("line 2: blocks nest at most 100 deep"), "{error}");
        let beside = "{% if x %}{% elif y %}{% endif %}{% for a in x %}{% endfor %}".repeat(2000);
        assert_eq!(check(&beside), Ok(()));
    }

    #[test]
    fn output_instructions_and_texts_of_filters_have_limits() {
        let long = put(
            "{% for a in x %}{% for b in x %}{{ y }}{% endfor %}{% endfor %}",
            Form::Text,
            json!({"x": vec![1; 100], "y": "z".repeat(1000)}),
        );
        assert!(long.unwrap_err().contains("more than 1048576 octets"));
        let many = put(
            "{% for a in x %}{% for b in x %}{{ y }}{% endfor %}{% endfor %}",
            Form::Text,
            json!({"x": vec![1; 1000], "y": ""}),
        );
        assert!(many.unwrap_err().contains("more than 100000 instructions"));
        let joined = put("{{ x|join(y) }}", Form::Text, json!({"x": vec![1; 10_000], "y": "z".repeat(60)}));
        assert!(joined.unwrap_err().contains("262144 octets"));
        let escaped = put("{{ x|e|title|e }}", Form::Text, json!({"x": "&".repeat(50_000)}));
        assert!(escaped.unwrap_err().contains("262144 octets"));
    }

    /// Without the budget, each of these would read gigabytes within its instructions.
    #[test]
    fn repeated_reading_is_charged_to_the_budget() {
        let data = json!({
            "l": vec![1; 25_000], "s": "x".repeat(100_000), "rows": vec![json!({"a": 1}); 1000],
            "few": vec![1; 1000], "m": {"k": "x".repeat(100_000)},
        });
        for expression in [
            "s|upper|length == 0",
            "s|length == 0",
            "s|trim('y') == ''",
            "'y' is in s",
            "s is endingwith 'y'",
            "2 is in l",
            "l|sort|length == 0",
            "l|unique|length == 0",
            "rows|sort(attribute='a')|length == 0",
            "l|max == 2",
            "l|reverse|length == 0",
            "pair|join == ''",
        ] {
            let source = format!(
                "{{% for pair in m|items %}}{{% for a in l %}}{{% if {expression} %}}x{{% endif %}}{{% endfor %}}\
                 {{% endfor %}}"
            );
            let error = put(&source, Form::Text, data.clone()).unwrap_err();
            assert!(error.contains("read more than 4194304 octets"), "{expression}: {error}");
        }
        let once = put(
            "{{ s|upper|length }} {{ l|sort|length }} {{ rows|sort(attribute='a')|length }}",
            Form::Text,
            data.clone(),
        );
        assert_eq!(once.unwrap(), "100000 25000 1000");
        for expression in ["s|trim(s)", "rows|sort(attribute='a,a')", "rows|sort(attribute=s)"] {
            let error = put(&format!("{{{{ {expression} }}}}"), Form::Text, data.clone()).unwrap_err();
            assert!(error.contains("a filter"), "{expression}: {error}");
        }
        let short = "{% for a in few %}{{ a|round|string }}{% endfor %}".replace("|string", "");
        assert!(put(&short, Form::Text, data).is_ok());
    }

    #[test]
    fn lists_and_maps_equal_only_themselves() {
        let data = json!({"a": [1, 2], "b": [1, 2], "m": {"x": 1}, "n": {"x": 1}});
        for (expression, expected) in [
            ("a == a", "true"),
            ("a == b", "false"),
            ("a|sort == a|sort", "false"),
            ("a|reverse == a", "false"),
            ("m == n", "false"),
            ("a[1] == b[1]", "true"),
            ("a[-1] == m.x", "false"),
        ] {
            let shown = put(&format!("{{{{ {expression} }}}}"), Form::Text, data.clone()).unwrap();
            assert_eq!(shown.to_lowercase(), expected, "{expression}");
        }
    }
}
