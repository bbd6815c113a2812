//! Training of adapters.

use super::*;
use crate::weights::WEIGHTS_FILE;

/// Some projections of every family.
fn lora(config: &Config) -> Lora {
    let targets: &[&str] = match config.family() {
        Some(Family::NemotronH) => {
            &["q_proj", "v_proj", "o_proj", "up_proj", "down_proj", "in_proj", "out_proj"]
        }
        _ => &["q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    };
    let targets = targets.iter().map(|&target| target.to_owned()).collect();
    Lora { rank: 3, alpha: 7.0, targets, seed: 5 }
}

fn configured(config: &Config) -> TrainConfig {
    TrainConfig { lora: Some(lora(config)), ..TrainConfig::new(10, 1e-2) }
}

fn with_adapters(dir: &Path, config: &Config, threads: usize) -> Trainer {
    Trainer::new(dir, &configured(config), &Device::Cpu { threads }).unwrap()
}

fn values(trainer: &mut Trainer) -> &mut [f32] {
    &mut on_cpu(trainer).adapters.as_mut().unwrap().values
}

/// Adapters somewhere in training: B is not zero any more.
fn somewhere(trainer: &mut Trainer) {
    for (place, value) in values(trainer).iter_mut().enumerate() {
        *value += 0.1 * (place as f32 * 0.7).sin();
    }
}

#[test]
fn the_gradients_of_adapters_are_those_of_finite_differences() {
    for config in shapes() {
        let dir = base(&config);
        let mut trainer = with_adapters(dir.path(), &config, 2);
        somewhere(&mut trainer);
        let packs = packs();
        let packs: Vec<&Pack> = packs.iter().collect();
        trainer.compute_gradients(&packs).unwrap();
        let gradients = gradients_of(&trainer);
        let parameters = trainer.adapters.as_ref().unwrap().parameters.clone();
        assert_eq!(parameters.last().unwrap().places.end, gradients.len(), "nothing else has a gradient");
        for parameter in parameters {
            let squares: f64 = gradients[parameter.places.clone()].iter().map(|&g| f64::from(g * g)).sum();
            assert!(squares > 0.0, "`{}` gets no gradient", parameter.name);
            let reach = 2e-3 / squares.sqrt().max(0.05).max(squares);
            let mut loss_at = |sign: f64| {
                let before = trained(&trainer);
                for place in parameter.places.clone() {
                    values(&mut trainer)[place] += (sign * reach * f64::from(gradients[place])) as f32;
                }
                let loss = trainer.compute_gradients(&packs).unwrap().0;
                values(&mut trainer).copy_from_slice(&before);
                loss
            };
            let slope = (loss_at(1.0) - loss_at(-1.0)) / (2.0 * reach);
            assert!((slope / squares - 1.0).abs() < 0.02, "`{}`: {slope} against {squares}", parameter.name);
        }
    }
}

#[test]
fn training_starts_from_the_base_and_leaves_it_alone() {
    let dir = base(&shape());
    let packs = packs();
    let mut trainer = with_adapters(dir.path(), &shape(), 2);
    let before = bits(&on_cpu(&mut trainer).weights);
    let device = Device::Cpu { threads: 1 };
    let of_base = score(dir.path(), &packs, &device).unwrap();
    assert_eq!(bits(&trainer.score(&packs).unwrap().concat()), bits(&of_base.concat()));
    let chosen: Vec<&Pack> = packs.iter().collect();
    let losses: Vec<f64> = (0..10).map(|_| trainer.step(&chosen).unwrap().loss).collect();
    assert!(losses[9] < losses[0] - 0.1, "{losses:?}");
    assert_eq!(bits(&on_cpu(&mut trainer).weights), before);
    assert_eq!(trainer.engine.state().unwrap().first.len(), trained(&trainer).len());
}

#[test]
fn the_saved_model_is_the_base_with_its_adapters() {
    for config in shapes() {
        let dir = base(&config);
        let packs = packs();
        let mut trainer = with_adapters(dir.path(), &config, 2);
        somewhere(&mut trainer);
        let adapted = trainer.score(&packs).unwrap().concat();
        let device = Device::Cpu { threads: 2 };
        let of_base = score(dir.path(), &packs, &device).unwrap().concat();
        assert!(adapted.iter().zip(&of_base).any(|(one, other)| (one - other).abs() > 0.1));
        let saved = tempfile::tempdir().unwrap();
        trainer.save_model(saved.path()).unwrap();
        let merged = score(saved.path(), &packs, &device).unwrap().concat();
        for (one, other) in adapted.iter().zip(&merged) {
            assert!((one - other).abs() < 1e-5, "{}: {one} {other}", config.architectures[0]);
        }
    }
}

#[test]
fn adapters_are_saved_as_peft_names_them() {
    let dir = base(&shape());
    let mut trainer = with_adapters(dir.path(), &shape(), 1);
    somewhere(&mut trainer);
    let saved = tempfile::tempdir().unwrap();
    trainer.save_model(saved.path()).unwrap();
    let folder = saved.path().join(ADAPTER_FOLDER);
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!((config["r"].as_u64(), config["lora_alpha"].as_f64()), (Some(3), Some(7.0)));
    // The reader of models reads any safetensors file.
    let bytes = std::fs::read(folder.join("adapter_model.safetensors")).unwrap();
    std::fs::write(folder.join(WEIGHTS_FILE), bytes).unwrap();
    let weights = crate::weights::Weights::open(&folder).unwrap();
    let stem = "base_model.model.model.layers.1.mlp.down_proj";
    let (hidden, inner) = (shape().hidden_size, shape().intermediate_size);
    assert_eq!(weights.floats(&format!("{stem}.lora_A.weight"), &[3, inner]).unwrap().len(), 3 * inner);
    weights.check(&format!("{stem}.lora_B.weight"), &[hidden, 3]).unwrap();
    assert_eq!(weights.names().count(), 2 * 2 * lora(&shape()).targets.len());
}

#[test]
fn a_killed_training_of_adapters_ends_with_the_same_bytes() {
    let dir = base(&shape());
    let packs = packs();
    let chosen: Vec<&Pack> = packs.iter().collect();
    let mut straight = with_adapters(dir.path(), &shape(), 1);
    for _ in 0..6 {
        straight.step(&chosen).unwrap();
    }
    let kept = tempfile::tempdir().unwrap();
    let mut first = with_adapters(dir.path(), &shape(), 3);
    for _ in 0..4 {
        first.step(&chosen).unwrap();
    }
    first.save_checkpoint(kept.path()).unwrap();
    let mut second = with_adapters(dir.path(), &shape(), 2);
    second.load_checkpoint(kept.path()).unwrap();
    for _ in 0..2 {
        second.step(&chosen).unwrap();
    }
    assert_eq!(bits(&trained(&straight)), bits(&trained(&second)));
    // A checkpoint of adapters is none of all weights.
    let refused = trainer(dir.path(), 1).load_checkpoint(kept.path());
    assert!(matches!(refused, Err(TrainError::Checkpoint { .. })));
}

#[test]
fn a_target_that_is_not_there_is_named_with_those_that_are() {
    let dir = base(&shape());
    let lora = Lora { targets: vec!["w_proj".to_owned()], ..lora(&shape()) };
    let config = TrainConfig { lora: Some(lora), ..TrainConfig::new(1, 1e-3) };
    let fault = Trainer::new(dir.path(), &config, &Device::Cpu { threads: 1 }).unwrap_err().to_string();
    assert_eq!(
        fault,
        "the adapters do not fit the model: there is no projection `w_proj`; there is down_proj, gate_proj, k_proj, o_proj, \
         q_proj, up_proj, v_proj"
    );
}
