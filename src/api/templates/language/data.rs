//! The data of a template: converts the JSON of a client to values of the engine. Pure.
//!
//! The engine counts a comparison as one instruction, whatever its operands. A list or map therefore equals only itself
//! and is never compared item by item.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use minijinja::Value;
use minijinja::value::{DynObject, Enumerator, Object, ObjectExt, ObjectRepr};
use serde_json::{Map, Value as Json};

/// A JSON array.
#[derive(Debug)]
pub struct List(pub Vec<Value>);

/// A JSON object.
#[derive(Debug)]
pub struct Fields(pub BTreeMap<String, Value>);

/// Converts a JSON object to a value.
pub fn from_object(object: Map<String, Json>) -> Value {
    let fields = object.into_iter().map(|(name, value)| (name, from_json(value)));
    Value::from_object(Fields(fields.collect()))
}

fn from_json(json: Json) -> Value {
    match json {
        Json::Array(items) => Value::from_object(List(items.into_iter().map(from_json).collect())),
        Json::Object(object) => from_object(object),
        scalar => Value::from_serialize(scalar),
    }
}

/// Compares by address: a total order at constant cost.
fn compare_addresses<T>(one: &T, other: &T) -> Ordering {
    std::ptr::from_ref(one).cmp(&std::ptr::from_ref(other))
}

impl Object for List {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.0.len())
    }

    fn custom_cmp(self: &Arc<Self>, other: &DynObject) -> Option<Ordering> {
        Some(compare_addresses(&**self, other.downcast_ref::<Self>()?))
    }
}

impl Object for Fields {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_str()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        // Lazy, so that reading the first key costs one step and not the whole map.
        self.mapped_enumerator(|fields| Box::new(fields.0.keys().map(Value::from)))
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.0.len())
    }

    fn custom_cmp(self: &Arc<Self>, other: &DynObject) -> Option<Ordering> {
        Some(compare_addresses(&**self, other.downcast_ref::<Self>()?))
    }
}
