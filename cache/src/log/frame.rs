//! Frames: the entries of a segment. A header of 64 bytes with its own checksum, then the payload, compressed.
//!
//! ```text
//! 0   magic "DAGF"      4
//! 4   kind              1   0 value, 1 intent, 2 void
//! 5   encoding          1   0 as it is, 1 zstd
//! 6   zero              2
//! 8   payload length    4   before compression
//! 12  stored length     4
//! 16  key               32
//! 48  body checksum     8
//! 56  header checksum   8
//! ```
//!
//! Checksums are the first 8 bytes of blake3 keyed with the stream, so that a frame of another stream is none.
//! Numbers are little-endian.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::Digest;

pub(crate) const HEADER: usize = 64;
const MAGIC: &[u8; 4] = b"DAGF";
/// Fast, and within a few percent of the best level on responses of some kilobytes.
const LEVEL: i32 = 3;
/// Below this zstd gains nothing.
const COMPRESS_FROM: usize = 64;

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The payload of a key.
    Value,
    /// A request for a key is about to be sent.
    Intent,
    /// It came to nothing, and that is known.
    Void,
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    compressed: bool,
    payload: u32,
    pub(crate) stored: u32,
    pub(crate) key: Digest,
    checksum: [u8; 8],
}

fn checksum(stream: &Digest, bytes: &[u8]) -> [u8; 8] {
    let hash = blake3::keyed_hash(stream.as_bytes(), bytes);
    hash.as_bytes()[..8].try_into().expect("a hash is longer than 8 bytes")
}

/// The bytes of a frame.
///
/// # Panics
/// When the payload is 4 GiB or longer.
pub(crate) fn encode(stream: &Digest, kind: Kind, key: &Digest, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("one response is far below 4 GiB");
    let squeezed =
        (payload.len() >= COMPRESS_FROM).then(|| zstd::bulk::compress(payload, LEVEL).ok()).flatten();
    let squeezed = squeezed.filter(|bytes| bytes.len() < payload.len());
    let body = squeezed.as_deref().unwrap_or(payload);
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend_from_slice(MAGIC);
    bytes.push(match kind {
        Kind::Value => 0,
        Kind::Intent => 1,
        Kind::Void => 2,
    });
    bytes.push(u8::from(squeezed.is_some()));
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(key.as_bytes());
    bytes.extend_from_slice(&checksum(stream, body));
    bytes.extend_from_slice(&checksum(stream, &bytes));
    bytes.extend_from_slice(body);
    bytes
}

impl Header {
    /// The header at the beginning of `bytes`, when it is one of this stream and undamaged.
    pub(crate) fn parse(stream: &Digest, bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..HEADER)?;
        if !bytes.starts_with(MAGIC) || bytes[56..] != checksum(stream, &bytes[..56]) {
            return None;
        }
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        Some(Self {
            kind: match bytes[4] {
                0 => Kind::Value,
                2 => Kind::Void,
                _ => Kind::Intent,
            },
            compressed: bytes[5] != 0,
            payload: number(8),
            stored: number(12),
            key: Digest::from_slice(&bytes[16..48])?,
            checksum: bytes[48..56].try_into().expect("eight bytes"),
        })
    }

    /// The length of the whole frame.
    pub(crate) fn length(&self) -> u64 {
        HEADER as u64 + u64::from(self.stored)
    }

    /// Whether `body` is what was written.
    pub(crate) fn accepts(&self, stream: &Digest, body: &[u8]) -> bool {
        body.len() == self.stored as usize && checksum(stream, body) == self.checksum
    }

    /// The payload in `body`; `None` when it is damaged.
    pub(crate) fn payload(&self, stream: &Digest, body: Vec<u8>) -> Option<Vec<u8>> {
        if !self.accepts(stream, &body) {
            None
        } else if self.compressed {
            zstd::bulk::decompress(&body, self.payload as usize).ok()
        } else {
            Some(body)
        }
    }
}

/// Where a scan ended, and what it stepped over.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Scan {
    /// The end of the last whole frame. What follows is torn, or still being written.
    pub(crate) end: u64,
    /// Ranges within the frames that are no frames.
    pub(crate) damaged: Vec<(u64, u64)>,
}

/// Visits the header of every frame in `from..to`, with its place. After damage it goes on at the next valid header.
pub(crate) fn scan(
    file: &File,
    stream: &Digest,
    from: u64,
    to: u64,
    mut visit: impl FnMut(u64, Header),
) -> io::Result<Scan> {
    let mut window = Window { file, to, start: 0, bytes: Vec::new() };
    let mut scan = Scan { end: from, damaged: Vec::new() };
    let mut at = from;
    while at < to {
        let header = Header::parse(stream, window.at(at)?).filter(|header| at + header.length() <= to);
        if let Some(header) = header {
            if at > scan.end {
                scan.damaged.push((scan.end, at));
            }
            visit(at, header);
            at += header.length();
            scan.end = at;
        } else {
            at = window.next_magic(at + 1)?;
        }
    }
    Ok(scan)
}

/// A part of a file in memory.
struct Window<'a> {
    file: &'a File,
    to: u64,
    start: u64,
    bytes: Vec<u8>,
}

const WINDOW: usize = 64 * 1024;

impl Window<'_> {
    /// The bytes from `at` on: at least a header's worth, unless the end is nearer.
    fn at(&mut self, at: u64) -> io::Result<&[u8]> {
        let end = self.start + self.bytes.len() as u64;
        let wanted = (at + HEADER as u64).min(self.to);
        if at < self.start || wanted > end {
            self.bytes.resize(WINDOW.min((self.to - at) as usize), 0);
            self.file.read_exact_at(&mut self.bytes, at)?;
            self.start = at;
        }
        Ok(&self.bytes[(at - self.start) as usize..])
    }

    /// The first place from `at` on where a header may begin; the end when there is none.
    fn next_magic(&mut self, mut at: u64) -> io::Result<u64> {
        while at + (HEADER as u64) <= self.to {
            let bytes = self.at(at)?;
            match bytes.windows(MAGIC.len()).position(|window| window == MAGIC) {
                Some(skip) => return Ok(at + skip as u64),
                None => at += (bytes.len() - (MAGIC.len() - 1)) as u64,
            }
        }
        Ok(self.to)
    }
}
