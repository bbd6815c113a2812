//! Rotary frequencies: how fast each pair of a head's elements turns with the position.

use serde::{Deserialize, Serialize};

/// Rotary embeddings as a configuration describes them, under `rope_scaling` or, in newer directories, `rope_parameters`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RopeParameters {
    /// Base of the frequencies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_theta: Option<f64>,
    /// `default`, `linear` or `llama3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_type: Option<String>,
    /// The same in older directories, some of which say both.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub old_type: Option<String>,
    /// How much slower the scaled frequencies are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factor: Option<f64>,
    /// `llama3`: frequencies that turn at most so often within the original context are scaled in full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low_freq_factor: Option<f64>,
    /// `llama3`: frequencies that turn at least so often within the original context stay as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high_freq_factor: Option<f64>,
    /// The context before the scaling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original_max_position_embeddings: Option<usize>,
    /// The share of a head's elements that turn; only 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partial_rotary_factor: Option<f64>,
}

/// How frequencies are changed to reach further than the model was first trained for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scaling {
    /// Not at all.
    None,
    /// All divided by a factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// As Llama 3.1: slow ones divided, fast ones kept, those between interpolated.
    Llama3 {
        /// The divisor.
        factor: f64,
        /// Turns within the original context up to which a frequency is divided in full.
        low: f64,
        /// Turns within the original context from which on a frequency is kept.
        high: f64,
        /// The original context.
        original: f64,
    },
}

impl RopeParameters {
    /// What the description asks for, or what of it is not supported.
    pub(crate) fn scaling(&self) -> Result<Scaling, String> {
        let kind = self.rope_type.as_deref().or(self.old_type.as_deref()).unwrap_or("default");
        if self.partial_rotary_factor.is_some_and(|share| (share - 1.0).abs() > f64::EPSILON) {
            return Err("rotary embeddings of a part of each head".to_owned());
        }
        let number = |key: &str, value: Option<f64>| match value {
            Some(value) if value > 0.0 && value.is_finite() => Ok(value),
            _ => Err(format!("rotary embeddings of type `{kind}` with a positive `{key}`")),
        };
        let factor = || number("factor", self.factor);
        match kind {
            "default" => Ok(Scaling::None),
            "linear" => Ok(Scaling::Linear { factor: factor()? }),
            "llama3" => {
                let original = self.original_max_position_embeddings.map(|context| context as f64);
                let (low, high) = (
                    number("low_freq_factor", self.low_freq_factor)?,
                    number("high_freq_factor", self.high_freq_factor)?,
                );
                if low >= high {
                    return Err(format!("a `low_freq_factor` of {low} with a `high_freq_factor` of {high}"));
                }
                let original = number("original_max_position_embeddings", original)?;
                Ok(Scaling::Llama3 { factor: factor()?, low, high, original })
            }
            _ => Err(format!("rotary embeddings of type `{kind}`")),
        }
    }
}

impl Scaling {
    /// Radians per position for each of the `dim / 2` pairs of a head: θ^(-2i/dim), scaled.
    pub fn frequencies(self, theta: f64, dim: usize) -> Vec<f32> {
        (0..dim / 2).map(|pair| self.scaled(theta.powf(-((2 * pair) as f64) / dim as f64)) as f32).collect()
    }

    fn scaled(self, frequency: f64) -> f64 {
        match self {
            Self::None => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 { factor, low, high, original } => {
                let turns = original * frequency / std::f64::consts::TAU;
                // 0 for the slow ones, 1 for the fast ones.
                let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                (1.0 - kept) * frequency / factor + kept * frequency
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_slows_the_slow_ones_only() {
        let scaling = Scaling::Llama3 { factor: 32.0, low: 1.0, high: 4.0, original: 8192.0 };
        let plain = Scaling::None.frequencies(500_000.0, 64);
        let ratios: Vec<f32> = scaling
            .frequencies(500_000.0, 64)
            .iter()
            .zip(&plain)
            .map(|(scaled, plain)| plain / scaled)
            .collect();
        assert!(ratios.is_sorted());
        // A pair turns fully within 8192 / 4 positions up to the 14th, and within 8192 not any more from the 18th on.
        assert!(ratios[..14].iter().all(|ratio| (ratio - 1.0).abs() < 1e-6), "{ratios:?}");
        assert!(ratios[18..].iter().all(|ratio| (ratio - 32.0).abs() < 1e-4), "{ratios:?}");
        assert!(ratios[15] > 1.0 && ratios[15] < 32.0, "{ratios:?}");
    }

    #[test]
    fn a_description_without_its_numbers_is_refused() {
        let parse = |json| serde_json::from_value::<RopeParameters>(json).unwrap().scaling();
        let both = serde_json::json!({ "type": "linear", "rope_type": "linear", "factor": 2.0 });
        assert_eq!(parse(both), Ok(Scaling::Linear { factor: 2.0 }));
        assert!(parse(serde_json::json!({ "rope_type": "llama3", "factor": 8.0 })).is_err());
        assert!(parse(serde_json::json!({ "rope_type": "yarn", "factor": 4.0 })).is_err());
        assert!(parse(serde_json::json!({ "partial_rotary_factor": 0.5 })).is_err());
    }
}
