//! What is sent: addresses below a base URL, and the body of a request in OpenAI's terms.

use reqwest::Url;
use serde_json::{Map, Value, json};

use super::super::{Message, Protocol, Sampling, ServedSpec};

/// The body of one request for `count` samples.
pub(super) fn body(
    spec: &ServedSpec,
    messages: &[Message],
    sampling: &Sampling,
    seed: u64,
    count: usize,
) -> Map<String, Value> {
    let mut body = Map::new();
    body.insert("model".into(), json!(spec.name));
    match spec.protocol {
        Protocol::Chat => body.insert("messages".into(), json!(messages)),
        // Without a template there are no roles: what is said, as it stands.
        Protocol::Text => {
            let said: Vec<&str> = messages.iter().map(|message| message.content.as_str()).collect();
            body.insert("prompt".into(), json!(said.concat()))
        }
    };
    body.insert("temperature".into(), json!(sampling.temperature));
    body.insert("top_p".into(), json!(sampling.top_p));
    body.insert("max_tokens".into(), json!(sampling.max_tokens));
    // 31 bits: the most that every server takes without cutting it.
    body.insert("seed".into(), json!(seed >> 33));
    let logprobs = match spec.protocol {
        Protocol::Chat => json!(true),
        Protocol::Text => json!(1),
    };
    let optional = [
        ("top_k", sampling.top_k.map(|k| json!(k))),
        ("min_p", sampling.min_p.map(|p| json!(p))),
        // An extension that vLLM and SGLang know.
        ("repetition_penalty", sampling.penalises().then(|| json!(sampling.repetition_penalty))),
        ("logprobs", sampling.logprobs.then_some(logprobs)),
        ("stop", (!sampling.stop.is_empty()).then(|| json!(sampling.stop))),
        ("reasoning_effort", sampling.reasoning_effort.as_ref().map(|effort| json!(effort))),
        ("chat_template_kwargs", (!sampling.template.is_empty()).then(|| json!(sampling.template))),
        ("n", (count > 1).then(|| json!(count))),
    ];
    for (field, value) in optional {
        if let Some(value) = value {
            body.insert(field.into(), value);
        }
    }
    // Last, so that a server which wants a field otherwise gets it so: `max_completion_tokens` for `max_tokens`, say.
    for (field, value) in &spec.extra {
        if value.is_null() {
            body.remove(field);
        } else {
            body.insert(field.clone(), value.clone());
        }
    }
    body
}

/// The base of a server's address, or what is wrong with it.
pub(in super::super) fn base(text: &str, has_key: bool) -> Result<Url, String> {
    let mut url = Url::parse(text).map_err(|error| format!("the server's address is no URL: {error}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "the server's address has a name or password in it; give a key by `api_key` instead".into()
        );
    }
    let is_local = match url.host_str() {
        Some(host) => {
            let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
            host == "localhost" || address.is_ok_and(|address| address.is_loopback())
        }
        None => return Err(format!("`{url}` names no server")),
    };
    match url.scheme() {
        "https" => {}
        "http" if is_local || !has_key => {}
        "http" => return Err(format!("`{url}` would carry the key in the clear; use https, or no key")),
        scheme => return Err(format!("`{scheme}` is no way to reach a server; use http or https")),
    }
    let path = format!("{}/", url.path().trim_end_matches('/'));
    url.set_path(&path);
    Ok(url)
}

/// `path` below a base.
pub(super) fn below(base: &Url, path: &str) -> Url {
    base.join(path).expect("a path of our own joins every base")
}

/// Where completions are asked for, below a base.
pub(super) fn path(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Chat => "chat/completions",
        Protocol::Text => "completions",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_would_give_the_key_away_are_refused() {
        assert!(base("http://localhost:8000/v1", true).is_ok());
        assert!(base("http://[::1]:8000/v1", true).is_ok());
        let address = below(&base("http://node17:8000/v1/", false).unwrap(), path(Protocol::Chat));
        assert_eq!(address.path(), "/v1/chat/completions");
        assert!(base("https://api.example.com/v1", true).is_ok());
        for (address, has_key) in [
            ("http://api.example.com/v1", true),
            ("https://user:secret@api.example.com/v1", false),
            ("ftp://api.example.com", false),
            ("nonsense", false),
        ] {
            let error = base(address, has_key).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn extra_fields_come_last_and_null_takes_one_out() {
        let spec: ServedSpec = serde_json::from_value(json!({
            "name": "m", "protocol": "text",
            "extra": { "max_tokens": null, "max_completion_tokens": 9, "provider": { "order": ["x"] } },
        }))
        .unwrap();
        let messages = ["Q: 2+2?\n", "A:"].map(|said| Message { role: "user".into(), content: said.into() });
        let body = body(&spec, &messages, &Sampling::default(), 1 << 40, 3);
        let expected = json!({
            "model": "m", "prompt": "Q: 2+2?\nA:", "temperature": 1.0, "top_p": 1.0, "seed": 128, "n": 3,
            "max_completion_tokens": 9, "provider": { "order": ["x"] },
        });
        assert_eq!(Value::Object(body), expected);
    }
}
