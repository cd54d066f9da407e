//! The parse tree of PostgreSQL's grammar as one shape: named structs, lists, leaves. *Pure.*
//!
//! `pg_query` gives some 270 node types; each can be serialized. Turning every one of them into
//! [`Tree`] by its serialization means that no type and no field can be left out of a walk,
//! today's or a later version's.

use std::fmt::Display;

use serde::ser::{self, Serialize};

/// A node, a list of nodes, or a leaf.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Tree {
    None,
    Bool(bool),
    Int(i64),
    Text(String),
    List(Vec<Tree>),
    /// A node: the name of its type, and its fields.
    Node(&'static str, Vec<(&'static str, Tree)>),
}

impl Tree {
    pub(crate) fn of(value: &impl Serialize) -> Result<Tree, TreeError> {
        value.serialize(Builder).map(Tree::unwrapped)
    }

    /// The type's name, for a node.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Tree::Node(name, _) => name,
            _ => "",
        }
    }

    /// A field of a node; [`Tree::None`] where there is none.
    pub(crate) fn get(&self, field: &str) -> &Tree {
        match self {
            Tree::Node(_, fields) => fields
                .iter()
                .find(|(name, _)| *name == field)
                .map_or(&Tree::None, |(_, value)| value),
            _ => &Tree::None,
        }
    }

    pub(crate) fn text(&self) -> &str {
        match self {
            Tree::Text(text) => text,
            _ => "",
        }
    }

    pub(crate) fn int(&self) -> i64 {
        match self {
            Tree::Int(value) => *value,
            _ => 0,
        }
    }

    pub(crate) fn is(&self, flag: bool) -> bool {
        *self == Tree::Bool(flag)
    }

    pub(crate) fn is_none(&self) -> bool {
        *self == Tree::None
    }

    pub(crate) fn items(&self) -> &[Tree] {
        match self {
            Tree::List(items) => items,
            _ => &[],
        }
    }

    /// The nodes and lists right below.
    pub(crate) fn children(&self) -> impl Iterator<Item = &Tree> {
        let (items, fields): (&[Tree], &[(&'static str, Tree)]) = match self {
            Tree::List(items) => (items, &[]),
            Tree::Node(_, fields) => (&[], fields),
            _ => (&[], &[]),
        };
        items.iter().chain(fields.iter().map(|(_, value)| value))
    }

    /// Whether this node or one below it satisfies `wanted`.
    pub(crate) fn any(&self, wanted: &impl Fn(&Tree) -> bool) -> bool {
        wanted(self) || self.children().any(|child| child.any(wanted))
    }

    /// `Node { node: X }` is a wrapper of protobuf's; it stands for X.
    fn unwrapped(self) -> Tree {
        match self {
            Tree::Node("Node", mut fields) if fields.len() == 1 => {
                fields.pop().map_or(Tree::None, |(_, value)| value)
            }
            tree => tree,
        }
    }
}

/// A shape that the parse tree does not have.
#[derive(Debug, thiserror::Error)]
#[error("the parse tree has an unexpected shape: {0}")]
pub(crate) struct TreeError(String);

impl ser::Error for TreeError {
    fn custom<T: Display>(message: T) -> Self {
        TreeError(message.to_string())
    }
}

struct Builder;

struct ListBuilder(Vec<Tree>);

struct NodeBuilder(&'static str, Vec<(&'static str, Tree)>);

macro_rules! leaves {
    ($($method:ident: $type:ty => $to:expr;)*) => {
        $(fn $method(self, value: $type) -> Result<Tree, TreeError> {
            let to: fn($type) -> Tree = $to;
            Ok(to(value))
        })*
    };
}

impl ser::Serializer for Builder {
    type Ok = Tree;
    type Error = TreeError;
    type SerializeSeq = ListBuilder;
    type SerializeTuple = ListBuilder;
    type SerializeTupleStruct = ListBuilder;
    type SerializeTupleVariant = ListBuilder;
    type SerializeMap = ser::Impossible<Tree, TreeError>;
    type SerializeStruct = NodeBuilder;
    type SerializeStructVariant = NodeBuilder;

    leaves! {
        serialize_bool: bool => Tree::Bool;
        serialize_i8: i8 => |value| Tree::Int(value.into());
        serialize_i16: i16 => |value| Tree::Int(value.into());
        serialize_i32: i32 => |value| Tree::Int(value.into());
        serialize_i64: i64 => Tree::Int;
        serialize_u8: u8 => |value| Tree::Int(value.into());
        serialize_u16: u16 => |value| Tree::Int(value.into());
        serialize_u32: u32 => |value| Tree::Int(value.into());
        serialize_u64: u64 => |value| Tree::Int(i64::try_from(value).unwrap_or(i64::MAX));
        serialize_f32: f32 => |value| Tree::Text(value.to_string());
        serialize_f64: f64 => |value| Tree::Text(value.to_string());
        serialize_char: char => |value| Tree::Text(value.to_string());
        serialize_str: &str => |value| Tree::Text(value.to_owned());
    }

    fn serialize_bytes(self, bytes: &[u8]) -> Result<Tree, TreeError> {
        Ok(Tree::Text(String::from_utf8_lossy(bytes).into_owned()))
    }

    fn serialize_none(self) -> Result<Tree, TreeError> {
        Ok(Tree::None)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Tree, TreeError> {
        value.serialize(Builder).map(Tree::unwrapped)
    }

    fn serialize_unit(self) -> Result<Tree, TreeError> {
        Ok(Tree::None)
    }

    fn serialize_unit_struct(self, name: &'static str) -> Result<Tree, TreeError> {
        Ok(Tree::Node(name, Vec::new()))
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<Tree, TreeError> {
        Ok(Tree::Text(variant.to_owned()))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<Tree, TreeError> {
        value.serialize(Builder).map(Tree::unwrapped)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Tree, TreeError> {
        // A variant of a node type holds a struct; one of a constant holds a leaf.
        value.serialize(Builder).map(|tree| match tree.unwrapped() {
            tree @ (Tree::Node(..) | Tree::List(_)) => tree,
            leaf => Tree::Node(variant, vec![("value", leaf)]),
        })
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<ListBuilder, TreeError> {
        Ok(ListBuilder(Vec::with_capacity(len.unwrap_or_default())))
    }

    fn serialize_tuple(self, len: usize) -> Result<ListBuilder, TreeError> {
        self.serialize_seq(Some(len))
    }

    fn serialize_tuple_struct(self, _: &'static str, len: usize) -> Result<ListBuilder, TreeError> {
        self.serialize_seq(Some(len))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        len: usize,
    ) -> Result<ListBuilder, TreeError> {
        self.serialize_seq(Some(len))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, TreeError> {
        Err(TreeError("a map".to_owned()))
    }

    fn serialize_struct(self, name: &'static str, len: usize) -> Result<NodeBuilder, TreeError> {
        Ok(NodeBuilder(name, Vec::with_capacity(len)))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<NodeBuilder, TreeError> {
        self.serialize_struct(variant, len)
    }
}

impl ser::SerializeSeq for ListBuilder {
    type Ok = Tree;
    type Error = TreeError;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), TreeError> {
        self.0.push(value.serialize(Builder)?.unwrapped());
        Ok(())
    }

    fn end(self) -> Result<Tree, TreeError> {
        Ok(Tree::List(self.0))
    }
}

macro_rules! as_list {
    ($trait:ident, $method:ident) => {
        impl ser::$trait for ListBuilder {
            type Ok = Tree;
            type Error = TreeError;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), TreeError> {
                ser::SerializeSeq::serialize_element(self, value)
            }

            fn end(self) -> Result<Tree, TreeError> {
                Ok(Tree::List(self.0))
            }
        }
    };
}

as_list!(SerializeTuple, serialize_element);
as_list!(SerializeTupleStruct, serialize_field);
as_list!(SerializeTupleVariant, serialize_field);

macro_rules! as_node {
    ($trait:ident) => {
        impl ser::$trait for NodeBuilder {
            type Ok = Tree;
            type Error = TreeError;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), TreeError> {
                self.1.push((name, value.serialize(Builder)?.unwrapped()));
                Ok(())
            }

            fn end(self) -> Result<Tree, TreeError> {
                Ok(Tree::Node(self.0, self.1))
            }
        }
    };
}

as_node!(SerializeStruct);
as_node!(SerializeStructVariant);
