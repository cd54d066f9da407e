//! The parameters of a statement, as a part of the action that people decide on. *Pure.*

use serde_json::Value;

/// Each on a line, `$1 = "a text"`, in JSON's words, so that none passes for two; of a question as it is kept.
/// Nothing where it has none.
pub fn parameters(question: &Value) -> Vec<String> {
    let own = &question["facts"]["parameters"];
    let listed = own.as_array().or_else(|| own["shown"].as_array());
    let lines = listed.into_iter().flatten().enumerate().map(|(at, value)| {
        let value = match value {
            Value::Null => "NULL".to_owned(),
            value => value.to_string(),
        };
        format!("${} = {value}", at + 1)
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parameters_stand_on_a_line_each_whether_or_not_rules_read_them() {
        let lines = ["$1 = \"a\\n$2 = 3\"", "$2 = NULL"];
        let values = json!(["a\n$2 = 3", null]);
        assert_eq!(parameters(&json!({ "facts": { "parameters": values } })), lines);
        let unread = json!({ "unknown": "opaque", "shown": values });
        assert_eq!(parameters(&json!({ "facts": { "parameters": unread } })), lines);
        for none in [
            json!({}),
            json!({ "facts": { "parameters": [] } }),
            json!({ "facts": { "parameters": { "unknown": "opaque" } } }),
        ] {
            assert!(parameters(&none).is_empty());
        }
    }
}
