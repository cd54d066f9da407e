//! Which parts of a condition could show a credential. *Pure.*
//!
//! A fact of which a part is masked in records is masked here. A part that reads such a fact is
//! shown only if what it reads is the same without the mask: a header of its own, a member of a
//! body. What a macro's variables are is shown only if what is walked may be.

use serde_json::Value as Json;

use super::function::Function;
use super::node::{Kind, Node};
use super::print::children;
use super::value::Value;
use crate::facts::{Fact, FactSet, FactSource, Family, Mask, Slot};

/// What of an action is masked, for one condition.
#[derive(Debug, Default)]
pub(crate) struct Hidden {
    /// Facts that are not shown as they are: themselves, and as they are shown.
    facts: Vec<(Slot, Json, Json)>,
    /// A macro of the condition walks what is hidden.
    walked: bool,
}

impl Hidden {
    /// What `mask` hides of the facts that a condition reads.
    pub(crate) fn of(node: &Node, reads: FactSet, facts: &dyn FactSource, mask: &Mask) -> Hidden {
        let mut hidden = Hidden::default();
        let read = |slot: &&Slot| slot.family() != Family::Agent && reads.contains(**slot);
        for slot in Slot::ALL.iter().filter(read) {
            let Fact::Known(view) = facts.fact(*slot) else {
                continue;
            };
            let own = view.to_json();
            let mut masked = own.clone();
            mask.fact(*slot, &mut masked);
            if masked != own {
                hidden.facts.push((*slot, own, masked));
            }
        }
        hidden.walked = !hidden.facts.is_empty() && hidden.walks(node);
        hidden
    }

    /// Whether the value of a node may be shown.
    pub(crate) fn is_clean(&self, node: &Node) -> bool {
        if self.facts.is_empty() {
            return true;
        }
        if let Some((own, masked)) = self.place(node) {
            return own == masked;
        }
        match &node.kind {
            Kind::Var(_) => !self.walked,
            _ => {
                let mut clean = true;
                children(node, &mut |child| clean &= self.is_clean(child));
                clean
            }
        }
    }

    /// Whether an error of a node may be told: its text may name a key that was computed.
    pub(crate) fn may_tell(&self, node: &Node) -> bool {
        let key = match &node.kind {
            Kind::Call(Function::Index, args) => args.get(1),
            _ => None,
        };
        let mut tells = key.is_none_or(|key| self.is_clean(key));
        children(node, &mut |child| tells &= self.may_tell(child));
        tells
    }

    /// Where a node reads in a hidden fact, by names that stand in the condition: what is there,
    /// and what may be shown of it.
    fn place(&self, node: &Node) -> Option<(Option<&Json>, Option<&Json>)> {
        let (of, key) = match &node.kind {
            Kind::Slot(slot) => {
                let (_, own, masked) = self.facts.iter().find(|(hidden, ..)| hidden == slot)?;
                return Some((Some(own), Some(masked)));
            }
            Kind::Select(of, field) => (&**of, field.as_str()),
            Kind::Call(Function::Index, args) => match args.as_slice() {
                [of, key] => match &key.kind {
                    Kind::Const(Value::Text(key)) => (of, &**key),
                    _ => return None,
                },
                _ => return None,
            },
            _ => return None,
        };
        let (own, masked) = self.place(of)?;
        Some((
            own.and_then(|own| own.get(key)),
            masked.and_then(|own| own.get(key)),
        ))
    }

    /// Whether a macro walks what is hidden.
    fn walks(&self, node: &Node) -> bool {
        let own = match &node.kind {
            Kind::Fold(fold) => !self.is_clean(&fold.range),
            _ => false,
        };
        let mut walks = own;
        children(node, &mut |child| walks = walks || self.walks(child));
        walks
    }
}
