//! Parts as the tasks of an array of jobs.

use crate::folder::Part;

/// The tasks of an array as `--array` takes them: `0-3,7`.
pub(super) fn indices(parts: &[Part]) -> String {
    let mut numbers: Vec<u32> = parts
        .iter()
        .filter_map(|part| match part {
            Part::Shard(number) => Some(*number),
            Part::Whole => None,
        })
        .collect();
    numbers.sort_unstable();
    let ranges = numbers.chunk_by(|one, next| next - one == 1).map(|range| match range {
        [only] => only.to_string(),
        [first, .., last] => format!("{first}-{last}"),
        [] => String::new(),
    });
    ranges.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_written_short() {
        let parts: Vec<Part> = [9, 0, 1, 2, 3, 7, 8].map(Part::Shard).into();
        assert_eq!(indices(&parts), "0-3,7-9");
        assert_eq!(indices(&[Part::Shard(5)]), "5");
    }
}
