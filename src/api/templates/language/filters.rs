//! The filters and tests of templates. The engine counts each call as one instruction, however much the call reads. So
//! each call here is charged to a [`Budget`] for what it reads, and the length of its result is limited. Pure.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use minijinja::value::{Rest, StringInput};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters, tests};

use super::data::{Fields, List};
use super::format;

/// Octets that the filters and tests of one message may read in total.
const READ_OCTETS_MAX: u64 = 4 * 1024 * 1024;
/// Octets charged for each value, in addition to its text.
const VALUE_OCTETS: u64 = 16;
/// Octets of a text that a filter returns.
const TEXT_OCTETS_MAX: usize = 256 * 1024;
/// Octets of a text option. Some filters scan the option for every character of their input.
const OPTION_OCTETS_MAX: usize = 64;

/// How much of its arguments a filter or test reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reads {
    /// Nothing: its cost is constant.
    Nothing,
    /// A text, or the length of a list or map.
    Top,
    /// All of it, with all nested values.
    Whole,
}

static FILTERS: LazyLock<Vec<(&str, Reads, Value)>> = LazyLock::new(|| {
    use Value as V;
    vec![
        ("abs", Reads::Top, V::from_function(filters::abs)),
        ("capitalize", Reads::Whole, V::from_function(filters::capitalize)),
        ("count", Reads::Top, V::from_function(filters::length)),
        ("d", Reads::Nothing, V::from_function(filters::default)),
        ("default", Reads::Nothing, V::from_function(filters::default)),
        ("dictsort", Reads::Whole, V::from_function(filters::dictsort)),
        ("e", Reads::Whole, V::from_function(format::escape)),
        ("escape", Reads::Whole, V::from_function(format::escape)),
        ("first", Reads::Top, V::from_function(filters::first)),
        ("float", Reads::Top, V::from_function(filters::float)),
        ("int", Reads::Top, V::from_function(filters::int)),
        ("items", Reads::Whole, V::from_function(filters::items)),
        ("join", Reads::Whole, V::from_function(join)),
        ("last", Reads::Top, V::from_function(filters::last)),
        ("length", Reads::Top, V::from_function(filters::length)),
        ("lower", Reads::Whole, V::from_function(filters::lower)),
        ("max", Reads::Whole, V::from_function(filters::max)),
        ("min", Reads::Whole, V::from_function(filters::min)),
        ("reverse", Reads::Whole, V::from_function(filters::reverse)),
        ("round", Reads::Top, V::from_function(filters::round)),
        ("safe", Reads::Whole, V::from_function(filters::safe)),
        ("sort", Reads::Whole, V::from_function(filters::sort)),
        ("title", Reads::Whole, V::from_function(filters::title)),
        ("trim", Reads::Whole, V::from_function(filters::trim)),
        ("unique", Reads::Whole, V::from_function(filters::unique)),
        ("upper", Reads::Whole, V::from_function(filters::upper)),
        ("urlencode", Reads::Whole, V::from_function(filters::urlencode)),
    ]
});

/// Filters of a text, for which `null` is an empty one.
const TEXT_FILTERS: &[&str] =
    &["capitalize", "e", "escape", "lower", "safe", "title", "trim", "upper", "urlencode"];

/// The tests of the engine, without those that this language does not need.
static TESTS: LazyLock<Vec<(&str, Reads, Value)>> = LazyLock::new(|| {
    use Value as V;
    vec![
        ("boolean", Reads::Nothing, V::from_function(tests::is_boolean)),
        ("defined", Reads::Nothing, V::from_function(tests::is_defined)),
        ("divisibleby", Reads::Nothing, V::from_function(tests::is_divisibleby)),
        ("endingwith", Reads::Whole, V::from_function(tests::is_endingwith)),
        ("even", Reads::Nothing, V::from_function(tests::is_even)),
        ("false", Reads::Nothing, V::from_function(tests::is_false)),
        ("float", Reads::Nothing, V::from_function(tests::is_float)),
        ("in", Reads::Whole, V::from_function(tests::is_in)),
        ("integer", Reads::Nothing, V::from_function(tests::is_integer)),
        ("mapping", Reads::Nothing, V::from_function(tests::is_mapping)),
        ("none", Reads::Nothing, V::from_function(tests::is_none)),
        ("number", Reads::Nothing, V::from_function(tests::is_number)),
        ("odd", Reads::Nothing, V::from_function(tests::is_odd)),
        ("sequence", Reads::Nothing, V::from_function(tests::is_sequence)),
        ("startingwith", Reads::Whole, V::from_function(tests::is_startingwith)),
        ("string", Reads::Nothing, V::from_function(tests::is_string)),
        ("true", Reads::Nothing, V::from_function(tests::is_true)),
        ("undefined", Reads::Nothing, V::from_function(tests::is_undefined)),
    ]
});

/// The names of the filters.
pub fn names() -> impl Iterator<Item = &'static str> {
    FILTERS.iter().map(|(name, ..)| *name)
}

/// Adds the filters and tests to an environment.
pub fn install(environment: &mut Environment<'_>, budget: &Budget) {
    for (name, reads, filter) in FILTERS.iter() {
        let budget = budget.clone();
        environment.add_filter(*name, move |state: &State<'_, '_>, arguments: Rest<Value>| {
            if *reads != Reads::Nothing {
                arguments.iter().skip(1).try_for_each(check_option)?;
            }
            budget.charge(*reads, &arguments)?;
            if TEXT_FILTERS.contains(name) && arguments.first().is_some_and(Value::is_none) {
                return Ok(Value::from(""));
            }
            convert(filter.call(state, &arguments)?)
        });
    }
    for (name, reads, test) in TESTS.iter() {
        let budget = budget.clone();
        environment.add_test(*name, move |state: &State<'_, '_>, arguments: Rest<Value>| {
            budget.charge(*reads, &arguments)?;
            test.call(state, &arguments)
        });
    }
}

/// The octets that the filters and tests of one message may still read.
#[derive(Debug, Clone)]
pub struct Budget(Arc<AtomicU64>);

/// The full budget.
impl Default for Budget {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(READ_OCTETS_MAX)))
    }
}

impl Budget {
    pub fn restore(&self) {
        self.0.store(READ_OCTETS_MAX, Ordering::Relaxed);
    }

    fn charge(&self, reads: Reads, arguments: &[Value]) -> Result<(), Error> {
        arguments.iter().try_for_each(|argument| match reads {
            Reads::Nothing => Ok(()),
            Reads::Top => self.charge_value(argument),
            Reads::Whole => self.charge_whole(argument),
        })
    }

    fn charge_value(&self, value: &Value) -> Result<(), Error> {
        self.spend(VALUE_OCTETS + value.as_str().map_or(0, |text| text.len() as u64))
    }

    fn charge_whole(&self, value: &Value) -> Result<(), Error> {
        self.charge_value(value)?;
        if let Some(List(items)) = value.downcast_object_ref() {
            items.iter().try_for_each(|item| self.charge_whole(item))?;
        }
        if let Some(Fields(fields)) = value.downcast_object_ref() {
            for (name, value) in fields {
                self.spend(name.len() as u64)?;
                self.charge_whole(value)?;
            }
        }
        Ok(())
    }

    fn spend(&self, octets: u64) -> Result<(), Error> {
        let left = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(octets));
        left.map(drop).map_err(|_| {
            refuse(format!(
                "the filters and tests of this message read more than {READ_OCTETS_MAX} octets: use fewer of them \
                 inside loops, or shorter data"
            ))
        })
    }
}

/// Requires that an option is short, and that a named option has no list of attributes.
fn check_option(option: &Value) -> Result<(), Error> {
    let check = |value: &Value| match value.as_str() {
        Some(text) if text.len() > OPTION_OCTETS_MAX => Err(refuse(format!(
            "an option of a filter has more than {OPTION_OCTETS_MAX} octets: use a shorter one"
        ))),
        Some(text) if option.is_kwargs() && text.contains(',') => {
            Err(refuse("an option of a filter has a comma: name one attribute only".into()))
        }
        _ => Ok(()),
    };
    match option.as_object().filter(|_| option.is_kwargs()).and_then(|kwargs| kwargs.try_iter_pairs()) {
        Some(mut pairs) => pairs.try_for_each(|(_, value)| check(&value)),
        None => check(option),
    }
}

/// Converts the result of a filter to the types of the data ([`List`], [`Fields`]), and checks the length of a text.
fn convert(result: Value) -> Result<Value, Error> {
    require_length(result.as_str().map_or(0, str::len))?;
    let is_converted =
        result.downcast_object_ref::<List>().is_some() || result.downcast_object_ref::<Fields>().is_some();
    match result.as_object().filter(|_| !is_converted).and_then(|object| object.try_iter()) {
        Some(items) => Ok(Value::from_object(List(items.map(convert).collect::<Result<_, _>>()?))),
        None => Ok(result),
    }
}

/// `join` of the engine, but `null` is empty, and the length of the result is checked before the result is built.
fn join(state: &State<'_, '_>, value: &Value, joiner: Option<StringInput<'_>>) -> Result<Value, Error> {
    let between = joiner.as_ref().map_or(0, |joiner| joiner.as_str().len());
    let mut octets = 0usize;
    let mut items = Vec::new();
    for item in value.try_iter()? {
        let item = if item.is_none() { Value::from("") } else { item };
        octets = octets.saturating_add(between).saturating_add(item.as_str().map_or(20, str::len));
        require_length(octets)?;
        items.push(item);
    }
    filters::join(state, &Value::from_object(List(items)), joiner)
}

fn require_length(octets: usize) -> Result<(), Error> {
    if octets <= TEXT_OCTETS_MAX {
        return Ok(());
    }
    Err(refuse(format!("a filter returns more than {TEXT_OCTETS_MAX} octets: shorten the data")))
}

fn refuse(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}
