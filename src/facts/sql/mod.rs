//! The facts of the `sql` family. *Pure.*

use crate::facts::{Blind, Fact, FactSource, Slot, View};

/// The facts of one action of the family.
#[derive(Clone, Debug)]
pub struct SqlFacts {}

impl FactSource for SqlFacts {
    fn fact(&self, _slot: Slot) -> Fact<View<'_>> {
        Fact::Unknown(Blind::NotRead)
    }
}
