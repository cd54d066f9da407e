//! The API's routes with what each takes and answers, and the OpenAPI document of them.
//!
//! The router is built of [`Routes`] alone, and a route's parameters, body and answer are read from its
//! handler's own signature: what is served is described, and as it is. Answers that are made of JSON and no
//! type say what they have by [`Shown`]; a test holds real ones against the document.

use std::marker::PhantomData;
use std::sync::Arc;

use axum::extract::{Extension, Path, Query, State as Shared};
use axum::handler::Handler;
use axum::http::{HeaderMap, HeaderName};
use axum::routing::MethodRouter;
use axum::{Json, Router, routing};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::Operator;
use super::api::Failed;

/// Routes of the API; [`Routes::into_parts`] is what becomes of them.
#[derive(Default)]
pub(super) struct Routes {
    router: Router<Operator>,
    operations: Vec<Operation>,
}

/// One method of one path.
pub(super) struct Operation {
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    /// Whether it is for those who have not signed in.
    is_open: bool,
    parts: fn(&mut Sketch<'_>),
}

impl Operation {
    /// A name for generated clients: `get_approvals_id`.
    fn id(&self) -> String {
        let words = self
            .path
            .trim_start_matches("/v1/")
            .split(|c: char| !c.is_ascii_alphanumeric());
        let words = words.filter(|word| !word.is_empty());
        [self.method]
            .into_iter()
            .chain(words)
            .collect::<Vec<_>>()
            .join("_")
    }
}

/// What is found of an operation.
pub(super) struct Sketch<'a> {
    /// For what is read, and for what is written: fields with a default differ.
    reads: &'a mut SchemaGenerator,
    writes: &'a mut SchemaGenerator,
    /// The names in its path, of which the next extractor takes the first.
    names: Vec<&'static str>,
    parameters: Vec<Value>,
    body: Option<Value>,
    answer: Value,
}

macro_rules! methods {
    ($($name:ident: $method:literal,)*) => {$(
        pub(super) fn $name<H, T, D>(self, path: &'static str, summary: &'static str, handler: H) -> Self
        where
            H: Handler<T, Operator> + Described<D>,
            T: 'static,
        {
            self.on($method, path, summary, routing::$name(handler), H::describe)
        }
    )*};
}

impl Routes {
    methods! { get: "get", post: "post", put: "put", delete: "delete", }

    fn on(
        mut self,
        method: &'static str,
        path: &'static str,
        summary: &'static str,
        handler: MethodRouter<Operator>,
        parts: fn(&mut Sketch<'_>),
    ) -> Self {
        self.router = self.router.route(path, handler);
        self.operations.push(Operation {
            method,
            path,
            summary,
            is_open: false,
            parts,
        });
        self
    }

    /// For those who have not signed in.
    pub(super) fn open(mut self) -> Self {
        self.operations.iter_mut().for_each(|own| own.is_open = true);
        self
    }

    pub(super) fn into_parts(self) -> (Router<Operator>, Vec<Operation>) {
        (self.router, self.operations)
    }
}

/// A handler whose signature says what it takes and answers.
pub(super) trait Described<D> {
    fn describe(sketch: &mut Sketch<'_>);
}

macro_rules! described {
    ($($part:ident)*) => {
        impl<F, A, O, $($part),*> Described<($($part,)*)> for F
        where
            F: Fn($($part),*) -> A,
            A: Future<Output = O>,
            O: Answer,
            $($part: Taken,)*
        {
            fn describe(sketch: &mut Sketch<'_>) {
                $($part::describe(sketch);)*
                sketch.answer = O::content(sketch.writes);
            }
        }
    };
}

described! {}
described! { P1 }
described! { P1 P2 }
described! { P1 P2 P3 }
described! { P1 P2 P3 P4 }
described! { P1 P2 P3 P4 P5 }

/// What a handler takes.
pub(super) trait Taken {
    /// What the gateway knows itself is not described.
    fn describe(_sketch: &mut Sketch<'_>) {}
}

impl<T> Taken for Shared<T> {}
impl<T> Taken for Extension<T> {}
impl<T> Taken for Option<Extension<T>> {}
impl Taken for HeaderMap {}

impl<T: JsonSchema> Taken for Path<T> {
    fn describe(sketch: &mut Sketch<'_>) {
        let schema = sketch.reads.subschema_for::<T>();
        for name in std::mem::take(&mut sketch.names) {
            sketch
                .parameters
                .push(json!({ "name": name, "in": "path", "required": true, "schema": schema }));
        }
    }
}

impl<T: JsonSchema> Taken for Query<T> {
    fn describe(sketch: &mut Sketch<'_>) {
        let schema = T::json_schema(sketch.reads);
        let required = schema.get("required").and_then(Value::as_array);
        let properties = schema.get("properties").and_then(Value::as_object);
        for (name, own) in properties.into_iter().flatten() {
            let mut own = own.clone();
            let about = own.as_object_mut().and_then(|own| own.remove("description"));
            let is_required = required.is_some_and(|names| names.iter().any(|one| one == name));
            let mut parameter =
                json!({ "name": name, "in": "query", "required": is_required, "schema": own });
            if let Some(about) = about {
                parameter["description"] = about;
            }
            sketch.parameters.push(parameter);
        }
    }
}

impl<T: JsonSchema> Taken for Json<T> {
    fn describe(sketch: &mut Sketch<'_>) {
        let schema = sketch.reads.subschema_for::<T>();
        sketch.body = Some(content("application/json", &schema));
    }
}

impl Taken for axum::body::Bytes {
    fn describe(sketch: &mut Sketch<'_>) {
        sketch.body = Some(json!({ "application/octet-stream": {} }));
    }
}

/// What a handler answers: the content by its type.
pub(super) trait Answer {
    fn content(writes: &mut SchemaGenerator) -> Value;
}

impl<T: Answer> Answer for Result<T, Failed> {
    fn content(writes: &mut SchemaGenerator) -> Value {
        T::content(writes)
    }
}

impl<T: JsonSchema> Answer for Json<T> {
    fn content(writes: &mut SchemaGenerator) -> Value {
        content("application/json", &writes.subschema_for::<T>())
    }
}

/// With a cookie.
impl<T: JsonSchema> Answer for (HeaderMap, Json<T>) {
    fn content(writes: &mut SchemaGenerator) -> Value {
        Json::<T>::content(writes)
    }
}

impl Answer for ([(HeaderName, &'static str); 1], String) {
    fn content(_: &mut SchemaGenerator) -> Value {
        json!({ "text/plain": { "schema": { "type": "string" } } })
    }
}

/// JSON that has what `T` has.
#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct Shown<T>(Value, #[serde(skip)] PhantomData<T>);

impl<T> Shown<T> {
    pub(super) fn new(value: Value) -> Self {
        Shown(value, PhantomData)
    }
}

impl<T: JsonSchema> JsonSchema for Shown<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// An answer that says what is wrong.
#[derive(JsonSchema)]
#[allow(dead_code, reason = "a shape, of which a schema is derived")]
struct Error {
    error: String,
}

fn content(kind: &str, schema: &Schema) -> Value {
    json!({ kind: { "schema": schema } })
}

/// The document of every operation.
pub(super) fn document(operations: &[Operation]) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    // What is read is small and stands where it is used: its names are not those of what is written.
    let mut reads = settings.clone().for_deserialize();
    reads.inline_subschemas = true;
    let mut reads = reads.into_generator();
    let mut writes = settings.for_serialize().into_generator();
    let error = content("application/json", &writes.subschema_for::<Error>());
    let mut paths = Map::new();
    for own in operations {
        let mut sketch = Sketch {
            reads: &mut reads,
            writes: &mut writes,
            names: own.path.split('/').filter_map(name).collect(),
            parameters: Vec::new(),
            body: None,
            answer: Value::Null,
        };
        (own.parts)(&mut sketch);
        let mut described = json!({
            "summary": own.summary,
            "operationId": own.id(),
            "parameters": sketch.parameters,
            "responses": {
                "200": { "description": "As asked.", "content": sketch.answer },
                "default": { "description": "What is wrong.", "content": error },
            },
        });
        if let Some(body) = sketch.body {
            described["requestBody"] = json!({ "required": true, "content": body });
        }
        if own.is_open {
            described["security"] = json!([]);
        }
        paths.entry(own.path).or_insert_with(|| json!({}))[own.method] = described;
    }
    let schemas = writes.take_definitions(true);
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tailkeep", "version": env!("CARGO_PKG_VERSION"),
            "summary": "What an operator asks a gateway: the page and every command use it.",
            "description": "Served on the socket `admin.sock` in the state folder, on `dashboard_listen`, and to operators on the \
                tailnet. Within `/v1/` fields and paths are added and never change their meaning. Times are Unix, in microseconds, \
                where a name ends in `_us`.",
            "license": { "name": env!("CARGO_PKG_LICENSE"), "identifier": env!("CARGO_PKG_LICENSE") },
        },
        // Every listener serves it at its root.
        "servers": [{ "url": "/" }],
        "security": [{ "token": [] }, { "session": [], "guard": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer", "description": "The operator's token, of `operator.token` in the state folder." },
                "session": { "type": "apiKey", "in": "cookie", "name": "tailkeep", "description": "Of a browser; over TLS it is `__Host-tailkeep`." },
                "guard": { "type": "apiKey", "in": "header", "name": super::admit::GUARD, "description": "The session's second secret." },
            },
        },
    });
    plain(&mut document);
    document
}

fn name(part: &'static str) -> Option<&'static str> {
    part.strip_prefix('{')?.strip_suffix('}')
}

/// Descriptions come from the code, where a name may be a link.
fn plain(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(text) if key == "description" => {
                        *text = text.replace("[`", "`").replace("`]", "`");
                    }
                    value => plain(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(plain),
        _ => {}
    }
}

/// The document as an answer.
pub(super) async fn serve(Extension(document): Extension<Arc<Value>>) -> Json<Shown<Map<String, Value>>> {
    Json(Shown::new((*document).clone()))
}
