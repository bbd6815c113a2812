//! The miniature's problems and its scripted teachers: chains of sums and products, reckoned step by step.
//!
//! `7*4-9+6 mod 10?` is worked from left to right, every result taken modulo 10. The two teachers give the same
//! reasoning in two styles, so that what differs between the arms of an experiment is style alone.

use dag_engine::seed;

/// A chain to work out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    first: u32,
    steps: Vec<(Operation, u32)>,
    modulus: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Plus,
    Minus,
    Times,
}

impl Operation {
    const ALL: [(char, Self); 3] = [('+', Self::Plus), ('-', Self::Minus), ('*', Self::Times)];

    fn sign(self) -> char {
        match self {
            Self::Plus => '+',
            Self::Minus => '-',
            Self::Times => '*',
        }
    }

    fn of(self, left: u32, right: u32, modulus: u32) -> u32 {
        let (left, right, modulus) = (u64::from(left), u64::from(right), u64::from(modulus));
        let result = match self {
            Self::Plus => left + right,
            Self::Minus => left + modulus - right % modulus,
            Self::Times => left * right,
        };
        (result % modulus) as u32
    }
}

/// How often a verbose teacher takes a wrong turn, per step.
const WRONG_TURNS: f64 = 0.03;

/// Numbers drawn one after the other, each decided by the seed and its place.
struct Draws {
    seed: u64,
    place: u64,
}

impl Draws {
    fn new(seed: u64) -> Self {
        Self { seed, place: 0 }
    }

    /// A number from 0 to below `bound`. The bounds here are tiny beside 2^64, so the remainder is as good as even.
    fn below(&mut self, bound: u32) -> u32 {
        self.place += 1;
        (seed::derive(self.seed, &[b"arithmetic", &self.place.to_le_bytes()]) % u64::from(bound.max(1)))
            as u32
    }

    fn holds(&mut self, share: f64) -> bool {
        self.place += 1;
        let draw = seed::derive(self.seed, &[b"share", &self.place.to_le_bytes()]);
        ((draw >> 11) as f64 / (1_u64 << 53) as f64) < share
    }
}

impl Chain {
    /// The chain of a seed, with `least` to `most` steps.
    pub fn draw(seed: u64, least: u32, most: u32, modulus: u32) -> Self {
        let mut draws = Draws::new(seed);
        let count = least + draws.below(most - least + 1);
        let first = draws.below(modulus);
        let steps = (0..count)
            .map(|_| {
                let (_, operation) = Operation::ALL[draws.below(3) as usize];
                (operation, 1 + draws.below(modulus - 1))
            })
            .collect();
        Self { first, steps, modulus }
    }

    /// The last chain that a text holds.
    pub fn find(text: &str) -> Option<Self> {
        let (before, after) = text.rsplit_once(" mod ")?;
        let modulus: u32 = after.split('?').next()?.parse().ok().filter(|modulus| *modulus > 1)?;
        let is_part = |c: char| c.is_ascii_digit() || "+-*".contains(c);
        let start = before
            .rfind(|c| !is_part(c))
            .map_or(0, |at| at + before[at..].chars().next().map_or(0, char::len_utf8));
        let mut rest = &before[start..];
        let mut number = || {
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let value: u32 = rest[..end].parse().ok()?;
            let sign = rest[end..].chars().next();
            rest = rest.get(end + 1..).unwrap_or("");
            Some((value, sign))
        };
        let (first, mut sign) = number()?;
        let mut steps = Vec::new();
        while let Some(written) = sign {
            let (_, operation) = Operation::ALL.into_iter().find(|(known, _)| *known == written)?;
            let (value, next) = number()?;
            steps.push((operation, value));
            sign = next;
        }
        (!steps.is_empty()).then_some(Self { first, steps, modulus })
    }

    /// How many steps it has.
    pub fn steps(&self) -> usize {
        self.steps.len()
    }

    /// The problem as it is put.
    pub fn problem(&self) -> String {
        format!("{} mod {}?", self.chain(), self.modulus)
    }

    /// The chain itself: `7*4-9+6`.
    fn chain(&self) -> String {
        let mut text = self.first.to_string();
        for (operation, value) in &self.steps {
            text.push(operation.sign());
            text.push_str(&value.to_string());
        }
        text
    }

    /// The right answer.
    pub fn answer(&self) -> u32 {
        self.steps.iter().fold(self.first % self.modulus, |left, (operation, right)| {
            operation.of(left, *right, self.modulus)
        })
    }

    /// A teacher's response: the thinking, then the answer in a box. With the chance `error_rate` the last step is wrong,
    /// and so is the answer.
    ///
    /// A teacher that says every step once (`repeats` = 1) writes nothing else. One that repeats itself first restates
    /// the problem, and now and then takes a wrong turn and takes it back.
    pub fn response(&self, repeats: u32, error_rate: f64, seed: u64) -> String {
        // The two styles err independently on one problem: the number of repeats is part of what is drawn from.
        let mut draws = Draws::new(seed::derive(seed, &[b"style", &repeats.to_le_bytes()]));
        let slip = if draws.holds(error_rate) { 1 + draws.below(self.modulus - 1) } else { 0 };
        let is_verbose = repeats > 1;
        let mut left = self.first;
        let mut thinking = if is_verbose { format!("{};", self.chain()) } else { String::new() };
        for (index, (operation, right)) in self.steps.iter().enumerate() {
            let mut result = operation.of(left, *right, self.modulus);
            if index + 1 == self.steps.len() {
                result = (result + slip) % self.modulus;
            }
            let task = format!("{left}{}{right}=", operation.sign());
            if is_verbose && draws.holds(WRONG_TURNS) {
                let wrong = (result + 1 + draws.below(self.modulus - 1)) % self.modulus;
                thinking.push_str(&format!("{task}{wrong},no,"));
            }
            let said: Vec<String> = (0..repeats.max(1)).map(|_| format!("{task}{result}")).collect();
            thinking.push_str(&said.join(","));
            thinking.push(';');
            left = result;
        }
        format!("<think>\n{thinking}\n</think>\n\n\\boxed{{{left}}}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_chain_is_worked_from_left_to_right() {
        let chain = Chain::find("Work this out: 7*4-9+6 mod 10?").unwrap();
        assert_eq!(chain.problem(), "7*4-9+6 mod 10?");
        assert_eq!(chain.answer(), 5);
        assert_eq!(chain.response(1, 0.0, 1), "<think>\n7*4=8;8-9=9;9+6=5;\n</think>\n\n\\boxed{5}");
        assert!(chain.response(2, 0.0, 1).starts_with("<think>\n7*4-9+6;7*4=8,7*4=8;"));
        for no_chain in ["", "mod 10?", "7* mod 10?", "7%4 mod 10?", "7*4", "7*4 mod 1?"] {
            assert_eq!(Chain::find(no_chain), None, "{no_chain}");
        }
    }

    #[test]
    fn teachers_are_wrong_as_often_as_they_should_be() {
        let chain = Chain::draw(3, 4, 4, 10);
        let right = format!("\\boxed{{{}}}", chain.answer());
        let wrong = (0..2000).filter(|seed| !chain.response(1, 0.1, *seed).ends_with(&right)).count();
        assert!((140..260).contains(&wrong), "{wrong}");
        assert!((0..100).all(|seed| !chain.response(1, 1.0, seed).ends_with(&right)));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(seed: u64, least in 1..4_u32, more in 0..4_u32, modulus in 2..101_u32) {
            let chain = Chain::draw(seed, least, least + more, modulus);
            prop_assert!((least as usize..=(least + more) as usize).contains(&chain.steps()));
            prop_assert_eq!(Chain::find(&format!("x {}", chain.problem())), Some(chain.clone()));
            let written = chain.response(3, 0.0, seed);
            let ending = format!("\\boxed{{{}}}", chain.answer());
            prop_assert!(written.ends_with(&ending));
        }
    }
}
