//! Functions with a literal pattern: `find` and `findAll` of Kubernetes, `regex.*` of cel-go. *Pure.*

use std::sync::Arc;

use regex::Regex;

use super::eval::{Budget, Fault, Outcome};
use super::function::Function;
use super::value::Value;

pub(crate) fn call<'a>(
    budget: &Budget,
    function: Function,
    regex: &Regex,
    args: &[Value<'a>],
) -> Outcome<'a> {
    use Function as F;
    let none = || Fault::error(format!("no such overload: {}", function.name()));
    let Some(Value::Text(text)) = args.first() else {
        return Err(none());
    };
    budget.scan(text.len().saturating_mul(4))?;
    match (function, args) {
        (F::Find, [_]) => Ok(Value::text(
            regex.find(text).map(|found| found.as_str()).unwrap_or_default(),
        )),
        (F::FindAll | F::RegexAll | F::RegexExtract, [_]) => {
            // One group is what is meant by the pattern; of several none is.
            let group = match (function, regex.captures_len()) {
                (F::FindAll, _) | (_, 1) => 0,
                (_, 2) => 1,
                _ => return Err(Fault::error("the pattern has several groups")),
            };
            if function == F::RegexExtract {
                let found = regex.captures(text).and_then(|captures| captures.get(group));
                return Ok(super::optional::of(
                    found.map(|found| Value::text(found.as_str())),
                ));
            }
            let mut found = Vec::new();
            for captures in regex.captures_iter(text) {
                if let Some(group) = captures.get(group) {
                    found.push(Value::text(group.as_str()));
                }
                budget.build(found.len().saturating_mul(16))?;
            }
            Ok(Value::List(Arc::new(found)))
        }
        (F::RegexReplace, [_, Value::Text(with)]) => replace(budget, regex, text, with, usize::MAX),
        (F::RegexReplaceSome, [_, Value::Text(with), Value::Int(most)]) => replace(
            budget,
            regex,
            text,
            with,
            usize::try_from(*most).unwrap_or(usize::MAX),
        ),
        _ => Err(none()),
    }
}

/// `\1` of the replacement is the first group, as RE2 writes it.
fn replace<'a>(budget: &Budget, regex: &Regex, text: &str, with: &str, most: usize) -> Outcome<'a> {
    let mut out = String::new();
    let mut end = 0;
    for captures in regex.captures_iter(text).take(most) {
        let Some(whole) = captures.get(0) else { break };
        out.push_str(text.get(end..whole.start()).unwrap_or_default());
        let mut chars = with.chars();
        while let Some(char) = chars.next() {
            if char != '\\' {
                out.push(char);
                continue;
            }
            match chars.next() {
                Some('\\') => out.push('\\'),
                Some(digit) if digit.is_ascii_digit() => {
                    let group = digit.to_digit(10).unwrap_or(0) as usize;
                    if group >= regex.captures_len() {
                        return Err(Fault::error("the replacement names a group that is not there"));
                    }
                    out.push_str(
                        captures
                            .get(group)
                            .map(|group| group.as_str())
                            .unwrap_or_default(),
                    );
                }
                _ => return Err(Fault::error("the replacement's backslash is no group")),
            }
        }
        budget.build(out.len())?;
        end = whole.end();
    }
    out.push_str(text.get(end..).unwrap_or_default());
    budget.build(out.len())?;
    Ok(Value::text(out))
}
