//! What the fixtures cover, for people and for machines. *Of `tailkeep test`.*

use serde_json::{Value, json};

use crate::cli::printable;
use crate::policy::{CoveredRule, Share, Times};

/// Lines of what is not covered that are printed unasked.
const LACKING_LINES_MAX: usize = 20;

/// Every rule, and the sums.
pub(super) struct Covered {
    each: Vec<CoveredRule>,
    rules: Share,
    branches: Share,
}

impl Covered {
    pub(super) fn new(each: Vec<CoveredRule>) -> Covered {
        let sum =
            |share: fn(&CoveredRule) -> Share| each.iter().map(share).fold(Share::default(), Share::and);
        let (rules, branches) = (sum(CoveredRule::share), sum(CoveredRule::branches));
        Covered {
            each,
            rules,
            branches,
        }
    }

    /// Of the rules' outcomes and of the branches together.
    pub(super) fn percent(&self) -> u64 {
        self.rules.and(self.branches).percent()
    }

    pub(super) fn to_json(&self) -> Value {
        let share = |share: Share| json!({ "seen": share.seen, "of": share.of, "percent": share.percent() });
        json!({ "coverage": {
            "percent": self.percent(), "rules": share(self.rules), "branches": share(self.branches),
            "each": self.each,
        }})
    }

    pub(super) fn print(&self, all: bool) {
        for line in self.lines(all) {
            println!("{line}");
        }
    }

    /// Everything, or the first of what is not covered; and the sums.
    fn lines(&self, all: bool) -> Vec<String> {
        let mut lines = Vec::new();
        for rule in &self.each {
            let share = rule.share();
            if all || share.seen < share.of {
                lines.push(rule_line(rule, all));
            }
            for operand in &rule.operands {
                let share = operand.share();
                if all || share.seen < share.of {
                    let place = operand.place.as_deref().unwrap_or_default();
                    let seen = seen(operand.seen, operand.is_branch, all);
                    lines.push(format!("  {place}: {}: {seen}", printable(&operand.text)));
                }
            }
        }
        let most = if all { usize::MAX } else { LACKING_LINES_MAX };
        let more = lines.len().saturating_sub(most);
        lines.truncate(most);
        if more > 0 {
            lines.push(format!("and {more} more; --coverage prints all"));
        }
        let share = |share: Share| format!("{} of {} ({} %)", share.seen, share.of, share.percent());
        lines.push(format!(
            "covered: {} outcomes of rules, {} branches of conditions",
            share(self.rules),
            share(self.branches)
        ));
        lines
    }
}

fn rule_line(rule: &CoveredRule, all: bool) -> String {
    let place = rule.place.as_deref().unwrap_or_default();
    let name = &rule.rule;
    let (yes, no, none) = (rule.matched, rule.not_matched, rule.not_evaluable);
    let said = match (yes, no) {
        _ if all => format!("matched {yes}, not matched {no}, not evaluable {none}"),
        (0, 0) if none == 0 => "never evaluated".to_owned(),
        (0, _) => "never matched".to_owned(),
        _ => "always matched".to_owned(),
    };
    format!("{place}: rule {name}: {said}")
}

fn seen(times: Times, is_branch: bool, all: bool) -> String {
    let Times { yes, no, other, none } = times;
    match (yes, no) {
        _ if all && is_branch => format!("evaluated {}, without a value {none}", yes + no + other),
        _ if all => format!("true {yes}, false {no}, without a value {none}"),
        (0, 0) if none + other == 0 => "never evaluated".to_owned(),
        (0, 0) => "never had a value".to_owned(),
        (0, _) => "never true".to_owned(),
        _ => "never false".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_covered_is_printed_up_to_a_number_unless_all_is_asked_for() {
        let rule = |number: usize| CoveredRule {
            rule: format!("r{number}"),
            place: Some(format!("p.hcl:{number}:1")),
            matched: 0,
            not_matched: 0,
            not_evaluable: 0,
            is_bound: false,
            operands: Vec::new(),
        };
        let of = |count: usize| Covered::new((0..count).map(rule).collect());
        let fits = of(LACKING_LINES_MAX).lines(false);
        assert_eq!(fits.len(), LACKING_LINES_MAX + 1, "{fits:#?}");
        assert!(!fits.iter().any(|line| line.contains("--coverage")), "{fits:#?}");
        let over = of(LACKING_LINES_MAX + 2).lines(false);
        assert_eq!(over.len(), LACKING_LINES_MAX + 2, "{over:#?}");
        assert_eq!(over[LACKING_LINES_MAX], "and 2 more; --coverage prints all");
        assert_eq!(of(LACKING_LINES_MAX + 2).lines(true).len(), LACKING_LINES_MAX + 3);
    }
}
