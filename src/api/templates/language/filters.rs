//! The filters and tests of templates. The engine counts one step for each, however much it reads; so here they pay for
//! what they read out of a budget, and the texts that they make have a limit. Pure.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use minijinja::value::{Rest, StringInput};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters, tests};

use super::data::{Fields, List};

/// Octets that the filters and tests of one message may read in all.
const READING_OCTETS_MAX: u64 = 4 * 1024 * 1024;
/// What looking at a value costs beside its text.
const VALUE_OCTETS: u64 = 16;
/// Octets of a text that a filter makes.
const TEXT_OCTETS_MAX: usize = 256 * 1024;
/// Octets of a text that tells a filter how: some look through it for every character of what they read.
const OPTION_OCTETS_MAX: usize = 64;

/// What a filter or a test reads of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reads {
    /// It hands the value on.
    Nothing,
    /// A text; of lists and maps how long they are.
    Top,
    /// Everything in it.
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
        ("e", Reads::Whole, V::from_function(filters::escape)),
        ("escape", Reads::Whole, V::from_function(filters::escape)),
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

/// Those that compare values as the operators do, or read them as a whole.
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

/// Gives an environment its filters and tests.
pub fn install(environment: &mut Environment<'_>, budget: &Budget) {
    for (name, reads, filter) in FILTERS.iter() {
        let budget = budget.clone();
        environment.add_filter(*name, move |state: &State<'_, '_>, arguments: Rest<Value>| {
            if *reads != Reads::Nothing {
                arguments.iter().skip(1).try_for_each(check_option)?;
            }
            budget.pay(*reads, &arguments)?;
            own(filter.call(state, &arguments)?)
        });
    }
    for (name, reads, test) in TESTS.iter() {
        let budget = budget.clone();
        environment.add_test(*name, move |state: &State<'_, '_>, arguments: Rest<Value>| {
            budget.pay(*reads, &arguments)?;
            test.call(state, &arguments)
        });
    }
}

/// What the filters and tests of one message may still read.
#[derive(Debug, Clone)]
pub struct Budget(Arc<AtomicU64>);

/// Nothing was read yet.
impl Default for Budget {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(READING_OCTETS_MAX)))
    }
}

impl Budget {
    fn pay(&self, reads: Reads, arguments: &[Value]) -> Result<(), Error> {
        arguments.iter().try_for_each(|argument| match reads {
            Reads::Nothing => Ok(()),
            Reads::Top => self.look_at(argument),
            Reads::Whole => self.read(argument),
        })
    }

    fn look_at(&self, value: &Value) -> Result<(), Error> {
        self.spend(VALUE_OCTETS + value.as_str().map_or(0, |text| text.len() as u64))
    }

    fn read(&self, value: &Value) -> Result<(), Error> {
        self.look_at(value)?;
        if let Some(List(items)) = value.downcast_object_ref() {
            items.iter().try_for_each(|item| self.read(item))?;
        }
        if let Some(Fields(fields)) = value.downcast_object_ref() {
            for (name, value) in fields {
                self.spend(name.len() as u64)?;
                self.read(value)?;
            }
        }
        Ok(())
    }

    fn spend(&self, octets: u64) -> Result<(), Error> {
        let left = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(octets));
        left.map(drop).map_err(|_| {
            refuse(format!("filters and tests read more than {READING_OCTETS_MAX} octets for one message"))
        })
    }
}

/// Options are short, and `attribute` names one.
fn check_option(option: &Value) -> Result<(), Error> {
    let check = |value: &Value| match value.as_str() {
        Some(text) if text.len() > OPTION_OCTETS_MAX => {
            Err(refuse(format!("an option of a filter has at most {OPTION_OCTETS_MAX} octets")))
        }
        Some(text) if option.is_kwargs() && text.contains(',') => {
            Err(refuse("a filter goes by one attribute".into()))
        }
        _ => Ok(()),
    };
    match option.as_object().filter(|_| option.is_kwargs()).and_then(|kwargs| kwargs.try_iter_pairs()) {
        Some(mut pairs) => pairs.try_for_each(|(_, value)| check(&value)),
        None => check(option),
    }
}

/// What a filter made, as what the data is made of: a list of ours, of pairs too, or a text within the limit.
fn own(made: Value) -> Result<Value, Error> {
    require_room(made.as_str().map_or(0, str::len))?;
    let is_ours =
        made.downcast_object_ref::<List>().is_some() || made.downcast_object_ref::<Fields>().is_some();
    match made.as_object().filter(|_| !is_ours).and_then(|object| object.try_iter()) {
        Some(items) => Ok(Value::from_object(List(items.map(own).collect::<Result<_, _>>()?))),
        None => Ok(made),
    }
}

/// The filter of that name, which would look at the limit when the text is there.
fn join(state: &State<'_, '_>, value: &Value, joiner: Option<StringInput<'_>>) -> Result<Value, Error> {
    let between = joiner.as_ref().map_or(0, |joiner| joiner.as_str().len());
    let mut octets = 0usize;
    for item in value.try_iter()? {
        octets = octets.saturating_add(between).saturating_add(item.as_str().map_or(20, str::len));
        require_room(octets)?;
    }
    filters::join(state, value, joiner)
}

fn require_room(octets: usize) -> Result<(), Error> {
    if octets <= TEXT_OCTETS_MAX {
        return Ok(());
    }
    Err(refuse(format!("a filter makes a text of more than {TEXT_OCTETS_MAX} octets")))
}

fn refuse(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}
