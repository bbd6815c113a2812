//! Products with a panel of blocks, in vectors of 256 and 512 bits.
#![cfg_attr(not(test), expect(clippy::wildcard_imports, reason = "half a hundred instructions"))]
#![expect(clippy::cast_ptr_alignment, reason = "all loads are of the kind that needs no alignment")]

use std::arch::x86_64::*;

use super::{BLOCK, Format, NumbersView, Panel, Rows, Target, scale};
use crate::kernels::matmul::WIDTH;

/// Where numbers begin; of which kind they are is known from the format.
fn pointer(numbers: NumbersView<'_>) -> *const u8 {
    match numbers {
        NumbersView::Half(numbers) => numbers.as_ptr().cast(),
        NumbersView::Single(numbers) => numbers.as_ptr().cast(),
    }
}

/// The sum of a block's quants, or of those of one half.
fn sum<const PARTS: usize>(sums: [i32; 2], part: usize) -> i32 {
    if PARTS == 1 { sums[0] + sums[1] } else { sums[part] }
}

/// Calls a kernel as it is compiled for the format of the panel: whether quants are narrow, whether there are minima, whether
/// numbers have 16 bits, and how many parts of a block have a scale.
macro_rules! for_format {
    ($kernel:ident::<$count:ident>($target:ident, $rows:ident, $panel:ident, $first:ident)) => {
        match $panel.format {
            Format::Q4_0 => $kernel::<$count, true, false, true, 1>($target, $rows, $panel, $first),
            Format::Q4_1 => $kernel::<$count, true, true, true, 1>($target, $rows, $panel, $first),
            Format::Q5_0 | Format::Q8_0 => {
                $kernel::<$count, false, false, true, 1>($target, $rows, $panel, $first);
            }
            Format::Q5_1 => $kernel::<$count, false, true, true, 1>($target, $rows, $panel, $first),
            Format::Q4_K => $kernel::<$count, true, true, false, 1>($target, $rows, $panel, $first),
            Format::Q5_K => $kernel::<$count, false, true, false, 1>($target, $rows, $panel, $first),
            Format::Q6_K => $kernel::<$count, false, false, false, 2>($target, $rows, $panel, $first),
        }
    };
}

/// # Safety
/// As [`super::multiply`], whose checks have passed.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn multiply_vnni(target: Target, rows: Rows<'_>, panel: Panel<'_>, count: usize) {
    let mut row = 0;
    while row < count {
        // SAFETY: the caller's; as many rows are left.
        row += unsafe {
            match count - row {
                8.. => vnni_rows::<8>(target, rows, panel, row),
                4.. => vnni_rows::<4>(target, rows, panel, row),
                2.. => vnni_rows::<2>(target, rows, panel, row),
                _ => vnni_rows::<1>(target, rows, panel, row),
            }
        };
    }
}

/// `M` rows from `first`; returns `M`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn vnni_rows<const M: usize>(target: Target, rows: Rows<'_>, panel: Panel<'_>, first: usize) -> usize {
    // SAFETY: the caller's.
    unsafe {
        for_format!(vnni::<M>(target, rows, panel, first));
    }
    M
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn vnni<
    const M: usize,
    const NARROW: bool,
    const MINIMUM: bool,
    const HALF: bool,
    const PARTS: usize,
>(
    target: Target,
    rows: Rows<'_>,
    panel: Panel<'_>,
    first: usize,
) {
    let zero = i32::from(panel.format.zero());
    let (scales, minima) = (pointer(panel.scales), pointer(panel.minima));
    let mut totals = [_mm512_setzero_ps(); M];
    let mut right = panel.quants.as_ptr();
    // SAFETY: `multiply` checked that the slices hold all blocks.
    unsafe {
        for block in 0..rows.blocks {
            let at = |row: usize| (first + row) * rows.blocks + block;
            let left = |row: usize, four: usize| {
                let place = rows.quants.as_ptr().add(at(row) * BLOCK + four * 4).cast::<i32>();
                _mm512_set1_epi32(place.read_unaligned())
            };
            let numbers = |from: *const u8, place: usize| {
                if HALF {
                    _mm512_cvtph_ps(_mm256_loadu_si256(from.cast::<u16>().add(place * WIDTH).cast()))
                } else {
                    _mm512_loadu_ps(from.cast::<f32>().add(place * WIDTH))
                }
            };
            for part in 0..PARTS {
                let sum = |row: usize| sum::<PARTS>(*rows.sums.as_ptr().add(at(row)), part);
                let mut dots: [__m512i; M] = std::array::from_fn(|row| {
                    if MINIMUM { _mm512_setzero_si512() } else { _mm512_set1_epi32(-zero * sum(row)) }
                });
                if NARROW {
                    let low = _mm512_set1_epi8(15);
                    for four in 0..4 {
                        let both = _mm512_loadu_si512(right.cast());
                        right = right.add(64);
                        let lower = _mm512_and_si512(both, low);
                        let upper = _mm512_and_si512(_mm512_srli_epi16::<4>(both), low);
                        for (row, dot) in dots.iter_mut().enumerate() {
                            *dot = _mm512_dpbusd_epi32(*dot, lower, left(row, four));
                            *dot = _mm512_dpbusd_epi32(*dot, upper, left(row, four + 4));
                        }
                    }
                } else {
                    for four in part * 8 / PARTS..(part + 1) * 8 / PARTS {
                        let quants = _mm512_loadu_si512(right.cast());
                        right = right.add(64);
                        for (row, dot) in dots.iter_mut().enumerate() {
                            *dot = _mm512_dpbusd_epi32(*dot, quants, left(row, four));
                        }
                    }
                }
                let scales = numbers(scales, block * PARTS + part);
                for (row, (total, dot)) in totals.iter_mut().zip(dots).enumerate() {
                    let scale = *rows.scales.as_ptr().add(at(row));
                    let both = _mm512_mul_ps(scales, _mm512_set1_ps(scale));
                    *total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), both, *total);
                    if MINIMUM {
                        let sum = _mm512_set1_ps(sum(row) as f32 * scale);
                        *total = _mm512_fmadd_ps(numbers(minima, block), sum, *total);
                    }
                }
            }
        }
        for (row, total) in totals.iter().enumerate() {
            let mut sums = [0.0; WIDTH];
            _mm512_storeu_ps(sums.as_mut_ptr(), *total);
            target.put(first + row, &sums);
        }
    }
}

/// # Safety
/// As [`super::multiply`], whose checks have passed.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn multiply_avx2(target: Target, rows: Rows<'_>, panel: Panel<'_>, count: usize) {
    let mut row = 0;
    while row < count {
        // SAFETY: the caller's; as many rows are left.
        row += unsafe {
            match count - row {
                2.. => avx2_rows::<2>(target, rows, panel, row),
                _ => avx2_rows::<1>(target, rows, panel, row),
            }
        };
    }
}

/// `M` rows from `first`; returns `M`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2_rows<const M: usize>(target: Target, rows: Rows<'_>, panel: Panel<'_>, first: usize) -> usize {
    // SAFETY: the caller's.
    unsafe {
        for_format!(avx2::<M>(target, rows, panel, first));
    }
    M
}

/// Adds to eight sums the products of four pairs each. Pairs of products are added in 16 bits, which hold them only while
/// no quant is above 128: a wider one is taken less 128, its magnitude on one side and its sign on the other.
#[target_feature(enable = "avx2")]
fn add_dots<const NARROW: bool>(dot: __m256i, right: __m256i, left: __m256i) -> __m256i {
    let pairs = if NARROW {
        _mm256_maddubs_epi16(right, left)
    } else {
        let signed = _mm256_xor_si256(right, _mm256_set1_epi8(-128));
        _mm256_maddubs_epi16(_mm256_abs_epi8(signed), _mm256_sign_epi8(left, signed))
    };
    _mm256_add_epi32(dot, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2<
    const M: usize,
    const NARROW: bool,
    const MINIMUM: bool,
    const HALF: bool,
    const PARTS: usize,
>(
    target: Target,
    rows: Rows<'_>,
    panel: Panel<'_>,
    first: usize,
) {
    // What `add_dots` took off wide quants.
    let taken = if NARROW { 0 } else { 128 };
    let start = taken - if MINIMUM { 0 } else { i32::from(panel.format.zero()) };
    let (scales, minima) = (pointer(panel.scales), pointer(panel.minima));
    let mut totals = [[_mm256_setzero_ps(); 2]; M];
    let mut right = panel.quants.as_ptr();
    // SAFETY: `multiply` checked that the slices hold all blocks.
    unsafe {
        for block in 0..rows.blocks {
            let at = |row: usize| (first + row) * rows.blocks + block;
            let left = |row: usize, four: usize| {
                let place = rows.quants.as_ptr().add(at(row) * BLOCK + four * 4).cast::<i32>();
                _mm256_set1_epi32(place.read_unaligned())
            };
            let numbers = |from: *const u8, place: usize, half: usize| {
                let place = place * WIDTH + half * 8;
                if HALF {
                    _mm256_cvtph_ps(_mm_loadu_si128(from.cast::<u16>().add(place).cast()))
                } else {
                    _mm256_loadu_ps(from.cast::<f32>().add(place))
                }
            };
            for part in 0..PARTS {
                let sum = |row: usize| sum::<PARTS>(*rows.sums.as_ptr().add(at(row)), part);
                let mut dots: [[__m256i; 2]; M] =
                    std::array::from_fn(|row| [_mm256_set1_epi32(start * sum(row)); 2]);
                for four in if NARROW { 0..4 } else { part * 8 / PARTS..(part + 1) * 8 / PARTS } {
                    for half in 0..2 {
                        let quants = _mm256_loadu_si256(right.cast());
                        right = right.add(32);
                        if NARROW {
                            let low = _mm256_set1_epi8(15);
                            let lower = _mm256_and_si256(quants, low);
                            let upper = _mm256_and_si256(_mm256_srli_epi16::<4>(quants), low);
                            for (row, dots) in dots.iter_mut().enumerate() {
                                dots[half] = add_dots::<true>(dots[half], lower, left(row, four));
                                dots[half] = add_dots::<true>(dots[half], upper, left(row, four + 4));
                            }
                        } else {
                            for (row, dots) in dots.iter_mut().enumerate() {
                                dots[half] = add_dots::<false>(dots[half], quants, left(row, four));
                            }
                        }
                    }
                }
                for half in 0..2 {
                    let scales = numbers(scales, block * PARTS + part, half);
                    for (row, (totals, dots)) in totals.iter_mut().zip(&dots).enumerate() {
                        let scale = *rows.scales.as_ptr().add(at(row));
                        let both = _mm256_mul_ps(scales, _mm256_set1_ps(scale));
                        let total = &mut totals[half];
                        *total = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[half]), both, *total);
                        if MINIMUM {
                            let sum = _mm256_set1_ps(sum(row) as f32 * scale);
                            *total = _mm256_fmadd_ps(numbers(minima, block, half), sum, *total);
                        }
                    }
                }
            }
        }
        for (row, [left, right]) in totals.iter().enumerate() {
            let mut sums = [0.0; WIDTH];
            _mm256_storeu_ps(sums.as_mut_ptr(), *left);
            _mm256_storeu_ps(sums.as_mut_ptr().add(8), *right);
            target.put(first + row, &sums);
        }
    }
}

/// [`super::rows::quantise_block`], to the bit.
#[target_feature(enable = "avx2")]
pub(super) fn quantise_block(block: &[f32; BLOCK], quants: &mut [i8; BLOCK]) -> (f32, [i32; 2]) {
    let values: [__m256; 4] = std::array::from_fn(|part| {
        // SAFETY: a block has four times eight elements.
        unsafe { _mm256_loadu_ps(block.as_ptr().add(part * 8)) }
    });
    let sizes = values.map(|value| _mm256_and_si256(_mm256_castps_si256(value), _mm256_set1_epi32(i32::MAX)));
    let eight = _mm256_max_epu32(_mm256_max_epu32(sizes[0], sizes[1]), _mm256_max_epu32(sizes[2], sizes[3]));
    let four = _mm_max_epu32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256::<1>(eight));
    let two = _mm_max_epu32(four, _mm_shuffle_epi32::<0b00_00_11_10>(four));
    let largest = _mm_max_epu32(two, _mm_shuffle_epi32::<0b00_00_00_01>(two));
    let (scale, inverse) = scale(f32::from_bits(_mm_cvtsi128_si32(largest) as u32));
    let nearest = values.map(|value| _mm256_cvtps_epi32(_mm256_mul_ps(value, _mm256_set1_ps(inverse))));
    let sums =
        [_mm256_add_epi32(nearest[0], nearest[1]), _mm256_add_epi32(nearest[2], nearest[3])].map(|eight| {
            let four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256::<1>(eight));
            let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b00_00_11_10>(four));
            _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<0b00_00_00_01>(two)))
        });
    // Packing takes four bytes from each half of each part in turn.
    let halves = [_mm256_packs_epi32(nearest[0], nearest[1]), _mm256_packs_epi32(nearest[2], nearest[3])];
    let packed = _mm256_packs_epi16(halves[0], halves[1]);
    let ordered = _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    // SAFETY: the quants of a block take 32 bytes.
    unsafe { _mm256_storeu_si256(quants.as_mut_ptr().cast(), ordered) };
    (scale, sums)
}
