//! Seeds for everything random, derived from content and never from position.
//!
//! A record's seed comes from the experiment's seed and what the record is (its messages, its repeat), so that adding,
//! removing or reordering other records, or cutting the work into other shards, changes nothing for it.

/// Version of the derivation; part of what is hashed, so that a new one could never collide with the old.
const DOMAIN: &str = "dag seed v1";

/// A seed for the thing that `parts` describe, under `seed`.
///
/// Each part is hashed with its length, so `["ab", "c"]` and `["a", "bc"]` differ.
pub fn derive(seed: u64, parts: &[&[u8]]) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key(DOMAIN);
    hasher.update(&seed.to_le_bytes());
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_together() {
        assert_ne!(derive(1, &[b"ab", b"c"]), derive(1, &[b"a", b"bc"]));
        assert_ne!(derive(1, &[b"ab"]), derive(2, &[b"ab"]));
        assert_ne!(derive(1, &[b""]), derive(1, &[]));
    }

    #[test]
    fn golden() {
        // A change here reseeds every experiment ever run: it needs a new DOMAIN and a decision record.
        assert_eq!(derive(17, &[b"problem", &1_u64.to_le_bytes()]), GOLDEN);
    }

    const GOLDEN: u64 = 475_309_534_269_215_214;
}
