//! Products of blocks against their definition.

use proptest::prelude::*;

use super::*;

const FORMATS: [Format; 8] = [
    Format::Q4_0,
    Format::Q4_1,
    Format::Q5_0,
    Format::Q5_1,
    Format::Q8_0,
    Format::Q4_K,
    Format::Q5_K,
    Format::Q6_K,
];

fn numbers(seed: u32) -> impl FnMut() -> f32 {
    let mut state = u64::from(seed) * 2 + 1;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// A random matrix, and the same widened, a row per column.
fn matrix(format: Format, depth: usize, columns: usize, seed: u32) -> (QuantisedPanels, Vec<f32>) {
    let mut next = numbers(seed);
    let (mut wide, mut all) = (Vec::new(), Vec::new());
    for _ in 0..columns {
        let mut column = Vec::new();
        for _ in 0..depth / BLOCK {
            let mut number = |size: f32| {
                let number = next() * size;
                if format.scales() == Scales::Half { half::f16::from_f32(number).to_f32() } else { number }
            };
            let first = number(0.1);
            let scales = [first, if format == Format::Q6_K { number(0.1) } else { first }];
            let minimum = if format.has_minimum() { number(1.0) } else { 0.0 };
            let most = match format {
                Format::Q4_0 | Format::Q4_1 | Format::Q4_K => 15.0,
                Format::Q5_0 | Format::Q5_1 | Format::Q5_K => 31.0,
                Format::Q6_K => 63.0,
                Format::Q8_0 => 255.0,
            };
            let quants: [u8; BLOCK] = std::array::from_fn(|_| ((next() * 0.5 + 0.5) * (most + 0.99)) as u8);
            wide.extend(quants.iter().enumerate().map(|(index, &quant)| {
                scales[index / 16] * (f32::from(quant) - f32::from(format.zero())) + minimum
            }));
            column.push(Unpacked { quants, scales, minimum });
        }
        all.push(column);
    }
    (QuantisedPanels::new(format, depth, all.into_iter().map(Vec::into_iter)), wide)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn available() -> Vec<Instructions> {
    match best() {
        Instructions::Plain => vec![Instructions::Plain],
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx2 => vec![Instructions::Plain, Instructions::Avx2],
        #[cfg(target_arch = "x86_64")]
        Instructions::Vnni => vec![Instructions::Plain, Instructions::Avx2, Instructions::Vnni],
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_instruction_set_gives_the_same_bits(rows in 0_usize..20, blocks in 1_usize..6, columns in 1_usize..40, format in 0_usize..8, seed: u32) {
        let (b, _) = matrix(FORMATS[format], blocks * BLOCK, columns, seed);
        let mut next = numbers(!seed);
        let a: Vec<f32> = (0..rows * blocks * BLOCK).map(|_| next()).collect();
        let mut quantised = QuantisedRows::default();
        quantised.fill(&a, blocks);
        let results: Vec<Vec<u32>> = available().into_iter().map(|instructions| {
            let mut c = vec![1.5; rows * columns];
            for panel in 0..columns.div_ceil(WIDTH) {
                let valid = (columns - panel * WIDTH).min(WIDTH);
                let target = Target { c: c.as_mut_ptr().wrapping_add(panel * WIDTH), stride: columns, valid, into: Into::Accumulate };
                // SAFETY: the machine has the instructions, and `c` all rows and columns.
                unsafe { multiply(instructions, target, quantised.view(), b.panel(panel)) };
            }
            bits(&c)
        }).collect();
        for result in &results {
            prop_assert_eq!(result, &results[0]);
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn blocks_are_quantised_alike(values in proptest::array::uniform32(-9.0_f32..9.0), size in 0.0_f32..2.0) {
        prop_assume!(best() != Instructions::Plain);
        let block = values.map(|value| value * size);
        let (mut plain, mut vectors) = ([0; BLOCK], [0; BLOCK]);
        let found = rows::quantise_block(&block, &mut plain);
        // SAFETY: the machine has more than the plain instructions.
        prop_assert_eq!(found, unsafe { x86::quantise_block(&block, &mut vectors) });
        prop_assert_eq!(plain, vectors);
    }

    #[test]
    fn a_row_is_the_same_in_any_company(rows in 1_usize..40, columns in 1_usize..80, format in 0_usize..8, seed: u32, threads in 1_usize..4) {
        let depth = 96;
        let (b, _) = matrix(FORMATS[format], depth, columns, seed);
        let mut next = numbers(!seed);
        let a: Vec<f32> = (0..rows * depth).map(|_| next()).collect();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut together = vec![f32::NAN; rows * columns];
        pool.install(|| matmul_quantised(&mut together, &a, &b, Into::Replace));
        for (a, together) in a.chunks(depth).zip(together.chunks(columns)) {
            let mut alone = vec![f32::NAN; columns];
            matmul_quantised(&mut alone, a, &b, Into::Replace);
            prop_assert_eq!(bits(&alone), bits(together));
        }
    }
}

#[test]
fn the_product_is_that_of_the_widened_matrix_but_for_rounding() {
    for (seed, format) in (0..).zip(FORMATS) {
        let (depth, columns) = (576, 37);
        let (b, wide) = matrix(format, depth, columns, seed);
        let mut next = numbers(77);
        let a: Vec<f32> = (0..depth).map(|_| next()).collect();
        let mut c = vec![0.0; columns];
        matmul_quantised(&mut c, &a, &b, Into::Replace);
        for (found, column) in c.iter().zip(wide.chunks(depth)) {
            let exact: f64 = a.iter().zip(column).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let size: f64 = a.iter().zip(column).map(|(a, b)| f64::from(a * b).powi(2)).sum::<f64>().sqrt();
            assert!((f64::from(*found) - exact).abs() < 0.02 * size, "{format:?}: {found} for {exact}");
        }
    }
}
