//! Renders chat templates for comparison with another implementation; `scripts/check_templates.py` runs it.
//!
//! A line of its input is a JSON object of `template`, `messages`, `add_generation_prompt` and `variables`; the line that
//! answers it is an object with `text` or `error`.

use std::error::Error;

use dag_lm::template::{ChatTemplate, Message};
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[derive(Deserialize)]
struct Request {
    template: String,
    messages: Vec<Message>,
    add_generation_prompt: bool,
    variables: Map<String, Value>,
}

#[expect(clippy::print_stdout, reason = "its answers are what it is for")]
fn main() -> Result<(), Box<dyn Error>> {
    for line in std::io::stdin().lines() {
        let request: Request = serde_json::from_str(&line?)?;
        let date = "2024-02-29".parse()?;
        let text = ChatTemplate::new(&request.template).and_then(|template| {
            template.with_date(date).render(
                &request.messages,
                request.add_generation_prompt,
                &request.variables,
            )
        });
        println!(
            "{}",
            text.map_or_else(|error| json!({ "error": error.to_string() }), |text| json!({ "text": text }))
        );
    }
    Ok(())
}
