//! Hash tables for the inner loop of encoding: open addressing, filled once, never iterated.

/// No entry.
const EMPTY: u32 = u32::MAX;

/// Spreads the bits of a key; the constant is 2^64 divided by the golden ratio.
fn spread(key: u64) -> u64 {
    let mixed = (key ^ (key >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

/// Two tokens to a merge's rank and the token it makes.
pub(super) struct PairTable {
    slots: Vec<((u32, u32), (u32, u32))>,
    mask: usize,
}

impl PairTable {
    pub(super) fn with_capacity(entries: usize) -> Self {
        let size = (2 * entries + 1).next_power_of_two();
        Self { slots: vec![((EMPTY, EMPTY), (0, 0)); size], mask: size - 1 }
    }

    /// The slot of a pair, or the free one where it would be.
    fn slot(&self, pair: (u32, u32)) -> usize {
        let mut slot = spread(u64::from(pair.0) << 32 | u64::from(pair.1)) as usize & self.mask;
        while self.slots[slot].0 != pair && self.slots[slot].0.0 != EMPTY {
            slot = (slot + 1) & self.mask;
        }
        slot
    }

    /// Puts a merge in; of the same pair's the later counts, as in the library.
    pub(super) fn insert(&mut self, pair: (u32, u32), merge: (u32, u32)) {
        let slot = self.slot(pair);
        self.slots[slot] = (pair, merge);
    }

    pub(super) fn get(&self, pair: (u32, u32)) -> Option<(u32, u32)> {
        let (found, merge) = self.slots[self.slot(pair)];
        (found.0 != EMPTY).then_some(merge)
    }
}

/// The bytes of a token to its id.
pub(super) struct TokenTable {
    /// The id, and where in `bytes` its text begins and ends.
    slots: Vec<(u32, u32, u32)>,
    bytes: Vec<u8>,
    mask: usize,
}

impl TokenTable {
    pub(super) fn with_capacity(entries: usize) -> Self {
        let size = (2 * entries + 1).next_power_of_two();
        Self { slots: vec![(EMPTY, 0, 0); size], bytes: Vec::new(), mask: size - 1 }
    }

    fn slot(&self, token: &[u8]) -> usize {
        let mut hash = token.len() as u64;
        for chunk in token.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            hash = spread(hash.rotate_left(23) ^ u64::from_le_bytes(word));
        }
        let mut slot = hash as usize & self.mask;
        while self.slots[slot].0 != EMPTY && self.text(slot) != token {
            slot = (slot + 1) & self.mask;
        }
        slot
    }

    fn text(&self, slot: usize) -> &[u8] {
        let (_, start, end) = self.slots[slot];
        &self.bytes[start as usize..end as usize]
    }

    pub(super) fn insert(&mut self, token: &[u8], id: u32) {
        let slot = self.slot(token);
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(token);
        self.slots[slot] = (id, start, self.bytes.len() as u32);
    }

    pub(super) fn get(&self, token: &[u8]) -> Option<u32> {
        let id = self.slots[self.slot(token)].0;
        (id != EMPTY).then_some(id)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn tables_hold_what_maps_hold(
            tokens in prop::collection::btree_map(prop::collection::vec(any::<u8>(), 0..20), 0..1000_u32, 0..80),
            pairs in prop::collection::vec(((0..9_u32, 0..9_u32), (any::<u32>(), any::<u32>())), 0..80),
            others in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3), 0..40),
        ) {
            let mut table = TokenTable::with_capacity(tokens.len());
            for (token, &id) in &tokens {
                table.insert(token, id);
            }
            for token in tokens.keys().chain(&others) {
                prop_assert_eq!(table.get(token), tokens.get(token).copied());
            }
            let mut table = PairTable::with_capacity(pairs.len());
            for &(pair, merge) in &pairs {
                table.insert(pair, merge);
            }
            let map: BTreeMap<_, _> = pairs.into_iter().collect();
            for pair in (0..9).flat_map(|left| (0..9).map(move |right| (left, right))) {
                prop_assert_eq!(table.get(pair), map.get(&pair).copied());
            }
        }
    }
}
