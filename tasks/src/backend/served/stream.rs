//! A completion that comes in pieces (server-sent events), put together to the body it would have been in one.

use serde_json::{Map, Value, json};

use super::super::{Failure, FailureKind};

/// The pieces so far.
#[derive(Default)]
pub(super) struct Events {
    /// The start of a line whose end has not come yet.
    line: Vec<u8>,
    bytes: usize,
    /// The fields of the body beside the choices.
    body: Map<String, Value>,
    choices: Vec<Choice>,
    is_done: bool,
}

#[derive(Default)]
struct Choice {
    /// `content`, `reasoning_content`, `reasoning`, or `text`: what grows.
    texts: Map<String, Value>,
    finish_reason: Option<Value>,
    logprobs: Vec<Value>,
}

impl Events {
    /// How much came so far.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes the next part, however it is cut.
    pub(super) fn push(&mut self, part: impl AsRef<[u8]>) -> Result<(), Failure> {
        let mut part = part.as_ref();
        self.bytes += part.len();
        while let Some(end) = part.iter().position(|byte| *byte == b'\n') {
            self.line.extend_from_slice(&part[..end]);
            part = &part[end + 1..];
            let line = std::mem::take(&mut self.line);
            self.event(&line)?;
        }
        self.line.extend_from_slice(part);
        Ok(())
    }

    fn event(&mut self, line: &[u8]) -> Result<(), Failure> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        // Comments keep the connection alive; names and numbers of events say nothing here.
        let Some(data) = line.strip_prefix(b"data:") else { return Ok(()) };
        let data = data.trim_ascii();
        if data == b"[DONE]" {
            self.is_done = true;
            return Ok(());
        }
        let event: Value = serde_json::from_slice(data).map_err(|error| {
            Failure::new(FailureKind::Malformed, format!("an event of the stream is not JSON: {error}"))
        })?;
        let Value::Object(event) = event else { return Ok(()) };
        for (field, value) in event {
            match (&*field, value) {
                ("choices", Value::Array(choices)) => choices.iter().for_each(|choice| self.grow(choice)),
                (_, Value::Null) => {}
                (_, value) => drop(self.body.insert(field, value)),
            }
        }
        Ok(())
    }

    fn grow(&mut self, piece: &Value) {
        let index = piece.get("index").and_then(Value::as_u64).unwrap_or(0).min(1024) as usize;
        if self.choices.len() <= index {
            self.choices.resize_with(index + 1, Choice::default);
        }
        let choice = &mut self.choices[index];
        let delta = piece.get("delta").and_then(Value::as_object);
        let delta = delta.into_iter().flatten().map(|(field, value)| (&**field, value));
        for (field, value) in delta.chain(piece.get("text").map(|text| (TEXT, text))) {
            if let (Value::String(more), Value::String(text)) =
                (value, choice.texts.entry(field).or_insert_with(|| json!("")))
            {
                // A role is said once, and again by some servers.
                if field == "role" {
                    text.clone_from(more);
                } else {
                    text.push_str(more);
                }
            }
        }
        if let Some(reason) = piece.get("finish_reason").filter(|reason| !reason.is_null()) {
            choice.finish_reason = Some(reason.clone());
        }
        let logprobs = piece.get("logprobs").and_then(|logprobs| logprobs.get("content")?.as_array());
        choice.logprobs.extend(logprobs.into_iter().flatten().cloned());
    }

    /// The body; a stream that broke off before its end is none.
    pub(super) fn finish(mut self) -> Result<Value, Failure> {
        let line = std::mem::take(&mut self.line);
        self.event(&line)?;
        let is_whole = self.is_done || self.choices.iter().all(|choice| choice.finish_reason.is_some());
        if !is_whole && !self.body.contains_key("error") {
            return Err(Failure::new(FailureKind::Malformed, "the stream broke off before its end"));
        }
        let choices: Vec<Value> = self.choices.into_iter().map(Choice::finish).collect();
        self.body.insert("choices".into(), json!(choices));
        Ok(Value::Object(self.body))
    }
}

/// What a piece of a text completion is kept under; a message has no such field.
const TEXT: &str = "";

impl Choice {
    fn finish(mut self) -> Value {
        let mut choice = Map::new();
        if let Some(text) = self.texts.remove(TEXT) {
            choice.insert("text".into(), text);
        } else {
            choice.insert("message".into(), Value::Object(self.texts));
        }
        choice.insert("finish_reason".into(), self.finish_reason.unwrap_or_default());
        if !self.logprobs.is_empty() {
            choice.insert("logprobs".into(), json!({ "content": self.logprobs }));
        }
        Value::Object(choice)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{Accepts, Raw};
    use super::*;

    const STREAM: &str = concat!(
        ": alive\r\n\r\n",
        "data: {\"id\":\"1\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\r\n\r\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"reasoning_content\":\"2+\"}}]}\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"reasoning_content\":\"2\"}}]}\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"It is é4\"}}]}\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":9}}\n\n",
        "data: [DONE]\n\n",
    );

    #[test]
    fn pieces_make_the_same_answer_however_they_are_cut() {
        for size in [1, 2, 7, 64, 10_000] {
            let mut events = Events::default();
            STREAM.as_bytes().chunks(size).for_each(|part| events.push(part).unwrap());
            let reply = Raw::Chat(events.finish().unwrap()).read(Accepts::THINKING).unwrap();
            assert_eq!(
                (reply.reasoning.as_deref(), &*reply.answer_text),
                (Some("2+2"), "It is é4"),
                "{size}"
            );
            assert_eq!((reply.input_tokens, reply.output_tokens), (Some(3), Some(9)));
        }
    }

    #[test]
    fn a_stream_that_breaks_off_is_no_answer() {
        for end in (0..STREAM.find("\"finish_reason\"").unwrap()).step_by(13) {
            let mut events = Events::default();
            let outcome = events.push(&STREAM.as_bytes()[..end]).and_then(|()| events.finish());
            let read = outcome.and_then(|body| Raw::Chat(body).read(Accepts::THINKING).map(|_| ()));
            assert!(read.is_err(), "{end}");
        }
    }

    #[test]
    fn texts_of_completions_grow_too() {
        let mut events = Events::default();
        events.push(b"data: {\"choices\":[{\"text\":\"a\"}]}\ndata: {\"choices\":[{\"text\":\"b\",\"finish_reason\":\"length\"}]}\n").unwrap();
        assert_eq!(
            events.finish().unwrap()["choices"][0],
            json!({ "text": "ab", "finish_reason": "length" })
        );
    }
}
