//! What `approvals show` says of the agent that asks, and of questions like the one shown.

use std::fmt::Write as _;

use serde_json::Value;

use crate::cli::printable;

/// As the API gives it; what an agent wrote cannot drive the terminal.
pub(super) fn text(asker: &Value) -> String {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let said = |value: &Value| printable(value.as_str().unwrap_or("-"));
    let did = &asker["did"];
    let mut out = "\nIts agent in the last hour:\n".to_owned();
    if did["counts"].as_array().is_none_or(Vec::is_empty) {
        out.push_str("  nothing else\n");
    }
    for count in list(&did["counts"]) {
        let (verdict, endpoint) = (said(&count["verdict"]), said(&count["endpoint"]));
        let _ = writeln!(
            out,
            "  {:>6} {verdict:<8} {endpoint}",
            count["actions"].to_string()
        );
    }
    if did["whole"] == false {
        out.push_str("  (of the newest records alone: there is much traffic)\n");
    }
    for action in list(&did["actions"]) {
        let (verdict, endpoint) = (said(&action["verdict"]), said(&action["endpoint"]));
        let _ = writeln!(
            out,
            "  {} {verdict:<8} {endpoint}  {}",
            at(&action["at_us"]),
            said(&action["summary"])
        );
    }
    let alike = &asker["alike"];
    let stood = |of: &Value| {
        let each = list(of).into_iter();
        let each = each.map(|one| format!("{} {}", one["questions"], said(&one["state"])));
        let each: Vec<_> = each.collect();
        if each.is_empty() {
            "none".to_owned()
        } else {
            each.join(", ")
        }
    };
    let _ = writeln!(
        out,
        "\nBy this rule at this endpoint:\n  like this  {}\n  others     {}",
        stood(&alike["same"]),
        stood(&alike["others"])
    );
    for one in list(&alike["newest"]) {
        let by: Vec<_> = list(&one["by"]).iter().map(said).collect();
        let reason = one["reason"]
            .as_str()
            .map_or_else(String::new, |text| format!(": {}", printable(text)));
        let (state, node) = (said(&one["state"]), said(&one["node"]));
        let _ = writeln!(
            out,
            "  {} {state:<9} {node}  {}  {}{reason}",
            at(&one["closed_us"]),
            said(&one["summary"]),
            by.join(", ")
        );
    }
    out
}

fn at(us: &Value) -> String {
    let at = us.as_i64().and_then(chrono::DateTime::from_timestamp_micros);
    at.map_or_else(String::new, |at| {
        at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
    })
}
