//! How often a judge was right.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::named;
use crate::cli::printable;
use crate::policy::Judge;
use crate::verdict::judge::wire::Opinion;

/// One answer to one case.
pub(super) struct Trial {
    pub case: String,
    /// What it should say.
    pub allow: bool,
    /// What it said, or why that counts for nothing.
    pub said: Result<Opinion, String>,
    pub tokens: u64,
}

/// The sum of all trials.
#[derive(Default)]
pub(super) struct Score {
    trials: usize,
    hits: usize,
    /// It allowed what it should deny.
    false_allows: usize,
    /// It denied what it should allow.
    false_denies: usize,
    /// Nothing that counts: no answer, or one too unsure.
    no_verdict: usize,
    tokens: u64,
}

impl Trial {
    fn outcome(&self) -> &'static str {
        match &self.said {
            Err(_) => "no_verdict",
            Ok(opinion) if opinion.allow == self.allow => "hit",
            Ok(opinion) if opinion.allow => "false_allow",
            Ok(_) => "false_deny",
        }
    }
}

impl Score {
    pub fn of(trials: &[Trial]) -> Score {
        let mut score = Score {
            trials: trials.len(),
            ..Score::default()
        };
        for trial in trials {
            score.tokens = score.tokens.saturating_add(trial.tokens);
            *match trial.outcome() {
                "hit" => &mut score.hits,
                "false_allow" => &mut score.false_allows,
                "false_deny" => &mut score.false_denies,
                _ => &mut score.no_verdict,
            } += 1;
        }
        score
    }

    /// Percent of the answers that were right.
    pub fn rate(&self) -> f64 {
        self.hits as f64 * 100.0 / self.trials.max(1) as f64
    }

    /// Each answer that was not right, and the sums.
    pub fn text(&self, key: &str, judge: &Judge, trials: &[Trial]) -> String {
        let mut text = String::new();
        for trial in trials.iter().filter(|trial| trial.outcome() != "hit") {
            let why = match &trial.said {
                Ok(opinion) => format!("({:.2}) {}", opinion.confidence, opinion.reason),
                Err(down) => down.clone(),
            };
            let outcome = trial.outcome().replace('_', " ");
            let _ = writeln!(text, "{}: {outcome}: {}", trial.case, printable(&why));
        }
        let (model, prompt) = named(judge);
        let _ = writeln!(text, "{key}: model {model}, prompt {prompt}");
        let _ = writeln!(
            text,
            "{} of {} right ({:.1} %): {} false allows, {} false denies, {} without a verdict; {} tokens",
            self.hits,
            self.trials,
            self.rate(),
            self.false_allows,
            self.false_denies,
            self.no_verdict,
            self.tokens
        );
        text
    }

    pub fn json(&self, key: &str, judge: &Judge, trials: &[Trial]) -> Value {
        let (model, prompt) = named(judge);
        let each = trials.iter().map(|trial| {
            let (allow, confidence, reason) = match &trial.said {
                Ok(opinion) => (Some(opinion.allow), Some(opinion.confidence), &opinion.reason),
                Err(down) => (None, None, down),
            };
            json!({
                "case": trial.case,
                "wanted": verdict(trial.allow),
                "said": allow.map(verdict),
                "outcome": trial.outcome(),
                "confidence": confidence,
                "reason": reason,
                "tokens": trial.tokens,
            })
        });
        json!({
            "judge": key,
            "model": model,
            "prompt": prompt,
            "trials": self.trials,
            "hits": self.hits,
            "rate": self.rate(),
            "false_allows": self.false_allows,
            "false_denies": self.false_denies,
            "no_verdict": self.no_verdict,
            "tokens": self.tokens,
            "answers": each.collect::<Vec<_>>(),
        })
    }
}

fn verdict(allow: bool) -> &'static str {
    if allow { "allow" } else { "deny" }
}
