//! Training against worked examples, finite differences and itself.

mod gpu;
mod lora;

use super::*;
use crate::loss::CrossEntropy;
use crate::model::{Family, of_family, varied};

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn shape() -> Config {
    let mut config = Config::small(23, 32, 2, 8, 128);
    config.num_attention_heads = 4;
    config.num_key_value_heads = Some(2);
    config
}

fn base(config: &Config) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    varied(config, 11, dir.path());
    dir
}

/// Every family, and a tied head.
fn shapes() -> Vec<Config> {
    let of = |family| of_family(Config { tie_word_embeddings: false, ..shape() }, family);
    let families = Family::ALL.into_iter().filter(|&family| family != Family::Qwen3Moe);
    families.map(of).chain([shape()]).collect()
}

/// A sample whose labels are its second half.
fn sample(number: u32, length: usize) -> (Vec<u32>, Vec<u8>) {
    let tokens = (0..length as u32).map(|index| (number * 5 + index * index * (number + 1)) % 23).collect();
    (tokens, (0..length).map(|index| u8::from(index > 0 && index >= length / 2)).collect())
}

fn pack(samples: &[(Vec<u32>, Vec<u8>)]) -> Pack {
    let mut pack = Pack::default();
    for (tokens, mask) in samples {
        pack.starts.push(pack.tokens.len() as u32);
        pack.tokens.extend(tokens);
        pack.loss_mask.extend(mask);
    }
    pack
}

fn packs() -> Vec<Pack> {
    let lengths = [9, 40, 2, 17, 70, 5];
    let samples: Vec<_> = (0..).zip(lengths).map(|(number, length)| sample(number, length)).collect();
    vec![pack(&samples[..3]), pack(&samples[3..4]), pack(&samples[4..])]
}

fn trainer(dir: &Path, threads: usize) -> Trainer {
    Trainer::new(dir, &TrainConfig::new(10, 1e-2), &Device::Cpu { threads }).unwrap()
}

/// What computes on a CPU.
fn on_cpu(trainer: &mut Trainer) -> &mut OnCpu {
    let engine: &mut dyn std::any::Any = &mut *trainer.engine;
    engine.downcast_mut().unwrap()
}

fn gradients_of(trainer: &Trainer) -> Vec<f32> {
    trainer.engine.gradients().unwrap()
}

fn trained(trainer: &Trainer) -> Vec<f32> {
    trainer.engine.trained().unwrap().into_owned()
}

#[test]
fn inputs_and_labels_stay_inside_their_sample() {
    let pack = Pack {
        tokens: vec![0, 1, 2, 3, 10, 11, 12],
        loss_mask: vec![0, 0, 1, 1, 0, 1, 1],
        starts: vec![0, 4],
    };
    let batch = batches(&[&pack], &shape(), 4096).unwrap().remove(0);
    assert_eq!(batch.inputs, [0, 1, 2, 10, 11]);
    assert_eq!(batch.positions, [0, 1, 2, 0, 1]);
    assert_eq!(batch.bounds, [3, 5]);
    assert_eq!(batch.labels, [(1, 2), (2, 3), (3, 11), (4, 12)]);
}

#[test]
fn a_pack_that_would_train_something_else_is_refused() {
    let good = pack(&[sample(1, 6), sample(2, 6)]);
    let faults: [fn(&mut Pack); 5] = [
        |pack| pack.loss_mask[6] = 1,
        |pack| pack.tokens[3] = 23,
        |pack| pack.starts = vec![1],
        |pack| pack.starts = vec![0, 12],
        |pack| pack.loss_mask.truncate(11),
    ];
    for fault in faults {
        let mut bad = good.clone();
        fault(&mut bad);
        assert!(matches!(batches(&[&good, &bad], &shape(), 4096), Err(TrainError::Pack { pack: 1, .. })));
    }
}

#[test]
fn gradients_are_those_of_finite_differences() {
    for config in shapes() {
        let dir = base(&config);
        let mut trainer = trainer(dir.path(), 2);
        let packs = packs();
        let packs: Vec<&Pack> = packs.iter().collect();
        trainer.compute_gradients(&packs).unwrap();
        let gradients = gradients_of(&trainer);
        for parameter in &trainer.places.parameters.clone() {
            let squares: f64 = gradients[parameter.places.clone()].iter().map(|&g| f64::from(g * g)).sum();
            assert!(squares > 0.0, "`{}` gets no gradient", parameter.name);
            // Along the gradient the loss rises by the gradient's square; the step is small against the curvature, which grows
            // with the gradient.
            let norm = squares.sqrt();
            let reach = 2e-3 / norm.max(0.05).max(squares);
            let mut loss_at = |sign: f64| {
                let weights = trained(&trainer);
                for place in parameter.places.clone() {
                    on_cpu(&mut trainer).weights[place] +=
                        (sign * reach * f64::from(gradients[place])) as f32;
                }
                let loss = trainer.compute_gradients(&packs).unwrap().0;
                on_cpu(&mut trainer).weights = weights;
                loss
            };
            let slope = (loss_at(1.0) - loss_at(-1.0)) / (2.0 * reach);
            assert!(
                (slope / squares - 1.0).abs() < 0.02,
                "{} `{}`: {slope} against {squares}",
                config.architectures[0],
                parameter.name
            );
        }
    }
}

#[test]
fn a_model_that_cannot_be_trained_is_refused() {
    let dir = base(&of_family(shape(), Family::Qwen3Moe));
    let fault = Trainer::new(dir.path(), &TrainConfig::new(1, 1e-3), &Device::Cpu { threads: 1 });
    assert!(matches!(fault, Err(TrainError::Model(ModelError::Unsupported { .. }))));
}

#[test]
fn packing_changes_neither_loss_nor_gradient() {
    for config in shapes() {
        packing(&config);
    }
}

fn packing(config: &Config) {
    let dir = base(config);
    let packs = packs();
    let single: Vec<Pack> = packs
        .iter()
        .flat_map(|pack| samples(pack).map(move |(start, end)| (start, end, pack)))
        .map(|(start, end, pack)| Pack {
            tokens: pack.tokens[start..end].to_vec(),
            loss_mask: pack.loss_mask[start..end].to_vec(),
            starts: vec![0],
        })
        .collect();
    let mut trainer = trainer(dir.path(), 2);
    let (together, labels) = trainer.compute_gradients(&packs.iter().collect::<Vec<_>>()).unwrap();
    let gradients = gradients_of(&trainer);
    // One sample at a time, each weighted by its share of the labels.
    let (mut loss, mut sum) = (0.0, vec![0.0_f64; gradients.len()]);
    for pack in &single {
        let (of_sample, count) = trainer.compute_gradients(&[pack]).unwrap();
        let share = count as f64 / labels as f64;
        loss += of_sample * share;
        for (sum, gradient) in sum.iter_mut().zip(gradients_of(&trainer)) {
            *sum += f64::from(gradient) * share;
        }
    }
    assert!((loss - together).abs() < 1e-5, "{loss} {together}");
    for (sum, gradient) in sum.iter().zip(&gradients) {
        assert!((sum - f64::from(*gradient)).abs() < 1e-5, "{sum} {gradient}");
    }
    let device = Device::Cpu { threads: 1 };
    let packed = score(dir.path(), &packs, &device).unwrap().concat();
    let unpacked = score(dir.path(), &single, &device).unwrap().concat();
    assert_eq!(packed.len() as u64, labels);
    assert_eq!(bits(&packed), bits(&unpacked));
}

/// Gradients, loss and what is kept, under one way to do it.
fn gradients_with(config: &Config, set: impl Fn(&mut Trainer)) -> (Vec<u32>, u64) {
    let dir = base(config);
    let mut trainer = trainer(dir.path(), 2);
    set(&mut trainer);
    let packs = packs();
    // Twice: the second time in the buffers of the first, which were of another size.
    trainer.compute_gradients(&[&packs[1]]).unwrap();
    let (loss, _) = trainer.compute_gradients(&packs.iter().collect::<Vec<_>>()).unwrap();
    (bits(&gradients_of(&trainer)), loss.to_bits())
}

#[test]
fn activations_computed_again_change_no_bit() {
    let mut odd = of_family(shape(), Family::NemotronH);
    odd.other.insert("hybrid_override_pattern".to_owned(), "M-M*-".into());
    odd.num_hidden_layers = 5;
    for config in shapes().into_iter().chain([odd]) {
        let [kept, again] = [Recompute::Never, Recompute::Always]
            .map(|recompute| gradients_with(&config, |trainer| trainer.set_recompute(recompute)));
        assert!(kept == again, "{}", config.architectures[0]);
    }
}

#[test]
fn logits_in_chunks_change_no_bit() {
    let labels: usize =
        packs().iter().map(|pack| pack.loss_mask.iter().filter(|&&mask| mask > 0).count()).sum();
    assert!(labels > 3 * 16, "there is more than one chunk");
    let [whole, chunked] = [1 << 24, 1]
        .map(|most| gradients_with(&shape(), |trainer| on_cpu(trainer).loss = CrossEntropy::holding(most)));
    assert!(whole == chunked);
}

#[test]
fn a_killed_run_ends_with_the_same_bytes() {
    let dir = base(&shape());
    let packs = packs();
    let run = |trainer: &mut Trainer, until: u64| {
        while trainer.position().step < until {
            let chosen = order(3, trainer.position(), packs.len(), 2);
            let chosen: Vec<&Pack> = chosen.into_iter().map(|pack| &packs[pack]).collect();
            trainer.step(&chosen).unwrap();
        }
    };
    let mut straight = trainer(dir.path(), 1);
    run(&mut straight, 10);
    let kept = tempfile::tempdir().unwrap();
    {
        let mut first = trainer(dir.path(), 3);
        run(&mut first, 5);
        first.save_checkpoint(kept.path()).unwrap();
        run(&mut first, 7);
    }
    let mut second = trainer(dir.path(), 2);
    second.load_checkpoint(kept.path()).unwrap();
    assert_eq!(second.position(), Position { step: 5, packs: 10 });
    run(&mut second, 10);
    assert_eq!(bits(&trained(&straight)), bits(&trained(&second)));
    let moment = |trainer: &Trainer| bits(&trainer.engine.state().unwrap().second);
    assert_eq!(moment(&straight), moment(&second));

    let mut other =
        Trainer::new(dir.path(), &TrainConfig::new(11, 1e-2), &Device::Cpu { threads: 1 }).unwrap();
    assert!(matches!(other.load_checkpoint(kept.path()), Err(TrainError::Checkpoint { .. })));
    let file = kept.path().join("checkpoint.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.len() - 100;
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    assert!(matches!(second.load_checkpoint(kept.path()), Err(TrainError::Checkpoint { .. })));
}

#[test]
fn a_model_learns_what_it_is_shown_and_is_read_back() {
    let dir = base(&shape());
    let packs = packs();
    let packs: Vec<&Pack> = packs.iter().collect();
    let config = TrainConfig::new(60, 1e-2);
    let mut trainer = Trainer::new(dir.path(), &config, &Device::Cpu { threads: 2 }).unwrap();
    let losses: Vec<f64> = (0..60).map(|_| trainer.step(&packs).unwrap().loss).collect();
    assert!(losses[0] > 2.5 && losses[59] < 0.5, "{losses:?}");
    let saved = tempfile::tempdir().unwrap();
    trainer.save_model(saved.path()).unwrap();
    assert_eq!(bits(&model::load(saved.path()).unwrap().2), bits(&trained(&trainer)));
}

#[test]
fn an_epoch_shows_every_pack_once() {
    let at = |packs| order(9, Position { step: 0, packs }, 7, 7);
    for epoch in 0..3 {
        let mut seen = at(epoch * 7);
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6]);
    }
    assert_ne!(at(0), at(7));
    assert_eq!([order(9, Position { step: 0, packs: 5 }, 7, 4)], [[&at(0)[5..], &at(7)[..2]].concat()]);
}
