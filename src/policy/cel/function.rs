//! The operators and functions: their names, their types, what they do.

use std::fmt;

/// What is known of an expression's type at load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ty {
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    Text,
    Bytes,
    List(Box<Ty>),
    /// A map, by the type of its values.
    Map(Box<Ty>),
    /// A type without operators of interest: timestamp, duration, address.
    Other,
}

impl Ty {
    /// Whether a value of this type may stand where `other` is wanted.
    pub(crate) fn fits(&self, other: &Ty) -> bool {
        match (self, other) {
            (Ty::Dyn, _) | (_, Ty::Dyn) => true,
            (Ty::List(a), Ty::List(b)) | (Ty::Map(a), Ty::Map(b)) => a.fits(b),
            (a, b) => a == b || (a.is_number() && b.is_number()),
        }
    }

    fn is_number(&self) -> bool {
        matches!(self, Ty::Int | Ty::Uint | Ty::Double)
    }
}

impl fmt::Display for Ty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ty::Dyn => f.write_str("dyn"),
            Ty::Null => f.write_str("null"),
            Ty::Bool => f.write_str("bool"),
            Ty::Int => f.write_str("int"),
            Ty::Uint => f.write_str("uint"),
            Ty::Double => f.write_str("double"),
            Ty::Text => f.write_str("string"),
            Ty::Bytes => f.write_str("bytes"),
            Ty::List(item) => write!(f, "list({item})"),
            Ty::Map(value) => write!(f, "map(string, {value})"),
            Ty::Other => f.write_str("a time or an address"),
        }
    }
}

macro_rules! functions {
    ($($variant:ident $name:literal $member:literal $args:literal $ty:expr;)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Function { $($variant,)* }

        impl Function {
            pub(crate) fn name(self) -> &'static str {
                match self { $(Function::$variant => $name,)* }
            }
        }

        const TABLE: &[(Function, &str, bool, usize, Ty)] =
            &[$((Function::$variant, $name, $member, $args, $ty),)*];
    };
}

functions! {
    Not "!_" false 1 Ty::Bool;
    Negate "-_" false 1 Ty::Dyn;
    Add "_+_" false 2 Ty::Dyn;
    Subtract "_-_" false 2 Ty::Dyn;
    Multiply "_*_" false 2 Ty::Dyn;
    Divide "_/_" false 2 Ty::Dyn;
    Remainder "_%_" false 2 Ty::Dyn;
    Equal "_==_" false 2 Ty::Bool;
    Unequal "_!=_" false 2 Ty::Bool;
    Less "_<_" false 2 Ty::Bool;
    LessEqual "_<=_" false 2 Ty::Bool;
    Greater "_>_" false 2 Ty::Bool;
    GreaterEqual "_>=_" false 2 Ty::Bool;
    In "@in" false 2 Ty::Bool;
    Index "_[_]" false 2 Ty::Dyn;
    Size "size" false 1 Ty::Int;
    SizeOf "size" true 1 Ty::Int;
    Contains "contains" true 2 Ty::Bool;
    StartsWith "startsWith" true 2 Ty::Bool;
    EndsWith "endsWith" true 2 Ty::Bool;
    LowerAscii "lowerAscii" true 1 Ty::Text;
    UpperAscii "upperAscii" true 1 Ty::Text;
    Trim "trim" true 1 Ty::Text;
    Reverse "reverse" true 1 Ty::Dyn;
    CharAt "charAt" true 2 Ty::Text;
    IndexOf "indexOf" true 2 Ty::Int;
    IndexOfFrom "indexOf" true 3 Ty::Int;
    LastIndexOf "lastIndexOf" true 2 Ty::Int;
    LastIndexOfFrom "lastIndexOf" true 3 Ty::Int;
    Substring "substring" true 2 Ty::Text;
    SubstringTo "substring" true 3 Ty::Text;
    Replace "replace" true 3 Ty::Text;
    ReplaceSome "replace" true 4 Ty::Text;
    Split "split" true 2 Ty::Dyn;
    SplitSome "split" true 3 Ty::Dyn;
    Format "format" true 2 Ty::Text;
    Quote "strings.quote" false 1 Ty::Text;
    Join "join" true 1 Ty::Text;
    JoinWith "join" true 2 Ty::Text;
    ToInt "int" false 1 Ty::Int;
    ToUint "uint" false 1 Ty::Uint;
    ToDouble "double" false 1 Ty::Double;
    ToText "string" false 1 Ty::Text;
    ToBool "bool" false 1 Ty::Bool;
    ToBytes "bytes" false 1 Ty::Bytes;
    ToDyn "dyn" false 1 Ty::Dyn;
    TypeOf "type" false 1 Ty::Dyn;
    Timestamp "timestamp" false 1 Ty::Other;
    Duration "duration" false 1 Ty::Other;
    GetFullYear "getFullYear" true 1 Ty::Int;
    GetMonth "getMonth" true 1 Ty::Int;
    GetDate "getDate" true 1 Ty::Int;
    GetDayOfMonth "getDayOfMonth" true 1 Ty::Int;
    GetDayOfYear "getDayOfYear" true 1 Ty::Int;
    GetDayOfWeek "getDayOfWeek" true 1 Ty::Int;
    GetHours "getHours" true 1 Ty::Int;
    GetMinutes "getMinutes" true 1 Ty::Int;
    GetSeconds "getSeconds" true 1 Ty::Int;
    GetMilliseconds "getMilliseconds" true 1 Ty::Int;
    SetsContains "sets.contains" false 2 Ty::Bool;
    SetsEquivalent "sets.equivalent" false 2 Ty::Bool;
    SetsIntersects "sets.intersects" false 2 Ty::Bool;
    Ip "ip" false 1 Ty::Other;
    IsIp "isIP" false 1 Ty::Bool;
    Cidr "cidr" false 1 Ty::Other;
    ContainsIp "containsIP" true 2 Ty::Bool;
    IsCidr "isCIDR" false 1 Ty::Bool;
    IsCanonical "ip.isCanonical" false 1 Ty::Bool;
    IpFamily "family" true 1 Ty::Int;
    IsUnspecified "isUnspecified" true 1 Ty::Bool;
    IsLoopback "isLoopback" true 1 Ty::Bool;
    IsLinkLocalMulticast "isLinkLocalMulticast" true 1 Ty::Bool;
    IsLinkLocalUnicast "isLinkLocalUnicast" true 1 Ty::Bool;
    IsGlobalUnicast "isGlobalUnicast" true 1 Ty::Bool;
    ContainsCidr "containsCIDR" true 2 Ty::Bool;
    IpOf "ip" true 1 Ty::Other;
    Masked "masked" true 1 Ty::Other;
    PrefixLength "prefixLength" true 1 Ty::Int;
    Encode "base64.encode" false 1 Ty::Text;
    Decode "base64.decode" false 1 Ty::Bytes;
    Range "lists.range" false 1 Ty::Dyn;
    Distinct "distinct" true 1 Ty::Dyn;
    Flatten "flatten" true 1 Ty::Dyn;
    FlattenTo "flatten" true 2 Ty::Dyn;
    Slice "slice" true 3 Ty::Dyn;
    Sort "sort" true 1 Ty::Dyn;
    Find "find" true 2 Ty::Text;
    FindAll "findAll" true 2 Ty::Dyn;
    First "first" true 1 Ty::Dyn;
    Last "last" true 1 Ty::Dyn;
    RegexExtract "regex.extract" false 2 Ty::Dyn;
    OptionalOf "optional.of" false 1 Ty::Dyn;
    OptionalOfNonZero "optional.ofNonZeroValue" false 1 Ty::Dyn;
    OptionalNone "optional.none" false 0 Ty::Dyn;
    HasValue "hasValue" true 1 Ty::Bool;
    OptionalValue "value" true 1 Ty::Dyn;
    Or "or" true 2 Ty::Dyn;
    OrValue "orValue" true 2 Ty::Dyn;
    OptSelect "_?._" false 2 Ty::Dyn;
    OptIndex "_[?_]" false 2 Ty::Dyn;
    Some "@some" false 1 Ty::Dyn;
    SomeEntry "@someEntry" false 2 Ty::Dyn;
    Merge "@merge" false 2 Ty::Dyn;
    Keys "@keys" false 1 Ty::Dyn;
    SortBy "@sortBy" false 2 Ty::Dyn;
    RegexAll "regex.extractAll" false 2 Ty::Dyn;
    RegexReplace "regex.replace" false 3 Ty::Text;
    RegexReplaceSome "regex.replace" false 4 Ty::Text;
}

impl Function {
    /// Whether its second argument is a pattern, which must be a literal.
    pub(crate) fn is_regex(self) -> bool {
        use Function as F;
        matches!(
            self,
            F::Find | F::FindAll | F::RegexAll | F::RegexExtract | F::RegexReplace | F::RegexReplaceSome
        )
    }

    /// Whether it reads a part of a timestamp, and so may name a zone.
    pub(crate) fn is_date(self) -> bool {
        use Function as F;
        matches!(
            self,
            F::GetFullYear
                | F::GetMonth
                | F::GetDate
                | F::GetDayOfMonth
                | F::GetDayOfYear
                | F::GetDayOfWeek
                | F::GetHours
                | F::GetMinutes
                | F::GetSeconds
                | F::GetMilliseconds
        )
    }
}

pub(crate) fn find(name: &str, member: bool, args: usize) -> Option<(Function, Ty)> {
    TABLE
        .iter()
        .find(|(_, own, own_member, own_args, _)| *own == name && *own_member == member && *own_args == args)
        .map(|(function, _, _, _, ty)| (*function, ty.clone()))
}

/// Every function that has a name, and whether it stands behind a dot.
pub(crate) fn named() -> impl Iterator<Item = (&'static str, bool)> {
    let named = TABLE.iter().map(|row| (row.1, row.2));
    named.filter(|(name, _)| name.starts_with(|c: char| c.is_ascii_alphabetic()))
}

/// The names that a message may offer.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    let macros = super::manual::MACROS.iter().map(|entry| entry.name);
    named().map(|(name, _)| name).chain(macros)
}

pub(crate) fn is_namespace(name: &str) -> bool {
    matches!(
        name,
        "sets" | "strings" | "base64" | "lists" | "regex" | "ip" | "optional"
    )
}

/// The types that stand as identifiers.
pub(crate) fn type_name(name: &str) -> Option<&'static str> {
    const NAMES: &[&str] = &[
        "bool",
        "int",
        "uint",
        "double",
        "string",
        "bytes",
        "list",
        "map",
        "null_type",
        "optional_type",
        "type",
    ];
    NAMES.iter().copied().find(|own| *own == name)
}

/// A more exact type of the result, where the arguments tell it.
pub(crate) fn result(function: Function, ty: Ty, args: &[&Ty]) -> Ty {
    match (function, args) {
        (Function::Index, [Ty::List(item), _]) => (**item).clone(),
        (Function::Index, [Ty::Map(value), _]) => (**value).clone(),
        (Function::Split | Function::SplitSome | Function::FindAll | Function::RegexAll, _) => {
            Ty::List(Box::new(Ty::Text))
        }
        (Function::Range, _) => Ty::List(Box::new(Ty::Int)),
        (
            Function::Distinct | Function::Slice | Function::Sort | Function::Reverse,
            [own @ Ty::List(_), ..],
        ) => (*own).clone(),
        (Function::Reverse, [Ty::Text]) => Ty::Text,
        (
            Function::Add | Function::Subtract | Function::Multiply | Function::Divide | Function::Remainder,
            [a, b],
        ) if a == b => (*a).clone(),
        _ => ty,
    }
}

/// What can be told of the arguments at load.
pub(crate) fn check(function: Function, args: &[&Ty]) -> Result<(), String> {
    use Function as F;
    let text = |ty: &Ty| ty.fits(&Ty::Text);
    match (function, args) {
        (F::Equal | F::Unequal, [a, b]) if !a.fits(b) && **a != Ty::Null && **b != Ty::Null => {
            Err(format!("{a} is never equal to {b}"))
        }
        (F::Equal | F::Unequal, [a, b]) if matches!((a, b), (Ty::Null, b) | (b, Ty::Null) if **b != Ty::Dyn && **b != Ty::Null) => {
            Err("this is never null".to_owned())
        }
        (F::Less | F::LessEqual | F::Greater | F::GreaterEqual, [a, b]) if !a.fits(b) => {
            Err(format!("{a} has no order with {b}"))
        }
        (F::In, [a, Ty::List(item)]) if !a.fits(item) => Err(format!("{a} is never in a list of {item}")),
        (F::In, [a, Ty::Map(_)]) if !text(a) => Err(format!("{a} is never a key of this map")),
        (F::In, [_, b]) if !matches!(b, Ty::Dyn | Ty::List(_) | Ty::Map(_)) => Err(format!(
            "`in` wants a list or a map on its right, and this is {b}; a text has `contains`"
        )),
        (F::Not, [a]) if !a.fits(&Ty::Bool) => Err(format!("`!` wants bool, and this is {a}")),
        (
            F::Contains
            | F::StartsWith
            | F::EndsWith
            | F::LowerAscii
            | F::UpperAscii
            | F::Trim
            | F::IndexOf
            | F::LastIndexOf
            | F::Split
            | F::Replace,
            args,
        ) if !args.iter().all(|arg| text(arg)) => {
            let types: Vec<String> = args.iter().map(ToString::to_string).collect();
            let hint =
                matches!(args.first(), Some(Ty::List(_))).then_some("; for a list use `in` or `exists`");
            let name = function.name();
            Err(format!(
                "`{name}` is for strings, and here are {}{}",
                types.join(", "),
                hint.unwrap_or("")
            ))
        }
        (
            F::Distinct
            | F::Flatten
            | F::FlattenTo
            | F::Slice
            | F::Sort
            | F::Join
            | F::JoinWith
            | F::First
            | F::Last,
            [first, ..],
        ) if !matches!(first, Ty::Dyn | Ty::List(_)) => {
            Err(format!("`{}` is for lists, and this is {first}", function.name()))
        }
        (
            F::Find
            | F::FindAll
            | F::RegexAll
            | F::RegexExtract
            | F::RegexReplace
            | F::RegexReplaceSome
            | F::Format,
            [first, ..],
        ) if !text(first) => Err(format!(
            "`{}` is for strings, and this is {first}",
            function.name()
        )),
        (function, [first, ..]) if function.is_date() && !matches!(first, Ty::Dyn | Ty::Other) => {
            Err(format!("`{}` is for times, and this is {first}", function.name()))
        }
        (F::Size | F::SizeOf, [Ty::Bool | Ty::Int | Ty::Uint | Ty::Double | Ty::Null | Ty::Other]) => {
            Err("this has no size".to_owned())
        }
        (F::SetsContains | F::SetsEquivalent | F::SetsIntersects, args) => {
            match args.iter().find(|arg| !matches!(arg, Ty::Dyn | Ty::List(_))) {
                Some(other) => Err(format!("`{}` is for lists, and this is {other}", function.name())),
                None => Ok(()),
            }
        }
        (F::Add | F::Subtract | F::Multiply | F::Divide | F::Remainder, [a, b]) if !arithmetic(a, b) => Err(
            format!("no such operation: {a} {} {b}", function.name().trim_matches('_')),
        ),
        (F::Index, [a, _]) if !matches!(a, Ty::Dyn | Ty::List(_) | Ty::Map(_)) => {
            Err(format!("{a} has no index"))
        }
        _ => Ok(()),
    }
}

fn arithmetic(a: &Ty, b: &Ty) -> bool {
    let known = |ty: &Ty| !matches!(ty, Ty::Dyn | Ty::Other);
    !known(a)
        || !known(b)
        || (a == b && !matches!(a, Ty::Bool | Ty::Null | Ty::Map(_)))
        || (matches!(a, Ty::List(_)) && matches!(b, Ty::List(_)))
}
