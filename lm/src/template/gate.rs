//! The gate before training: does this chat template work with this tokenizer?
//!
//! Each check stands for a fault that is silent otherwise: training runs, the loss falls, and the model is wrong.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Map;

use super::{ChatTemplate, Message, THINK_CLOSE, THINK_OPEN, TemplateError};
use crate::tokenizer::Tokenizer;

/// What is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GateCheck {
    /// A probe conversation can be rendered and tokenised.
    Render,
    /// The strings that delimit turns are single tokens.
    ControlStrings,
    /// `<think>` and `</think>` are single tokens.
    ThinkTags,
    /// Thinking is opened once.
    DoubledThink,
    /// The last trained token is the one that ends generation.
    StopToken,
    /// The response stands in the training text, unaltered, after exactly the prompt of inference.
    ResponseSpan,
}

impl fmt::Display for GateCheck {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Render => "render",
            Self::ControlStrings => "control-strings",
            Self::ThinkTags => "think-tags",
            Self::DoubledThink => "doubled-think",
            Self::StopToken => "stop-token",
            Self::ResponseSpan => "response-span",
        })
    }
}

/// A check that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateFault {
    /// Which check.
    pub check: GateCheck,
    /// What is wrong.
    pub message: String,
    /// The line of the template that writes the culprit, counted from 1, where it stands there as it is.
    pub line: Option<usize>,
}

impl GateFault {
    fn new(check: GateCheck, message: String) -> Self {
        Self { check, message, line: None }
    }
}

impl fmt::Display for GateFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.check, self.message)?;
        match self.line {
            Some(line) => write!(formatter, " (line {line} of the template)"),
            None => Ok(()),
        }
    }
}

/// Checks a template with a tokenizer on a probe conversation; no fault means that training may begin. The strings of
/// `as_text` look like control strings and may be several tokens.
pub fn gate(tokenizer: &Tokenizer, template: &ChatTemplate, as_text: &[String]) -> Vec<GateFault> {
    // A vocabulary of characters may have few of them; any that it knows will do.
    let Some(word) = ["1", "a", "A", "x"].into_iter().find(|word| tokenizer.encode(word).is_ok()) else {
        let message = "the vocabulary has neither a digit nor a letter to try".to_owned();
        return vec![GateFault::new(GateCheck::Render, message)];
    };
    let response = format!("<think>\n{word}\n</think>\n\n{word}");
    let turn = [Message::new("user", word), Message::new("assistant", response)];
    let system = [Message::new("system", word)];

    let mut faults = Vec::new();
    let mut texts = Vec::new();
    match template.render(&turn[..1], true, &Map::new()) {
        Ok(prompt) => {
            let opened = prompt.matches(THINK_OPEN).count();
            if opened > 1 {
                let message = format!("the prompt opens `<think>` {opened} times");
                faults.push(GateFault::new(GateCheck::DoubledThink, message));
            }
            texts.push(prompt);
        }
        Err(error) => faults.push(GateFault::new(GateCheck::Render, error.to_string())),
    }
    // Templates may refuse a system message or a second turn; what they write for one must be in the vocabulary.
    let more = [turn.to_vec(), [&system[..], &turn[..]].concat(), [&turn[..], &turn[..]].concat()];
    texts.extend(more.iter().filter_map(|messages| template.render(messages, false, &Map::new()).ok()));
    faults.extend(split_control_strings(tokenizer, template, &texts, as_text));
    match template.example(tokenizer, &turn) {
        Ok(example) => faults.extend(doubled_think(tokenizer, &example.tokens)),
        Err(error) => faults.push(GateFault::new(failed_check(&error), error.to_string())),
    }
    faults.sort_by_key(|fault| fault.check);
    faults.dedup();
    faults
}

/// Which check an example's error stands for.
fn failed_check(error: &TemplateError) -> GateCheck {
    match error {
        TemplateError::NoEndToken | TemplateError::EndNotTrained { .. } => GateCheck::StopToken,
        TemplateError::NotAPrefix { .. } | TemplateError::ResponseAltered { .. } => GateCheck::ResponseSpan,
        TemplateError::DoubledThink => GateCheck::DoubledThink,
        _ => GateCheck::Render,
    }
}

fn doubled_think(tokenizer: &Tokenizer, tokens: &[u32]) -> Option<GateFault> {
    let text = tokenizer.decode(tokens).ok()?;
    let opened = text.matches(THINK_OPEN).count();
    let message = format!("the training text opens `<think>` {opened} times");
    (opened > 1).then(|| GateFault::new(GateCheck::DoubledThink, message))
}

/// The control strings of what a template writes that are not single tokens, in the order of their text.
fn split_control_strings(
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    texts: &[String],
    as_text: &[String],
) -> Vec<GateFault> {
    let mut strings: BTreeSet<&str> = texts.iter().flat_map(|text| control_strings(text)).collect();
    strings.extend(tokenizer.eos());
    let split = |control: &&str| {
        let tokens = tokenizer.encode(control).unwrap_or_default();
        let single = tokens.len() == 1 && tokenizer.id(control) == Some(tokens[0]);
        !single && !as_text.iter().any(|text| text == control)
    };
    let fault = |control: &str| {
        let thinking = control == THINK_OPEN || control == THINK_CLOSE;
        let check = if thinking { GateCheck::ThinkTags } else { GateCheck::ControlStrings };
        let tokens = tokenizer.encode(control).map_or(0, |tokens| tokens.len());
        let message = match tokens {
            0 => format!("the vocabulary cannot express the control string `{control}`"),
            _ => format!(
                "the control string `{control}` is {tokens} tokens in this vocabulary, not one of its own"
            ),
        };
        GateFault { check, message, line: template.line_of(control) }
    };
    strings.into_iter().filter(split).map(fault).collect()
}

/// The parts of a prompt that look like `<name>`, `<|name|>` or `[NAME]`.
fn control_strings(prompt: &str) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    for (start, opening) in prompt.char_indices() {
        let rest = &prompt[start + opening.len_utf8()..];
        let length = match opening {
            '<' => rest.find(['>', '<']).filter(|&end| {
                rest[end..].starts_with('>') && end > 0 && !rest[..end].contains(char::is_whitespace)
            }),
            '[' => rest.find(']').filter(|&end| {
                let name = rest[..end].trim_start_matches('/');
                !name.is_empty() && name.chars().all(|letter| letter.is_ascii_uppercase() || letter == '_')
            }),
            _ => None,
        };
        if let Some(length) = length {
            found.insert(&prompt[start..=start + 1 + length]);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::BUILT_IN;
    use crate::tokenizer::Specials;

    fn checks(specials: &Specials, source: &str) -> Vec<GateCheck> {
        let tokenizer = Tokenizer::bytes(specials).unwrap().with_chat_template(source);
        gate(&tokenizer, &ChatTemplate::of(&tokenizer).unwrap(), &[])
            .into_iter()
            .map(|fault| fault.check)
            .collect()
    }

    #[test]
    fn the_built_in_template_passes() {
        assert_eq!(checks(&Specials::chat(), BUILT_IN), []);
        let tokenizer = Tokenizer::character("012345+ \n", &Specials::chat()).unwrap();
        assert_eq!(gate(&tokenizer, &ChatTemplate::of(&tokenizer).unwrap(), &[]), []);
    }

    #[test]
    fn control_strings_of_another_vocabulary_are_named() {
        let source = BUILT_IN.replace("'<|' + message.role + '|>'", "'<SPECIAL_11>User\n'");
        let tokenizer = Tokenizer::bytes(&Specials::chat()).unwrap().with_chat_template(&source);
        let faults = gate(&tokenizer, &ChatTemplate::of(&tokenizer).unwrap(), &[]);
        assert_eq!(faults.len(), 1);
        assert_eq!(faults[0].check, GateCheck::ControlStrings);
        assert_eq!(
            faults[0].to_string(),
            "control-strings: the control string `<SPECIAL_11>` is 12 tokens in this vocabulary, not one of its own (line 7 of the template)"
        );
        let template = ChatTemplate::of(&tokenizer).unwrap();
        assert_eq!(gate(&tokenizer, &template, &["<SPECIAL_11>".to_owned()]), []);
    }

    #[test]
    fn each_fault_has_its_check() {
        let chat = Specials::chat();
        let without_tags = Specials { tags: vec![], ..chat.clone() };
        assert_eq!(checks(&without_tags, BUILT_IN), [GateCheck::ThinkTags, GateCheck::ThinkTags]);
        let other_end = Specials {
            end: "<|stop|>".to_owned(),
            control: [&chat.control[..], &["<|end|>".to_owned()]].concat(),
            ..chat.clone()
        };
        assert_eq!(checks(&other_end, BUILT_IN), [GateCheck::StopToken]);
        let doubled = BUILT_IN.replace("'<|assistant|><think>", "'<|assistant|><think><think>");
        assert_eq!(checks(&chat, &doubled), [GateCheck::DoubledThink, GateCheck::DoubledThink]);
        // As templates do that drop the reasoning of every response, the last included.
        let dropping = BUILT_IN.replace(
            "'<|assistant|><think>\\n' + content",
            "'<|assistant|><think>\\n' + content.split('</think>')[-1]",
        );
        assert_eq!(checks(&chat, &dropping), [GateCheck::ResponseSpan]);
        let parting = BUILT_IN.replace("('\\n' if thinking", "('\\n\\n' if thinking");
        assert_eq!(checks(&chat, &parting), [GateCheck::ResponseSpan]);
        assert_eq!(checks(&chat, "{{ raise_exception('no') }}"), [GateCheck::Render]);
    }

    #[test]
    fn control_strings_are_found_in_text() {
        let found = control_strings("a < b <|x|>c> [INST] [/INST][1] [] <｜User｜> <a b> <<y>");
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            ["<y>", "<|x|>", "<｜User｜>", "[/INST]", "[INST]"]
        );
    }
}
