//! Typographic characters that word processors put in, and what the GSM alphabet has for them.

/// The replacement of `c`, or nothing when it stays as it is. Only characters whose replacement reads the same are here:
/// letters keep their accents.
pub(super) fn replacement(c: char) -> Option<&'static str> {
    Some(match c {
        '\u{2018}' | '\u{2019}' | '\u{201a}' | '\u{201b}' | '\u{2032}' | '\u{2039}' | '\u{203a}' | '\u{b4}' | '`' => {
            "'"
        }
        '\u{201c}' | '\u{201d}' | '\u{201e}' | '\u{201f}' | '\u{2033}' | '\u{ab}' | '\u{bb}' => "\"",
        '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{ad}' => "-",
        '\u{2026}' => "...",
        '\u{2022}' => "*",
        '\u{a0}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}' | '\t' => " ",
        '\u{2028}' | '\u{2029}' => "\n",
        '\u{200b}' | '\u{feff}' | '\u{2060}' => "",
        _ => return None,
    })
}

/// The text as a `smart` plan sends it, for those who hand on text and not segments.
pub fn simplified(text: &str) -> String {
    let mut simple = String::with_capacity(text.len());
    for_each_char(text, true, |c| simple.push(c));
    simple
}

/// Calls `each` for every character of `text`, replaced where `smart` asks for it.
pub(super) fn for_each_char(text: &str, smart: bool, mut each: impl FnMut(char)) {
    for c in text.chars() {
        match replacement(c).filter(|_| smart) {
            Some(instead) => instead.chars().for_each(&mut each),
            None => each(c),
        }
    }
}
