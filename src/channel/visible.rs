//! Texts that an agent may have written, as people may see them. *Pure.*
//!
//! What is not seen, is seen as a blank, or turns round what stands beside it, stands escaped. So does a letter that
//! is drawn like an ASCII one where it could be taken for one: `WНERE` with a Cyrillic letter, or `o WHERE id` of which
//! a blank is none to the server, is a name, and the statement has no condition.
//!
//! As `printable` of the page, by the same patterns.

use std::sync::LazyLock;

use regex::{Captures, Regex};

static WORD: LazyLock<Regex> = LazyLock::new(|| fixed(r"[\p{Alphabetic}\p{N}\p{M}_]+"));
static ASCII: LazyLock<Regex> = LazyLock::new(|| fixed("[A-Za-z]"));

#[allow(clippy::expect_used, reason = "a pattern of constants")]
fn fixed(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a pattern of constants")
}

/// A text that an agent may have written: what is no character of it, or may be taken for another, stands escaped.
pub fn printable(text: &str) -> String {
    let out = WORD.replace_all(text, |found: &Captures<'_>| {
        let word = found.get(0).map_or("", |word| word.as_str());
        match word.is_ascii() {
            true => word.to_owned(),
            false => escaped(word, &|char| {
                is_disguised(char) || is_foreign(char) && ASCII.is_match(word)
            }),
        }
    });
    escaped(&out, &is_hidden)
}

fn escaped(text: &str, is_bad: &dyn Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match is_bad(char) {
            true => out.extend(char.escape_unicode()),
            false => out.push(char),
        }
    }
    out
}

/// Controls drive a terminal; the others turn round what stands beside them, strike it out, or are not seen.
pub fn is_hidden(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{a0}' | '\u{ad}' | '\u{334}'..='\u{338}' | '\u{34f}' | '\u{37e}' | '\u{61c}' | '\u{70f}'
            | '\u{115f}' | '\u{1160}' | '\u{1680}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{2000}'..='\u{200f}' | '\u{2028}'..='\u{202f}' | '\u{205f}'..='\u{206f}' | '\u{2800}' | '\u{3000}'
            | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{ffff}'
            | '\u{13430}'..='\u{1345f}' | '\u{16fe4}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d159}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Whole alphabets that are drawn like ASCII's: mathematical and fullwidth letters and digits, letterlike symbols,
/// Roman numerals, Cherokee, Lisu, Deseret.
fn is_disguised(char: char) -> bool {
    matches!(char, '\u{13a0}'..='\u{13ff}' | '\u{2100}'..='\u{214f}' | '\u{2160}'..='\u{2188}' | '\u{a4d0}'..='\u{a4ff}'
        | '\u{ab70}'..='\u{abbf}' | '\u{ff10}'..='\u{ff19}' | '\u{ff21}'..='\u{ff3a}' | '\u{ff3f}'
        | '\u{ff41}'..='\u{ff5a}' | '\u{10400}'..='\u{1044f}' | '\u{1d400}'..='\u{1d7ff}')
}

/// A letter of neither the Latin alphabets nor those that look like nothing else.
fn is_foreign(char: char) -> bool {
    char.is_alphabetic()
        && !matches!(char, '\0'..='\u{24f}' | '\u{1e00}'..='\u{1eff}' | '\u{2e80}'..='\u{a4cf}' | '\u{ac00}'..='\u{d7ff}'
            | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: &str) {
        assert_eq!(printable(text), want);
        assert_eq!(printable(want), want, "nothing is escaped twice");
    }

    #[test]
    fn what_is_plain_stays() {
        for plain in [
            "DELETE FROM \"Größe\" WHERE naïve = 'żółć' -- Привет, мир; 用户table, 表, 한국어, ελληνικά",
            "e\u{301}te\u{301} ½ ² 5",
        ] {
            check(plain, plain);
        }
    }

    #[test]
    fn a_blank_that_is_none_is_seen() {
        check(
            "DELETE FROM orders AS o\u{a0}WHERE\u{2003}id\u{3000}\u{2800}",
            "DELETE FROM orders AS o\\u{a0}WHERE\\u{2003}id\\u{3000}\\u{2800}",
        );
        check("a\u{202e}b\u{200b}\u{1bca0}", "a\\u{202e}b\\u{200b}\\u{1bca0}");
    }

    #[test]
    fn a_letter_that_stands_in_for_another_is_seen() {
        // Cyrillic, Greek, Armenian among ASCII; Cherokee, mathematical and fullwidth letters anywhere.
        for (text, want) in [
            ("W\u{41d}ERE", "W\\u{41d}ERE"),
            ("\u{3bf}rders", "\\u{3bf}rders"),
            ("\u{585}rders", "\\u{585}rders"),
            ("pr\u{43e}d", "pr\\u{43e}d"),
            ("\u{13b3}\u{13bb}", "\\u{13b3}\\u{13bb}"),
            ("\u{1d686}\u{1d677}", "\\u{1d686}\\u{1d677}"),
            ("\u{ff37}", "\\u{ff37}"),
            ("\u{212a}8s", "\\u{212a}8s"),
            ("\u{217c}", "\\u{217c}"),
            ("a\u{338}", "a\\u{338}"),
            ("x\u{37e}", "x\\u{37e}"),
        ] {
            check(text, want);
        }
    }
}
