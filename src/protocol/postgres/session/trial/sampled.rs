//! The rows of a sample, as they are compared with those of another run.

use crate::verdict::Digest;

/// Rows of a sample that are compared; of more there is no digest, and no second run.
pub const ROWS_COMPARED_MAX: usize = 16 << 10;

/// What a sample had, row by row.
#[derive(Default)]
pub(super) struct Sampled {
    pub(super) columns: Option<Digest>,
    rows: Vec<Digest>,
    /// There were more than are compared.
    over: bool,
    pub(super) tag: Option<String>,
}

impl Sampled {
    pub(super) fn row(&mut self, payload: &[u8]) {
        match self.rows.len() < ROWS_COMPARED_MAX {
            true => self.rows.push(Digest::of(payload)),
            false => self.over = true,
        }
    }

    /// Bytes that are kept.
    pub(super) fn bytes(&self) -> usize {
        self.rows.len() * size_of::<Digest>()
    }

    /// Of all of them, whatever their order; none where not all are known.
    pub(super) fn digest(&self) -> Option<Digest> {
        let columns = self.columns.filter(|_| !self.over && self.tag.is_some())?;
        let mut rows: Vec<&[u8; 32]> = self.rows.iter().map(Digest::as_bytes).collect();
        rows.sort_unstable();
        let parts = std::iter::once(columns.as_bytes()).chain(rows);
        Some(Digest::of_parts(parts.map(|part| part.as_slice())))
    }
}
