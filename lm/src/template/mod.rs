//! Chat templates: conversations to the text and tokens that models are prompted with and trained on.
//!
//! A training example is one prompt and one completion, the last message. Both are tokenised apart, so that the
//! prompt's tokens are exactly those of inference and the completion's exactly those a model would have to produce.
//! Earlier responses are context, as they are at inference, where many templates rewrite them.

pub(crate) mod built_in;
mod environment;
mod gate;
mod python;

use std::collections::BTreeMap;
use std::path::Path;

use minijinja::value::Serde;
use minijinja::{Environment, Value};
use serde::{Deserialize, Serialize};
use serde_json::Map;

use crate::tokenizer::{Configuration, Tokenizer, TokenizerError};
pub use built_in::BUILT_IN;
#[cfg(test)]
use built_in::HARMONY;
pub use environment::Date;
pub use gate::{GateCheck, GateFault, gate};

/// What a response writes before its thinking.
pub const THINK_OPEN: &str = "<think>";
/// What it writes after it.
pub const THINK_CLOSE: &str = "</think>";

/// What can be wrong with a template, or with a conversation for it.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The tokenizer has none.
    #[error("the model has no chat template")]
    Absent,
    /// The source is not Jinja.
    #[error("the chat template is not valid: {0}")]
    Syntax(String),
    /// Rendering failed, or the template itself refused the conversation.
    #[error("the chat template cannot render the conversation: {0}")]
    Render(String),
    /// A date is not one.
    #[error("`{0}` is not a date of the form 2025-08-05")]
    Date(String),
    /// The tokenizer's files or the text do not fit.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// An example must end with a response.
    #[error("the conversation does not end with a message of the role `assistant`")]
    NoResponse,
    /// The prompt of inference is not how the training text begins.
    #[error(
        "the prompt is not a prefix of the whole conversation; they part after {common:?}, where the prompt goes on with {prompt:?} and the conversation with {whole:?}"
    )]
    NotAPrefix {
        /// The end of what both share.
        common: String,
        /// How the prompt goes on.
        prompt: String,
        /// How the conversation goes on.
        whole: String,
    },
    /// The response is not in the training text as it was given.
    #[error("the template alters the response: the text {expected:?} is not in {rendered:?}")]
    ResponseAltered {
        /// The beginning of the response.
        expected: String,
        /// The beginning of what was rendered for it.
        rendered: String,
    },
    /// The response would open its thinking twice.
    #[error("the response begins with `<think>` more than once")]
    DoubledThink,
    /// No token ends a response.
    #[error("the tokenizer names no end-of-sequence token")]
    NoEndToken,
    /// What is trained does not end with the token that ends generation.
    #[error(
        "the completion ends with {found:?}, not with the end token `{end}`: a model would not learn to stop"
    )]
    EndNotTrained {
        /// The token that ends generation.
        end: String,
        /// The last token of the completion.
        found: String,
    },
    /// The text of a message holds a control token.
    #[error(
        "message {message} holds the control token `{token}` in its text, which a model would read as such"
    )]
    ControlInContent {
        /// The message, counted from 0.
        message: usize,
        /// The token.
        token: String,
    },
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// Its text.
    pub content: String,
    /// Whatever else a template may ask for, as `thinking` or `tool_calls`; maps in it keep their order.
    #[serde(flatten)]
    pub more: BTreeMap<String, Value>,
}

impl Message {
    /// A message of a role.
    pub fn new(role: &str, content: impl Into<String>) -> Self {
        Self { role: role.to_owned(), content: content.into(), more: BTreeMap::new() }
    }
}

/// A conversation as a model is trained on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// The tokens of the prompt and then of the completion, its end token included.
    pub tokens: Vec<u32>,
    /// For each token whether it is a label: 0 in the prompt, 1 in the completion.
    pub loss_mask: Vec<u8>,
}

/// A compiled chat template with the special tokens it may write.
pub struct ChatTemplate {
    source: String,
    environment: Environment<'static>,
    named_tokens: Vec<(String, String)>,
}

impl ChatTemplate {
    /// Compiles a template; it may write no named special tokens (`bos_token`, …).
    pub fn new(source: &str) -> Result<Self, TemplateError> {
        let environment = environment::compile(source)?;
        Ok(Self { source: source.to_owned(), environment, named_tokens: Vec::new() })
    }

    /// The template of a model directory.
    pub fn load(directory: &Path) -> Result<Self, TemplateError> {
        Self::from_configuration(&Configuration::load(directory)?)
    }

    /// The template that a tokenizer carries.
    pub fn of(tokenizer: &Tokenizer) -> Result<Self, TemplateError> {
        Self::from_configuration(tokenizer.configuration())
    }

    fn from_configuration(configuration: &Configuration) -> Result<Self, TemplateError> {
        let source = configuration.chat_template.as_deref().ok_or(TemplateError::Absent)?;
        let named_tokens = configuration.named_tokens.clone().into_iter().collect();
        Ok(Self { named_tokens, ..Self::new(source)? })
    }

    /// Fixes the date for templates that write today's; without it such a template is refused, because prompts
    /// that change from day to day can be neither reproduced nor reused.
    #[must_use]
    pub fn with_date(mut self, date: Date) -> Self {
        environment::fix_date(&mut self.environment, date);
        self
    }

    /// The line of the template in which a string stands as it is, counted from 1.
    fn line_of(&self, text: &str) -> Option<usize> {
        self.source.find(text).map(|at| 1 + self.source[..at].matches('\n').count())
    }

    /// The text of a conversation; with `add_generation_prompt` it ends where the next response begins.
    /// `kwargs` are further variables of the template, as `enable_thinking`.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        kwargs: &Map<String, serde_json::Value>,
    ) -> Result<String, TemplateError> {
        let named = self.named_tokens.iter().map(|(name, token)| (name.clone(), Value::from(token)));
        let own = [
            ("messages", Value::from(Serde(messages))),
            ("add_generation_prompt", add_generation_prompt.into()),
            // Templates test these for being there before they use them.
            ("tools", Value::from(())),
            ("documents", Value::from(())),
        ];
        let own = own.map(|(name, value)| (name.to_owned(), value));
        let given = kwargs.iter().map(|(name, value)| (name.clone(), Value::from(Serde(value))));
        let context = Value::from_pairs(named.chain(own).chain(given));
        let template = self.environment.get_template(environment::NAME);
        template
            .and_then(|template| template.render(context))
            .map_err(|error| TemplateError::Render(environment::describe(&error)))
    }

    /// The tokens that a model is prompted with to answer a conversation.
    pub fn prompt(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        kwargs: &Map<String, serde_json::Value>,
    ) -> Result<Vec<u32>, TemplateError> {
        Ok(tokenizer.encode(&self.render(messages, true, kwargs)?)?)
    }

    /// The training example of a conversation that ends with a response.
    pub fn example(&self, tokenizer: &Tokenizer, messages: &[Message]) -> Result<Example, TemplateError> {
        self.example_with(tokenizer, messages, &Map::new())
    }

    /// The training example of a conversation that ends with a response, with further template variables.
    ///
    /// Where the prompt already opens `<think>`, a `<think>` at the beginning of the response is taken away. What the template writes
    /// after the end token (often a line break) belongs to the next turn and is left out.
    pub fn example_with(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        kwargs: &Map<String, serde_json::Value>,
    ) -> Result<Example, TemplateError> {
        let (response, context) = match messages.split_last() {
            Some((last, context)) if last.role == "assistant" => (last, context),
            _ => return Err(TemplateError::NoResponse),
        };
        let end = tokenizer.eos().ok_or(TemplateError::NoEndToken)?;
        let end_id = tokenizer.eos_id().ok_or(TemplateError::NoEndToken)?;
        for (number, message) in messages.iter().enumerate() {
            // The thinking tags are part of a text, also where a vocabulary has them as control tokens.
            let mut parts = message.content.split(THINK_OPEN).flat_map(|part| part.split(THINK_CLOSE));
            if let Some(token) = parts.find_map(|part| tokenizer.control_token_in(part)) {
                return Err(TemplateError::ControlInContent { message: number, token: token.to_owned() });
            }
        }

        let prompt = self.render(context, true, kwargs)?;
        let content = response_after(&prompt, &response.content)?;
        let mut messages = context.to_vec();
        messages.push(Message::new("assistant", content));
        let whole = self.render(&messages, false, kwargs)?;
        let Some(completion) = whole.strip_prefix(prompt.as_str()) else {
            return Err(not_a_prefix(&prompt, &whole));
        };
        holds(completion, messages[context.len()].content.trim())?;

        let mut tokens = tokenizer.encode(&prompt)?;
        let mut loss_mask = vec![0; tokens.len()];
        let mut completion_tokens = tokenizer.encode(completion.trim_end())?;
        let last = completion_tokens.iter().rposition(|&token| token == end_id);
        if last.is_none_or(|last| last + 1 != completion_tokens.len()) {
            let last = completion_tokens.split_off(completion_tokens.len().saturating_sub(1));
            return Err(TemplateError::EndNotTrained {
                end: end.to_owned(),
                found: tokenizer.decode(&last)?,
            });
        }
        loss_mask.resize(tokens.len() + completion_tokens.len(), 1);
        tokens.append(&mut completion_tokens);
        Ok(Example { tokens, loss_mask })
    }
}

/// Whether a completion holds the response as it was given; a template that gives reasoning a place of its own takes its tags
/// away, and then both parts are there, one after the other.
fn holds(completion: &str, response: &str) -> Result<(), TemplateError> {
    let excerpt = |text: &str| text.chars().take(60).collect();
    let altered = |part: &str| {
        Err(TemplateError::ResponseAltered { expected: excerpt(part), rendered: excerpt(completion) })
    };
    if completion.contains(response) {
        return Ok(());
    }
    if completion.contains(THINK_OPEN) || completion.contains(THINK_CLOSE) {
        return altered(response);
    }
    let mut rest = completion;
    for part in
        response.splitn(2, THINK_CLOSE).map(|part| part.trim().trim_start_matches(THINK_OPEN).trim_start())
    {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return altered(part),
        }
    }
    Ok(())
}

/// The response as it goes on after the prompt: without the `<think>` that the prompt has opened.
fn response_after(prompt: &str, content: &str) -> Result<String, TemplateError> {
    let opened = prompt.trim_end();
    let Some(rest) = content.trim_start().strip_prefix(THINK_OPEN) else {
        return Ok(content.to_owned());
    };
    if rest.trim_start().starts_with(THINK_OPEN) {
        return Err(TemplateError::DoubledThink);
    }
    if !opened.ends_with(THINK_OPEN) {
        return Ok(content.to_owned());
    }
    // The white space after the tag is in the prompt already, if it has any.
    let rest = if opened.len() < prompt.len() { rest.trim_start() } else { rest };
    Ok(rest.to_owned())
}

fn not_a_prefix(prompt: &str, whole: &str) -> TemplateError {
    let pairs = prompt.char_indices().zip(whole.chars());
    let common = pairs.take_while(|((_, left), right)| left == right).last();
    let parted = common.map_or(0, |((at, character), _)| at + character.len_utf8());
    let following = |text: &str| text.get(parted..).unwrap_or_default().chars().take(30).collect();
    let before: Vec<char> = prompt[..parted].chars().rev().take(30).collect();
    TemplateError::NotAPrefix {
        common: before.into_iter().rev().collect(),
        prompt: following(prompt),
        whole: following(whole),
    }
}

#[cfg(test)]
mod tests;
