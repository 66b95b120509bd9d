//! Values in the text form: numbers, text in quotes, types, initializers and the elements of constants.

use cotangent_scalar::DType;
use smallvec::SmallVec;

use super::cursor::{Cursor, Kind, Token, shorten};
use crate::diag::{Code, Diag};
use crate::init::Init;
use crate::number::Number;
use crate::tensor::TensorData;
use crate::types::{MAX_RANK, MAX_TUPLE_DEPTH, Shape, Type};

/// A whole number.
pub(super) fn int(cursor: &mut Cursor<'_>) -> Result<i64, Diag> {
    let token = cursor.expect_kind(Kind::Number, "a whole number")?;
    let text = cursor.slice(token);
    text.parse().map_err(|_| malformed(cursor, token, "a whole number of 64 bits"))
}

/// A whole number that counts something in the text itself.
pub(super) fn index(cursor: &mut Cursor<'_>) -> Result<u64, Diag> {
    let token = cursor.expect_kind(Kind::Number, "a number")?;
    cursor.slice(token).parse().map_err(|_| malformed(cursor, token, "a whole number from 0"))
}

/// A list of whole numbers.
pub(super) fn ints(cursor: &mut Cursor<'_>) -> Result<SmallVec<[i64; 4]>, Diag> {
    let mut out = SmallVec::new();
    list(cursor, b'[', b']', |cursor| {
        out.push(int(cursor)?);
        Ok(())
    })?;
    Ok(out)
}

/// `open [ item { "," item } ] close`.
pub(super) fn list<'t>(
    cursor: &mut Cursor<'t>,
    open: u8,
    close: u8,
    mut item: impl FnMut(&mut Cursor<'t>) -> Result<(), Diag>,
) -> Result<(), Diag> {
    cursor.expect(open)?;
    if cursor.eat(close) {
        return Ok(());
    }
    loop {
        item(cursor)?;
        if cursor.eat(close) {
            return Ok(());
        }
        let token = cursor.peek();
        if !cursor.eat(b',') {
            return Err(cursor.expected(&format!("`,` or `{}`", char::from(close)), token));
        }
    }
}

fn malformed(cursor: &Cursor<'_>, token: Token, wanted: &str) -> Diag {
    let text = format!("expected {wanted}, got `{}`", shorten(cursor.slice(token)));
    cursor.error(Code::Syntax, token, text)
}

/// Text in quotes, with the escapes of Rust.
pub(super) fn string(cursor: &mut Cursor<'_>) -> Result<String, Diag> {
    let token = cursor.expect_kind(Kind::Str, "text in quotes")?;
    let text = cursor.slice(token);
    let inner = &text[1..text.len() - 1];
    let mut out = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let Some((c, length)) = escape(&rest[at..]) else {
            let start = token.end - 1 - (rest.len() - at);
            let help = r#"the escapes are \n, \r, \t, \0, \\, \", \' and \u{…}"#;
            let text = "unknown escape in text in quotes";
            return Err(cursor.error(Code::Syntax, Token { start, ..token }, text).help(help));
        };
        out.push(c);
        rest = &rest[at + length..];
    }
    out.push_str(rest);
    Ok(out)
}

/// The character that an escape stands for, and the length of the escape.
fn escape(text: &str) -> Option<(char, usize)> {
    Some(match text.as_bytes().get(1)? {
        b'n' => ('\n', 2),
        b'r' => ('\r', 2),
        b't' => ('\t', 2),
        b'0' => ('\0', 2),
        b'\\' => ('\\', 2),
        b'"' => ('"', 2),
        b'\'' => ('\'', 2),
        b'u' => {
            let (digits, _) = text[2..].strip_prefix('{')?.split_once('}')?;
            let is_hex = digits.len() <= 6 && digits.bytes().all(|b| b.is_ascii_hexdigit());
            let code = is_hex.then(|| u32::from_str_radix(digits, 16).ok())??;
            (char::from_u32(code)?, digits.len() + 4)
        }
        _ => return None,
    })
}

/// `true` or `false`.
pub(super) fn boolean(cursor: &mut Cursor<'_>) -> Result<bool, Diag> {
    let token = cursor.expect_kind(Kind::Word, "`true` or `false`")?;
    match cursor.slice(token) {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(malformed(cursor, token, "`true` or `false`")),
    }
}

/// The name of an element type.
pub(super) fn dtype(cursor: &mut Cursor<'_>) -> Result<DType, Diag> {
    let token = cursor.expect_kind(Kind::Word, "an element type")?;
    let text = cursor.slice(token);
    text.parse().map_err(|_| {
        let diag = malformed(cursor, token, "an element type (f32, f64, i32, i64, u8 or bool)");
        diag.suggest(text, DType::ALL.map(DType::name))
    })
}

/// A type.
pub(super) fn ty(cursor: &mut Cursor<'_>) -> Result<Type, Diag> {
    ty_within(cursor, MAX_TUPLE_DEPTH)
}

fn ty_within(cursor: &mut Cursor<'_>, depth: usize) -> Result<Type, Diag> {
    let token = cursor.peek();
    if token.kind == Kind::Mark(b'(') {
        if depth == 0 {
            let text = format!("tuples nest at most {MAX_TUPLE_DEPTH} deep");
            return Err(cursor.error(Code::TooLarge, token, text));
        }
        let mut members = Vec::new();
        list(cursor, b'(', b')', |cursor| {
            members.push(ty_within(cursor, depth - 1)?);
            Ok(())
        })?;
        return Ok(Type::Tuple(members));
    }
    if token.kind != Kind::Word {
        return Err(cursor.expected("a type, for example `f32[32,784]`", token));
    }
    let dtype = dtype(cursor)?;
    let mut dims: SmallVec<[usize; 4]> = SmallVec::new();
    list(cursor, b'[', b']', |cursor| {
        if dims.len() == MAX_RANK {
            return Err(cursor.error(Code::TooLarge, token, format!("a tensor has at most {MAX_RANK} axes")));
        }
        dims.push(extent(cursor)?);
        Ok(())
    })?;
    let shape = Shape::new(&dims);
    if shape.checked_elements().is_none() {
        let text = format!("a tensor of shape {shape} has more than 2^48 elements");
        return Err(cursor.error(Code::TooLarge, token, text));
    }
    Ok(Type::tensor(dtype, shape))
}

fn extent(cursor: &mut Cursor<'_>) -> Result<usize, Diag> {
    let token = cursor.expect_kind(Kind::Number, "an extent")?;
    let text = cursor.slice(token);
    text.parse().map_err(|_| {
        let too_large = text.bytes().all(|b| b.is_ascii_digit());
        let code = if too_large { Code::TooLarge } else { Code::Syntax };
        cursor.error(code, token, format!("expected an extent, a whole number from 0, got `{}`", shorten(text)))
    })
}

/// An initializer.
pub(super) fn init(cursor: &mut Cursor<'_>) -> Result<Init, Diag> {
    let token = cursor.expect_kind(Kind::Word, "an initializer")?;
    let name = cursor.slice(token).to_owned();
    let mut text = name.clone();
    if cursor.peek().kind == Kind::Mark(b'(') {
        let mut arguments = Vec::new();
        list(cursor, b'(', b')', |cursor| {
            let token = cursor.next();
            match token.kind {
                Kind::Number | Kind::Word => arguments.push(cursor.slice(token)),
                _ => return Err(cursor.expected("a number", token)),
            }
            Ok(())
        })?;
        text = format!("{text}({})", arguments.join(", "));
    }
    text.parse().map_err(|message: String| {
        let diag = cursor.error(Code::BadAttribute, token, message);
        if Init::NAMES.contains(&name.as_str()) { diag } else { diag.suggest(&name, Init::NAMES) }
    })
}

/// The bits of one number of an element type.
pub(super) fn element(cursor: &mut Cursor<'_>, dtype: DType) -> Result<u64, Diag> {
    let token = cursor.next();
    let text = cursor.slice(token);
    let wanted = format!("a number of type {dtype}");
    if dtype == DType::Bool {
        cursor.seek(token.start);
        return boolean(cursor).map(u64::from);
    }
    match token.kind {
        Kind::Word if dtype.is_float() && text == "bits" => return bits(cursor, dtype),
        Kind::Word | Kind::Number => {}
        _ => return Err(cursor.expected(&wanted, token)),
    }
    let bits = match dtype {
        DType::F32 => float::<f32>(text, |v| u64::from(v.to_bits()), |v| v.is_finite()),
        DType::F64 => float::<f64>(text, f64::to_bits, |v| v.is_finite()),
        DType::I32 => text.parse().ok().map(|v: i32| u64::from(v as u32)),
        DType::I64 => text.parse().ok().map(|v: i64| v as u64),
        DType::U8 => text.parse().ok().map(|v: u8| u64::from(v)),
        DType::Bool => None,
    };
    bits.ok_or_else(|| malformed(cursor, token, &wanted))
}

/// A number without an element type: a whole one of 64 bits, or one of type f64.
pub(super) fn number(cursor: &mut Cursor<'_>) -> Result<Number, Diag> {
    let token = cursor.peek();
    let whole = cursor.slice(token).parse::<i64>().ok().map(Number::from).filter(|n| n.wide().is_some());
    match whole.filter(|_| token.kind == Kind::Number) {
        Some(whole) => {
            cursor.next();
            Ok(whole)
        }
        None => element(cursor, DType::F64).map(|bits| f64::from_bits(bits).into()),
    }
}

/// Only what is written as `inf` or `nan` is not finite: a number that is too large is an error.
fn float<T: std::str::FromStr>(text: &str, to_bits: fn(T) -> u64, is_finite: fn(&T) -> bool) -> Option<u64> {
    let special = matches!(text, "inf" | "-inf" | "nan");
    let value: T = text.parse().ok()?;
    (special || is_finite(&value)).then(|| to_bits(value))
}

/// `(0x…)` after the word `bits`.
fn bits(cursor: &mut Cursor<'_>, dtype: DType) -> Result<u64, Diag> {
    cursor.expect(b'(')?;
    let token = cursor.expect_kind(Kind::Number, "hexadecimal bits, for example `0x7fc00001`")?;
    let digits = cursor.slice(token).strip_prefix("0x").filter(|d| !d.starts_with('+'));
    let limit = u64::MAX >> (64 - 8 * dtype.size_bytes());
    let value = digits.and_then(|d| u64::from_str_radix(d, 16).ok()).filter(|&v| v <= limit);
    let value = value.ok_or_else(|| malformed(cursor, token, &format!("the bits of a {dtype} in hexadecimal")))?;
    cursor.expect(b')')?;
    Ok(value)
}

/// Passes the elements of a constant whose type is not known yet.
pub(super) fn skip_elements(cursor: &mut Cursor<'_>) -> Result<(), Diag> {
    fn skip_one(cursor: &mut Cursor<'_>) -> Result<(), Diag> {
        let token = cursor.next();
        if !matches!(token.kind, Kind::Word | Kind::Number) {
            return Err(cursor.expected("a number", token));
        }
        if token.kind == Kind::Word && cursor.eat(b'(') {
            cursor.expect_kind(Kind::Number, "hexadecimal bits, for example `0x7fc00001`")?;
            cursor.expect(b')')?;
        }
        Ok(())
    }
    match cursor.peek().kind {
        Kind::Mark(b'[') => list(cursor, b'[', b']', skip_one),
        _ => skip_one(cursor),
    }
}

/// The elements of a constant of a type: one number for a scalar, otherwise a list in row-major order.
pub(super) fn elements(cursor: &mut Cursor<'_>, dtype: DType, shape: &Shape) -> Result<TensorData, Diag> {
    let first = cursor.peek();
    let wanted = shape.checked_elements().unwrap_or(u64::MAX);
    let mut bits = Vec::new();
    if shape.rank() == 0 {
        bits.push(element(cursor, dtype)?);
    } else {
        list(cursor, b'[', b']', |cursor| {
            bits.push(element(cursor, dtype)?);
            Ok(())
        })?;
    }
    if bits.len() as u64 != wanted {
        let text = format!("a constant of type {dtype}{shape} requires {wanted} elements, got {}", bits.len());
        return Err(cursor.error(Code::BadAttribute, first, text));
    }
    Ok(TensorData::from_bits(dtype, shape, &bits))
}
