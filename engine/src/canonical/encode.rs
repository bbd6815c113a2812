//! Canonical bytes straight from a serialisable value.
//!
//! Equal to those of its JSON tree (a property test holds it to that), without making the tree: binding the params of a
//! hundred thousand nodes is mostly this.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::Serialize;
use serde::ser::{self, Serializer};
use serde_json::{Number, Value};

use super::{write_number, write_string};

/// A value that is no JSON.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct EncodeError(String);

impl ser::Error for EncodeError {
    fn custom<T: fmt::Display>(what: T) -> Self {
        Self(what.to_string())
    }
}

/// The canonical bytes of `value`. As in a JSON tree, a number that is not finite is null.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, EncodeError> {
    let mut out = Vec::with_capacity(256);
    value.serialize(Encoder { out: &mut out, places: None })?;
    Ok(out)
}

/// A field of an object: its name as it is written, and where in the bytes it is, from the name to the end of the value.
pub type Place = (Cow<'static, str>, Range<usize>);

/// The canonical bytes of the fields of a value that is an object, one behind the other, and which is where, in canonical
/// order. For what keeps some of the fields.
pub fn fields<T: Serialize + ?Sized>(value: &T) -> Result<(Vec<u8>, Vec<Place>), EncodeError> {
    let (mut out, mut places) = (Vec::with_capacity(256), Vec::new());
    value.serialize(Encoder { out: &mut out, places: Some(&mut places) })?;
    Ok((out, places))
}

/// Appends one value.
struct Encoder<'o> {
    out: &'o mut Vec<u8>,
    /// Where the places of the fields go, if the value is an object and its fields are to stay as they come.
    places: Option<&'o mut Vec<Place>>,
}

/// A list that is being written.
struct Items<'o> {
    out: &'o mut Vec<u8>,
    empty: bool,
    close: &'static [u8],
}

/// A map that is being written: entries in the order they come, put in the order of their names at the end.
struct Fields<'o> {
    out: &'o mut Vec<u8>,
    places: Option<&'o mut Vec<Place>>,
    start: usize,
    entries: Vec<Place>,
    /// The name of the entry whose value comes next.
    name: Option<String>,
    close: &'static [u8],
}

impl<'o> Fields<'o> {
    fn begin(encoder: Encoder<'o>, length: usize, close: &'static [u8]) -> Self {
        let Encoder { out, places } = encoder;
        out.push(b'{');
        Self { start: out.len(), out, places, entries: Vec::with_capacity(length), name: None, close }
    }

    fn entry<T: Serialize + ?Sized>(
        &mut self,
        name: Cow<'static, str>,
        value: &T,
    ) -> Result<(), EncodeError> {
        if !self.entries.is_empty() {
            self.out.push(b',');
        }
        let from = self.out.len();
        write_string(&name, self.out);
        self.out.push(b':');
        value.serialize(Encoder { out: self.out, places: None })?;
        self.entries.push((name, from..self.out.len()));
        Ok(())
    }

    fn finish(mut self) {
        let sorted = self.entries.is_sorted_by(|(a, _), (b, _)| a.as_bytes() <= b.as_bytes());
        if !sorted {
            self.entries.sort_by(|(a, _), (b, _)| a.as_bytes().cmp(b.as_bytes()));
        }
        if let Some(places) = self.places {
            *places = self.entries;
            return;
        }
        if !sorted {
            let written = self.out.split_off(self.start);
            for (number, (_, place)) in self.entries.iter().enumerate() {
                if number > 0 {
                    self.out.push(b',');
                }
                self.out.extend_from_slice(&written[place.start - self.start..place.end - self.start]);
            }
        }
        self.out.extend_from_slice(self.close);
    }
}

impl Encoder<'_> {
    fn number(self, number: impl Into<Number>) {
        write_number(&number.into(), self.out);
    }

    /// Begins `{"variant":`.
    fn variant(&mut self, variant: &str) {
        self.out.push(b'{');
        write_string(variant, self.out);
        self.out.push(b':');
    }
}

impl<'o> Serializer for Encoder<'o> {
    type Ok = ();
    type Error = EncodeError;
    type SerializeSeq = Items<'o>;
    type SerializeTuple = Items<'o>;
    type SerializeTupleStruct = Items<'o>;
    type SerializeTupleVariant = Items<'o>;
    type SerializeMap = Fields<'o>;
    type SerializeStruct = Fields<'o>;
    type SerializeStructVariant = Fields<'o>;

    fn serialize_bool(self, value: bool) -> Result<(), EncodeError> {
        self.out.extend_from_slice(if value { b"true" } else { b"false" });
        Ok(())
    }
    fn serialize_i8(self, value: i8) -> Result<(), EncodeError> {
        self.serialize_i64(value.into())
    }
    fn serialize_i16(self, value: i16) -> Result<(), EncodeError> {
        self.serialize_i64(value.into())
    }
    fn serialize_i32(self, value: i32) -> Result<(), EncodeError> {
        self.serialize_i64(value.into())
    }
    fn serialize_i64(self, value: i64) -> Result<(), EncodeError> {
        self.number(value);
        Ok(())
    }
    fn serialize_u8(self, value: u8) -> Result<(), EncodeError> {
        self.serialize_u64(value.into())
    }
    fn serialize_u16(self, value: u16) -> Result<(), EncodeError> {
        self.serialize_u64(value.into())
    }
    fn serialize_u32(self, value: u32) -> Result<(), EncodeError> {
        self.serialize_u64(value.into())
    }
    fn serialize_u64(self, value: u64) -> Result<(), EncodeError> {
        self.number(value);
        Ok(())
    }
    fn serialize_f32(self, value: f32) -> Result<(), EncodeError> {
        self.serialize_f64(value.into())
    }
    fn serialize_f64(self, value: f64) -> Result<(), EncodeError> {
        match Number::from_f64(value) {
            Some(number) => self.number(number),
            None => self.out.extend_from_slice(b"null"),
        }
        Ok(())
    }
    fn serialize_char(self, value: char) -> Result<(), EncodeError> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }
    fn serialize_str(self, value: &str) -> Result<(), EncodeError> {
        write_string(value, self.out);
        Ok(())
    }
    fn serialize_bytes(self, value: &[u8]) -> Result<(), EncodeError> {
        self.collect_seq(value)
    }
    fn serialize_none(self) -> Result<(), EncodeError> {
        self.serialize_unit()
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), EncodeError> {
        value.serialize(self)
    }
    fn serialize_unit(self) -> Result<(), EncodeError> {
        self.out.extend_from_slice(b"null");
        Ok(())
    }
    fn serialize_unit_struct(self, _name: &'static str) -> Result<(), EncodeError> {
        self.serialize_unit()
    }
    fn serialize_unit_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
    ) -> Result<(), EncodeError> {
        self.serialize_str(variant)
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        value: &T,
    ) -> Result<(), EncodeError> {
        value.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        mut self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), EncodeError> {
        self.variant(variant);
        value.serialize(Encoder { out: self.out, places: None })?;
        self.out.push(b'}');
        Ok(())
    }
    fn serialize_seq(self, _length: Option<usize>) -> Result<Items<'o>, EncodeError> {
        self.out.push(b'[');
        Ok(Items { out: self.out, empty: true, close: b"]" })
    }
    fn serialize_tuple(self, length: usize) -> Result<Items<'o>, EncodeError> {
        self.serialize_seq(Some(length))
    }
    fn serialize_tuple_struct(self, _name: &'static str, length: usize) -> Result<Items<'o>, EncodeError> {
        self.serialize_seq(Some(length))
    }
    fn serialize_tuple_variant(
        mut self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Items<'o>, EncodeError> {
        self.variant(variant);
        Ok(Items { close: b"]}", ..self.serialize_seq(Some(length))? })
    }
    fn serialize_map(self, length: Option<usize>) -> Result<Fields<'o>, EncodeError> {
        Ok(Fields::begin(self, length.unwrap_or_default(), b"}"))
    }
    fn serialize_struct(self, _name: &'static str, length: usize) -> Result<Fields<'o>, EncodeError> {
        Ok(Fields::begin(self, length, b"}"))
    }
    fn serialize_struct_variant(
        mut self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Fields<'o>, EncodeError> {
        self.variant(variant);
        Ok(Fields::begin(Encoder { out: self.out, places: None }, length, b"}}"))
    }
}

impl Items<'_> {
    fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), EncodeError> {
        if !std::mem::take(&mut self.empty) {
            self.out.push(b',');
        }
        value.serialize(Encoder { out: self.out, places: None })
    }

    fn finish(self) {
        self.out.extend_from_slice(self.close);
    }
}

/// The four kinds of list differ in the name of one function.
macro_rules! list {
    ($($kind:ident $function:ident),*) => {$(
        impl ser::$kind for Items<'_> {
            type Ok = ();
            type Error = EncodeError;
            fn $function<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), EncodeError> {
                self.item(value)
            }
            fn end(self) -> Result<(), EncodeError> {
                self.finish();
                Ok(())
            }
        }
    )*};
}
list!(
    SerializeSeq serialize_element,
    SerializeTuple serialize_element,
    SerializeTupleStruct serialize_field,
    SerializeTupleVariant serialize_field
);

impl ser::SerializeMap for Fields<'_> {
    type Ok = ();
    type Error = EncodeError;
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), EncodeError> {
        // Maps are small in params, so the key may take the way over a tree, which knows what can be one.
        let name = match serde_json::to_value(key).map_err(ser::Error::custom)? {
            Value::String(name) => name,
            key @ (Value::Number(_) | Value::Bool(_)) => key.to_string(),
            _ => return Err(ser::Error::custom("key must be a string")),
        };
        self.name = Some(name);
        Ok(())
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), EncodeError> {
        let name = self.name.take().ok_or_else(|| EncodeError("a value without a key".to_owned()))?;
        self.entry(Cow::Owned(name), value)
    }
    fn end(self) -> Result<(), EncodeError> {
        self.finish();
        Ok(())
    }
}

/// A struct and a variant with fields differ in nothing.
macro_rules! record {
    ($($kind:ident),*) => {$(
        impl ser::$kind for Fields<'_> {
            type Ok = ();
            type Error = EncodeError;
            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), EncodeError> {
                self.entry(Cow::Borrowed(name), value)
            }
            fn end(self) -> Result<(), EncodeError> {
                self.finish();
                Ok(())
            }
        }
    )*};
}
record!(SerializeStruct, SerializeStructVariant);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::canonical::{tests::values, to_bytes};

    #[derive(Serialize)]
    #[serde(rename_all = "kebab-case")]
    enum Kind {
        Unit,
        New(u8),
        Pair(i32, f32),
        Named { zebra: Option<bool>, apple: char },
    }

    #[derive(Serialize)]
    struct Unit;

    #[derive(Serialize)]
    struct Everything {
        zeta: Vec<Kind>,
        number: f64,
        #[serde(skip_serializing_if = "Option::is_none")]
        absent: Option<u8>,
        alpha: BTreeMap<i64, (u64, &'static str)>,
        #[serde(flatten)]
        more: BTreeMap<String, Value>,
        unit: Unit,
        bytes: [u8; 2],
    }

    proptest! {
        #[test]
        fn the_bytes_are_those_of_the_tree(number in any::<f64>(), single in any::<f32>(), value in values(), name in "[a-z\"\\\\ é]{0,5}", key in any::<i64>()) {
            let everything = Everything {
                zeta: vec![Kind::Named { zebra: None, apple: '"' }, Kind::Unit, Kind::New(3), Kind::Pair(-1, single)],
                number,
                absent: None,
                alpha: BTreeMap::from([(key, (7, "x")), (-7, (0, ""))]),
                more: BTreeMap::from([(format!("m{name}"), value.clone()), ("zz".to_owned(), Value::Null)]),
                unit: Unit,
                bytes: [1, 2],
            };
            let tree = serde_json::to_value(&everything).unwrap();
            prop_assert_eq!(encode(&everything).unwrap(), to_bytes(&tree));
            let (bytes, places) = fields(&everything).unwrap();
            let each: Vec<&str> = places.iter().map(|(_, place)| std::str::from_utf8(&bytes[place.clone()]).unwrap()).collect();
            prop_assert_eq!(format!("{{{}}}", each.join(",")).into_bytes(), to_bytes(&tree));
            prop_assert_eq!(encode(&value).unwrap(), to_bytes(&value));
        }
    }

    #[test]
    fn what_no_map_can_have_for_a_key_is_refused() {
        assert!(encode(&BTreeMap::from([((1, 2), 3)])).is_err());
    }
}
