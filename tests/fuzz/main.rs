//! Fuzz targets of everything that reads bytes from outside.
//!
//! Under `cargo test` each runs a short smoke with random input; `cargo bolero test --engine libfuzzer
//! <name>` runs one with coverage. A target states a property, not only that nothing panics.

#![allow(clippy::panic, clippy::unwrap_used, reason = "tests say what they expect")]

mod answers;
mod http;
mod payloads;
mod postgres;
mod text;
mod transport;

/// Inputs of one smoke run.
const ROUNDS: usize = 3_000;

/// Longest random input, bytes.
const INPUT_BYTES_MAX: usize = 2_048;

/// A text of words, a byte each: random bytes alone seldom get past a grammar's first token.
fn spell(words: &[&str], bytes: &[u8]) -> String {
    let word = |byte: &u8| words.get(usize::from(*byte) % words.len()).copied();
    bytes.iter().filter_map(word).collect()
}

/// `bytes` cut into pieces whose lengths `cuts` gives.
fn pieces<'a>(bytes: &'a [u8], cuts: &[u8]) -> Vec<&'a [u8]> {
    let mut rest = bytes;
    let mut out = Vec::new();
    for cut in cuts {
        let (head, tail) = rest.split_at(usize::from(*cut).min(rest.len()));
        out.push(head);
        rest = tail;
    }
    out.push(rest);
    out
}

/// Runs a target on generated input.
macro_rules! fuzz {
    ($kind:ty, $target:expr) => {
        bolero::check!()
            .with_iterations($crate::ROUNDS)
            .with_max_len($crate::INPUT_BYTES_MAX)
            .with_type::<$kind>()
            .for_each($target)
    };
}
pub(crate) use fuzz;
