//! Which bytes of a condition an expression is: the parser gives one token of each. *Pure.*

use cel::common::ast::{EntryExpr, Expr, SourceInfo};
use cel::parser::Expression;

use crate::policy::cel::floor;
use crate::policy::cel::node::Span;

/// The bytes of `expr` with all that is in it, its closing brackets and its function's name.
pub(super) fn of(source: &str, info: &SourceInfo, expr: &Expression) -> Span {
    let mut span = Span {
        start: source.len(),
        end: 0,
    };
    union(source, info, expr, &mut span);
    if span.start >= span.end {
        return Span::default();
    }
    let named = matches!(&expr.expr, Expr::Call(_) | Expr::Comprehension(_))
        || matches!(&expr.expr, Expr::Select(select) if select.test);
    let before = source.get(..span.start).unwrap_or_default();
    if named && source[span.start..].starts_with('(') {
        let name = |byte: &u8| is_name(*byte) || *byte == b'.';
        span.start -= before.bytes().rev().take_while(name).count();
    }
    if matches!(
        expr.expr,
        Expr::Select(_) | Expr::Call(_) | Expr::Comprehension(_)
    ) {
        span.end = behind_name(source, span);
    }
    balance(source, span)
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn union(source: &str, info: &SourceInfo, expr: &Expression, span: &mut Span) {
    if let Some((start, stop)) = info.offset_for(expr.id) {
        let start = floor(source, start as usize);
        // `stop` is the token's last character.
        let last = floor(source, stop as usize);
        let wide = source[last..].chars().next().map_or(0, char::len_utf8);
        span.start = span.start.min(start);
        span.end = span.end.max(last + wide);
    }
    let mut each = |expr: &Expression| union(source, info, expr, span);
    match &expr.expr {
        Expr::Call(call) => call
            .target
            .as_deref()
            .into_iter()
            .chain(&call.args)
            .for_each(each),
        Expr::Comprehension(fold) => {
            let parts = [
                &fold.iter_range,
                &fold.accu_init,
                &fold.loop_cond,
                &fold.loop_step,
                &fold.result,
            ];
            parts.into_iter().for_each(each);
        }
        Expr::List(list) => list.elements.iter().for_each(each),
        Expr::Map(map) => {
            for entry in &map.entries {
                if let EntryExpr::MapEntry(entry) = &entry.expr {
                    each(&entry.key);
                    each(&entry.value);
                }
            }
        }
        Expr::Select(select) => each(&select.operand),
        Expr::Ident(_) | Expr::Literal(_) | Expr::Struct(_) | Expr::Unspecified => {}
    }
}

/// Where the name ends that a span ends before (at its dot) or in, and the bracket that opens
/// behind it.
fn behind_name(source: &str, span: Span) -> usize {
    let rest = source.get(span.end..).unwrap_or_default();
    let dot = source[..span.end].ends_with('.');
    let blank = rest.len() - rest.trim_start().len();
    let name = rest.bytes().skip(if dot { blank } else { 0 });
    let mut end = span.end + name.take_while(|byte| is_name(*byte)).count();
    if dot {
        end += blank;
        let behind = source.get(end..).unwrap_or_default();
        if behind.trim_start().starts_with('(') {
            end += behind.len() - behind.trim_start().len() + 1;
        }
    }
    end
}

/// Takes in the partners of the brackets that stand alone in the span, as far as they are there.
fn balance(source: &str, mut span: Span) -> Span {
    let (mut open, mut alone) = (0usize, 0usize);
    let mut count = |byte: u8| match byte {
        b'(' | b'[' | b'{' => open += 1,
        b')' | b']' | b'}' if open == 0 => alone += 1,
        b')' | b']' | b'}' => open -= 1,
        _ => {}
    };
    outside_quotes(&source[span.start..span.end], |_, byte| {
        count(byte);
        true
    });
    let before = source[..span.start].bytes().rev();
    for byte in before {
        match byte {
            _ if alone == 0 => break,
            b'(' | b'[' | b'{' => alone -= 1,
            byte if byte.is_ascii_whitespace() => {}
            _ => break,
        }
        span.start -= 1;
    }
    let (mut depth, mut end) = (open, span.end);
    outside_quotes(&source[span.end..], |index, byte| {
        match byte {
            _ if depth == 0 => return false,
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            end = span.end + index + 1;
        }
        true
    });
    if open > 0 && depth == 0 {
        span.end = end;
    }
    span
}

/// Hands over each byte that is in no string, until `each` says that it is enough.
fn outside_quotes(text: &str, mut each: impl FnMut(usize, u8) -> bool) {
    let (mut quote, mut escaped) = (None, false);
    for (index, byte) in text.bytes().enumerate() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if byte == b'\\' => escaped = true,
            Some(open) if byte == open => quote = None,
            Some(_) => {}
            None if matches!(byte, b'"' | b'\'') => quote = Some(byte),
            None if !each(index, byte) => return,
            None => {}
        }
    }
}
