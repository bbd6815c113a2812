//! What the tokenizer library does not check in a `tokenizer.json`, or would stop the program at.

use serde_json::Value;

use super::encoder;
use super::table::TokenTable;

/// Ids from here on are no ids: tables are as long as the highest, and so are a model's embeddings.
const HIGHEST: u64 = 1 << 24;

/// The ids of a vocabulary that is a map from token to id.
pub(super) fn ids(vocabulary: &Value) -> Result<TokenTable, String> {
    let tokens = vocabulary.as_object();
    let mut ids = TokenTable::with_capacity(tokens.map_or(0, serde_json::Map::len));
    for (token, id) in tokens.into_iter().flatten() {
        let small = id.as_u64().filter(|&id| id < HIGHEST);
        let id = small.ok_or_else(|| format!("the token {token:?} has the id {id}, which no model has"))?;
        ids.insert(token.as_bytes(), id as u32);
    }
    Ok(ids)
}

/// Whether every merge is of two tokens to a third; the library would look no further than the tokens' lengths.
pub(super) fn merges(model: &Value, ids: &TokenTable) -> Result<(), String> {
    let prefix = model["continuing_subword_prefix"].as_str().unwrap_or_default();
    let mut whole = Vec::new();
    for (number, merge) in model["merges"].as_array().into_iter().flatten().enumerate() {
        // Lists of texts may begin with a line about themselves.
        if merge.as_str().is_some_and(|text| text.starts_with("#version")) {
            continue;
        }
        let (left, right) =
            encoder::parts(merge).ok_or_else(|| format!("merge {number} is not of two tokens: {merge}"))?;
        whole.clear();
        whole.extend_from_slice(left.as_bytes());
        whole.extend_from_slice(right.strip_prefix(prefix).unwrap_or(right).as_bytes());
        let absent =
            [left.as_bytes(), right.as_bytes(), &whole].into_iter().find(|token| ids.get(token).is_none());
        if let Some(token) = absent {
            let token = String::from_utf8_lossy(token);
            return Err(format!("merge {number} ({merge}) names {token:?}, which is no token"));
        }
    }
    Ok(())
}

/// Whether the library gives the added tokens the ids that the file gives them; it counts on from the vocabulary instead.
pub(super) fn added(added: &Value, inner: &tokenizers::Tokenizer) -> Result<(), String> {
    for token in added.as_array().into_iter().flatten() {
        let (Some(content), Some(id)) = (token["content"].as_str(), token["id"].as_u64()) else { continue };
        let given = inner.token_to_id(content);
        if given.map(u64::from) != Some(id) {
            let given = given.map_or("none".to_owned(), |given| given.to_string());
            return Err(format!(
                "the added token {content:?} has the id {id}, and would be given {given}: the ids have a gap"
            ));
        }
    }
    Ok(())
}
