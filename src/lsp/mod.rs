//! The language server of `tailkeep lsp`: an editor's errors, completion, hover texts, definitions and
//! outlines for policies and the conditions inside them.
//!
//! `wire` frames messages, `folder` knows which files are one policy, `scan` reads them while they are
//! being written, `cursor` says what a place is; `complete`, `cel` and `hover` answer. What
//! is said of fields, facts and functions comes from the loader's and the compiler's own tables
//! (`policy::guide`), and errors are the loader's.
//!
//! Invariants: it writes nothing but answers; it reads the opened folders alone; every message, document
//! and answer has a largest size.

mod cel;
mod complete;
mod cursor;
mod folder;
mod hover;
mod position;
mod publish;
mod scan;
mod wire;

use std::collections::BTreeSet;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

use lsp_server::{ErrorCode, Message, Notification, Request, RequestId, Response};
use lsp_types::{
    CompletionOptions, DidChangeTextDocumentParams, DidCloseTextDocumentParams, DidOpenTextDocumentParams,
    HoverProviderCapability, InitializeParams, OneOf, ServerCapabilities, TextDocumentPositionParams,
    TextDocumentSyncCapability, TextDocumentSyncKind, Uri,
};
use serde::de::DeserializeOwned;

use cursor::File;
use folder::{Folder, path_of, uri_of};
use position::Lines;
use publish::Published;
use wire::{Input, failure};

/// Messages that wait to be looked at; then reading waits.
const WAITING_MAX: usize = 64;

/// Stack of the server, bytes: the parser goes down by recursion.
const STACK_BYTES: usize = 64 << 20;

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By `exit` behind `shutdown`.
    AsAsked,
    /// By `exit` alone, by the end of the input, or by input that is no protocol.
    Unasked,
}

/// Serves one editor, to the end of its session.
///
/// # Errors
/// Those of the output.
pub fn serve(input: impl Read + Send + 'static, output: &mut (impl Write + Send)) -> io::Result<Ended> {
    let (sender, receiver) = sync_channel(WAITING_MAX);
    // Left behind when the session ends: it may wait for input that never comes.
    std::thread::Builder::new()
        .name("lsp-input".to_owned())
        .spawn(move || {
            let mut input = BufReader::new(input);
            while let Ok(Some(next)) = wire::read(&mut input) {
                let lost = matches!(next, Input::Lost(_));
                if sender.send(next).is_err() || lost {
                    return;
                }
            }
        })?;
    std::thread::scope(|scope| {
        let server = std::thread::Builder::new()
            .name("lsp".to_owned())
            .stack_size(STACK_BYTES);
        let run = server.spawn_scoped(scope, move || Server::new(output).run(&receiver))?;
        run.join()
            .unwrap_or_else(|_| Err(io::Error::other("the language server failed")))
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    Ready,
    ShutDown,
}

struct Server<'a, W> {
    output: &'a mut W,
    state: State,
    folder: Folder,
    published: Published,
    /// Folders whose files have changed.
    dirty: BTreeSet<PathBuf>,
}

impl<'a, W: Write> Server<'a, W> {
    fn new(output: &'a mut W) -> Self {
        Server {
            output,
            state: State::New,
            folder: Folder::default(),
            published: Published::default(),
            dirty: BTreeSet::new(),
        }
    }

    fn run(&mut self, input: &Receiver<Input>) -> io::Result<Ended> {
        loop {
            let next = match input.try_recv() {
                Ok(next) => next,
                Err(TryRecvError::Disconnected) => return Ok(Ended::Unasked),
                Err(TryRecvError::Empty) => {
                    // What was typed at once is loaded once.
                    self.publish()?;
                    match input.recv() {
                        Ok(next) => next,
                        Err(_) => return Ok(Ended::Unasked),
                    }
                }
            };
            match next {
                Input::Message(Message::Request(request)) => {
                    let response = self.request(request);
                    wire::write(self.output, response)?;
                }
                Input::Message(Message::Notification(note)) if note.method == "exit" => {
                    return Ok(match self.state {
                        State::ShutDown => Ended::AsAsked,
                        State::New | State::Ready => Ended::Unasked,
                    });
                }
                Input::Message(Message::Notification(note)) if self.state == State::Ready => self.note(note),
                // Nothing is asked of the editor, and before `initialize` notes count for nothing.
                Input::Message(Message::Notification(_) | Message::Response(_)) => {}
                Input::Bad(id, why) => wire::write_bad(self.output, id, why)?,
                Input::Lost(why) => {
                    wire::write_bad(self.output, None, why)?;
                    return Ok(Ended::Unasked);
                }
            }
        }
    }

    fn request(&mut self, request: Request) -> Response {
        let id = request.id.clone();
        let wrong = |why: &str| failure(request.id.clone(), ErrorCode::InvalidRequest, why.to_owned());
        match (self.state, request.method.as_str()) {
            (State::New, "initialize") => match parameters::<InitializeParams>(request.params) {
                Ok(params) => {
                    self.folder = Folder::new(roots(&params));
                    self.state = State::Ready;
                    answer(id, Ok(capabilities()))
                }
                Err(why) => failure(id, ErrorCode::InvalidParams, why),
            },
            (State::New, _) => failure(id, ErrorCode::ServerNotInitialized, "not initialized".to_owned()),
            (State::Ready, "initialize") => wrong("initialized already"),
            (State::ShutDown, _) => wrong("shut down"),
            (State::Ready, "shutdown") => {
                self.state = State::ShutDown;
                answer(id, Ok(serde_json::Value::Null))
            }
            (State::Ready, method) => {
                let method = method.to_owned();
                self.ask(id, &method, request.params)
            }
        }
    }

    fn ask(&mut self, id: RequestId, method: &str, params: serde_json::Value) -> Response {
        let result = match method {
            "textDocument/completion" => self.at(params, |files, file, offset| {
                to_json(complete::complete(files, file, offset))
            }),
            "textDocument/hover" => self.at(params, |files, file, offset| {
                let (text, range) = hover::hover(files, file, offset)?;
                let range = Lines::new(&file.text).range(range);
                let contents = serde_json::json!({ "kind": "markdown", "value": text });
                Some(serde_json::json!({ "contents": contents, "range": range }))
            }),
            "textDocument/definition" => self.at(params, |files, file, offset| {
                let (target, range) = hover::definition(files, file, offset)?;
                let range = Lines::new(&target.text).range(range);
                Some(serde_json::json!({ "uri": uri_of(&target.path)?, "range": range }))
            }),
            "textDocument/documentSymbol" => {
                // The same as a place at the beginning.
                let mut params = params;
                if let Some(object) = params.as_object_mut() {
                    let begin = serde_json::json!({ "line": 0, "character": 0 });
                    object.insert("position".to_owned(), begin);
                }
                self.at(params, |_, file, _| to_json(hover::outline(file)))
            }
            _ => {
                let why = format!("there is no method {method} here");
                return failure(id, ErrorCode::MethodNotFound, why);
            }
        };
        match result {
            Ok(result) => answer(id, Ok(result)),
            Err(why) => failure(id, ErrorCode::InvalidParams, why),
        }
    }

    /// Answers about a place in an open document, beside the other files of its folder.
    fn at(
        &self,
        params: serde_json::Value,
        of: impl Fn(&[File], &File, usize) -> Option<serde_json::Value>,
    ) -> Result<serde_json::Value, String> {
        let params: TextDocumentPositionParams = parameters(params)?;
        let path = path_of(&params.text_document.uri).filter(|path| self.folder.get(path).is_some());
        let path = path.ok_or_else(|| "this document is not open".to_owned())?;
        let sources = self.folder.sources(path.parent().unwrap_or(Path::new("/")));
        let files: Vec<File> = sources
            .into_iter()
            .map(|source| File::new(source.path, source.text))
            .collect();
        let Some(file) = files.iter().find(|file| file.path == path) else {
            return Ok(serde_json::Value::Null);
        };
        let offset = Lines::new(&file.text).offset(params.position);
        Ok(of(&files, file, offset).unwrap_or_default())
    }

    fn note(&mut self, note: Notification) {
        match note.method.as_str() {
            "textDocument/didOpen" => {
                if let Ok(params) = parameters::<DidOpenTextDocumentParams>(note.params) {
                    self.put(&params.text_document.uri, params.text_document.text);
                }
            }
            "textDocument/didChange" => {
                // Whole texts, as the capabilities say; a change of a part is none that was offered.
                if let Ok(params) = parameters::<DidChangeTextDocumentParams>(note.params)
                    && let Some(last) = params.content_changes.into_iter().next_back()
                    && last.range.is_none()
                {
                    self.put(&params.text_document.uri, last.text);
                }
            }
            "textDocument/didClose" => {
                if let Ok(params) = parameters::<DidCloseTextDocumentParams>(note.params)
                    && let Some(path) = path_of(&params.text_document.uri)
                {
                    self.folder.close(&path);
                    self.touch(&path);
                }
            }
            // Others of the folder may have been written meanwhile.
            "textDocument/didSave" | "workspace/didChangeWatchedFiles" => {
                self.dirty.extend(self.published.folders());
            }
            _ => {}
        }
    }

    fn put(&mut self, uri: &Uri, text: String) {
        let Some(path) = path_of(uri) else { return };
        if !self.folder.put(&path, uri.clone(), text) {
            self.published.refuse(&path, uri.clone());
        }
        self.touch(&path);
    }

    fn touch(&mut self, path: &Path) {
        self.dirty.extend(path.parent().map(Path::to_owned));
    }

    fn publish(&mut self) -> io::Result<()> {
        for folder in std::mem::take(&mut self.dirty) {
            for params in self.published.of(&self.folder, &folder) {
                let note = Notification {
                    method: "textDocument/publishDiagnostics".to_owned(),
                    params: to_json(params).unwrap_or_default(),
                };
                wire::write(self.output, note)?;
            }
        }
        Ok(())
    }
}

fn parameters<T: DeserializeOwned>(params: serde_json::Value) -> Result<T, String> {
    serde_json::from_value(params).map_err(|error| error.to_string())
}

fn to_json(value: impl serde::Serialize) -> Option<serde_json::Value> {
    serde_json::to_value(value).ok()
}

fn answer(id: RequestId, result: Result<serde_json::Value, lsp_server::ResponseError>) -> Response {
    Response {
        id,
        response_result: result,
    }
}

/// The folders that the editor has opened, by the newest way that it tells them.
fn roots(params: &InitializeParams) -> Vec<PathBuf> {
    if let Some(folders) = params
        .workspace_folders
        .as_ref()
        .filter(|folders| !folders.is_empty())
    {
        return folders.iter().filter_map(|folder| path_of(&folder.uri)).collect();
    }
    #[allow(deprecated, reason = "older editors say it so")]
    params.root_uri.as_ref().and_then(path_of).into_iter().collect()
}

fn capabilities() -> serde_json::Value {
    let capabilities = ServerCapabilities {
        text_document_sync: Some(TextDocumentSyncCapability::Kind(TextDocumentSyncKind::FULL)),
        completion_provider: Some(CompletionOptions {
            trigger_characters: Some([".", "\"", "="].map(str::to_owned).to_vec()),
            ..CompletionOptions::default()
        }),
        hover_provider: Some(HoverProviderCapability::Simple(true)),
        definition_provider: Some(OneOf::Left(true)),
        document_symbol_provider: Some(OneOf::Left(true)),
        ..ServerCapabilities::default()
    };
    serde_json::json!({
        "capabilities": capabilities,
        "serverInfo": { "name": "tailkeep", "version": env!("CARGO_PKG_VERSION") },
    })
}
