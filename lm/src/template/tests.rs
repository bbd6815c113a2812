//! Rendering and examples, on the built-in template and on those of well-known models in short.

use serde_json::json;

use super::*;
use crate::tokenizer::Specials;

fn tokenizer() -> Tokenizer {
    Tokenizer::bytes(&Specials::chat()).unwrap()
}

fn user(content: &str) -> Message {
    Message::new("user", content)
}

fn assistant(content: &str) -> Message {
    Message::new("assistant", content)
}

fn built_in() -> ChatTemplate {
    ChatTemplate::of(&tokenizer()).unwrap()
}

/// The trained text and the text before it.
fn parts(tokenizer: &Tokenizer, example: &Example) -> (String, String) {
    let prompt = example.loss_mask.iter().position(|&label| label == 1).unwrap();
    assert!(example.loss_mask[prompt..].iter().all(|&label| label == 1));
    assert_eq!(example.loss_mask.len(), example.tokens.len());
    let (prompt, completion) = example.tokens.split_at(prompt);
    (tokenizer.decode(prompt).unwrap(), tokenizer.decode(completion).unwrap())
}

#[test]
fn the_built_in_template_writes_turns() {
    let messages = [
        Message::new("system", "be brief"),
        user(" 1+1 "),
        assistant("<think>\n2\n</think>\n\n#2"),
        user("2+2"),
    ];
    assert_eq!(
        built_in().render(&messages, true, &Map::new()).unwrap(),
        "<|system|>be brief<|end|><|user|>1+1<|end|><|assistant|>#2<|end|><|user|>2+2<|end|><|assistant|><think>\n"
    );
    assert_eq!(
        built_in().render(&messages[1..3], false, &Map::new()).unwrap(),
        "<|user|>1+1<|end|><|assistant|><think>\n2\n</think>\n\n#2<|end|>"
    );
    let kwargs = json!({ "enable_thinking": false });
    let kwargs = kwargs.as_object().unwrap();
    assert_eq!(
        built_in().render(&messages[3..], true, kwargs).unwrap(),
        "<|user|>2+2<|end|><|assistant|><think></think>"
    );
    let fault = built_in().render(&[user("1"), assistant("#1")], false, &Map::new()).unwrap_err();
    assert!(fault.to_string().contains("the response has no </think>"), "{fault}");
    let fault = built_in().render(&[Message::new("tool", "1")], false, &Map::new()).unwrap_err();
    assert!(fault.to_string().contains("not tool"), "{fault}");
}

#[test]
fn an_example_is_the_prompt_of_inference_and_the_completion() {
    let tokenizer = tokenizer();
    for response in ["<think>\n1+1=2;\n</think>\n\n#2", "1+1=2;\n</think>\n\n#2"] {
        let messages = [user("1+1"), assistant(response)];
        let example = built_in().example(&tokenizer, &messages).unwrap();
        let (prompt, completion) = parts(&tokenizer, &example);
        assert_eq!(prompt, "<|user|>1+1<|end|><|assistant|><think>\n");
        assert_eq!(completion, "1+1=2;\n</think>\n\n#2<|end|>");
        let inference = built_in().prompt(&tokenizer, &messages[..1], &Map::new()).unwrap();
        assert_eq!(example.tokens[..inference.len()], inference);
    }
}

#[test]
fn earlier_responses_are_context() {
    let tokenizer = tokenizer();
    let messages = [user("1"), assistant("<think>\na\n</think>\n\n#1"), user("2"), assistant("b</think>#2")];
    let example = built_in().example(&tokenizer, &messages).unwrap();
    let (prompt, completion) = parts(&tokenizer, &example);
    assert_eq!(prompt, "<|user|>1<|end|><|assistant|>#1<|end|><|user|>2<|end|><|assistant|><think>\n");
    assert_eq!(completion, "b</think>#2<|end|>");
}

#[test]
fn conversations_that_cannot_be_trained_on_are_refused() {
    let tokenizer = tokenizer();
    let fault = |messages: &[Message]| built_in().example(&tokenizer, messages).unwrap_err();
    assert!(matches!(fault(&[]), TemplateError::NoResponse));
    assert!(matches!(fault(&[user("1")]), TemplateError::NoResponse));
    let doubled = [user("1"), assistant("<think>\n<think>\na</think>b")];
    assert!(matches!(fault(&doubled), TemplateError::DoubledThink));
    let injected = [user("<|end|>"), assistant("a</think>b")];
    assert!(matches!(fault(&injected), TemplateError::ControlInContent { message: 0, .. }));
}

#[test]
fn white_space_after_the_end_token_is_left_out() {
    // The layout of ChatML, which opens no thinking: a leading `<think>` is the model's to write.
    let source = "{% for m in messages %}{{ '<|user|>' + m.role + '\n' + m.content + '<|end|>' + '\n' }}{% endfor %}\
                  {% if add_generation_prompt %}{{ '<|user|>assistant\n' }}{% endif %}";
    let tokenizer = tokenizer().with_chat_template(source);
    let template = ChatTemplate::of(&tokenizer).unwrap();
    let messages = [user("1"), assistant("<think>\na\n</think>\n\nb")];
    let (prompt, completion) = parts(&tokenizer, &template.example(&tokenizer, &messages).unwrap());
    assert_eq!(prompt, "<|user|>user\n1<|end|>\n<|user|>assistant\n");
    assert_eq!(completion, "<think>\na\n</think>\n\nb<|end|>");
}

#[test]
fn a_template_that_does_not_strip_gets_no_second_think() {
    // The layout of Nemotron: the last response is written after an opened `<think>`, whatever it begins with.
    let source = "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|assistant|>\n<think>\n' + m.content.strip() + '\n<|end|>\n' }}\
                  {% else %}{{ '<|user|>' + m.content.strip() + '\n' }}{% endif %}{% endfor %}\
                  {% if add_generation_prompt %}{{ '<|assistant|>\n<think>\n' }}{% endif %}";
    let tokenizer = tokenizer().with_chat_template(source);
    let template = ChatTemplate::of(&tokenizer).unwrap();
    let messages = [user("1"), assistant("<think>\n\na\n</think>\n\nb")];
    let (prompt, completion) = parts(&tokenizer, &template.example(&tokenizer, &messages).unwrap());
    assert_eq!(prompt, "<|user|>1\n<|assistant|>\n<think>\n");
    assert_eq!(completion, "a\n</think>\n\nb\n<|end|>");
    assert_eq!(gate(&tokenizer, &template, &[]), []);
}

#[test]
fn a_prompt_that_is_no_prefix_is_shown() {
    let source = "{% for m in messages %}{{ '<|user|>' + m.content + '<|end|>' }}{% endfor %}\
                  {% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";
    let tokenizer = tokenizer().with_chat_template(source);
    let fault =
        ChatTemplate::of(&tokenizer).unwrap().example(&tokenizer, &[user("1"), assistant("2")]).unwrap_err();
    let TemplateError::NotAPrefix { common, prompt, whole } = fault else { panic!("{fault}") };
    assert_eq!(
        (common.as_str(), prompt.as_str(), whole.as_str()),
        ("<|user|>1<|end|><|", "assistant|>", "user|>2<|end|>")
    );
}

#[test]
fn templates_may_write_named_tokens_and_need_a_fixed_date() {
    let source = "{{ eos_token }}{{ bos_token }} {{ strftime_now('%Y') }}{% if tools %}t{% endif %}";
    let template = ChatTemplate::of(&tokenizer().with_chat_template(source)).unwrap();
    let fault = template.render(&[], false, &Map::new()).unwrap_err();
    assert!(fault.to_string().contains("today's date"), "{fault}");
    let template = template.with_date("2025-08-05".parse().unwrap());
    assert_eq!(template.render(&[], false, &Map::new()).unwrap(), "<|end|> 2025");
}

#[test]
fn no_template_of_a_stranger_fills_the_memory() {
    for bomb in [
        "{{ messages | tojson(indent=2000000000) }}",
        "{{ 'x' | center(2000000000) }}",
        "{{ '%2000000000d' | format(1) }}",
        "{{ 'a' * 3000000000 }}",
        "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
    ] {
        let template = ChatTemplate::new(bomb);
        let rendered = template.and_then(|template| template.render(&[user("2+2?")], true, &Map::new()));
        assert!(rendered.is_err(), "{bomb}");
    }
}

#[test]
fn a_model_without_a_template_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let specials = Specials { chat_template: None, ..Specials::chat() };
    Tokenizer::bytes(&specials).unwrap().save(directory.path()).unwrap();
    assert!(matches!(ChatTemplate::load(directory.path()), Err(TemplateError::Absent)));
    assert!(matches!(ChatTemplate::new("{% if %}"), Err(TemplateError::Syntax(_))));
}

/// As openai-harmony 0.0.8 renders the same conversation for inference and for training.
#[test]
fn harmony_has_channels_and_drops_earlier_reasoning() {
    let template = ChatTemplate::new(HARMONY).unwrap();
    let kwargs = json!({ "reasoning_effort": "low", "current_date": "2025-08-05" });
    let kwargs = kwargs.as_object().unwrap();
    let messages = [
        Message::new("system", "be brief"),
        user("1+1?"),
        assistant("<think>\n1+1 is 2\n</think>\n\n2"),
        user("2+2?"),
        assistant("<think>2+2 is 4</think>4"),
    ];
    let begin = "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n\
                 Knowledge cutoff: 2024-06\nCurrent date: 2025-08-05\n\nReasoning: low\n\n\
                 # Valid channels: analysis, commentary, final. Channel must be included for every message.<|end|>\
                 <|start|>developer<|message|># Instructions\n\nbe brief<|end|><|start|>user<|message|>1+1?<|end|>\
                 <|start|>assistant<|channel|>final<|message|>2<|end|><|start|>user<|message|>2+2?<|end|><|start|>assistant";
    assert_eq!(template.render(&messages[..4], true, kwargs).unwrap(), begin);
    let end = "<|channel|>analysis<|message|>2+2 is 4<|end|>\
               <|start|>assistant<|channel|>final<|message|>4<|return|>";
    assert_eq!(template.render(&messages, false, kwargs).unwrap(), begin.to_owned() + end);

    // Trained on, the response is in two channels after exactly the prompt.
    let specials = Specials {
        end: "<|return|>".to_owned(),
        control: ["<|start|>", "<|message|>", "<|channel|>", "<|end|>"].map(str::to_owned).to_vec(),
        tags: vec![],
        ..Specials::chat()
    };
    let tokenizer = Tokenizer::bytes(&specials).unwrap().with_chat_template(HARMONY);
    assert_eq!(gate(&tokenizer, &template, &[]), []);
    let example = template.example_with(&tokenizer, &messages, kwargs).unwrap();
    assert_eq!(parts(&tokenizer, &example), (begin.to_owned(), end.to_owned()));
}

#[test]
fn control_tokens_in_a_text_are_refused_and_thinking_tags_are_not() {
    let tokenizer = tokenizer();
    let fault =
        built_in().example(&tokenizer, &[user("what is <|user|>?"), assistant("a</think>b")]).unwrap_err();
    assert_eq!(
        fault.to_string(),
        "message 0 holds the control token `<|user|>` in its text, which a model would read as such"
    );
    assert!(built_in().example(&tokenizer, &[user("what is <think>?"), assistant("a</think>b")]).is_ok());
}

#[test]
fn messages_may_have_more_fields_whose_order_is_kept() {
    let text = r#"{"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {"b": 1, "a": 2.0}}]}"#;
    let message: Message = serde_json::from_str(text).unwrap();
    let template = ChatTemplate::new(
        "{{ messages[0].tool_calls[0].arguments | tojson }}{{ messages[0].tool_calls[0].arguments }}",
    );
    assert_eq!(
        template.unwrap().render(&[message], false, &Map::new()).unwrap(),
        r#"{"b": 1, "a": 2.0}{'b': 1, 'a': 2.0}"#
    );
}
