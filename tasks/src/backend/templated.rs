//! What a model's own chat template makes of a conversation.

use std::path::Path;

use dag_lm::template::{self, ChatTemplate, THINK_OPEN};
use dag_lm::tokenizer::Tokenizer;

use super::{Message, Sampling};

/// A conversation as the model reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Templated {
    pub(super) text: String,
    /// Whether the template has opened the thinking, so that the response begins within it.
    pub(super) opens_thinking: bool,
}

/// `messages` in the template, up to where the response begins.
pub(super) fn render(
    template: &ChatTemplate,
    messages: &[Message],
    sampling: &Sampling,
) -> Result<Templated, template::TemplateError> {
    let said = messages.iter().map(|message| template::Message::new(&message.role, message.content.clone()));
    let text = template.render(&said.collect::<Vec<_>>(), true, &sampling.template)?;
    Ok(Templated { opens_thinking: text.trim_end().ends_with(THINK_OPEN), text })
}

/// The template of the model in a folder. `None` where it cannot be read: then whoever serves the model knows it alone.
pub(super) fn of_folder(path: &Path) -> Option<ChatTemplate> {
    ChatTemplate::of(&Tokenizer::load(path).ok()?).ok()
}
