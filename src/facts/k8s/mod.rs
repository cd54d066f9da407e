//! The facts of the `k8s` family. *Pure.*

use crate::facts::{Blind, Fact, FactSource, Slot, View};

/// The facts of one action of the family.
#[derive(Clone, Debug)]
pub struct K8sFacts {}

impl FactSource for K8sFacts {
    fn fact(&self, _slot: Slot) -> Fact<View<'_>> {
        Fact::Unknown(Blind::NotRead)
    }
}
