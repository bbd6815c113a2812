//! Which rows are taken of each input: by ids and the seed alone, so that rows which are added disturb no others.

use std::collections::{BTreeMap, BTreeSet};

use dag_engine::task::{TaskCx, TaskError};
use dag_engine::{Digest, canonical, seed};
use serde_json::json;

use super::{Params, SameIds, Side};
use crate::records::draw;

/// So many ids that clash are named.
const NAMED: usize = 3;

/// For every row of every input, whether it is taken.
pub(super) struct Choice {
    /// Input by input, row by row.
    is_taken: Vec<Vec<bool>>,
    rows_in: Vec<u64>,
    taken: Vec<u64>,
    taken_elsewhere: u64,
}

/// A row that may be taken.
struct Candidate {
    /// Rows with a lower rank are taken first.
    rank: u64,
    side: usize,
    /// Its place in its input.
    row: usize,
}

impl Choice {
    pub(super) fn make(params: &Params, sides: &[Side], cx: &TaskCx) -> Result<Self, TaskError> {
        let seed = draw(cx.seed(), params.seed);
        let owners = match params.same_ids {
            SameIds::Share => owners(params, sides, seed)?,
            SameIds::Refuse | SameIds::Prefix => BTreeMap::new(),
        };
        let mut clashes = Clashes::default();
        let mut candidates = Vec::new();
        let (mut is_taken, mut taken_elsewhere) = (Vec::new(), 0);
        for (index, side) in sides.iter().enumerate() {
            let mut rows = 0;
            side.identities(|id, repeat| {
                let is_owner = owners.get(&Digest::of(id.as_bytes())).is_none_or(|owner| *owner == index);
                if is_owner {
                    let inside = (params.same_ids == SameIds::Prefix).then_some(&side.name);
                    clashes.see(&canonical::digest(&json!([inside, id, repeat])), id);
                    let repeat = repeat.as_u64().map(u64::to_le_bytes);
                    let mut parts: Vec<&[u8]> = vec![b"rank", id.as_bytes()];
                    parts.extend(repeat.as_ref().map(<[u8; 8]>::as_slice));
                    candidates.push(Candidate { rank: seed::derive(seed, &parts), side: index, row: rows });
                } else {
                    taken_elsewhere += 1;
                }
                rows += 1;
            })?;
            if cx.cancelled() {
                return Err(TaskError::Cancelled);
            }
            is_taken.push(vec![false; rows]);
        }
        clashes.refuse(params.same_ids)?;
        candidates.sort_unstable_by_key(|row| (row.rank, row.side, row.row));
        let mut left = quotas(params, sides, &candidates)?;
        let mut total = params.take.unwrap_or(u64::MAX);
        let mut taken = vec![0; sides.len()];
        for Candidate { side, row, .. } in candidates {
            if left[side] > 0 && total > 0 {
                (left[side], total) = (left[side] - 1, total - 1);
                is_taken[side][row] = true;
                taken[side] += 1;
            }
        }
        let rows_in = is_taken.iter().map(|rows| rows.len() as u64).collect();
        Ok(Self { is_taken, rows_in, taken, taken_elsewhere })
    }

    /// Whether each row of an input is taken.
    pub(super) fn of(&self, side: usize) -> &[bool] {
        &self.is_taken[side]
    }

    /// How many rows each input has.
    pub(super) fn rows_in(&self) -> &[u64] {
        &self.rows_in
    }

    /// How many rows of each input are taken.
    pub(super) fn taken(&self) -> &[u64] {
        &self.taken
    }

    /// How many rows are not taken because another input gives their id.
    pub(super) fn taken_elsewhere(&self) -> u64 {
        self.taken_elsewhere
    }
}

/// For every id that several inputs hold, the one that gives it.
///
/// The draw is by the id alone, so it stays when other ids come or go; the shares are those of the weights but for chance.
fn owners(params: &Params, sides: &[Side], seed: u64) -> Result<BTreeMap<Digest, usize>, TaskError> {
    let mut holders: Vec<(Digest, usize)> = Vec::new();
    for (index, side) in sides.iter().enumerate() {
        side.identities(|id, _| holders.push((Digest::of(id.as_bytes()), index)))?;
    }
    holders.sort_unstable();
    holders.dedup();
    let mut owners = BTreeMap::new();
    for holders in holders.chunk_by(|a, b| a.0 == b.0).filter(|holders| holders.len() > 1) {
        let id = holders[0].0;
        let weights = || holders.iter().map(|(_, side)| weight(params, &sides[*side]));
        // 53 bits: as many as a float holds exactly.
        let drawn = seed::derive(seed, &[b"input", id.as_bytes()]) >> 11;
        let mut point = drawn as f64 / (1_u64 << 53) as f64 * weights().sum::<f64>();
        let owner = weights().position(|weight| {
            point -= weight;
            point < 0.0
        });
        // Rounding may leave the point at the very end, which is the last one's.
        owners.insert(id, holders[owner.unwrap_or(holders.len() - 1)].1);
    }
    Ok(owners)
}

fn weight(params: &Params, side: &Side) -> f64 {
    params.weights.get(&side.name).copied().unwrap_or(1.0)
}

/// How many rows each input may give.
fn quotas(params: &Params, sides: &[Side], candidates: &[Candidate]) -> Result<Vec<u64>, TaskError> {
    let mut present = vec![0_u64; sides.len()];
    for candidate in candidates {
        present[candidate.side] += 1;
    }
    let all: u64 = present.iter().sum();
    if let Some(take) = params.take.filter(|take| *take > all) {
        return Err(TaskError::failed(format!("`take: {take}` of {all} rows")));
    }
    if params.weights.is_empty() {
        return Ok(present);
    }
    let weights: Vec<f64> = sides.iter().map(|side| weight(params, side)).collect();
    if let Some(take) = params.take {
        let shares = apportion(take, &weights);
        return match (0..sides.len()).find(|&index| shares[index] > present[index]) {
            None => Ok(shares),
            Some(short) => Err(TaskError::failed(format!(
                "`take: {take}` with these weights needs {} rows of `{}`, which gives {}",
                shares[short], sides[short].name, present[short]
            ))),
        };
    }
    let sum: f64 = weights.iter().sum();
    let most = present.iter().zip(&weights).map(|(rows, weight)| *rows as f64 * sum / weight);
    // The share of a scarce input may be rounded up to a row more than it has.
    let mut total = most.fold(all as f64, f64::min).ceil() as u64;
    loop {
        let shares = apportion(total, &weights);
        if shares.iter().zip(&present).all(|(share, rows)| share <= rows) {
            return Ok(shares);
        }
        total -= 1;
    }
}

/// `total` in whole parts in proportion to the weights: each rounded down, and what is left to the largest remainders, the
/// first of equal ones (Hamilton's method).
fn apportion(total: u64, weights: &[f64]) -> Vec<u64> {
    let sum: f64 = weights.iter().sum();
    let exact: Vec<f64> = weights.iter().map(|weight| total as f64 * (weight / sum)).collect();
    let mut parts: Vec<u64> = exact.iter().map(|part| part.floor() as u64).collect();
    let left = total.saturating_sub(parts.iter().sum());
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by(|&a, &b| exact[b].fract().total_cmp(&exact[a].fract()));
    for &index in order.iter().cycle().take(left as usize) {
        parts[index] += 1;
    }
    parts
}

/// Ids that two rows of the output would share.
#[derive(Default)]
struct Clashes {
    seen: BTreeSet<Digest>,
    named: Vec<String>,
    count: u64,
}

impl Clashes {
    fn see(&mut self, identity: &Digest, id: &str) {
        if !self.seen.insert(*identity) {
            self.count += 1;
            if self.named.len() < NAMED {
                self.named.push(format!("`{id}`"));
            }
        }
    }

    fn refuse(self, same_ids: SameIds) -> Result<(), TaskError> {
        if self.count == 0 {
            return Ok(());
        }
        let more = if self.count > self.named.len() as u64 { ", …" } else { "" };
        let what =
            format!("{} rows have an id that is taken already: {}{more}", self.count, self.named.join(", "));
        let help = match same_ids {
            SameIds::Refuse => {
                "`same_ids: prefix` tells inputs apart, `same_ids: share` takes each id from one of them"
            }
            SameIds::Prefix | SameIds::Share => "they are twice in one input",
        };
        Err(TaskError::failed(format!("{what}; {help}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_whole_and_add_up() {
        assert_eq!(apportion(10, &[1.0, 1.0]), [5, 5]);
        assert_eq!(apportion(11, &[1.0, 1.0]), [6, 5]);
        assert_eq!(apportion(100, &[0.2, 0.3, 0.5]), [20, 30, 50]);
        assert_eq!(apportion(7, &[3.0, 1.0]), [5, 2]);
        assert_eq!(apportion(0, &[3.0, 1.0]), [0, 0]);
        for total in 0..200 {
            assert_eq!(apportion(total, &[0.1, 0.7, 0.13, 5.0]).iter().sum::<u64>(), total);
        }
    }
}
