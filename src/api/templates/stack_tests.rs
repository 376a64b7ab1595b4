//! Repeats every construct of the grammar any number of times, on half of the stack that production uses. A stack
//! overflow aborts the process, so these tests fail by an abort.

use serde_json::json;

use super::super::language::{Engine, Form, check, from_object};
use super::*;

/// Half of the stack: the deepest accepted template must fit into it.
const PART_OCTETS: usize = STACK_OCTETS / 2;
const SUBJECT_OCTETS_MAX: usize = 2_000;
const BODY_OCTETS_MAX: usize = 256 * 1024;

/// The parts of a source, in order. The second and the fourth are repeated.
type Repetition = (&'static str, &'static str, &'static str, &'static str, &'static str);

/// Repetitions inside one tag.
const IN_A_TAG: &[Repetition] = &[
    ("{{ ", "-", "x", "", " }}"),
    ("{{ ", "- ", "1", "", " }}"),
    ("{{ ", "not ", "x", "", " }}"),
    ("{{ ", "not -", "x", "", " }}"),
    ("{{ x", " - 1", "", "", " }}"),
    ("{{ 1", " - 1", "", "", " }}"),
    ("{{ x", " - x", "", "", " }}"),
    ("{{ x", " / 2", "", "", " }}"),
    ("{{ x", " // 2", "", "", " }}"),
    ("{{ x", " + 2", "", "", " }}"),
    ("{{ x", " * 2", "", "", " }}"),
    ("{{ x", " % 2", "", "", " }}"),
    ("{{ 2", " ** 2", "", "", " }}"),
    ("{{ x", " ~ x", "", "", " }}"),
    ("{{ x", " and x", "", "", " }}"),
    ("{{ x", " or x", "", "", " }}"),
    ("{{ x", " and not x", "", "", " }}"),
    ("{{ x", " == x", "", "", " }}"),
    ("{{ 1", " == 1", "", "", " }}"),
    ("{{ x", " < x", "", "", " }}"),
    ("{{ 1", " < 2", "", "", " }}"),
    ("{{ x", " != 'a' >= x", "", "", " }}"),
    ("{{ x", " in x", "", "", " }}"),
    ("{{ x", " not in x", "", "", " }}"),
    ("{{ x", " is defined", "", "", " }}"),
    ("{{ x", " is not defined", "", "", " }}"),
    ("{{ x", " is in x", "", "", " }}"),
    ("{{ x", " is divisibleby 2", "", "", " }}"),
    ("{{ x", " is divisibleby(2)", "", "", " }}"),
    ("{{ x", " is divisibleby -", "", "2", " }}"),
    ("{{ x", " is divisibleby(x", "", ")", " }}"),
    ("{{ x is divisibleby ", "-", "x", "", " }}"),
    ("{{ s", "|upper", "", "", " }}"),
    ("{{ s", "|upper()", "", "", " }}"),
    ("{{ y", "|default(x)", "", "", " }}"),
    ("{{ y", "|default(y", "", ")", " }}"),
    ("{{ y", "|default(a=y", "", ")", " }}"),
    ("{{ l|sort(attribute=", "l|sort(attribute=", "'a'", ")", ") }}"),
    ("{{ l", "|reverse", "", "", " }}"),
    ("{{ m", "|items", "", "", " }}"),
    ("{{ x", ".a", "", "", " }}"),
    ("{{ x", ".0", "", "", " }}"),
    ("{{ x", "[0]", "", "", " }}"),
    ("{{ ", "x[", "0", "]", " }}"),
    ("{{ ", "x[-", "0", "]", " }}"),
    ("{{ x", "[1:]", "", "", " }}"),
    ("{{ ", "x[1:", "", "]", " }}"),
    ("{{ x", "(0)", "", "", " }}"),
    ("{{ ", "x(", "0", ")", " }}"),
    ("{{ ", "x.a(", "0", ")", " }}"),
    ("{{ x", ".a(0)", "", "", " }}"),
    ("{{ ", "x(a=", "0", ")", " }}"),
    ("{{ ", "x(*", "l", ")", " }}"),
    ("{{ ", "x(**", "m", ")", " }}"),
    ("{{ x(0", ", 0", "", "", ") }}"),
    ("{{ ", "(", "x", ")", " }}"),
    ("{{ ", "(-", "x", ")", " }}"),
    ("{{ ", "(x, ", "x", ")", " }}"),
    ("{{ ", "(1 - ", "x", ")", " }}"),
    ("{{ ", "x - (", "x", ")", " }}"),
    ("{{ ", "[", "x", "]", " }}"),
    ("{{ x[", "[", "x", "]", "] }}"),
    ("{{ ", "{'a': ", "x", "}", " }}"),
    ("{{ (x", ", x", "", "", ") }}"),
    ("{{ ", "x if x else ", "x", "", " }}"),
    ("{{ x", " if x", "", "", " }}"),
    ("{{ x", " if x else x", "", "", " }}"),
    ("{{ ", "(x if ", "x", " else x)", " }}"),
    ("{{ ", "(", "x", " if x else x)", " }}"),
    ("{{ 'a'", " 'a'", "", "", " }}"),
    ("{{ 'a'", " '\\n'", "", "", " }}"),
    ("{% if ", "not ", "x", "", " %}{% endif %}"),
    ("{% if x %}{% elif ", "-", "x", "", " %}{% endif %}"),
    ("{% for a in ", "-", "x", "", " %}{% endfor %}"),
    ("{% for a in l if ", "not ", "x", "", " %}{% endfor %}"),
    ("{% for ", "(", "a", ")", " in l %}{% endfor %}"),
    ("{% for ", "(a, ", "a", ")", " in l %}{% endfor %}"),
    ("{% for a", ", a", "", "", " in l %}{% endfor %}"),
    ("{% with ", "(", "a", ")", " = x %}{% endwith %}"),
    ("{% with (", "(", "a", ")", ") = x %}{% endwith %}"),
    ("{% with a = x", ", a = a", "", "", " %}{{ a }}{% endwith %}"),
    ("{% with a = x", ", a = y|default(k=a)", "", "", " %}{{ a }}{% endwith %}"),
    ("{% with a = ", "-", "x", "", " %}{% endwith %}"),
    ("{% set a = x", ", x", "", "", " %}"),
    ("{% set a", ".a", "", "", " = x %}"),
    ("{% set ", "(", "a", ")", " = x %}"),
    ("{% do ", "x(", "", ")", " %}"),
    ("{% ", "-", "", "", " %}"),
    ("{% filter upper", "|upper", "", "", " %}{% endfilter %}"),
    ("{% autoescape ", "not ", "x", "", " %}{% endautoescape %}"),
    ("{{ ", "((", "", "", " }}"),
    ("{{ ", "))", "", "", " }}"),
    ("{{ x", "[", "", "", " }}"),
    ("{{ ", "}", "", "", " }}"),
    ("{{ ", "{{ ", "x", " }}", " }}"),
];

/// Repetitions of tags.
const OF_TAGS: &[Repetition] = &[
    ("", "{{ x }}", "", "", ""),
    ("", "{# x #}", "", "", ""),
    ("", "{{", "", "", ""),
    ("", "{%", "", "", ""),
    ("", "{#", "", "", ""),
    ("", "{% raw %}", "", "{% endraw %}", ""),
    ("", "{% if x %}", "", "{% endif %}", ""),
    ("", "{% if x %}", "", "", ""),
    ("", "{% if x %}{% else %}", "", "{% endif %}", ""),
    ("", "{% if x %}{% endif %}", "", "", ""),
    ("{% if x %}", "{% elif x %}", "", "", "{% endif %}"),
    ("{% if x %}", "{% elif not x %}", "", "", "{% else %}{% endif %}"),
    ("", "{% if x %}{% elif x %}", "", "{% endif %}", ""),
    ("", "{% if x %}{% else %}{% if x %}{% endif %}", "", "{% endif %}", ""),
    ("{% if x %}", "{% else %}", "", "", "{% endif %}"),
    ("{% for a in l %}", "{% elif x %}", "", "", "{% endfor %}"),
    ("", "{% for a in l %}", "", "{% endfor %}", ""),
    ("", "{% for a in l %}{% else %}", "", "{% endfor %}", ""),
    ("", "{% for a in l recursive %}", "{{ loop(l) }}", "{% endfor %}", ""),
    ("{% for a in l recursive %}", "{{ loop(l) }}", "", "", "{% endfor %}"),
    ("{% for a in l recursive %}", "{{ loop(loop(l)) }}", "", "", "{% endfor %}"),
    ("", "{% for a in l if x %}", "", "{% endfor %}", ""),
    ("", "{% with a = x %}", "", "{% endwith %}", ""),
    ("", "{% with %}", "", "{% endwith %}", ""),
    ("", "{% with x = y|default(k=x) %}", "{{ x }}", "{% endwith %}", ""),
    ("", "{% if x %}{% for a in l %}{% with b = a %}", "", "{% endwith %}{% endfor %}{% endif %}", ""),
    ("", "{% if x %}", "", "{% endfor %}", ""),
    ("", "{% endif %}", "", "", ""),
    ("", "{% if x %}{% endfor %}", "", "", ""),
    ("", "{% set a %}", "", "{% endset %}", ""),
    ("", "{% filter upper %}", "", "{% endfilter %}", ""),
    ("", "{% autoescape x %}", "", "{% endautoescape %}", ""),
    ("", "{% macro a() %}", "", "{% endmacro %}", ""),
    ("", "{% call x() %}", "", "{% endcall %}", ""),
    ("", "{% block a %}", "", "{% endblock %}", ""),
    ("", "\n", "{{ ", "", ""),
    ("", " ", "{{ ? }}", "", ""),
];

fn write(repetition: Repetition, times: usize) -> String {
    let (front, before, middle, behind, back) = repetition;
    [front, &before.repeat(times), middle, &behind.repeat(times), back].concat()
}

/// Checks a source and renders it, as creation and sending do. Returns whether `check` accepts it.
fn is_accepted_on_half_the_stack(source: &str) -> bool {
    let result = run_on(PART_OCTETS, || {
        let serde_json::Value::Object(data) = json!({
            "x": 1, "s": "a", "one": [1], "l": [1, [2, {"a": [3]}]], "m": {"a": {"a": 1}, "b": []},
        }) else {
            unreachable!()
        };
        let (data, engine) = (from_object(data), Engine::default());
        let is_accepted = check(source).is_ok();
        for form in [Form::Text, Form::Html] {
            let rendered = engine.compile(source, form).and_then(|part| part.render(&data));
            assert!(is_accepted || rendered.is_err());
        }
        is_accepted
    });
    result.unwrap_or_else(|error| panic!("{error}: {}", source.chars().take(200).collect::<String>()))
}

/// Repetition counts: near the limits, and powers of two up to the longest source.
fn times(repetition: Repetition) -> impl Iterator<Item = usize> {
    let (_, before, _, behind, _) = repetition;
    let most = |octets: usize| octets / (before.len() + behind.len());
    let around =
        [10, 33, 49, 50, 51, 66, 75, 80, 99, 100, 101, 133, 149, 150, 199, 200, 201, 398, 399, 400, 401];
    let doubled = (0..).map(|power| 1 << power).take_while(move |times| *times < most(BODY_OCTETS_MAX));
    doubled.chain(around).chain([most(SUBJECT_OCTETS_MAX), most(BODY_OCTETS_MAX)])
}

#[test]
fn no_repetition_overflows_the_stack() {
    for repetition in IN_A_TAG.iter().chain(OF_TAGS) {
        for times in times(*repetition) {
            is_accepted_on_half_the_stack(&write(*repetition, times));
        }
    }
}

/// Puts the deepest tag into the deepest blocks.
#[test]
fn the_deepest_accepted_template_fits_on_the_stack() {
    for (open, end, depth) in [
        ("{% if x %}", "{% endif %}", 99),
        ("{% if x %}{% elif x %}", "{% endif %}", 49),
        ("{% if x %}{% else %}", "{% endif %}", 99),
        ("{% with %}", "{% endwith %}", 48),
        ("{% for a in one %}", "{% endfor %}", 48),
    ] {
        let (mut accepted, mut refused) = (0, 0);
        for repetition in IN_A_TAG {
            let source =
                |times| [&open.repeat(depth), &*write(*repetition, times), &end.repeat(depth)].concat();
            let all: Vec<usize> = (1..=410).collect();
            let deepest = all.partition_point(|times| is_accepted_on_half_the_stack(&source(*times)));
            accepted += usize::from(deepest > 0);
            refused += usize::from(deepest < all.len());
        }
        assert!(accepted > 40 && refused == IN_A_TAG.len(), "{open}: {accepted} {refused}");
    }
}
