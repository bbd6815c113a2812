//! From the raw response, kept whole, to what the tables need of it. Derived afterwards: a better reading needs no model.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Failure, FailureKind};

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// A response as it came, and as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Raw {
    /// Of the embedded runtime or a scripted teacher.
    Text {
        /// The whole text, thinking included.
        text: String,
        /// Why it ends.
        finish_reason: FinishReason,
        /// Tokens of the prompt.
        input_tokens: Option<u64>,
        /// Tokens of the response.
        output_tokens: Option<u64>,
        /// The log-probabilities of its tokens, as the `logprobs` of a chat completion's choice has them: `content` lists
        /// every token drawn, the one that ends the response included, with its `logprob`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        logprobs: Option<Value>,
    },
    /// The body of a chat completion.
    Chat(Value),
    /// The same after a prompt that has opened the thinking: where the server does not find it, the text begins within it.
    Thinking(Value),
}

/// Why a response ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// The model ended it.
    Stop,
    /// It reached its longest length.
    Length,
}

impl fmt::Display for FinishReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stop => "stop",
            Self::Length => "length",
        })
    }
}

/// The tokens that a response took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub input: u64,
    /// Of these, tokens that were read before.
    pub cached: u64,
    /// Tokens of the response, thinking included.
    pub output: u64,
}

/// A response, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The whole text, with the thinking as `<think>…</think>`.
    pub response: String,
    /// The thinking, if there is any.
    pub reasoning: Option<String>,
    /// What is said after it.
    pub answer_text: String,
    /// Why it ends.
    pub finish_reason: FinishReason,
    /// Tokens of the prompt, as whoever answered counts them.
    pub input_tokens: Option<u64>,
    /// Tokens of the response, thinking included.
    pub output_tokens: Option<u64>,
    /// The log-probabilities of its tokens, where they were asked for, in the form of a chat completion.
    pub logprobs: Option<Value>,
}

/// Which responses of a server are answers, and which are failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Accepts {
    /// One without thinking is a failure: the server does not know how to find it.
    pub only_thinking: bool,
    /// One without a text, or without one after its thinking, is an answer if the server says how it ended: what a model says that
    /// is evaluated is its answer, be it nothing.
    pub blank: bool,
}

#[cfg(test)]
impl Accepts {
    /// Only what thinks.
    pub(crate) const THINKING: Self = Self { only_thinking: true, blank: false };
}

impl Raw {
    /// Reads the response.
    pub fn read(&self, accepts: Accepts) -> Result<Reply, Failure> {
        let reply = match self {
            Self::Text { text, finish_reason, input_tokens, output_tokens, logprobs } => Reply {
                logprobs: logprobs.clone(),
                ..Reply::of_text(text, *finish_reason, *input_tokens, *output_tokens)
            },
            Self::Chat(body) => read_chat(body, false, accepts.blank)?,
            Self::Thinking(body) => read_chat(body, true, accepts.blank)?,
        };
        let truncated = reply.finish_reason == FinishReason::Length;
        if accepts.only_thinking && reply.reasoning.is_none() {
            return Err(Failure::new(
                FailureKind::NoThinking,
                "the response has neither a reasoning field nor thinking tags",
            ));
        }
        let is_blank =
            !matches!(self, Self::Text { .. }) && reply.answer_text.trim().is_empty() && !truncated;
        if is_blank && !accepts.blank {
            return Err(Failure::new(FailureKind::Empty, "the response has no text after its thinking"));
        }
        Ok(reply)
    }

    /// Its tokens, as whoever answered counts them; zero where nobody did.
    pub fn usage(&self) -> Usage {
        match self {
            Self::Text { input_tokens, output_tokens, .. } => {
                Usage { input: input_tokens.unwrap_or(0), cached: 0, output: output_tokens.unwrap_or(0) }
            }
            Self::Chat(body) | Self::Thinking(body) => {
                let of = |path: &str| body.pointer(path).and_then(Value::as_u64).unwrap_or(0);
                Usage {
                    input: of("/usage/prompt_tokens"),
                    cached: of("/usage/prompt_tokens_details/cached_tokens"),
                    output: of("/usage/completion_tokens"),
                }
            }
        }
    }

    /// The bytes that are stored.
    pub fn to_bytes(&self) -> Vec<u8> {
        dag_engine::canonical::to_bytes(&json!(self))
    }

    /// Reads the stored bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

impl Reply {
    /// The response of a text with its thinking in tags, if any.
    pub fn of_text(
        text: &str,
        finish_reason: FinishReason,
        input_tokens: Option<u64>,
        output_tokens: Option<u64>,
    ) -> Self {
        let (reasoning, answer_text) = split_thinking(text);
        // A template that opens the thinking itself leaves the opening tag out of the text.
        let opened = reasoning.is_none() || text.trim_start().starts_with(OPEN);
        let response = if opened { text.to_owned() } else { format!("{OPEN}\n{}", text.trim_start()) };
        Self { response, reasoning, answer_text, finish_reason, input_tokens, output_tokens, logprobs: None }
    }

    /// The response of an answer and the thinking before it.
    pub fn of_parts(
        reasoning: Option<&str>,
        answer: &str,
        finish_reason: FinishReason,
        input_tokens: Option<u64>,
        output_tokens: Option<u64>,
    ) -> Self {
        let Some(reasoning) = reasoning.map(str::trim).filter(|reasoning| !reasoning.is_empty()) else {
            return Self::of_text(answer, finish_reason, input_tokens, output_tokens);
        };
        let answer = answer.trim();
        let response = if answer.is_empty() && finish_reason == FinishReason::Length {
            format!("{OPEN}\n{reasoning}")
        } else {
            format!("{OPEN}\n{reasoning}\n{CLOSE}\n\n{answer}")
        };
        Self {
            response,
            reasoning: Some(reasoning.to_owned()),
            answer_text: answer.to_owned(),
            finish_reason,
            input_tokens,
            output_tokens,
            logprobs: None,
        }
    }
}

/// The thinking and what follows it. Thinking that never ends leaves nothing to follow: a number in the middle of it is
/// no answer.
pub fn split_thinking(text: &str) -> (Option<String>, String) {
    if let Some((thinking, answer)) = text.rsplit_once(CLOSE) {
        let thinking = thinking.trim_start();
        let thinking = thinking.strip_prefix(OPEN).unwrap_or(thinking);
        (Some(thinking.trim().to_owned()), answer.trim().to_owned())
    } else if let Some((before, thinking)) = text.split_once(OPEN) {
        let thinking =
            if before.trim().is_empty() { thinking.to_owned() } else { format!("{before}{thinking}") };
        (Some(thinking.trim().to_owned()), String::new())
    } else {
        (None, text.to_owned())
    }
}

fn read_chat(body: &Value, opens_thinking: bool, accepts_blank: bool) -> Result<Reply, Failure> {
    let malformed = |what: &str| Failure::new(FailureKind::Malformed, what.to_owned());
    if let Some(error) = body.get("error").filter(|error| !error.is_null()) {
        return Err(malformed(&format!(
            "the server answers 200 with an error: {}",
            abridge(&error.to_string())
        )));
    }
    let choice = body
        .get("choices")
        .and_then(Value::as_array)
        .and_then(|choices| choices.first())
        .ok_or_else(|| malformed("the response has no choices"))?;
    // A choice of a text completion is its own message.
    let message = match (choice.get("message"), choice.get("text")) {
        (Some(message), _) => message,
        (None, Some(text)) => &json!({ "content": text }),
        (None, None) => return Err(malformed("the choice has no message")),
    };
    let usage = |field| body.get("usage")?.get(field)?.as_u64();
    let (input, output) = (usage("prompt_tokens"), usage("completion_tokens"));
    let ending = choice.get("finish_reason").and_then(Value::as_str);
    // A model that says nothing has still drawn the token that ends it.
    let is_said = matches!(ending, Some("stop" | "length")) && output != Some(0);
    let finish_reason = match ending {
        Some("length") => FinishReason::Length,
        Some("content_filter") => {
            return Err(Failure::new(FailureKind::Filtered, "the server withholds the response"));
        }
        _ => FinishReason::Stop,
    };
    let content = match message.get("content") {
        None | Some(Value::Null) => "",
        Some(Value::String(content)) => content,
        Some(_) => return Err(malformed("the content of the message is no text")),
    };
    // `reasoning_content` was renamed `reasoning` in vLLM 0.11; either may be there.
    let reasoning = ["reasoning_content", "reasoning"]
        .into_iter()
        .filter_map(|field| message.get(field)?.as_str())
        .find(|reasoning| !reasoning.trim().is_empty());
    if content.trim().is_empty() && reasoning.is_none() && !(accepts_blank && is_said) {
        return Err(Failure::new(FailureKind::Empty, "the response has no text"));
    }
    let channels = harmony(content);
    let begins_within =
        opens_thinking && reasoning.is_none() && channels.is_none() && !content.contains(OPEN);
    let opened = if begins_within { format!("{OPEN}\n{content}") } else { String::new() };
    let (reasoning, content) = match &channels {
        Some((analysis, last)) => (reasoning.or(Some(&**analysis)), &**last),
        None if begins_within => (None, &*opened),
        None => (reasoning, content),
    };
    let logprobs = choice.get("logprobs").filter(|logprobs| !logprobs.is_null()).cloned();
    Ok(Reply { logprobs, ..Reply::of_parts(reasoning, content, finish_reason, input, output) })
}

/// The analysis and the final answer of a response in gpt-oss's harmony format, which a server gives as text where it runs
/// without a parser for it: with its control strings, or, where these were skipped, with the names of the channels alone
/// (openai/harmony, docs/format.md). `None` if the text is not in the format.
fn harmony(text: &str) -> Option<(String, String)> {
    const CHANNEL: &str = "<|channel|>";
    const MESSAGE: &str = "<|message|>";
    let Some((_, rest)) = text.split_once(CHANNEL) else {
        let analysis = text.trim_start().strip_prefix("analysis")?;
        let (analysis, last) = analysis.split_once("assistantfinal")?;
        return Some((analysis.trim().to_owned(), last.trim().to_owned()));
    };
    let (mut analysis, mut last) = (Vec::new(), String::new());
    for part in rest.split(CHANNEL) {
        let Some((channel, said)) = part.split_once(MESSAGE) else { continue };
        let end =
            ["<|end|>", "<|return|>", "<|call|>", "<|start|>"].iter().filter_map(|end| said.find(end)).min();
        let said = said[..end.unwrap_or(said.len())].trim();
        // A channel's name may be followed by a recipient or a constraint.
        match channel.split_whitespace().next() {
            Some("final") => said.clone_into(&mut last),
            Some("analysis") => analysis.push(said),
            _ => {}
        }
    }
    Some((analysis.join("\n\n"), last))
}

/// The start of a text that may be long.
pub(super) fn abridge(text: &str) -> String {
    const LONGEST: usize = 300;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(message: &Value, finish_reason: &str) -> Result<Reply, FailureKind> {
        let body = json!({
            "choices": [{ "message": message, "finish_reason": finish_reason }],
            "usage": { "prompt_tokens": 5, "completion_tokens": 7 },
        });
        Raw::Chat(body).read(Accepts::default()).map_err(|failure| failure.kind)
    }

    #[test]
    fn thinking_is_found_in_either_field_and_in_tags() {
        for message in [
            json!({ "reasoning_content": "2+2", "content": "4" }),
            json!({ "reasoning": "2+2", "content": "4" }),
            json!({ "reasoning_content": "", "reasoning": "2+2", "content": "4" }),
            json!({ "content": "<think>\n2+2\n</think>\n\n4" }),
            json!({ "content": "2+2\n</think>\n\n4" }),
        ] {
            let reply = chat(&message, "stop").unwrap();
            assert_eq!(reply.reasoning.as_deref(), Some("2+2"), "{message}");
            assert_eq!(reply.answer_text, "4", "{message}");
            assert_eq!(reply.response, "<think>\n2+2\n</think>\n\n4", "{message}");
            assert_eq!((reply.input_tokens, reply.output_tokens), (Some(5), Some(7)));
        }
    }

    #[test]
    fn channels_of_harmony_are_read_with_and_without_their_control_strings() {
        for content in [
            "<|channel|>analysis<|message|>2+2<|end|><|start|>assistant<|channel|>final<|message|>4<|return|>",
            "<|channel|>analysis<|message|>2+2<|end|><|start|>assistant<|channel|>commentary to=calc<|constrain|>json\
             <|message|>{}<|call|><|start|>assistant<|channel|>final<|message|>4",
            "analysis2+2assistantfinal4",
        ] {
            let reply = chat(&json!({ "content": content }), "stop").unwrap();
            assert_eq!((reply.reasoning.as_deref(), &*reply.answer_text), (Some("2+2"), "4"), "{content}");
            assert_eq!(reply.response, "<think>\n2+2\n</think>\n\n4");
        }
        let cut = "<|channel|>analysis<|message|>2+2 is";
        let reply = chat(&json!({ "content": cut }), "length").unwrap();
        assert_eq!((&*reply.response, &*reply.answer_text), ("<think>\n2+2 is", ""));
        assert_eq!(
            chat(&json!({ "content": cut }), "stop"),
            Err(FailureKind::Empty),
            "thinking without an end"
        );
        let plain = "analysis of the problem: the final answer is 4";
        assert_eq!(chat(&json!({ "content": plain }), "stop").unwrap().reasoning, None);
    }

    #[test]
    fn thinking_that_never_ends_has_no_answer() {
        let reply = chat(&json!({ "content": "<think>so 4, or" }), "length").unwrap();
        assert_eq!((reply.reasoning.as_deref(), &*reply.answer_text), (Some("so 4, or"), ""));
        let reply = chat(&json!({ "reasoning": "so 4, or", "content": null }), "length").unwrap();
        assert_eq!(reply.response, "<think>\nso 4, or");
        assert_eq!(reply.finish_reason, FinishReason::Length);
    }

    #[test]
    fn a_body_that_is_no_answer_is_a_failure_of_its_kind() {
        assert_eq!(chat(&json!({ "content": "" }), "stop"), Err(FailureKind::Empty));
        assert_eq!(chat(&json!({ "content": null }), "length"), Err(FailureKind::Empty));
        assert_eq!(chat(&json!({ "reasoning": "thought", "content": "" }), "stop"), Err(FailureKind::Empty));
        assert_eq!(chat(&json!({ "content": 3 }), "stop"), Err(FailureKind::Malformed));
        assert_eq!(chat(&json!({ "content": "x" }), "content_filter"), Err(FailureKind::Filtered));
        for body in
            [json!({}), json!({ "choices": [] }), json!({ "error": { "message": "overloaded" } }), json!([1])]
        {
            assert_eq!(Raw::Chat(body).read(Accepts::default()).unwrap_err().kind, FailureKind::Malformed);
        }
        let body = json!({ "choices": [{ "message": { "content": "4" } }] });
        assert_eq!(Raw::Chat(body).read(Accepts::THINKING).unwrap_err().kind, FailureKind::NoThinking);
    }

    #[test]
    fn what_a_model_under_evaluation_says_is_its_answer_be_it_nothing() {
        let read = |message: Value, ending: Value, tokens: Value| {
            let body = json!({
                "choices": [{ "message": message, "finish_reason": ending }],
                "usage": { "completion_tokens": tokens },
            });
            let reply = Raw::Chat(body).read(Accepts { blank: true, ..Accepts::default() });
            reply.map(|reply| (reply.response, reply.answer_text, reply.finish_reason))
        };
        let nothing = || json!({ "content": "" });
        let said = |response: &str, reason| Ok((response.to_owned(), String::new(), reason));
        assert_eq!(read(nothing(), json!("stop"), json!(1)), said("", FinishReason::Stop));
        assert_eq!(
            read(json!({ "content": null }), json!("length"), json!(9)),
            said("", FinishReason::Length)
        );
        // Where several are asked for at once nobody counts the tokens of each.
        assert_eq!(read(nothing(), json!("stop"), json!(null)), said("", FinishReason::Stop));
        let thought = json!({ "reasoning": "thought", "content": "" });
        assert_eq!(
            read(thought, json!("stop"), json!(5)),
            said("<think>\nthought\n</think>\n\n", FinishReason::Stop)
        );
        // No model said these.
        for (ending, tokens) in
            [(json!(null), json!(1)), (json!("stop"), json!(0)), (json!("error"), json!(3))]
        {
            assert_eq!(read(nothing(), ending, tokens).unwrap_err().kind, FailureKind::Empty);
        }
    }

    #[test]
    fn a_response_that_begins_within_the_thinking_is_thinking_until_it_ends() {
        let read = |message: Value, ending: &str| {
            let body = json!({ "choices": [{ "message": message, "finish_reason": ending }] });
            let accepts = Accepts { blank: true, ..Accepts::default() };
            let reply = Raw::Thinking(body).read(accepts).unwrap();
            (reply.response, reply.reasoning.unwrap_or_default(), reply.answer_text)
        };
        let parts = |response: &str, reasoning: &str, answer: &str| {
            (response.to_owned(), reasoning.to_owned(), answer.to_owned())
        };
        let cut = read(json!({ "content": "so 4, or" }), "length");
        assert_eq!(cut, parts("<think>\nso 4, or", "so 4, or", ""));
        assert_eq!(read(json!({ "content": "" }), "length"), parts("<think>\n", "", ""));
        let whole = parts("<think>\n2+2\n</think>\n\n4", "2+2", "4");
        // A server that finds the thinking, one that does not, and one that puts the tag back.
        assert_eq!(read(json!({ "reasoning": "2+2", "content": "4" }), "stop"), whole);
        assert_eq!(read(json!({ "content": "2+2\n</think>\n\n4" }), "stop"), whole);
        assert_eq!(read(json!({ "content": "<think>\n2+2\n</think>\n\n4" }), "stop"), whole);
    }

    #[test]
    fn what_is_stored_reads_back() {
        let raw = |logprobs| Raw::Text {
            text: "x".into(),
            finish_reason: FinishReason::Stop,
            input_tokens: Some(1),
            output_tokens: None,
            logprobs,
        };
        let logprobs = json!({ "content": [{ "token": "x", "logprob": -0.123_456_789_012_345_67 }] });
        for raw in [raw(None), raw(Some(logprobs.clone()))] {
            assert_eq!(Raw::from_bytes(&raw.to_bytes()).unwrap(), raw);
        }
        // What was stored before there were log-probabilities is what is stored without them.
        let bytes = br#"{"text":{"finish_reason":"stop","input_tokens":1,"output_tokens":null,"text":"x"}}"#;
        assert_eq!(raw(None).to_bytes(), bytes);
        let body = json!({ "choices": [{ "message": { "content": "x" }, "logprobs": logprobs }] });
        let replies =
            [Raw::Chat(body), raw(Some(logprobs.clone()))].map(|raw| raw.read(Accepts::default()).unwrap());
        assert!(replies.iter().all(|reply| reply.logprobs.as_ref() == Some(&logprobs)));
    }
}
