//! Signatures of records and segments: whoever may write to the place still cannot make others believe a result.
//!
//! A signature is a keyed hash of what the object is, of which key it is the value, and of its bytes; so an object that is
//! moved to another key is as wrong as one that was changed. Blobs need none: a record names them by their digests.

use std::fmt;

use crate::Digest;

/// What keeps the key of signatures apart from other uses of the same secret.
const CONTEXT: &str = "dag-remote 1: signatures of records and segments";
/// The first words of a record's object.
const MAGIC: &str = "dag-signed 1";
/// What stands for the signature of an object that has none.
const UNSIGNED: &str = "unsigned";
/// A shorter secret could be found by trying.
const SHORTEST: usize = 16;

/// The secret that the members of a team share. It is shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey([u8; 32]);

/// A text that cannot be a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a key has at least {SHORTEST} characters, such as the output of `openssl rand -hex 32`")]
pub struct KeyError;

/// What an object is, in a signature.
#[derive(Debug, Clone, Copy)]
pub(super) enum What {
    Record,
    Segment,
}

/// What is wrong with a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bad {
    /// There is none.
    Unsigned,
    /// It is that of another key, or of something else.
    Wrong,
}

impl SigningKey {
    /// The key that a text stands for; white space around it does not count.
    pub fn new(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        if text.chars().count() < SHORTEST {
            return Err(KeyError);
        }
        Ok(Self(blake3::derive_key(CONTEXT, text.as_bytes())))
    }

    fn sign(&self, what: What, key: &Digest, bytes: &Digest) -> blake3::Hash {
        let mut signed = vec![what as u8];
        signed.extend_from_slice(key.as_bytes());
        signed.extend_from_slice(bytes.as_bytes());
        blake3::keyed_hash(&self.0, &signed)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(…)")
    }
}

/// The text of a signature.
pub(super) fn signature(key: Option<&SigningKey>, what: What, of: &Digest, bytes: &Digest) -> String {
    key.map_or_else(|| UNSIGNED.to_owned(), |key| key.sign(what, of, bytes).to_string())
}

/// Checks the text of a signature. Without a key everything is believed.
pub(super) fn check(
    key: Option<&SigningKey>,
    what: What,
    of: &Digest,
    bytes: &Digest,
    text: &str,
) -> Result<(), Bad> {
    let Some(key) = key else { return Ok(()) };
    if text == UNSIGNED {
        return Err(Bad::Unsigned);
    }
    // Comparing hashes of this type takes the same time wherever they differ.
    let found = blake3::Hash::from_hex(text).map_err(|_| Bad::Wrong)?;
    if found == key.sign(what, of, bytes) { Ok(()) } else { Err(Bad::Wrong) }
}

/// A record's object: a line with its signature, then the bytes of the record file.
pub(super) fn seal(key: Option<&SigningKey>, action: &Digest, record: &[u8]) -> Vec<u8> {
    let text = signature(key, What::Record, action, &Digest::of(record));
    let mut object = format!("{MAGIC} {text}\n").into_bytes();
    object.extend_from_slice(record);
    object
}

/// The bytes of the record file in a record's object.
pub(super) fn open<'o>(
    key: Option<&SigningKey>,
    action: &Digest,
    object: &'o [u8],
) -> Result<&'o [u8], Option<Bad>> {
    let end = object.iter().position(|&byte| byte == b'\n').ok_or(None)?;
    let line = std::str::from_utf8(&object[..end]).map_err(|_| None)?;
    let text = line.strip_prefix(MAGIC).and_then(|rest| rest.strip_prefix(' ')).ok_or(None)?;
    let record = &object[end + 1..];
    check(key, What::Record, action, &Digest::of(record), text).map_err(Some)?;
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> SigningKey {
        SigningKey::new(text).unwrap()
    }

    #[test]
    fn a_record_is_believed_under_its_own_action_and_key_only() {
        let (ours, theirs) = (key("a secret of a team"), key("a secret of others"));
        let (one, other) = (Digest::of(b"1"), Digest::of(b"2"));
        let object = seal(Some(&ours), &one, b"bytes");
        assert_eq!(open(Some(&ours), &one, &object), Ok(&b"bytes"[..]));
        assert_eq!(open(Some(&ours), &other, &object), Err(Some(Bad::Wrong)), "replayed");
        assert_eq!(open(Some(&theirs), &one, &object), Err(Some(Bad::Wrong)));
        let mut changed = object.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert_eq!(open(Some(&ours), &one, &changed), Err(Some(Bad::Wrong)));
        assert_eq!(open(None, &other, &object), Ok(&b"bytes"[..]), "nobody asked for signatures");
    }

    #[test]
    fn what_is_not_signed_is_believed_only_where_nobody_asks() {
        let action = Digest::of(b"1");
        let object = seal(None, &action, b"bytes");
        assert_eq!(open(None, &action, &object), Ok(&b"bytes"[..]));
        assert_eq!(open(Some(&key("a secret of a team")), &action, &object), Err(Some(Bad::Unsigned)));
        assert_eq!(open(None, &action, b"something else"), Err(None));
    }

    #[test]
    fn a_segment_is_not_a_record() {
        let key = key("a secret of a team");
        let (of, bytes) = (Digest::of(b"1"), Digest::of(b"2"));
        let text = signature(Some(&key), What::Segment, &of, &bytes);
        assert_eq!(check(Some(&key), What::Segment, &of, &bytes, &text), Ok(()));
        assert_eq!(check(Some(&key), What::Record, &of, &bytes, &text), Err(Bad::Wrong));
    }

    #[test]
    fn a_short_key_is_refused_and_none_is_shown() {
        assert_eq!(SigningKey::new("  short  "), Err(KeyError));
        assert_eq!(SigningKey::new("0123456789abcdef\n").unwrap(), key("0123456789abcdef"));
        assert!(!format!("{:?}", key("0123456789abcdef")).contains("0123"));
    }
}
