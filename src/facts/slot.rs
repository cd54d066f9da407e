//! The table of every fact: its family, its name in a condition, its type. *Pure.*
//!
//! Conditions are checked against this table at load, and compiled to reads by [`Slot`].

use std::fmt;

/// A protocol family: the first part of a fact's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    Http,
    Sql,
    K8s,
    /// The Model Context Protocol, over HTTP.
    Mcp,
    /// Who asks. Every condition may read it, whatever the endpoint's family.
    Agent,
}

impl Family {
    /// The variable that conditions use.
    pub fn name(self) -> &'static str {
        match self {
            Family::Http => "http",
            Family::Sql => "sql",
            Family::K8s => "k8s",
            Family::Mcp => "mcp",
            Family::Agent => "agent",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The CEL type of a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bool,
    /// `int`, or `null` where the fact does not apply.
    OptionalInt,
    Int,
    /// `string`.
    Text,
    /// `list(string)`.
    Texts,
    /// `dyn`: any JSON value, `null` where there is none.
    Json,
    /// `map(string, string)`.
    Map,
    /// `map(string, list(string))`.
    MultiMap,
}

macro_rules! slots {
    ($($variant:ident $family:ident $name:literal $kind:ident $doc:literal;)*) => {
        /// One fact of one family.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Slot { $(#[doc = $doc] $variant,)* }

        impl Slot {
            /// Every slot, in the order in which facts are printed.
            pub const ALL: &'static [Slot] = &[$(Slot::$variant,)*];

            pub fn family(self) -> Family {
                match self { $(Slot::$variant => Family::$family,)* }
            }

            /// The name after the dot: `verb` of `sql.verb`.
            pub fn name(self) -> &'static str {
                match self { $(Slot::$variant => $name,)* }
            }

            pub fn kind(self) -> Kind {
                match self { $(Slot::$variant => Kind::$kind,)* }
            }

            /// One sentence for `validate`, hover texts and the manual.
            pub fn doc(self) -> &'static str {
                match self { $(Slot::$variant => $doc,)* }
            }
        }
    };
}

slots! {
    HttpMethod Http "method" Text "The request's method, in lower case; unknown where the query or the body names another (_method).";
    HttpPath Http "path" Text "The path, percent-decoded and normalized.";
    HttpRawPath Http "raw_path" Text "The path as it was sent.";
    HttpQuery Http "query" MultiMap "The query's parameters, decoded.";
    HttpHeaders Http "headers" MultiMap "The headers; names in lower case, credentials as placeholders.";
    HttpHost Http "host" Text "The host that the request names, without the port.";
    HttpBody Http "body" Text "The body, content-decoded, as UTF-8.";
    HttpBodyJson Http "body_json" Json "The body read as JSON; null where there is none.";
    HttpForm Http "form" MultiMap "The fields of an application/x-www-form-urlencoded body, decoded; empty for any other.";
    HttpMultipart Http "multipart" Texts "The names of the parts of a multipart/form-data body; empty for any other.";
    HttpGraphqlOperation Http "graphql.operation" Text "The name of the GraphQL operation that runs; empty where it has none.";
    HttpGraphqlKind Http "graphql.kind" Text "query, mutation or subscription; empty for a request that is no GraphQL.";
    HttpGraphqlFields Http "graphql.fields" Texts "The operation's own fields, without aliases, through fragments.";
    HttpGraphqlPaths Http "graphql.paths" Texts "Every field that is selected, as a path: viewer.email.";
    HttpWebsocket Http "websocket" Bool "Whether the request asks for an upgrade to WebSocket.";

    SqlVerb Sql "verb" Text "The verb of the outermost statement.";
    SqlVerbs Sql "verbs" Texts "Every verb that executes, in CTEs, EXPLAIN ANALYZE, COPY and PREPARE too; unknown where sql.opaque is true.";
    SqlTables Sql "tables" Texts "Every table that is touched, as written and by its bare name; unknown where sql.opaque is true.";
    SqlReads Sql "reads" Texts "The tables that are read; unknown where sql.opaque is true.";
    SqlWrites Sql "writes" Texts "The tables that are written, altered or dropped; unknown where sql.opaque is true, or the text does not name them (CASCADE, DROP OWNED).";
    SqlFunctions Sql "functions" Texts "Every function that is called. Where sql.opaque is true: unknown if code without a name runs (DO, a text that query_to_xml runs, an operator or a cast); else each name stands for all that its body calls, so that sql.functions.all(f, f in [...]) holds where all are listed, and that one is not called is unknown.";
    SqlColumns Sql "columns" Texts "Every column that is named; * where all of a row are meant; unknown where sql.opaque is true.";
    SqlObjects Sql "objects" Texts "Every object that DDL or DCL names: tables, roles, schemas, functions, extensions; unknown where sql.opaque is true, or the text does not name them (CASCADE, DROP OWNED).";
    SqlSearchPath Sql "search_path" Texts "The schemas that the session's search_path has held, \"$user\" as its roles; unknown where one could not be seen.";
    SqlParameters Sql "parameters" Json "The bound parameters as text, null for NULL.";
    SqlStatement Sql "statement" Text "The statement's text.";
    SqlStatements Sql "statements" Int "How many statements were sent together.";
    SqlDatabase Sql "database" Text "The database of the session.";
    SqlUser Sql "user" Text "The role that the session logged in as.";
    SqlHasWhere Sql "has_where" Bool "Whether every UPDATE and DELETE has a WHERE that is not constant; where sql.opaque is true, false or unknown.";
    SqlRowLimit Sql "row_limit" OptionalInt "The outermost LIMIT, null without one; where sql.opaque is true, null or unknown.";
    SqlProgram Sql "program" Bool "Whether COPY … PROGRAM runs a program on the server.";
    SqlServerFile Sql "server_file" Bool "Whether COPY reads or writes a file of the server.";
    SqlLocks Sql "locks" Bool "Whether locks are taken that others wait for (SELECT … FOR UPDATE or SHARE, LOCK TABLE).";
    SqlRoleChange Sql "role_change" Bool "Whether the role is changed (SET ROLE, SET SESSION AUTHORIZATION, set_config).";
    SqlOpaque Sql "opaque" Bool "Whether code runs that cannot be read (DO, EXECUTE of text, CALL, a function or a cast to a type that is not the server's own). What such code reaches or does is unknown: verbs, tables, reads, writes, columns, objects, has_where and row_limit, functions by what each of them calls, and program, server_file, role_change and locks where the text itself has none.";
    SqlUnparseable Sql "unparseable" Bool "Whether the server's grammar refuses the statement.";

    K8sVerb K8s "verb" Text "The API server's verb: get, list, watch, create, deletecollection, …";
    K8sGroup K8s "group" Text "The API group; empty for the core group.";
    K8sVersion K8s "version" Text "The API version.";
    K8sResource K8s "resource" Text "The resource, with its subresource: pods, pods/exec.";
    K8sNamespace K8s "namespace" Text "The namespace; empty for cluster scope.";
    K8sName K8s "name" Text "The object's name; empty for a collection.";
    K8sParams K8s "params" Map "The query's parameters; the first value of each. One that is true or false (stdin, tty, follow, watch, …) is 'true' or 'false', however it was written.";
    K8sLabelSelector K8s "label_selector" Text "The label selector, decoded; empty where there is none.";
    K8sFieldSelector K8s "field_selector" Text "The field selector, decoded; empty where there is none.";
    K8sCommand K8s "command" Texts "Every word of the command that exec or attach is given.";
    K8sBodyJson K8s "body_json" Json "The body read as JSON; null where there is none, unknown where it is YAML, CBOR or protobuf.";
    K8sDryRun K8s "dry_run" Bool "Whether the request is a server-side dry run.";
    K8sIsResource K8s "is_resource" Bool "Whether the request is for an API resource.";
    K8sPath K8s "path" Text "The path, for requests that are not for a resource.";

    McpKind Mcp "kind" Text "request, notification or response; stream for the server's events, end for the end of a session.";
    McpMethod Mcp "method" Text "The method of the JSON-RPC message; empty where it has none.";
    McpTool Mcp "tool" Text "The tool that tools/call calls; empty for other methods.";
    McpArguments Mcp "arguments" Json "The arguments of tools/call or prompts/get; null where there are none.";
    McpResource Mcp "resource" Text "The URI of the resource that is read or watched; empty for other methods.";
    McpPrompt Mcp "prompt" Text "The prompt that prompts/get asks for; empty for other methods.";
    McpParams Mcp "params" Json "All parameters of the message; null where there are none.";
    McpQuery Mcp "query" MultiMap "The query's parameters of the request, decoded.";

    AgentTags Agent "tags" Texts "The node's tailnet tags.";
    AgentLogin Agent "login" Text "The user's login; empty for a tagged node.";
    AgentNode Agent "node" Text "The node's or the peer's name.";
    AgentAddress Agent "address" Text "The agent's address inside the tunnel.";
    AgentProfile Agent "profile" Text "The profile that was matched.";
    AgentTransport Agent "transport" Text "tailnet or wireguard.";
    AgentCaps Agent "caps" Texts "The app capabilities that the tailnet policy grants to the node, by name, and the profiles among them by theirs.";
}

impl Slot {
    /// The slots of one family, in order.
    pub fn of_family(family: Family) -> impl Iterator<Item = Slot> {
        Slot::ALL
            .iter()
            .copied()
            .filter(move |slot| slot.family() == family)
    }

    /// Whether `family.group` is the beginning of facts' names, as `http.graphql` is.
    pub fn is_group(family: &str, group: &str) -> bool {
        Slot::ALL.iter().any(|slot| {
            let rest = slot.name().strip_prefix(group);
            slot.family().name() == family && rest.is_some_and(|rest| rest.starts_with('.'))
        })
    }

    /// The slot that `family.name` means.
    pub fn find(family: Family, name: &str) -> Option<Slot> {
        Slot::of_family(family).find(|slot| slot.name() == name)
    }
}

/// A set of slots: which facts a rule set reads, so that only those are extracted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FactSet(u128);

impl FactSet {
    pub const EMPTY: FactSet = FactSet(0);

    /// Every fact there is, for the audit of everything or for `inspect`.
    pub const ALL: FactSet = FactSet(u128::MAX);

    pub fn insert(&mut self, slot: Slot) {
        self.0 |= 1 << slot as u8;
    }

    pub fn contains(self, slot: Slot) -> bool {
        self.0 & (1 << slot as u8) != 0
    }

    pub fn union(self, other: FactSet) -> FactSet {
        FactSet(self.0 | other.0)
    }
}

impl FromIterator<Slot> for FactSet {
    fn from_iter<I: IntoIterator<Item = Slot>>(slots: I) -> Self {
        let mut set = FactSet::EMPTY;
        for slot in slots {
            set.insert(slot);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_fits_the_set_and_is_found_by_its_name() {
        assert!(Slot::ALL.len() <= 128);
        for &slot in Slot::ALL {
            assert_eq!(Slot::find(slot.family(), slot.name()), Some(slot));
            let set: FactSet = [slot].into_iter().collect();
            for &other in Slot::ALL {
                assert_eq!(set.contains(other), other == slot);
            }
        }
    }
}
