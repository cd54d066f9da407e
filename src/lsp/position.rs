//! Places as editors count them: lines, and UTF-16 units in a line. *Pure.*

use std::ops::Range;

/// The beginnings of a text's lines.
pub(super) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let starts = std::iter::once(0)
            .chain(ends.map(|(index, _)| index + 1))
            .collect();
        Lines { text, starts }
    }

    /// The byte that a position means; beyond a line's end, that end.
    pub(super) fn offset(&self, position: lsp_types::Position) -> usize {
        let Some(&start) = self.starts.get(position.line as usize) else {
            return self.text.len();
        };
        let line = self.text.get(start..).unwrap_or_default();
        let line = line.split('\n').next().unwrap_or_default().trim_end_matches('\r');
        let mut units = 0;
        for (index, char) in line.char_indices() {
            if units >= position.character as usize {
                return start + index;
            }
            units += char.len_utf16();
        }
        start + line.len()
    }

    pub(super) fn position(&self, offset: usize) -> lsp_types::Position {
        let offset = offset.min(self.text.len());
        let line = self
            .starts
            .partition_point(|start| *start <= offset)
            .saturating_sub(1);
        let start = self.starts.get(line).copied().unwrap_or_default();
        let before = self.text.get(start..offset).unwrap_or_default();
        let units: usize = before.chars().map(char::len_utf16).sum();
        lsp_types::Position::new(number(line), number(units))
    }

    pub(super) fn range(&self, range: Range<usize>) -> lsp_types::Range {
        lsp_types::Range::new(
            self.position(range.start),
            self.position(range.end.max(range.start)),
        )
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lsp_types::Position;

    #[test]
    fn positions_count_utf_16_and_go_both_ways() {
        let text = "a\r\né😀b\n\n";
        let lines = Lines::new(text);
        let check = |line, unit, offset| {
            assert_eq!(lines.offset(Position::new(line, unit)), offset, "{line}:{unit}");
            assert_eq!(lines.position(offset), Position::new(line, unit), "{offset}");
        };
        check(0, 1, 1);
        check(1, 0, 3);
        check(1, 1, 5);
        check(1, 3, 9);
        check(1, 4, 10);
        check(2, 0, 11);
        check(3, 0, 12);
        // Beyond the line, beyond the text, in the middle of a pair.
        assert_eq!(lines.offset(Position::new(0, 9)), 1);
        assert_eq!(lines.offset(Position::new(9, 0)), text.len());
        assert_eq!(lines.offset(Position::new(1, 2)), 9);
    }
}
