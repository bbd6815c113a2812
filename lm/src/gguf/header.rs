//! The header of a GGUF file: metadata and the list of tensors.
//!
//! Nothing is believed: a count or a length is held against the bytes that are left before anything is allocated for it, so
//! that reading takes memory in proportion to the file, whatever it says.

use std::collections::BTreeMap;
use std::ops::Range;

use super::ElementType;

/// A value of the metadata. Integers of all widths are one kind each.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// An unsigned integer.
    Unsigned(u64),
    /// A signed integer.
    Signed(i64),
    /// A 32-bit number.
    Float(f32),
    /// A 64-bit number.
    Double(f64),
    /// True or false.
    Bool(bool),
    /// Text.
    String(String),
    /// Unsigned integers.
    UnsignedArray(Vec<u64>),
    /// Signed integers.
    SignedArray(Vec<i64>),
    /// 32-bit numbers.
    FloatArray(Vec<f32>),
    /// 64-bit numbers.
    DoubleArray(Vec<f64>),
    /// Truth values.
    BoolArray(Vec<bool>),
    /// Texts, such as the tokens of a vocabulary.
    StringArray(Vec<String>),
}

impl Value {
    /// The value as an unsigned integer, if it is an integer and not negative.
    pub fn as_unsigned(&self) -> Option<u64> {
        match self {
            Self::Unsigned(value) => Some(*value),
            Self::Signed(value) => u64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// The value as text, if it is text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The value as a number, if it is one. A 32-bit one becomes the shortest decimal that stands for it, as people write it
    /// in a configuration: 1e-5, not 0.000009999999747378752.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Float(value) => value.to_string().parse().ok(),
            Self::Double(value) => Some(*value),
            Self::Unsigned(value) => Some(*value as f64),
            Self::Signed(value) => Some(*value as f64),
            _ => None,
        }
    }

    /// The value as texts, if it is an array of them.
    pub fn as_strings(&self) -> Option<&[String]> {
        match self {
            Self::StringArray(texts) => Some(texts),
            _ => None,
        }
    }
}

/// The metadata of a file: sorted by key.
pub type Metadata = BTreeMap<String, Value>;

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TensorInfo {
    /// Rows and columns, the slowest axis first.
    pub(super) shape: Vec<usize>,
    pub(super) element: ElementType,
    /// Where in the file it lies.
    pub(super) places: Range<usize>,
}

/// A whole header.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) metadata: Metadata,
    pub(super) tensors: BTreeMap<String, TensorInfo>,
}

/// The first four bytes.
const MAGIC: &[u8] = b"GGUF";
/// Where tensors start, if the file does not say: at multiples of this.
const ALIGNMENT: u64 = 32;
/// The most axes of a tensor.
const AXES: u32 = 4;

impl Header {
    /// Reads the header of a file whose whole contents are `bytes`; says what is wrong with it otherwise.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut reader = Reader { bytes, place: 0 };
        if reader.take(4)? != MAGIC {
            return Err("it does not begin with `GGUF`".to_owned());
        }
        let version = reader.u32()?;
        if !matches!(version, 2 | 3) {
            return Err(format!("its version is {version}; known are 2 and 3"));
        }
        let (tensor_count, entry_count) = (reader.u64()?, reader.u64()?);
        let mut metadata = Metadata::new();
        for _ in 0..entry_count {
            let key = reader.string()?;
            let kind = reader.u32()?;
            let value = reader.value(kind).map_err(|reason| format!("the value of `{key}`: {reason}"))?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(format!("it says `{key}` twice"));
            }
        }
        let alignment = match metadata.get("general.alignment") {
            None => ALIGNMENT,
            Some(value) => value
                .as_unsigned()
                .filter(|alignment| *alignment >= 8 && alignment.is_power_of_two())
                .ok_or("`general.alignment` is not a power of two from 8 on")?,
        };
        let mut listed = Vec::new();
        for _ in 0..tensor_count {
            listed.push(reader.tensor()?);
        }
        let start = (reader.place as u64).next_multiple_of(alignment);
        let mut tensors = BTreeMap::new();
        for Listed { name, shape, element, offset } in listed {
            let fault = |reason: &str| format!("tensor `{name}` {reason}");
            let length = length(&shape, element).map_err(|reason| fault(&reason))?;
            if !offset.is_multiple_of(alignment) {
                return Err(fault(&format!("lies at {offset}, not at a multiple of {alignment}")));
            }
            let end = start.checked_add(offset).and_then(|from| from.checked_add(length));
            if end.is_none_or(|end| end > bytes.len() as u64) {
                return Err(fault(&format!(
                    "takes {length} bytes from {offset} on; the file has {} after its header",
                    (bytes.len() as u64).saturating_sub(start)
                )));
            }
            let first = (start + offset) as usize;
            let info = TensorInfo { shape, element, places: first..first + length as usize };
            if tensors.insert(name.clone(), info).is_some() {
                return Err(fault("is listed twice"));
            }
        }
        Ok(Self { metadata, tensors })
    }
}

/// Bytes of a tensor.
fn length(shape: &[usize], element: ElementType) -> Result<u64, String> {
    let (elements, bytes) = element.block();
    let columns = shape.last().copied().unwrap_or(1);
    if !columns.is_multiple_of(elements) {
        return Err(format!("has rows of {columns} elements, which come in blocks of {elements}"));
    }
    let count = shape.iter().try_fold(1_u64, |product, &axis| product.checked_mul(axis as u64));
    let length = count.and_then(|count| (count / elements as u64).checked_mul(bytes as u64));
    length.ok_or_else(|| format!("has the impossible shape {shape:?}"))
}

/// A tensor as the header lists it.
struct Listed {
    name: String,
    shape: Vec<usize>,
    element: ElementType,
    offset: u64,
}

/// A place in the file.
struct Reader<'a> {
    bytes: &'a [u8],
    place: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let left = &self.bytes[self.place..];
        let taken = left.get(..count).ok_or_else(|| {
            format!("at byte {} it should go on for {count} bytes but has {}", self.place, left.len())
        })?;
        self.place += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn length(&mut self) -> Result<usize, String> {
        let length = self.u64()?;
        usize::try_from(length).map_err(|_| format!("a length of {length}"))
    }

    fn string(&mut self) -> Result<String, String> {
        let length = self.length()?;
        let bytes = self.take(length)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| "a text is not UTF-8".to_owned())
    }

    fn bool(&mut self) -> Result<bool, String> {
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(format!("a truth value of {other}")),
        }
    }

    fn unsigned(&mut self, width: usize) -> Result<u64, String> {
        let mut bytes = [0; 8];
        bytes[..width].copy_from_slice(self.take(width)?);
        Ok(u64::from_le_bytes(bytes))
    }

    fn signed(&mut self, width: usize) -> Result<i64, String> {
        let unused = 64 - 8 * width;
        // Up to the top and down again, which repeats the sign.
        Ok((self.unsigned(width)? << unused).cast_signed() >> unused)
    }

    fn value(&mut self, kind: u32) -> Result<Value, String> {
        Ok(match kind {
            0 => Value::Unsigned(self.unsigned(1)?),
            1 => Value::Signed(self.signed(1)?),
            2 => Value::Unsigned(self.unsigned(2)?),
            3 => Value::Signed(self.signed(2)?),
            4 => Value::Unsigned(self.unsigned(4)?),
            5 => Value::Signed(self.signed(4)?),
            6 => Value::Float(f32::from_le_bytes(self.array()?)),
            7 => Value::Bool(self.bool()?),
            8 => Value::String(self.string()?),
            9 => {
                let kind = self.u32()?;
                let count = self.length()?;
                self.values(kind, count)?
            }
            10 => Value::Unsigned(self.u64()?),
            11 => Value::Signed(self.signed(8)?),
            12 => Value::Double(f64::from_le_bytes(self.array()?)),
            _ => return Err(format!("an unknown type {kind}")),
        })
    }

    fn values(&mut self, kind: u32, count: usize) -> Result<Value, String> {
        Ok(match kind {
            0 => Value::UnsignedArray(self.many(count, 1, |reader| reader.unsigned(1))?),
            1 => Value::SignedArray(self.many(count, 1, |reader| reader.signed(1))?),
            2 => Value::UnsignedArray(self.many(count, 2, |reader| reader.unsigned(2))?),
            3 => Value::SignedArray(self.many(count, 2, |reader| reader.signed(2))?),
            4 => Value::UnsignedArray(self.many(count, 4, |reader| reader.unsigned(4))?),
            5 => Value::SignedArray(self.many(count, 4, |reader| reader.signed(4))?),
            6 => Value::FloatArray(self.many(count, 4, |reader| Ok(f32::from_le_bytes(reader.array()?)))?),
            7 => Value::BoolArray(self.many(count, 1, Self::bool)?),
            8 => Value::StringArray(self.many(count, 8, Self::string)?),
            10 => Value::UnsignedArray(self.many(count, 8, |reader| reader.unsigned(8))?),
            11 => Value::SignedArray(self.many(count, 8, |reader| reader.signed(8))?),
            12 => Value::DoubleArray(self.many(count, 8, |reader| Ok(f64::from_le_bytes(reader.array()?)))?),
            _ => return Err(format!("an array of the type {kind}")),
        })
    }

    /// `count` values, each of which takes at least `least` bytes.
    fn many<T>(
        &mut self,
        count: usize,
        least: usize,
        mut read: impl FnMut(&mut Self) -> Result<T, String>,
    ) -> Result<Vec<T>, String> {
        let left = self.bytes.len() - self.place;
        if count > left / least {
            return Err(format!("an array of {count} values in the {left} bytes that are left"));
        }
        (0..count).map(|_| read(self)).collect()
    }

    fn tensor(&mut self) -> Result<Listed, String> {
        let name = self.string()?;
        let axes = self.u32()?;
        if axes == 0 || axes > AXES {
            return Err(format!("tensor `{name}` has {axes} axes, not 1 to {AXES}"));
        }
        let mut shape: Vec<usize> = (0..axes).map(|_| self.length()).collect::<Result<_, _>>()?;
        // The file lists the fastest axis first.
        shape.reverse();
        let kind = self.u32()?;
        let element = ElementType::from_id(kind)
            .ok_or_else(|| format!("tensor `{name}` has the unsupported element type {kind}"))?;
        Ok(Listed { name, shape, element, offset: self.u64()? })
    }
}
