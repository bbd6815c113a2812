//! Text inside HTML.

/// Text that HTML takes as text, in elements and in quoted attributes. Characters that would hide or reorder what stands
/// beside them are shown by their number; no label needs them.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ if is_hidden(character) => escaped.push_str(&format!("⟨U+{:04X}⟩", u32::from(character))),
            _ => escaped.push(character),
        }
    }
    escaped
}

/// Control characters, and those that turn the direction of writing, have no width or end a line of a script.
fn is_hidden(character: char) -> bool {
    (character.is_control() && !matches!(character, '\n' | '\t'))
        || matches!(character, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_opens_an_element_ends_an_attribute_or_hides() {
        assert_eq!(escape("<a href='x'>&\"</a>"), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;&lt;/a&gt;");
        assert_eq!(escape("a\0b\u{202e}c\u{2028}d\u{feff}"), "a⟨U+0000⟩b⟨U+202E⟩c⟨U+2028⟩d⟨U+FEFF⟩");
        assert_eq!(escape("two\nlines, עברית, 𝔸 – ß"), "two\nlines, עברית, 𝔸 – ß");
    }
}
