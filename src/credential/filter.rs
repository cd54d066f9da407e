//! Where one of many texts may stand in another, found without a look at each byte. *Pure.*
//!
//! Invariant: of the texts it holds hashes alone, some bits of each.

/// Shortest text that is looked for, bytes; shorter ones would be found by chance everywhere. The length of a piece, too.
pub const NEEDLE_BYTES_MIN: usize = 4;

/// Bits for each piece, about: one look in so many is for nothing.
const BITS_PER_PIECE: usize = 16;
/// Bits of a filter, as powers of two.
const BITS_LOG_MIN: u32 = 12;
const BITS_LOG_MAX: u32 = 22;

/// Tells the places where no needle begins, a stretch at a time, as Wu and Manber do: whatever needle stands in a text
/// has exactly one of the pieces that are looked at among its first bytes, of which it takes as many as the shortest has.
#[derive(Default)]
pub(super) struct Filter {
    shortest: usize,
    /// The pieces of [`NEEDLE_BYTES_MIN`] bytes among the needles' first `shortest` bytes.
    pieces: Bits,
    /// The first piece of each.
    firsts: Bits,
}

#[derive(Default)]
struct Bits {
    words: Vec<u64>,
    shift: u32,
}

impl Filter {
    /// For needles of [`NEEDLE_BYTES_MIN`] bytes and more; without any, nothing stands anywhere.
    pub(super) fn of<'a>(needles: impl Iterator<Item = &'a [u8]> + Clone) -> Filter {
        let shortest = needles.clone().map(<[u8]>::len).min().unwrap_or_default();
        let firsts = needles.clone().filter_map(<[u8]>::first_chunk);
        let windows = needles.filter_map(|needle| needle.get(..shortest));
        let windows = windows.flat_map(|beginning| beginning.windows(NEEDLE_BYTES_MIN));
        Filter {
            shortest,
            pieces: Bits::of(windows.filter_map(<[u8]>::first_chunk)),
            firsts: Bits::of(firsts),
        }
    }

    /// Bytes of the shortest needle.
    pub(super) fn shortest(&self) -> usize {
        self.shortest
    }

    /// The first place of `text` at which `stands` finds something in what begins there.
    pub(super) fn first_in<T>(&self, text: &[u8], stands: impl Fn(&[u8]) -> Option<T>) -> Option<(usize, T)> {
        let back = self.shortest.checked_sub(NEEDLE_BYTES_MIN)?;
        let mut at = back;
        while let Some(piece) = text.get(at..).and_then(<[u8]>::first_chunk) {
            if self.pieces.has(piece) {
                for from in at - back..=at {
                    let rest = text.get(from..).unwrap_or_default();
                    let may = rest.first_chunk().is_some_and(|first| self.firsts.has(first));
                    if let Some(found) = may.then(|| stands(rest)).flatten() {
                        return Some((from, found));
                    }
                }
            }
            at += back + 1;
        }
        None
    }
}

impl Bits {
    fn of<'a>(pieces: impl Iterator<Item = &'a [u8; NEEDLE_BYTES_MIN]> + Clone) -> Bits {
        let wanted = pieces.clone().count().saturating_mul(BITS_PER_PIECE);
        let log = wanted
            .next_power_of_two()
            .ilog2()
            .clamp(BITS_LOG_MIN, BITS_LOG_MAX);
        let mut bits = Bits {
            words: vec![0; (1 << log) / 64],
            shift: u32::BITS - log,
        };
        for piece in pieces {
            let (word, bit) = bits.place(piece);
            if let Some(word) = bits.words.get_mut(word) {
                *word |= bit;
            }
        }
        bits
    }

    fn has(&self, piece: &[u8; NEEDLE_BYTES_MIN]) -> bool {
        let (word, bit) = self.place(piece);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    /// The word of a piece, and its bit there.
    fn place(&self, piece: &[u8; NEEDLE_BYTES_MIN]) -> (usize, u64) {
        let hash = u32::from_le_bytes(*piece).wrapping_mul(0x9E37_79B1) >> self.shift;
        (hash as usize / 64, 1 << (hash % 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn the_first_needle_is_found_wherever_it_stands(
            needles in proptest::collection::vec("[ab]{4,20}", 0..4), text in "[abc]{0,120}",
        ) {
            let needles: Vec<&[u8]> = needles.iter().map(|needle| needle.as_bytes()).collect();
            let filter = Filter::of(needles.iter().copied());
            let stands = |rest: &[u8]| needles.iter().find(|needle| rest.starts_with(needle)).copied();
            let text = text.as_bytes();
            let naive = (0..text.len()).find_map(|at| Some((at, stands(text.get(at..)?)?)));
            proptest::prop_assert_eq!(filter.first_in(text, stands), naive);
        }
    }

    #[test]
    fn a_filter_grows_with_its_needles_and_not_for_ever() {
        let log = |bits: &Bits| (bits.words.len() * 64).ilog2();
        assert_eq!(
            log(&Filter::of([b"abcd".as_slice()].into_iter()).pieces),
            BITS_LOG_MIN
        );
        let many: Vec<[u8; 8]> = (0..1_u64 << 18).map(|number| number.to_be_bytes()).collect();
        let filter = Filter::of(many.iter().map(|needle| needle.as_slice()));
        assert_eq!(log(&filter.pieces), BITS_LOG_MAX);
        assert_eq!(log(&filter.firsts), BITS_LOG_MAX);
        assert_eq!(
            filter.first_in(&many[70_000], |rest| (rest == many[70_000]).then_some(())),
            Some((0, ()))
        );
    }
}
