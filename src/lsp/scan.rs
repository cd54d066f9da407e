//! A reading of HCL that never fails: blocks, fields and texts of a file while it is being
//! written. *Pure.*
//!
//! The loader's parser gives nothing of a file with an error. This one goes on at the next line
//! that looks like a statement, so that what stands before and behind is still known.

use std::ops::Range;

use crate::policy::guide;

/// Deepest nesting that is looked into.
const DEPTH_MAX: usize = 64;

/// A block, or the braces of an object in a value.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) keyword: Range<usize>,
    /// Labels without their quotes.
    pub(super) labels: Vec<Range<usize>>,
    /// From the keyword to the closing brace.
    pub(super) span: Range<usize>,
    /// Between the braces; `None` while there are none.
    pub(super) body: Option<Range<usize>>,
    pub(super) parent: Option<usize>,
    pub(super) is_object: bool,
}

/// `name = value`.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: Range<usize>,
    pub(super) value: Range<usize>,
    pub(super) parent: Option<usize>,
}

/// What stands in a file.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) blocks: Vec<Block>,
    pub(super) entries: Vec<Entry>,
    /// Texts without their quotes, heredocs without their markers.
    pub(super) texts: Vec<Range<usize>>,
    pub(super) comments: Vec<Range<usize>>,
}

impl Tree {
    pub(super) fn of(text: &str) -> Tree {
        let mut scan = Scan {
            text,
            at: 0,
            tree: Tree::default(),
        };
        while scan.at < text.len() {
            scan.body(None, false, 0);
        }
        scan.tree
    }

    /// The innermost block whose braces are round a place.
    pub(super) fn block_at(&self, offset: usize) -> Option<usize> {
        let inside = |block: &Block| {
            let body = block.body.as_ref();
            body.is_some_and(|body| body.start <= offset && offset <= body.end)
        };
        // Inner blocks follow outer ones.
        self.blocks.iter().rposition(inside)
    }

    pub(super) fn text_at(&self, offset: usize) -> Option<Range<usize>> {
        let found = self
            .texts
            .iter()
            .find(|text| text.start <= offset && offset <= text.end);
        found.cloned()
    }
}

struct Scan<'a> {
    text: &'a str,
    at: usize,
    tree: Tree,
}

impl<'a> Scan<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn skip(&mut self) {
        self.at += self.peek().map_or(0, char::len_utf8);
    }

    fn while_(&mut self, holds: impl Fn(char) -> bool) -> Range<usize> {
        let start = self.at;
        let rest = self.rest();
        self.at += rest.find(|char| !holds(char)).unwrap_or(rest.len());
        start..self.at
    }

    fn line_end(&self) -> usize {
        self.at + self.rest().find('\n').unwrap_or(self.rest().len())
    }

    /// Statements up to the closing brace of the block or object that they belong to.
    fn body(&mut self, parent: Option<usize>, is_object: bool, depth: usize) {
        loop {
            self.while_(|char| char.is_whitespace() || char == ',');
            if self.comment() {
                continue;
            }
            let Some(next) = self.peek() else { return };
            if next == '}' {
                if parent.is_none() {
                    self.skip();
                }
                return;
            }
            if parent.is_some() && !is_object && self.is_new_block() {
                return;
            }
            let name = if is_word(next) {
                self.while_(is_word)
            } else if next == '"' && is_object {
                self.quoted()
            } else {
                self.skip();
                continue;
            };
            self.statement(name, parent, is_object, depth);
        }
    }

    /// At the beginning of a line, the header of a block that is never inside another.
    fn is_new_block(&self) -> bool {
        let before = self.text.get(..self.at).unwrap_or_default();
        let rest = self.rest();
        let end = rest.find(|char| !is_word(char)).unwrap_or(rest.len());
        let (word, behind) = rest.split_at_checked(end).unwrap_or_default();
        before.ends_with('\n')
            && word != "rule"
            && behind.trim_start_matches(' ').starts_with(['"', '{'])
            && guide::blocks().any(|(name, _)| name == word)
    }

    fn statement(&mut self, name: Range<usize>, parent: Option<usize>, is_object: bool, depth: usize) {
        self.while_(is_blank);
        let rest = self.rest();
        if (rest.starts_with('=') && !rest.starts_with("==")) || (is_object && rest.starts_with(':')) {
            self.skip();
            let start = self.at;
            let index = self.tree.entries.len();
            self.tree.entries.push(Entry {
                name: name.clone(),
                value: start..start,
                parent,
            });
            self.value(&name, parent, depth);
            let end = self.at;
            if let Some(entry) = self.tree.entries.get_mut(index) {
                entry.value.end = end;
            }
            return;
        }
        let mut labels = Vec::new();
        loop {
            match self.peek() {
                Some('"') => labels.push(self.quoted()),
                Some(char) if is_word(char) => labels.push(self.while_(is_word)),
                _ => break,
            }
            self.while_(is_blank);
        }
        let index = self.tree.blocks.len();
        self.tree.blocks.push(Block {
            span: name.start..self.at,
            keyword: name,
            labels,
            body: None,
            parent,
            is_object: false,
        });
        if self.peek() == Some('{') {
            self.braces(index, false, depth);
        }
    }

    /// From an opening brace behind the one that closes it.
    fn braces(&mut self, index: usize, is_object: bool, depth: usize) {
        self.skip();
        let start = self.at;
        if let Some(block) = self.tree.blocks.get_mut(index) {
            block.body = Some(start..self.text.len());
        }
        if depth < DEPTH_MAX {
            self.body(Some(index), is_object, depth + 1);
        }
        let end = self.at;
        if self.peek() == Some('}') {
            self.skip();
        }
        let span_end = self.at;
        if let Some(block) = self.tree.blocks.get_mut(index) {
            block.body = Some(start..end);
            block.span.end = span_end;
        }
    }

    /// A value, to the end of its line, or to where its brackets are closed.
    fn value(&mut self, name: &Range<usize>, parent: Option<usize>, depth: usize) {
        let mut open = 0usize;
        loop {
            if self.comment() {
                continue;
            }
            let Some(next) = self.peek() else { return };
            match next {
                '\n' if open == 0 => return,
                '\n' => {
                    self.skip();
                    if self.is_statement() {
                        return;
                    }
                }
                '"' => {
                    self.quoted();
                }
                '<' if self.rest().starts_with("<<") => {
                    if !self.heredoc() {
                        return;
                    }
                }
                '[' | '(' => {
                    open += 1;
                    self.skip();
                }
                ']' | ')' => {
                    open = open.saturating_sub(1);
                    self.skip();
                }
                '{' => {
                    let index = self.tree.blocks.len();
                    self.tree.blocks.push(Block {
                        keyword: name.clone(),
                        labels: Vec::new(),
                        span: self.at..self.at,
                        body: None,
                        parent,
                        is_object: true,
                    });
                    self.braces(index, true, depth);
                }
                '}' => return,
                ',' if open == 0 => return,
                _ => self.skip(),
            }
        }
    }

    /// Whether this line begins as a statement does: what was opened before it was not closed.
    fn is_statement(&self) -> bool {
        let line = self.rest().trim_start_matches(is_blank);
        let end = line.find(|char| !is_word(char)).unwrap_or(line.len());
        let (word, behind) = line.split_at_checked(end).unwrap_or_default();
        let behind = behind.trim_start_matches(is_blank);
        !word.is_empty()
            && ((behind.starts_with('=') && !behind.starts_with("==")) || behind.starts_with(['"', '{']))
    }

    /// A quoted text; it ends with its line at the latest.
    fn quoted(&mut self) -> Range<usize> {
        self.skip();
        let start = self.at;
        loop {
            match self.peek() {
                None | Some('\n') => break,
                Some('"') => {
                    let end = self.at;
                    self.skip();
                    self.tree.texts.push(start..end);
                    return start..end;
                }
                Some('\\') => {
                    self.skip();
                    if self.peek() != Some('\n') {
                        self.skip();
                    }
                }
                Some(_) => self.skip(),
            }
        }
        self.tree.texts.push(start..self.at);
        start..self.at
    }

    /// `false` if its closing marker is not there.
    fn heredoc(&mut self) -> bool {
        self.at += 2;
        if self.peek() == Some('-') {
            self.skip();
        }
        let marker = self.while_(is_word);
        let marker = self.text.get(marker).unwrap_or_default();
        self.at = self.line_end();
        self.skip();
        let start = self.at;
        while self.at < self.text.len() {
            let end = self.line_end();
            let line = self.text.get(self.at..end).unwrap_or_default();
            let closed = !marker.is_empty() && line.trim() == marker;
            // Without its marker it would take the rest of the file.
            if closed || self.is_new_block() {
                self.tree.texts.push(start..self.at);
                if closed {
                    self.at = end;
                }
                return closed;
            }
            self.at = (end + 1).min(self.text.len());
        }
        self.tree.texts.push(start..self.at);
        false
    }

    fn comment(&mut self) -> bool {
        let rest = self.rest();
        let start = self.at;
        if rest.starts_with('#') || rest.starts_with("//") {
            self.at = self.line_end();
        } else if rest.starts_with("/*") {
            self.at += rest.find("*/").map_or(rest.len(), |end| end + 2);
        } else {
            return false;
        }
        self.tree.comments.push(start..self.at);
        true
    }
}

pub(super) fn is_word(char: char) -> bool {
    char.is_ascii_alphanumeric() || char == '_' || char == '-'
}

fn is_blank(char: char) -> bool {
    matches!(char, ' ' | '\t' | '\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(text: &str) -> String {
        let tree = Tree::of(text);
        let mut out = Vec::new();
        for block in &tree.blocks {
            let labels: Vec<&str> = block.labels.iter().map(|label| &text[label.clone()]).collect();
            let parent = block
                .parent
                .map(|parent| &text[tree.blocks[parent].keyword.clone()]);
            out.push(format!(
                "{}{}{labels:?} in {}",
                if block.is_object { "object " } else { "" },
                &text[block.keyword.clone()],
                parent.unwrap_or("file")
            ));
        }
        for entry in &tree.entries {
            out.push(format!(
                "{}={}",
                &text[entry.name.clone()],
                text[entry.value.clone()].trim()
            ));
        }
        out.join("; ")
    }

    #[test]
    fn blocks_are_looked_into_so_deep() {
        let deep = "a {\n".repeat(100_000);
        let tree = Tree::of(&deep);
        let mut depths: Vec<usize> = Vec::new();
        for block in &tree.blocks {
            depths.push(block.parent.map_or(0, |parent| depths[parent] + 1));
        }
        assert_eq!(depths.iter().max(), Some(&DEPTH_MAX));
    }

    #[test]
    fn whole_files_are_read() {
        assert_eq!(
            shape(
                "profile \"p\" {\n  credentials = [{ credential = a.b }, c.d]\n  rule \"r\" { verdict = \"allow\" }\n}\nx = 1\n"
            ),
            "profile[\"p\"] in file; object credentials[] in profile; rule[\"r\"] in profile; \
             credentials=[{ credential = a.b }, c.d]; credential=a.b; verdict=\"allow\"; x=1"
        );
        assert_eq!(
            shape("rule \"r\" {\n  condition = <<-EOT\n    a = {\n  EOT\n  reason = \"}\" # } {\n}\n/* { */"),
            "rule[\"r\"] in file; condition=<<-EOT\n    a = {\n  EOT; reason=\"}\" # } {"
        );
    }

    #[test]
    fn what_is_open_ends_at_the_next_statement() {
        assert_eq!(
            shape("rule \"r\" {\n  endpoints = [a.b,\n  verdict = \"all\n  mode = \n}\nrule \"s\" {\n"),
            "rule[\"r\"] in file; rule[\"s\"] in file; endpoints=[a.b,; verdict=\"all; mode="
        );
        assert_eq!(
            shape("profile \"p\" {\n  rule \"r\" {\nendpoint \"https\" \"e\" {\n}\n"),
            "profile[\"p\"] in file; rule[\"r\"] in profile; endpoint[\"https\", \"e\"] in file"
        );
        assert_eq!(
            shape("rule \"r\" {\n  condition = <<EOT\n  a\nendpoint \"x\" {}\n"),
            "rule[\"r\"] in file; endpoint[\"x\"] in file; condition=<<EOT\n  a"
        );
    }

    #[test]
    fn no_text_is_too_strange() {
        for text in [
            "",
            "\"",
            "<<",
            "<<-\n",
            "{{{{",
            "}}}}",
            "a = [[[[",
            "a = \\",
            "é = \"\\",
            "/*",
            "a \"é",
        ] {
            Tree::of(text);
        }
        Tree::of(&"a = {".repeat(100_000));
        Tree::of(&"a {".repeat(100_000));
    }

    proptest::proptest! {
        #[test]
        fn every_range_lies_in_the_text(text in "[a-z{}\\[\\]\"=<\\-\n#é, .]{0,80}") {
            let tree = Tree::of(&text);
            for block in &tree.blocks {
                proptest::prop_assert!(text.get(block.span.clone()).is_some());
                proptest::prop_assert!(block.body.clone().is_none_or(|body| text.get(body).is_some()));
            }
            for entry in &tree.entries {
                proptest::prop_assert!(text.get(entry.value.clone()).is_some());
            }
            for range in &tree.texts {
                proptest::prop_assert!(text.get(range.clone()).is_some());
            }
        }
    }
}
