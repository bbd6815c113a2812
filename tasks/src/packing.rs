//! Packing: which examples share a training sequence of fixed capacity.
//!
//! Only lengths are seen here. Ties are settled by the order of the input, so that the same lengths
//! always give the same packs. A length above the capacity is the caller's to drop and count: every
//! function panics on one, because leaving it out silently would lose training data.
use std::collections::BTreeSet;

/// First-fit decreasing: longest first, each into the first pack with room. O(n log n), by a
/// tournament tree over the room left in every pack.
///
/// Never more than 11/9 of the best possible number of packs plus 6/9 (Dósa 2007).
///
/// # Panics
/// If a length is above `capacity`.
pub fn first_fit_decreasing(lengths: &[u32], capacity: u32) -> Vec<Vec<usize>> {
    let mut room = RoomTree::new(lengths.len(), capacity);
    let mut packs: Vec<Vec<usize>> = Vec::new();
    for item in longest_first(lengths, capacity) {
        let pack = room.take_first(lengths[item]);
        if pack == packs.len() {
            packs.push(Vec::new());
        }
        packs[pack].push(item);
    }
    packs
}

/// Best-fit decreasing: longest first, each into the fullest pack that has room. O(n log n).
///
/// # Panics
/// If a length is above `capacity`.
pub fn best_fit_decreasing(lengths: &[u32], capacity: u32) -> Vec<Vec<usize>> {
    let mut by_room: BTreeSet<(u32, usize)> = BTreeSet::new();
    let mut packs: Vec<Vec<usize>> = Vec::new();
    for item in longest_first(lengths, capacity) {
        let length = lengths[item];
        let best = by_room.range((length, 0)..).next().copied();
        let (room, pack) = best.unwrap_or((capacity, packs.len()));
        if pack == packs.len() {
            packs.push(Vec::new());
        }
        by_room.remove(&(room, pack));
        by_room.insert((room - length, pack));
        packs[pack].push(item);
    }
    packs
}

/// In the order given: each into the last pack, or into a new one when it has no room. O(n).
///
/// # Panics
/// If a length is above `capacity`.
pub fn sequential(lengths: &[u32], capacity: u32) -> Vec<Vec<usize>> {
    let mut packs: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    for (item, &length) in lengths.iter().enumerate() {
        assert_fits(item, length, capacity);
        if packs.is_empty() || room < length {
            packs.push(Vec::new());
            room = capacity;
        }
        room -= length;
        packs.last_mut().expect("a pack was just opened").push(item);
    }
    packs
}

fn longest_first(lengths: &[u32], capacity: u32) -> Vec<usize> {
    lengths.iter().enumerate().for_each(|(item, &length)| assert_fits(item, length, capacity));
    let mut items: Vec<usize> = (0..lengths.len()).collect();
    items.sort_by_key(|&item| std::cmp::Reverse(lengths[item]));
    items
}

fn assert_fits(item: usize, length: u32, capacity: u32) {
    assert!(length <= capacity, "item {item} of length {length} is longer than a pack of {capacity}");
}

/// A binary tree whose leaves are the room left in each pack, opened or not, and whose inner nodes
/// are the most room below them: the first pack with room is found by walking down from the root.
struct RoomTree {
    most: Vec<u32>,
    leaves: usize,
}

impl RoomTree {
    /// As many packs as there are items, since each item may need its own.
    fn new(packs: usize, capacity: u32) -> Self {
        let leaves = packs.next_power_of_two();
        Self { most: vec![capacity; 2 * leaves], leaves }
    }

    /// Takes `length` from the first pack that has it, and gives the pack's index.
    fn take_first(&mut self, length: u32) -> usize {
        let mut node = 1;
        while node < self.leaves {
            node = if self.most[2 * node] >= length { 2 * node } else { 2 * node + 1 };
        }
        let pack = node - self.leaves;
        self.most[node] -= length;
        while node > 1 {
            node /= 2;
            self.most[node] = self.most[2 * node].max(self.most[2 * node + 1]);
        }
        pack
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Packer = fn(&[u32], u32) -> Vec<Vec<usize>>;

    #[track_caller]
    fn check(packer: Packer, lengths: &[u32], capacity: u32, expected: &[&[usize]]) {
        assert_eq!(packer(lengths, capacity), expected);
    }

    #[test]
    fn worked_examples() {
        let [ffd, bfd]: [Packer; 2] = [first_fit_decreasing, best_fit_decreasing];
        for decreasing in [ffd, bfd] {
            check(decreasing, &[5, 4, 3, 2, 1], 6, &[&[0, 4], &[1, 3], &[2]]);
            check(decreasing, &[7, 6, 5, 5, 4, 3, 3, 2, 1], 10, &[&[0, 5], &[1, 4], &[2, 3], &[6, 7, 8]]);
            check(decreasing, &[4, 8, 1, 4, 2, 1], 10, &[&[1, 4], &[0, 3, 2, 5]]);
            check(decreasing, &[6, 6, 6, 4, 4, 4], 10, &[&[0, 3], &[1, 4], &[2, 5]]);
            check(decreasing, &[10, 10, 1], 10, &[&[0], &[1], &[2]]);
            check(decreasing, &[3; 7], 10, &[&[0, 1, 2], &[3, 4, 5], &[6]]);
            check(decreasing, &[], 10, &[]);
            check(decreasing, &[0, 0], 0, &[&[0, 1]]);
        }
        check(ffd, &[9, 7, 6, 4, 4, 2, 1], 12, &[&[0, 5, 6], &[1, 3], &[2, 4]]);
        check(bfd, &[9, 7, 6, 4, 4, 2, 1], 12, &[&[0], &[1, 3, 6], &[2, 4, 5]]);
        check(sequential, &[5, 4, 3, 2, 1], 6, &[&[0], &[1], &[2, 3, 4]]);
        check(sequential, &[7, 6, 5, 5, 4, 3, 3, 2, 1], 10, &[&[0], &[1], &[2, 3], &[4, 5, 6], &[7, 8]]);
        check(sequential, &[4, 8, 1, 4, 2, 1], 10, &[&[0], &[1, 2], &[3, 4, 5]]);
        check(sequential, &[6, 6, 6, 4, 4, 4], 10, &[&[0], &[1], &[2, 3], &[4, 5]]);
        check(sequential, &[3; 7], 10, &[&[0, 1, 2], &[3, 4, 5], &[6]]);
    }

    #[test]
    #[should_panic(expected = "item 1 of length 7 is longer than a pack of 6")]
    fn an_item_longer_than_a_pack_is_refused() {
        first_fit_decreasing(&[1, 7], 6);
    }

    /// Lengths spread like reasoning traces, at the size of the paper's data set.
    #[test]
    fn three_hundred_thousand_items_pack_tightly_and_at_once() {
        let mut state = 17_u64;
        let lengths: Vec<u32> = (0..300_000)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let fraction = (state >> 11) as f64 / (1_u64 << 53) as f64;
                (300.0 * (200.0_f64).powf(fraction)) as u32
            })
            .collect();
        let begin = std::time::Instant::now();
        for packer in [first_fit_decreasing, best_fit_decreasing] {
            let packs = packer(&lengths, 60_000);
            let tokens: u64 = lengths.iter().map(|&length| u64::from(length)).sum();
            let filled = tokens as f64 / (packs.len() as f64 * 60_000.0);
            assert!(filled > 0.99, "filled {filled}");
        }
        // Quadratic packing takes minutes; the bound is loose so that a busy machine passes.
        assert!(begin.elapsed().as_secs() < 10, "{:?}", begin.elapsed());
    }

    fn naive_first_fit_decreasing(lengths: &[u32], capacity: u32) -> Vec<Vec<usize>> {
        let mut packs: Vec<(u32, Vec<usize>)> = Vec::new();
        for item in longest_first(lengths, capacity) {
            match packs.iter_mut().find(|(used, _)| used + lengths[item] <= capacity) {
                Some((used, items)) => {
                    *used += lengths[item];
                    items.push(item);
                }
                None => packs.push((lengths[item], vec![item])),
            }
        }
        packs.into_iter().map(|(_, items)| items).collect()
    }

    proptest! {
        #[test]
        fn every_item_is_packed_once_and_no_pack_overflows(lengths in prop::collection::vec(0..=50_u32, 0..120)) {
            for packer in [first_fit_decreasing, best_fit_decreasing, sequential] {
                let packs = packer(&lengths, 50);
                let mut items: Vec<usize> = packs.concat();
                items.sort_unstable();
                prop_assert_eq!(items, (0..lengths.len()).collect::<Vec<_>>());
                prop_assert!(packs.iter().all(|pack| pack.iter().map(|&item| lengths[item]).sum::<u32>() <= 50));
            }
        }

        #[test]
        fn first_fit_equals_its_naive_form(lengths in prop::collection::vec(0..=50_u32, 0..120)) {
            prop_assert_eq!(first_fit_decreasing(&lengths, 50), naive_first_fit_decreasing(&lengths, 50));
        }

        /// The best packing is known because full packs were cut into pieces.
        #[test]
        fn first_fit_keeps_its_bound(cuts in prop::collection::vec(prop::collection::btree_set(1..60_u32, 0..6), 1..30)) {
            let best = cuts.len();
            let mut lengths = Vec::new();
            for cuts in cuts {
                let ends = cuts.iter().copied().chain([60]);
                let starts = [0].into_iter().chain(cuts.iter().copied());
                lengths.extend(starts.zip(ends).map(|(start, end)| end - start));
            }
            let packs = first_fit_decreasing(&lengths, 60).len();
            prop_assert!(packs >= best && 9 * packs <= 11 * best + 6);
        }
    }
}
