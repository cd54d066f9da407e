//! What each function and macro of a condition is, in one line, for editors. *Pure.*

#![cfg_attr(not(feature = "daemon"), allow(dead_code, reason = "editors read it"))]

mod macros;

pub(crate) use macros::MACROS;

/// One name of the language.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    /// Whether it stands behind a dot.
    pub(crate) member: bool,
    /// Its receiver, arguments and result.
    pub(crate) signature: &'static str,
    /// One sentence.
    pub(crate) doc: &'static str,
}

pub(super) const fn member(name: &'static str, signature: &'static str, doc: &'static str) -> Entry {
    Entry {
        name,
        member: true,
        signature,
        doc,
    }
}

pub(super) const fn global(name: &'static str, signature: &'static str, doc: &'static str) -> Entry {
    Entry {
        member: false,
        ..member(name, signature, doc)
    }
}

/// Every function, by name; one line for all numbers of arguments.
pub(crate) const FUNCTIONS: &[Entry] = &[
    global(
        "size",
        "size(value) -> int",
        "Characters of a text, bytes, items of a list, entries of a map.",
    ),
    member(
        "size",
        "list.size() -> int",
        "Characters of a text, bytes, items of a list, entries of a map.",
    ),
    member(
        "contains",
        "string.contains(string) -> bool",
        "Whether the other text is a part of it.",
    ),
    member(
        "startsWith",
        "string.startsWith(string) -> bool",
        "Whether it begins with the other text.",
    ),
    member(
        "endsWith",
        "string.endsWith(string) -> bool",
        "Whether it ends with the other text.",
    ),
    member(
        "lowerAscii",
        "string.lowerAscii() -> string",
        "ASCII letters in lower case.",
    ),
    member(
        "upperAscii",
        "string.upperAscii() -> string",
        "ASCII letters in upper case.",
    ),
    member(
        "trim",
        "string.trim() -> string",
        "Without white space at both ends.",
    ),
    member(
        "reverse",
        "value.reverse() -> value",
        "The items of a list, or the characters of a text, the last first.",
    ),
    member(
        "charAt",
        "string.charAt(int) -> string",
        "The character at an index; empty at the end.",
    ),
    member(
        "indexOf",
        "string.indexOf(string [, from]) -> int",
        "Where the other text first stands; -1 if it does not.",
    ),
    member(
        "lastIndexOf",
        "string.lastIndexOf(string [, from]) -> int",
        "Where the other text last stands; -1 if it does not.",
    ),
    member(
        "substring",
        "string.substring(from [, to]) -> string",
        "The characters from an index up to another, which is left out.",
    ),
    member(
        "replace",
        "string.replace(string, string [, most]) -> string",
        "With one text in the place of another.",
    ),
    member(
        "split",
        "string.split(string [, most]) -> list(string)",
        "Its parts between separators.",
    ),
    member(
        "format",
        "string.format(list) -> string",
        "With the values of the list where %s, %d and their like stand.",
    ),
    global(
        "strings.quote",
        "strings.quote(string) -> string",
        "The text as a literal.",
    ),
    member(
        "join",
        "list.join([string]) -> string",
        "The texts of a list as one, with a separator.",
    ),
    global("int", "int(value) -> int", "A number, text or time as int."),
    global("uint", "uint(value) -> uint", "A number or text as uint."),
    global("double", "double(value) -> double", "A number or text as double."),
    global("string", "string(value) -> string", "A value as text."),
    global("bool", "bool(value) -> bool", "A text as bool."),
    global("bytes", "bytes(string) -> bytes", "A text as bytes."),
    global(
        "dyn",
        "dyn(value) -> dyn",
        "The value, its type unchecked at load.",
    ),
    global("type", "type(value) -> type", "The value's type."),
    global(
        "timestamp",
        "timestamp(string) -> timestamp",
        "A time as RFC 3339 writes it, or seconds since 1970.",
    ),
    global(
        "duration",
        "duration(string) -> duration",
        "A span of time: '90s', '1h30m'.",
    ),
    member(
        "getFullYear",
        "timestamp.getFullYear([zone]) -> int",
        "The year, in UTC or in a literal zone.",
    ),
    member(
        "getMonth",
        "timestamp.getMonth([zone]) -> int",
        "The month, January is 0.",
    ),
    member(
        "getDate",
        "timestamp.getDate([zone]) -> int",
        "The day of the month, from 1.",
    ),
    member(
        "getDayOfMonth",
        "timestamp.getDayOfMonth([zone]) -> int",
        "The day of the month, from 0.",
    ),
    member(
        "getDayOfYear",
        "timestamp.getDayOfYear([zone]) -> int",
        "The day of the year, from 0.",
    ),
    member(
        "getDayOfWeek",
        "timestamp.getDayOfWeek([zone]) -> int",
        "The day of the week, Sunday is 0.",
    ),
    member(
        "getHours",
        "timestamp.getHours([zone]) -> int",
        "The hour, 0 to 23; of a duration, all hours.",
    ),
    member(
        "getMinutes",
        "timestamp.getMinutes([zone]) -> int",
        "The minute, 0 to 59; of a duration, all minutes.",
    ),
    member(
        "getSeconds",
        "timestamp.getSeconds([zone]) -> int",
        "The second, 0 to 59; of a duration, all seconds.",
    ),
    member(
        "getMilliseconds",
        "timestamp.getMilliseconds([zone]) -> int",
        "The millisecond, 0 to 999.",
    ),
    global(
        "sets.contains",
        "sets.contains(list, list) -> bool",
        "Whether every item of the second list is in the first.",
    ),
    global(
        "sets.equivalent",
        "sets.equivalent(list, list) -> bool",
        "Whether each list has every item of the other.",
    ),
    global(
        "sets.intersects",
        "sets.intersects(list, list) -> bool",
        "Whether the lists have an item in common.",
    ),
    global("ip", "ip(string) -> ip", "An IP address."),
    global(
        "isIP",
        "isIP(string) -> bool",
        "Whether the text is an IP address.",
    ),
    global("cidr", "cidr(string) -> cidr", "A range of IP addresses."),
    member(
        "containsIP",
        "cidr.containsIP(ip) -> bool",
        "Whether the address is in the range.",
    ),
    global(
        "isCIDR",
        "isCIDR(string) -> bool",
        "Whether the text is a range of IP addresses.",
    ),
    global(
        "ip.isCanonical",
        "ip.isCanonical(string) -> bool",
        "Whether the text writes its address in the canonical form.",
    ),
    member("family", "ip.family() -> int", "4 or 6."),
    member(
        "isUnspecified",
        "ip.isUnspecified() -> bool",
        "Whether it is 0.0.0.0 or ::.",
    ),
    member(
        "isLoopback",
        "ip.isLoopback() -> bool",
        "Whether it means the machine itself.",
    ),
    member(
        "isLinkLocalMulticast",
        "ip.isLinkLocalMulticast() -> bool",
        "Whether it is a group of its link.",
    ),
    member(
        "isLinkLocalUnicast",
        "ip.isLinkLocalUnicast() -> bool",
        "Whether it is an address of its link alone.",
    ),
    member(
        "isGlobalUnicast",
        "ip.isGlobalUnicast() -> bool",
        "Whether it is one host's, and not of its link alone.",
    ),
    member(
        "containsCIDR",
        "cidr.containsCIDR(cidr) -> bool",
        "Whether the other range is in this one.",
    ),
    member("ip", "cidr.ip() -> ip", "The address of a range."),
    member(
        "masked",
        "cidr.masked() -> cidr",
        "The range with the host's bits cleared.",
    ),
    member(
        "prefixLength",
        "cidr.prefixLength() -> int",
        "The length of the range's prefix in bits.",
    ),
    global(
        "base64.encode",
        "base64.encode(bytes) -> string",
        "Bytes as base64.",
    ),
    global(
        "base64.decode",
        "base64.decode(string) -> bytes",
        "The bytes of a base64 text.",
    ),
    global(
        "lists.range",
        "lists.range(int) -> list(int)",
        "The numbers from 0, so many.",
    ),
    member("distinct", "list.distinct() -> list", "Each item once."),
    member(
        "flatten",
        "list.flatten([depth]) -> list",
        "The items of the lists in it, one level or so many.",
    ),
    member(
        "slice",
        "list.slice(from, to) -> list",
        "The items from an index up to another, which is left out.",
    ),
    member("sort", "list.sort() -> list", "The items in order."),
    member(
        "find",
        "string.find(pattern) -> string",
        "The first part that matches a literal pattern; empty if none does.",
    ),
    member(
        "findAll",
        "string.findAll(pattern) -> list(string)",
        "Every part that matches a literal pattern.",
    ),
    global(
        "regex.extractAll",
        "regex.extractAll(string, pattern) -> list(string)",
        "Every match of a literal pattern, or its group.",
    ),
    global(
        "regex.replace",
        "regex.replace(string, pattern, string [, most]) -> string",
        "With the matches of a literal pattern replaced.",
    ),
];

/// Every function and macro.
pub(crate) fn all() -> impl Iterator<Item = &'static Entry> {
    MACROS.iter().chain(FUNCTIONS).chain(super::optional::MANUAL)
}

#[cfg(test)]
mod tests {
    use super::super::{function, optional};
    use super::*;

    fn functions() -> impl Iterator<Item = &'static Entry> {
        FUNCTIONS.iter().chain(optional::MANUAL)
    }

    #[test]
    fn every_function_has_its_line_and_every_line_its_function() {
        let table: std::collections::BTreeSet<_> = function::named().collect();
        let manual: std::collections::BTreeSet<_> =
            functions().map(|entry| (entry.name, entry.member)).collect();
        assert_eq!(manual, table);
        for entry in all() {
            assert!(
                entry.doc.ends_with('.') && entry.signature.contains(entry.name),
                "{entry:?}"
            );
        }
    }
}
