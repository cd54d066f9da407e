//! `tailkeep lsp` as an editor drives it: the real binary, by the protocol's own messages.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use serde_json::{Value, json};

/// The cursor in a text.
const CURSOR: char = '│';

struct Editor {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    folder: PathBuf,
    ids: u32,
    /// The newest diagnostics of each file, by its name.
    said: std::collections::BTreeMap<String, Value>,
}

fn uri(path: &Path) -> String {
    format!("file://{}", path.display())
}

impl Editor {
    fn start(folder: &Path) -> Editor {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tailkeep"))
            .args(["lsp", "--stdio"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Editor {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
            folder: folder.to_owned(),
            ids: 0,
            said: Default::default(),
        }
    }

    /// With the folder opened.
    fn open(folder: &Path) -> Editor {
        let mut editor = Editor::start(folder);
        let folders = json!([{ "uri": uri(folder), "name": "policies" }]);
        let params =
            json!({ "processId": null, "rootUri": null, "capabilities": {}, "workspaceFolders": folders });
        let answer = editor.ask("initialize", params);
        assert_eq!(
            answer["result"]["capabilities"]["textDocumentSync"], 1,
            "{answer}"
        );
        editor.note("initialized", json!({}));
        editor
    }

    fn send(&mut self, message: &Value) {
        let body = message.to_string();
        write!(self.input, "Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        self.input.flush().unwrap();
    }

    fn note(&mut self, method: &str, params: Value) {
        self.send(&json!({ "jsonrpc": "2.0", "method": method, "params": params }));
    }

    fn read(&mut self) -> Value {
        let mut length = 0;
        loop {
            let mut line = String::new();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "the server ended");
            match line.trim_end().split_once(": ") {
                Some((_, value)) => length = value.parse().unwrap(),
                None => break,
            }
        }
        let mut body = vec![0; length];
        self.output.read_exact(&mut body).unwrap();
        let message: Value = serde_json::from_slice(&body).unwrap();
        if message["method"] == "textDocument/publishDiagnostics" {
            let params = &message["params"];
            let name = params["uri"].as_str().unwrap().rsplit('/').next().unwrap();
            self.said.insert(name.to_owned(), params["diagnostics"].clone());
        }
        message
    }

    fn ask(&mut self, method: &str, params: Value) -> Value {
        self.ids += 1;
        let id = self.ids;
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }));
        loop {
            let message = self.read();
            if message["id"] == id {
                return message;
            }
        }
    }

    /// Opens or changes a file of the folder, and waits for what is said of it.
    fn put(&mut self, name: &str, text: &str) {
        let uri = uri(&self.folder.join(name));
        let known = self.said.remove(name).is_some();
        if known {
            let document = json!({ "uri": uri, "version": 2 });
            let params = json!({ "textDocument": document, "contentChanges": [{ "text": text }] });
            self.note("textDocument/didChange", params);
        } else {
            let document = json!({ "uri": uri, "languageId": "hcl", "version": 1, "text": text });
            self.note("textDocument/didOpen", json!({ "textDocument": document }));
        }
        while !self.said.contains_key(name) {
            self.read();
        }
    }

    fn at(&mut self, method: &str, name: &str, position: (u32, u32)) -> Value {
        let params = json!({
            "textDocument": { "uri": uri(&self.folder.join(name)) },
            "position": { "line": position.0, "character": position.1 },
        });
        self.ask(method, params)["result"].clone()
    }

    /// Puts a text with a cursor, and asks about the place.
    fn there(&mut self, method: &str, text: &str) -> Value {
        let before: Vec<&str> = text.split(CURSOR).next().unwrap().split('\n').collect();
        let units = before.last().unwrap().encode_utf16().count();
        self.put("a.hcl", &text.replace(CURSOR, ""));
        self.at(
            method,
            "a.hcl",
            (
                u32::try_from(before.len() - 1).unwrap(),
                u32::try_from(units).unwrap(),
            ),
        )
    }

    fn labels(&mut self, text: &str) -> Vec<String> {
        let result = self.there("textDocument/completion", text);
        let items = result["items"].as_array().unwrap();
        items
            .iter()
            .map(|item| item["label"].as_str().unwrap().to_owned())
            .collect()
    }

    fn messages(&self, name: &str) -> String {
        self.said.get(name).map_or(String::new(), Value::to_string)
    }

    fn end(mut self) -> ExitStatus {
        assert_eq!(self.ask("shutdown", Value::Null)["result"], Value::Null);
        self.note("exit", Value::Null);
        self.child.wait().unwrap()
    }
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write(
        "b.hcl",
        "endpoint \"postgres\" \"orders\" {\n  host = \"db.internal\"\n}\nendpoint \"https\" \"github\" {\n  hosts = [\"api.github.com\"]\n}\n",
    );
    write(
        "c.hcl",
        "credential \"bearer_token\" \"pat\" {\n  endpoint = https.github\n  secret = env(\"TOKEN\")\n}\n",
    );
    folder
}

fn has(labels: &[String], wanted: &[&str]) {
    for wanted in wanted {
        assert!(
            labels.iter().any(|label| label == wanted),
            "no {wanted} in {labels:?}"
        );
    }
}

#[test]
fn errors_are_the_loaders_and_those_of_the_whole_folder() {
    let folder = folder();
    let mut editor = Editor::open(folder.path());
    editor.put(
        "a.hcl",
        "rule \"é😀\" { endpoint = postgres.order, verdict = 1 }\n",
    );
    assert!(editor.messages("a.hcl").contains("not HCL"), "{:?}", editor.said);
    editor.put(
        "a.hcl",
        "rule \"é😀\" {\n  endpoint = postgres.order\n  verdict = \"deny\"\n}\n",
    );
    let said = &editor.said["a.hcl"][0];
    assert!(
        said["message"]
            .as_str()
            .unwrap()
            .contains("did you mean `postgres.orders`?"),
        "{said}"
    );
    assert_eq!(said["severity"], 1);
    assert_eq!(said["range"]["start"], json!({ "line": 1, "character": 13 }));
    assert_eq!(said["range"]["end"], json!({ "line": 1, "character": 27 }));
    // An error of a condition is where it stands, in UTF-16.
    editor.put(
        "a.hcl",
        "rule \"r\" {\n  endpoint = postgres.orders\n  verdict = \"deny\"\n  condition = \"'é😀' == sql.verbb\"\n}\n",
    );
    let said = &editor.said["a.hcl"][0];
    assert!(
        said["message"].as_str().unwrap().contains("no `sql.verbb`"),
        "{said}"
    );
    assert_eq!(said["range"]["start"]["line"], 3);
    assert_eq!(said["range"]["start"]["character"], 27, "{said}");
    // What is open and not saved counts for the other files.
    editor.put(
        "b.hcl",
        "endpoint \"postgres\" \"orders\" {\n  host = \"db.internal\"\n}\n",
    );
    while !editor.messages("c.hcl").contains("no endpoint `https.github`") {
        editor.read();
    }
    // While a file is no HCL, what it held before stands for it.
    editor.put("b.hcl", "endpoint \"postgres\" \"orders\" {\n  host = \n");
    assert!(editor.messages("b.hcl").contains("not HCL"), "{:?}", editor.said);
    assert!(
        !editor.messages("a.hcl").contains("no endpoint"),
        "{:?}",
        editor.said
    );
    // Closed, the disk's text counts again.
    let document = json!({ "uri": uri(&folder.path().join("b.hcl")) });
    editor.note("textDocument/didClose", json!({ "textDocument": document }));
    while editor.messages("c.hcl") != "[]" || editor.messages("b.hcl") != "[]" {
        editor.read();
    }
    // Notes are warnings.
    editor.put("a.hcl", "defaults {\n  llm_fail_mode = \"open\"\n}\n");
    let said = editor.said["a.hcl"].as_array().unwrap();
    let note = said
        .iter()
        .find(|one| one["message"].as_str().unwrap().contains("llm_fail_mode"));
    assert_eq!(note.unwrap()["severity"], 2, "{said:?}");
    assert!(editor.end().success());
}

#[test]
fn completion_knows_the_place_in_texts_that_are_not_whole() {
    let folder = folder();
    let mut editor = Editor::open(folder.path());
    has(
        &editor.labels("│"),
        &["endpoint", "rule", "profile", "gateway", "defaults"],
    );
    has(
        &editor.labels("endpoint \"│\n"),
        &["https", "postgres", "kubernetes", "mcp"],
    );
    has(
        &editor.labels("credential │"),
        &["bearer_token", "mtls_credential"],
    );
    let rule = "rule \"r\" {\n  endpoint = postgres.orders\n";
    let fields = editor.labels(&format!("{rule}  ver│"));
    has(&fields, &["verdict", "approve", "condition", "mode", "limit"]);
    assert!(
        !fields.contains(&"endpoint".to_owned()),
        "set already: {fields:?}"
    );
    has(
        &editor.labels(&format!("{rule}  limit {{\n    │")),
        &["rate", "per"],
    );
    assert_eq!(
        editor.labels(&format!("{rule}  verdict = \"│\n}}")),
        ["allow", "deny"]
    );
    assert_eq!(editor.labels(&format!("{rule}  mode = │")), ["enforce", "shadow"]);
    assert_eq!(
        editor.labels("rule \"r\" {\n  endpoint = po│\n"),
        ["postgres.orders", "https.github"]
    );
    assert_eq!(
        editor.labels("rule \"r\" {\n  endpoints = [https.github, │\n"),
        ["postgres.orders", "https.github"]
    );
    assert_eq!(
        editor.labels("profile \"p\" {\n  credentials = [{ credential = │"),
        ["bearer_token.pat"]
    );
    has(
        &editor.labels("gateway {\n  limits {\n    │\n  }\n}"),
        &["body_bytes_max", "idle_s"],
    );
    // A field of another type is not offered.
    let fields = editor.labels("endpoint \"https\" \"x\" {\n  │\n}");
    has(&fields, &["hosts", "upstream"]);
    assert!(!fields.contains(&"sslmode".to_owned()), "{fields:?}");
    assert!(editor.labels("# end│").is_empty());
    assert!(editor.end().success());
}

#[test]
fn conditions_complete_the_facts_of_their_endpoint() {
    let folder = folder();
    let mut editor = Editor::open(folder.path());
    let sql =
        |condition: &str| format!("rule \"r\" {{\n  endpoint = postgres.orders\n  condition = {condition}");
    let names = editor.labels(&sql("\"│"));
    has(&names, &["sql", "agent", "has", "now", "size"]);
    assert!(!names.contains(&"http".to_owned()), "{names:?}");
    has(
        &editor.labels(&sql("\"sql.│\"\n}")),
        &["verb", "verbs", "tables", "opaque"],
    );
    has(&editor.labels(&sql("\"'é😀' == sql.ver│")), &["verb", "verbs"]);
    has(
        &editor.labels(&sql("<<-EOT\n    sql.verb == 'select' &&\n    agent.│\n  EOT\n}")),
        &["tags", "profile"],
    );
    let members = editor.labels(&sql("\"sql.tables.│"));
    has(&members, &["all", "exists", "size"]);
    assert!(!members.contains(&"startsWith".to_owned()), "{members:?}");
    has(&editor.labels(&sql("\"sets.│")), &["contains", "intersects"]);
    assert!(editor.labels(&sql("\"sql.verb == 'sel│'\"")).is_empty());
    let http = "rule \"r\" {\n  endpoint = https.github\n  condition = \"http.graphql.│\"";
    assert_eq!(editor.labels(http), ["operation", "kind", "fields", "paths"]);
    // What is written takes the place of the word alone.
    let result = editor.there("textDocument/completion", &sql("\"'😀' == sql.ver│b\"\n}"));
    let range = &result["items"][0]["textEdit"]["range"];
    assert_eq!(range["start"], json!({ "line": 2, "character": 27 }), "{range}");
    assert_eq!(range["end"], json!({ "line": 2, "character": 31 }), "{range}");
    assert!(editor.end().success());
}

#[test]
fn hover_definitions_and_the_outline() {
    let folder = folder();
    let mut editor = Editor::open(folder.path());
    let mut says = |text: &str, wanted: &[&str]| {
        let result = editor.there("textDocument/hover", text);
        let value = result["contents"]["value"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        for wanted in wanted {
            assert!(value.contains(wanted), "{text}: {result}");
        }
        value
    };
    let rule = |rest: &str| format!("rule \"r\" {{\n  endpoint = postgres.orders\n  {rest}\n}}\n");
    says(
        &rule("ver│dict = \"deny\""),
        &["\"allow\" | \"deny\"", "What it decides."],
    );
    says("ru│le \"r\" {}", &["rule", "falling priority"]);
    says("endpoint \"post│gres\" \"x\" {}", &["A PostgreSQL server."]);
    says(
        &rule("condition = \"sql.ver│bs == []\""),
        &["list(string)", "Every verb that executes"],
    );
    says(
        &rule("condition = \"sql.verbs.ex│ists(v, v == 'x')\""),
        &["list.exists(x, condition) -> bool"],
    );
    says(
        &rule("condition = \"sets.cont│ains(sql.verbs, [])\""),
        &["sets.contains(list, list)"],
    );
    says(
        "rule \"r\" {\n  endpoint = postgres.ord│ers\n}",
        &["endpoint \"postgres\" \"orders\"", "host = \"db.internal\""],
    );
    // Where its secret comes from is not shown.
    let value = says(
        "profile \"p\" {\n  credentials = [bearer_token.p│at]\n}",
        &["endpoint = https.github"],
    );
    assert!(!value.contains("TOKEN"), "{value}");
    let target = editor.there(
        "textDocument/definition",
        "rule \"r\" {\n  endpoints = [https.gith│ub]\n}",
    );
    assert!(target["uri"].as_str().unwrap().ends_with("/b.hcl"), "{target}");
    assert_eq!(target["range"]["start"], json!({ "line": 3, "character": 18 }));
    let none = editor.there(
        "textDocument/definition",
        "rule \"r\" {\n  endpoint = https.no│thing\n}",
    );
    assert_eq!(none, Value::Null);
    let outline = editor.there(
        "textDocument/documentSymbol",
        "profile \"p\" {\n  rule \"r\" {\n  }\n}\n│endpoint \"https\" \"e\" {\n",
    );
    assert_eq!(outline[0]["name"], "p");
    assert_eq!(outline[0]["children"][0]["name"], "r");
    assert_eq!(outline[1]["name"], "https.e");
    assert!(editor.end().success());
}

#[test]
fn nothing_outside_of_the_folder_is_read() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("ca.pem"), "SECRET").unwrap();
    std::fs::write(outside.path().join("x.hcl"), "endpoint \"https\" \"stray\" {}\n").unwrap();
    let folder = folder();
    std::os::unix::fs::symlink(outside.path().join("x.hcl"), folder.path().join("x.hcl")).unwrap();
    std::fs::write(folder.path().join("ca.pem"), "no certificate").unwrap();
    let mut editor = Editor::open(folder.path());
    let endpoint = |path: &str| {
        format!("endpoint \"https\" \"e\" {{\n  hosts = [\"e.example\"]\n  ca_cert = file(\"{path}\")\n}}\n")
    };
    for path in [
        format!("../{}/ca.pem", outside.path().file_name().unwrap().display()),
        "/dev/zero".to_owned(),
    ] {
        editor.put("a.hcl", &endpoint(&path));
        let said = editor.messages("a.hcl");
        assert!(said.contains("outside of the opened folder"), "{said}");
        assert_eq!(editor.said["a.hcl"][0]["severity"], 3, "{said}");
    }
    editor.put("a.hcl", &endpoint("ca.pem"));
    assert!(
        editor.messages("a.hcl").contains("holds no certificate"),
        "{:?}",
        editor.said
    );
    // Through the link there would be an endpoint of that name.
    assert!(
        !editor
            .labels("rule \"r\" {\n  endpoint = │")
            .contains(&"https.stray".to_owned())
    );
    assert!(editor.end().success());
}

#[test]
fn split_and_bad_messages_and_the_order_of_a_session() {
    let folder = folder();
    let mut editor = Editor::start(folder.path());
    let before = editor.ask("textDocument/hover", json!({}));
    assert_eq!(before["error"]["code"], -32002, "{before}");
    let body = json!({ "jsonrpc": "2.0", "id": 77, "method": "initialize", "params": { "capabilities": {}, "rootUri": uri(folder.path()) } }).to_string();
    // Byte by byte, with a header that is not asked for.
    for byte in format!("Content-Type: x\r\ncontent-length:{}\r\n\r\n{body}", body.len()).into_bytes() {
        editor.input.write_all(&[byte]).unwrap();
        editor.input.flush().unwrap();
    }
    assert_eq!(editor.read()["id"], 77);
    let again = editor.ask("initialize", json!({ "capabilities": {} }));
    assert_eq!(again["error"]["code"], -32600);
    for (body, code) in [
        ("{", -32700),
        ("{\"id\":5,\"method\":[]}", -32600),
        ("\u{1}", -32700),
    ] {
        write!(editor.input, "Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        assert_eq!(editor.read()["error"]["code"], code, "{body}");
    }
    let ask = |editor: &mut Editor, method: &str, params: Value| {
        editor.ask(method, params)["error"]["code"].clone()
    };
    assert_eq!(ask(&mut editor, "textDocument/nothing", json!({})), -32601);
    assert_eq!(
        ask(&mut editor, "textDocument/hover", json!({ "position": 7 })),
        -32602
    );
    let far =
        json!({ "textDocument": { "uri": "file:///etc/hosts" }, "position": { "line": 0, "character": 0 } });
    assert_eq!(ask(&mut editor, "textDocument/hover", far), -32602);
    editor.note("textDocument/didOpen", json!({ "textDocument": 1 }));
    editor.put("a.hcl", "rule \"r\" {\n");
    assert_eq!(editor.at("textDocument/hover", "a.hcl", (999, 999)), Value::Null);
    // Too large, too deep: said, and the rest goes on.
    editor.put("d.hcl", &"#".repeat((4 << 20) + 1));
    assert!(
        editor.messages("d.hcl").contains("not looked at"),
        "{:?}",
        editor.said
    );
    editor.put("e.hcl", &format!("x = {}", "[".repeat(100_000)));
    assert!(
        editor.messages("e.hcl").contains("nest deeper"),
        "{:?}",
        editor.said
    );
    assert!(editor.end().success());
    // `exit` without `shutdown`, the end of the input, and what is no header are no good ends.
    for bytes in [
        "Content-Length: 33\r\n\r\n{\"jsonrpc\":\"2.0\",\"method\":\"exit\"}",
        "",
        "GET / HTTP/1.1\r\n\r\n",
    ] {
        let mut editor = Editor::start(folder.path());
        editor.input.write_all(bytes.as_bytes()).unwrap();
        drop(editor.input);
        assert_eq!(editor.child.wait().unwrap().code(), Some(1), "{bytes}");
    }
}

#[test]
fn what_is_read_offered_and_shown_has_a_size() {
    let folder = folder();
    let mut editor = Editor::open(folder.path());
    let wrong: String = (0..300)
        .map(|number| format!("rule \"r{number}\" {{\n  endpoint = https.none\n  verdict = \"deny\"\n}}\n"))
        .collect();
    editor.put("wrong.hcl", &wrong);
    assert_eq!(editor.said["wrong.hcl"].as_array().unwrap().len(), 200);
    editor.put("wrong.hcl", "");
    let named =
        |number: usize| format!("endpoint \"https\" \"e{number}\" {{\n  hosts = [\"e{number}.test\"]\n}}\n");
    let many: String = (0..1100).map(named).collect();
    editor.put("many.hcl", &many);
    assert_eq!(editor.labels("rule \"r\" {\n  endpoint = │").len(), 1000);
    // An outline: so many blocks, and so deep.
    let blocks = "x {\n}\n".repeat(10_010);
    let outline = editor.there("textDocument/documentSymbol", &format!("{blocks}│"));
    assert_eq!(outline.as_array().unwrap().len(), 10_000);
    let deep = format!("{}{}│", "x {\n".repeat(12), "}\n".repeat(12));
    let outline = editor.there("textDocument/documentSymbol", &deep);
    let mut levels = 0;
    let mut inner = &outline;
    while let Some(symbol) = inner.get(0) {
        levels += 1;
        inner = &symbol["children"];
    }
    // Eight below the outermost.
    assert_eq!(levels, 9);
    // A value that is shown is cut.
    let text = format!(
        "endpoint \"https\" \"long\" {{\n  hosts = [\"l.test\"]\n  description = \"{}\"\n}}\nrule \"r\" {{\n  endpoint = https.lo│ng\n}}\n",
        "y".repeat(1000)
    );
    let shown = editor.there("textDocument/hover", &text)["contents"].to_string();
    let count = shown.matches('y').count();
    assert!((390..=400).contains(&count) && shown.contains(" …"), "{count}");
    assert!(editor.end().success());
    // So many documents at once.
    let mut editor = Editor::open(folder.path());
    for number in 0..256 {
        editor.put(&format!("{number}.hcl"), "# a remark\n");
    }
    assert!(!editor.messages("255.hcl").contains("not looked at"));
    editor.put("one-more.hcl", "# a remark\n");
    assert!(editor.messages("one-more.hcl").contains("not looked at"));
    assert!(editor.end().success());
}
