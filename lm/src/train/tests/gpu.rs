//! Training on every GPU there is to test on, held against training on the CPU.

use super::*;
use crate::gpu::tests::{Tested, gpus};

/// A shape of so many layers in a family; one of them has its head tied to the embedding.
fn of(family: Family, layers: usize) -> Config {
    let mut config = Config::small(23, 40, layers, 16, 128);
    config.num_attention_heads = 2;
    config.num_key_value_heads = Some(1);
    config.intermediate_size = 72;
    config.tie_word_embeddings = family == Family::Qwen2;
    let mut config = of_family(config, family);
    if family == Family::NemotronH {
        config.other.insert("mamba_num_heads".to_owned(), 8.into());
    }
    config
}

/// Shared keys, biases on queries, keys and values, normalised heads, and state spaces beside attention without positions.
const FAMILIES: [Family; 4] = [Family::Llama, Family::Qwen2, Family::Qwen3, Family::NemotronH];

fn on_gpu(tested: &Tested, dir: &Path, config: &TrainConfig) -> Trainer {
    let (model, places) = model::shape(dir).unwrap();
    OnGpu::check(&model, &places).unwrap();
    Trainer::on_gpu(&tested.gpu, model, places, config, Base::Stored(dir.to_owned())).unwrap()
}

fn on_cpu(dir: &Path, config: &TrainConfig) -> Trainer {
    Trainer::new(dir, config, &Device::Cpu { threads: 2 }).unwrap()
}

/// Packs of several samples, and labels of several.
fn some_packs() -> Vec<Pack> {
    packs_of([9, 18, 2, 5])
}

/// The same with a sample of several chunks of a state space.
fn longer_packs() -> Vec<Pack> {
    packs_of([9, 70, 2, 5])
}

fn packs_of(lengths: [usize; 4]) -> Vec<Pack> {
    let samples: Vec<_> = (0..).zip(lengths).map(|(number, length)| sample(number, length)).collect();
    vec![pack(&samples[..2]), pack(&samples[2..])]
}

/// How far gradients may be from those of weights and activations that are not rounded. Those of the small hybrid move by 0.18 on the
/// CPU already when its weights alone are rounded.
fn rounded(family: Family) -> f32 {
    if family == Family::NemotronH { 0.3 } else { 0.1 }
}

/// How far two slices are apart, in parts of the length of the second.
fn difference(got: &[f32], expected: &[f32]) -> f32 {
    let square = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|number| number * number).sum::<f32>();
    let apart = square(&mut got.iter().zip(expected).map(|(got, expected)| got - expected));
    (apart / square(&mut expected.iter().copied()).max(f32::MIN_POSITIVE)).sqrt()
}

#[test]
fn losses_gradients_and_steps_are_those_of_the_cpu() {
    for family in FAMILIES {
        let config = of(family, 2);
        // At a high rate small differences grow from step to step in state spaces.
        let (packs, rate) =
            if family == Family::NemotronH { (longer_packs(), 1e-3) } else { (some_packs(), 1e-2) };
        let dir = base(&config);
        let packs_of_step: Vec<&Pack> = packs.iter().collect();
        let configured = TrainConfig { clip_norm: Some(0.5), ..TrainConfig::new(10, rate) };
        let mut expected = on_cpu(dir.path(), &configured);
        let scores = expected.score(&packs).unwrap().concat();
        let (loss, labels) = expected.compute_gradients(&packs_of_step).unwrap();
        let gradients = gradients_of(&expected);
        let steps: Vec<StepStats> = (0..3).map(|_| expected.step(&packs_of_step).unwrap()).collect();
        assert!(steps[0].grad_norm > 0.5, "gradients are clipped");
        for tested in gpus() {
            let name = &config.architectures[0];
            let mut trainer = on_gpu(&tested, dir.path(), &configured);
            let got = trainer.score(&packs).unwrap().concat();
            assert!(difference(&got, &scores) < tested.bound(1e-5, 3e-2), "{name}");
            let got = trainer.compute_gradients(&packs_of_step).unwrap();
            assert_eq!(got.1, labels);
            assert!(
                (got.0 / loss - 1.0).abs() < f64::from(tested.bound(1e-6, 1e-2)),
                "{name}: {got:?} {loss}"
            );
            let got = gradients_of(&trainer);
            for parameter in &trainer.places.parameters {
                let places = parameter.places.clone();
                let apart = difference(&got[places.clone()], &gradients[places]);
                assert!(apart < tested.bound(1e-4, rounded(family)), "{name} `{}`: {apart}", parameter.name);
            }
            let some = if tested.exact { &steps[..] } else { &steps[..1] };
            for (number, expected) in some.iter().enumerate() {
                let got = trainer.step(&packs_of_step).unwrap();
                let bound = f64::from(tested.bound(1e-4, 2e-2));
                assert!(
                    (got.loss / expected.loss - 1.0).abs() < bound,
                    "{name} {number}: {got:?} {expected:?}"
                );
                assert!(
                    (got.grad_norm / expected.grad_norm - 1.0).abs() < 5.0 * bound,
                    "{got:?} {expected:?}"
                );
                assert_eq!((got.step, got.loss_tokens), (expected.step, expected.loss_tokens));
            }
            assert!(trainer.gpu_bytes().unwrap() > 16 * trainer.places.total());
            if tested.exact {
                let apart = difference(&trained(&trainer), &trained(&expected));
                assert!(apart < 1e-4, "{name}: {apart}");
            }
        }
    }
}

#[test]
fn what_is_computed_again_and_in_how_many_passes_changes_what_it_should() {
    for (family, packs) in [(Family::Qwen3, some_packs()), (Family::NemotronH, longer_packs())] {
        computed_again(&of(family, 3), &packs.iter().collect::<Vec<_>>());
    }
}

fn computed_again(config: &Config, packs: &[&Pack]) {
    let dir = base(config);
    for tested in gpus() {
        let mut trainer = on_gpu(&tested, dir.path(), &TrainConfig::new(10, 1e-2));
        let mut gradients = |recompute| {
            trainer.set_recompute(recompute);
            // Another pass before, of another size.
            trainer.compute_gradients(&packs[1..]).unwrap();
            let loss = trainer.compute_gradients(packs).unwrap().0;
            (bits(&gradients_of(&trainer)), loss.to_bits())
        };
        assert!(gradients(Recompute::Always) == gradients(Recompute::Never));
        let kept = gradients_of(&trainer);
        // Each pack in a pass of its own: the second one's gradients are added to the first's.
        let batches = batches(packs, config, 1).unwrap();
        let labels: usize = batches.iter().map(|batch| batch.labels.len()).sum();
        let unlearned = Batch { labels: Vec::new(), ..batches[0].clone() };
        let batches = [vec![unlearned], batches].concat();
        trainer.engine.compute_gradients(&batches, 1.0 / labels as f32).unwrap();
        let apart = difference(&gradients_of(&trainer), &kept);
        assert!(apart < tested.bound(1e-5, 1e-2), "{apart}");
    }
}

/// Stops after two of four steps and goes on elsewhere.
fn resumes(tested: &Tested, dir: &Path, config: &TrainConfig) {
    let packs = some_packs();
    let packs: Vec<&Pack> = packs.iter().collect();
    let mut straight = on_gpu(tested, dir, config);
    let kept = tempfile::tempdir().unwrap();
    let losses: Vec<f64> = (0..4)
        .map(|step| {
            if step == 2 {
                straight.save_checkpoint(kept.path()).unwrap();
            }
            straight.step(&packs).unwrap().loss
        })
        .collect();
    assert!(losses[3] < losses[0], "{losses:?}");
    let mut resumed = on_gpu(tested, dir, config);
    resumed.load_checkpoint(kept.path()).unwrap();
    assert_eq!(resumed.position(), Position { step: 2, packs: 4 });
    for loss in &losses[2..] {
        assert_eq!(resumed.step(&packs).unwrap().loss.to_bits(), loss.to_bits());
    }
    assert_eq!(bits(&trained(&straight)), bits(&trained(&resumed)));
    let moment = |trainer: &Trainer| bits(&trainer.engine.state().unwrap().second);
    assert_eq!(moment(&straight), moment(&resumed));
}

#[test]
fn a_run_goes_on_from_its_checkpoint_to_the_same_bits() {
    let config = &of(Family::Llama, 1);
    let dir = base(config);
    for tested in gpus() {
        resumes(&tested, dir.path(), &TrainConfig::new(10, 1e-2));
    }
}

#[test]
fn what_is_saved_are_the_exact_weights() {
    let config = &of(Family::Qwen2, 1);
    let (dir, packs) = (base(config), some_packs());
    for tested in gpus() {
        let mut trainer = on_gpu(&tested, dir.path(), &TrainConfig::new(10, 1e-3));
        let saved = tempfile::tempdir().unwrap();
        trainer.save_model(saved.path()).unwrap();
        let before = model::load(dir.path()).unwrap().2;
        assert_eq!(bits(&model::load(saved.path()).unwrap().2), bits(&before));
        trainer.step(&packs.iter().collect::<Vec<_>>()).unwrap();
        trainer.save_model(saved.path()).unwrap();
        let after = model::load(saved.path()).unwrap().2;
        assert_eq!(bits(&after), bits(&trained(&trainer)));
        // Less than the distance of two neighbouring elements is not lost.
        assert!(after.iter().zip(&before).all(|(after, before)| (after - before).abs() < 2e-3));
        assert_ne!(bits(&after), bits(&before));
    }
}

#[test]
fn adapters_are_trained_as_on_the_cpu() {
    for family in [Family::Llama, Family::Qwen3, Family::NemotronH] {
        let config = of(family, 1);
        let (dir, packs) = (base(&config), some_packs());
        let packs_of_step: Vec<&Pack> = packs.iter().collect();
        let mut targets: Vec<String> =
            ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"].map(str::to_owned).into();
        if family == Family::NemotronH {
            targets.extend(["in_proj", "out_proj"].map(str::to_owned));
        }
        let lora = Lora { rank: 3, alpha: 7.0, targets, seed: 5 };
        let configured = TrainConfig { lora: Some(lora), ..TrainConfig::new(10, 1e-2) };
        let mut expected = on_cpu(dir.path(), &configured);
        let place = |(place, value): (usize, f32)| value + 0.1 * (place as f32 * 0.7).sin();
        // Somewhere in training: B is not zero any more.
        let values: Vec<f32> = trained(&expected).into_iter().enumerate().map(place).collect();
        let zeros = vec![0_u8; 4 * values.len()];
        let bytes = crate::weights::bytes(&values);
        expected.engine.restore(&bytes, &zeros, &zeros).unwrap();
        let scores = expected.score(&packs).unwrap().concat();
        expected.compute_gradients(&packs_of_step).unwrap();
        let gradients = gradients_of(&expected);
        for tested in gpus() {
            let mut trainer = on_gpu(&tested, dir.path(), &configured);
            trainer.engine.restore(&bytes, &zeros, &zeros).unwrap();
            let got = trainer.score(&packs).unwrap().concat();
            assert!(difference(&got, &scores) < tested.bound(1e-5, 3e-2));
            trainer.compute_gradients(&packs_of_step).unwrap();
            let got = gradients_of(&trainer);
            for parameter in &trainer.adapters.as_ref().unwrap().parameters {
                let places = parameter.places.clone();
                let apart = difference(&got[places.clone()], &gradients[places]);
                assert!(apart < tested.bound(1e-4, rounded(family)), "`{}`: {apart}", parameter.name);
            }
            // Saved beside the base's own weights, not those that were rounded.
            let [there, here] = [&trainer, &expected].map(|trainer| {
                let saved = tempfile::tempdir().unwrap();
                trainer.save_model(saved.path()).unwrap();
                model::load(saved.path()).unwrap().2
            });
            assert_eq!(bits(&there), bits(&here));
            if family == Family::Llama {
                resumes(&tested, dir.path(), &configured);
            }
        }
    }
}

#[test]
fn a_model_without_kernels_is_refused_before_its_weights_are_read() {
    let mut hybrid = of(Family::NemotronH, 1);
    hybrid.other.insert("mamba_num_heads".to_owned(), 4.into());
    let experts = of_family(shape(), Family::Qwen3Moe);
    let narrow = shape();
    let odd = Config { hidden_size: 36, intermediate_size: 36, ..of(Family::Llama, 1) };
    let refused = [
        (
            hybrid,
            "the model needs training of 4 Mamba heads with 2 groups of 10 elements, whose numbers are no multiples of 8, on a \
             GPU, which is not supported",
        ),
        (experts, "the model needs training of mixtures of experts on a GPU, which is not supported"),
        (
            narrow,
            "the model needs training of heads of 8 elements, not of a multiple of 16 up to 256, on a GPU, which is not \
             supported",
        ),
        (
            odd,
            "the model needs training of a width of 36, which is no multiple of 8, on a GPU, which is not supported",
        ),
    ];
    for (config, expected) in refused {
        let dir = base(&config);
        let fault = Trainer::new(dir.path(), &TrainConfig::new(1, 1e-3), &Device::Cuda(0)).unwrap_err();
        assert_eq!(fault.to_string(), expected);
    }
}
