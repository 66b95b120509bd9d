//! The parser: text to graph, with every error at its line and column.
//!
//! It assumes nothing of the text. Whatever it is given, it ends, does not panic, and uses memory that is a small multiple
//! of the text's length: nesting, ranks and the sizes of tuples are limited, tensors are only as large as what is written
//! out. After an error it goes on with the next line that starts a statement; values of failed lines are poisoned, so that
//! one mistake is reported once. Nodes go through [`infer_type`] and [`Graph::add`], so a parsed graph is well formed.

use cotangent_host::float::in_default;
use std::collections::HashMap;
use std::sync::Arc;

use super::cursor::{Cursor, Kind, Token, shorten};
use super::{VERSION, value};
use crate::attrs::{Attr, AttrKind, AttrSpec, Attrs};
use crate::builder::{check_result, check_update, infer_type};
use crate::diag::{Code, Diag, Diags, Loc};
use crate::ir::{BodyId, Graph, Inputs, MAX_BODY_DEPTH, NodeId, OpRef, Output, Role};
use crate::op::{Fault, Lower, OpDef, Registry};
use crate::ops::region::closed;
use crate::origin::Origin;
use crate::types::Type;

/// After so many errors the rest of the text is not looked at.
const MAX_ERRORS: usize = 50;
/// Members of tuples, over all nodes, that a text may have beyond its own length.
const FREE_TUPLE_MEMBERS: usize = 1024;

/// Reads a graph. `file` is the name that errors and origins show.
pub fn parse(text: &str, file: &str, registry: &Registry) -> Result<Graph, Diags> {
    let cursor = Cursor::new(text, file);
    let tuple_members_left = text.len() + FREE_TUPLE_MEMBERS;
    let mut parser = Parser { cursor, registry, diags: Vec::new(), tuple_members_left, is_cut: false };
    // Reading a number rounds.
    let graph = in_default(|| parser.text()).map_err(|diag| parser.diags.push(diag));
    match graph {
        Ok(graph) if parser.diags.is_empty() => Ok(graph),
        _ => Err(Diags(parser.diags)),
    }
}

struct Parser<'t, 'r> {
    cursor: Cursor<'t>,
    registry: &'r Registry,
    diags: Vec<Diag>,
    tuple_members_left: usize,
    is_cut: bool,
}

/// What is known inside one block. `None` stands for what an error was reported of.
struct Scope {
    graph: Graph,
    values: HashMap<u64, (Option<NodeId>, Token)>,
    names: HashMap<String, (Option<NodeId>, Token)>,
    bodies: HashMap<u64, (Option<BodyId>, Token)>,
    results: HashMap<String, Token>,
    updates: HashMap<NodeId, Token>,
}

/// A statement that waits for the block of its body.
struct Waiting {
    keyword: Token,
    number: u64,
    token: Token,
    /// Errors that were reported before the block.
    n_errors: usize,
}

impl Scope {
    /// The names of parameters and states, and of sources that an error was reported of.
    fn updatable(&self) -> impl Iterator<Item = &str> {
        let is_stored = |id: NodeId| self.graph.node(id).is_stored();
        self.names.iter().filter(move |(_, (id, _))| id.is_none_or(is_stored)).map(|(name, _)| name.as_str())
    }
}

/// The values of attributes as they were written; the elements of a constant wait for its type.
enum Written {
    Ready(Attr),
    Elements(usize),
}

impl Parser<'_, '_> {
    fn text(&mut self) -> Result<Graph, Diag> {
        self.version()?;
        self.keyword("graph")?;
        let graph = self.blocks()?;
        let token = self.cursor.peek();
        if token.kind != Kind::End {
            return Err(self.cursor.expected("the end of the text after the graph", token));
        }
        Ok(graph)
    }

    fn version(&mut self) -> Result<(), Diag> {
        let help = format!("a text starts with the line `cotangent {VERSION}`");
        let token = self.cursor.next();
        if token.kind != Kind::Word || self.cursor.slice(token) != "cotangent" {
            return Err(self.cursor.error(Code::BadVersion, token, "the version line is missing").help(help));
        }
        let token = self.cursor.next();
        let text = self.cursor.slice(token);
        if token.kind != Kind::Number || text.parse() != Ok(VERSION) {
            let text = format!("this program reads version {VERSION} of the text form, got `{}`", shorten(text));
            return Err(self.cursor.error(Code::BadVersion, token, text).help(help));
        }
        Ok(())
    }

    fn keyword(&mut self, word: &str) -> Result<Token, Diag> {
        let token = self.cursor.next();
        match token.kind {
            Kind::Word if self.cursor.slice(token) == word => Ok(token),
            _ => Err(self.cursor.expected(&format!("`{word}`"), token)),
        }
    }

    /// `@name {`.
    fn head(&mut self) -> Result<Scope, Diag> {
        self.cursor.expect(b'@')?;
        let token = self.cursor.peek();
        let name = match token.kind {
            Kind::Word => {
                self.cursor.next();
                self.cursor.slice(token).to_owned()
            }
            Kind::Str => value::string(&mut self.cursor)?,
            _ => return Err(self.cursor.expected("a name", token)),
        };
        self.cursor.expect(b'{')?;
        Ok(Scope {
            graph: Graph::with_registry(name, self.registry),
            values: HashMap::new(),
            names: HashMap::new(),
            bodies: HashMap::new(),
            results: HashMap::new(),
            updates: HashMap::new(),
        })
    }

    /// `@name { statements }`, with the blocks of bodies inside. An error in a statement is reported, and reading goes on; only a
    /// broken head is returned.
    fn blocks(&mut self) -> Result<Graph, Diag> {
        let mut scope = self.head()?;
        // The blocks around the one that is read, each with the body that it waits for.
        let mut around: Vec<(Scope, Waiting)> = Vec::new();
        loop {
            let token = self.cursor.peek();
            let ended = match token.kind {
                Kind::End if self.is_cut => Ok(()),
                Kind::End => {
                    self.cut();
                    Err(self.cursor.expected("`}`", token))
                }
                Kind::Mark(b'}') => {
                    self.cursor.next();
                    Ok(())
                }
                _ => {
                    match self.statement(&mut scope, around.len()) {
                        Ok(None) => {}
                        Ok(Some((inside, waiting))) => {
                            around.push((std::mem::replace(&mut scope, inside), waiting));
                        }
                        Err(diag) => {
                            self.report(diag);
                            self.recover(token);
                        }
                    }
                    continue;
                }
            };
            let Some((outside, waiting)) = around.pop() else { return ended.map(|()| scope.graph) };
            let body = std::mem::replace(&mut scope, outside).graph;
            match ended {
                Ok(()) => self.add_body(&mut scope, waiting, body),
                Err(diag) => {
                    self.report(diag);
                    self.recover(waiting.keyword);
                }
            }
        }
    }

    fn report(&mut self, diag: Diag) {
        if self.diags.len() < MAX_ERRORS {
            self.diags.push(diag);
        }
        if self.diags.len() >= MAX_ERRORS {
            self.cut();
        }
    }

    /// Ends reading here; that blocks stay open is then no further error.
    fn cut(&mut self) {
        self.is_cut = true;
        let end = self.cursor.len();
        self.cursor.seek(end);
    }

    /// Goes to the next line that starts a statement; `failed` is the first token of the failed one.
    fn recover(&mut self, failed: Token) {
        loop {
            let token = self.cursor.peek();
            let starts = match token.kind {
                Kind::End => return,
                Kind::Value | Kind::Mark(b'}') => true,
                Kind::Word => matches!(self.cursor.slice(token), "output" | "update" | "body"),
                _ => false,
            };
            if starts && token.start > failed.start && self.cursor.is_first_of_line(token) {
                return;
            }
            self.cursor.skip_line();
        }
    }

    /// A statement in so many blocks; that of a body opens the block that follows.
    fn statement(&mut self, scope: &mut Scope, depth: usize) -> Result<Option<(Scope, Waiting)>, Diag> {
        let token = self.cursor.next();
        let word = self.cursor.slice(token);
        match (token.kind, word) {
            (Kind::Value, _) => self.assignment(scope, token).map(|()| None),
            (Kind::Word, "output") => self.output(scope).map(|()| None),
            (Kind::Word, "update") => self.update(scope).map(|()| None),
            (Kind::Word, "body") => self.body(scope, token, depth).map(Some),
            _ => {
                let diag = self.cursor.expected("a statement: `%n = op …`, `output`, `update`, `body` or `}`", token);
                Err(diag.suggest(word, ["output", "update", "body"]))
            }
        }
    }

    // ---- nodes ---------------------------------------------------------------------------------------------------

    fn assignment(&mut self, scope: &mut Scope, token: Token) -> Result<(), Diag> {
        let number = self.number(token)?;
        if let Some((_, first)) = scope.values.get(&number) {
            let diag = self.cursor.error(Code::DuplicateName, token, format!("%{number} is already defined"));
            return Err(diag.note("first defined", self.cursor.loc(first.start)));
        }
        self.cursor.expect(b'=')?;
        let node = self.node(scope, token);
        scope.values.insert(number, (node.as_ref().ok().copied().flatten(), token));
        node.map(|_| ())
    }

    fn number(&self, token: Token) -> Result<u64, Diag> {
        let text = self.cursor.slice(token);
        text[1..]
            .parse()
            .map_err(|_| self.cursor.error(Code::Syntax, token, format!("`{}` is too large", shorten(text))))
    }

    /// Everything after `%n =`.
    fn node(&mut self, scope: &mut Scope, start: Token) -> Result<Option<NodeId>, Diag> {
        let op_token = self.cursor.expect_kind(Kind::Word, "the name of an op")?;
        let text = self.cursor.slice(op_token);
        let Some(op) = self.registry.get(text) else {
            let diag = self.cursor.error(Code::UnknownOp, op_token, format!("there is no op `{}`", shorten(text)));
            return Err(diag.suggest(text, self.registry.iter().map(|op| op.0.name)));
        };
        let name = match op.is_named() {
            true => Some(self.claim_name(scope)?),
            false => None,
        };
        let inputs = self.operands(scope)?;
        let mut written = self.attrs(scope, op.0, name.as_deref())?;
        let mut annotation = None;
        if self.cursor.eat(b':') {
            annotation = Some((self.cursor.peek(), value::ty(&mut self.cursor)?));
        }
        let declared = annotation.as_ref().map(|a| &a.1);
        // From here on the statement has been read, so an error is reported without skipping what follows.
        let after = self.cursor.position();
        let added = self.add(scope, op, (start, op_token), inputs, &mut written, declared);
        self.cursor.seek(after);
        let id = match added {
            Ok(Some(id)) => id,
            Ok(None) => return Ok(None),
            Err(diag) => {
                self.report(diag);
                return Ok(None);
            }
        };
        if let Some((known, _)) = name.and_then(|name| scope.names.get_mut(&name)) {
            *known = Some(id);
        }
        let inferred = scope.graph.ty(id);
        match annotation.filter(|(_, ty)| ty != inferred) {
            None => Ok(Some(id)),
            Some((token, ty)) => {
                let text = format!("the type is written as {ty}, but {inferred} follows from the operands");
                let diag = self.cursor.error(Code::TypeAnnotation, token, text);
                self.report(with_operands(diag, &scope.graph, &scope.graph.node(id).inputs));
                Ok(None)
            }
        }
    }

    /// The name of an input, parameter or state, which must be new; its node is not there yet.
    fn claim_name(&mut self, scope: &mut Scope) -> Result<String, Diag> {
        let token = self.cursor.peek();
        let name = value::string(&mut self.cursor)?;
        if let Some((_, first)) = scope.names.get(&name) {
            let text = format!("the name `{}` is already used", shorten(&name));
            let diag = self.cursor.error(Code::DuplicateName, token, text);
            return Err(diag.note("first used", self.cursor.loc(first.start)));
        }
        scope.names.insert(name.clone(), (None, token));
        Ok(name)
    }

    /// `%a, %b, …`; `None` if one of them is poisoned or unknown.
    fn operands(&mut self, scope: &Scope) -> Result<Option<Inputs>, Diag> {
        let mut inputs = Some(Inputs::new());
        let first = self.cursor.peek();
        if first.kind != Kind::Value {
            return Ok(inputs);
        }
        // `%n =` starts the next statement: it is no operand.
        self.cursor.next();
        let is_statement = self.cursor.peek().kind == Kind::Mark(b'=');
        self.cursor.seek(first.start);
        if is_statement {
            return Ok(inputs);
        }
        loop {
            let operand = self.operand(scope)?;
            inputs = inputs.zip(operand).map(|(mut inputs, id)| {
                inputs.push(id);
                inputs
            });
            if !self.cursor.eat(b',') {
                return Ok(inputs);
            }
        }
    }

    /// The node of `%n`; an undefined one is reported here and reading goes on.
    fn operand(&mut self, scope: &Scope) -> Result<Option<NodeId>, Diag> {
        let token = self.cursor.expect_kind(Kind::Value, "an operand (`%n`)")?;
        let number = self.number(token)?;
        match scope.values.get(&number) {
            Some((id, _)) => Ok(*id),
            None => {
                let diag = self.cursor.error(Code::UnknownName, token, format!("%{number} is not defined above"));
                self.report(diag.help("a value is defined on an earlier line than its use"));
                Ok(None)
            }
        }
    }

    /// `{name = value, …}` in the order in which the op declares them; absent truth values are false.
    fn attrs(
        &mut self,
        scope: &Scope,
        op: &'static OpDef,
        name: Option<&str>,
    ) -> Result<Vec<(&'static AttrSpec, Option<Written>)>, Diag> {
        let written = |spec: &AttrSpec| match (spec.name, spec.kind, name) {
            ("name", AttrKind::Str, Some(name)) => Some(Written::Ready(name.into())),
            _ => None,
        };
        let mut attrs: Vec<_> = op.attrs.iter().map(|spec| (spec, written(spec))).collect();
        if !self.cursor.eat(b'{') {
            return Ok(attrs);
        }
        if self.cursor.eat(b'}') {
            return Ok(attrs);
        }
        loop {
            let token = self.cursor.expect_kind(Kind::Word, "the name of an attribute")?;
            let text = self.cursor.slice(token);
            let Some((spec, place)) = attrs.iter_mut().find(|(spec, _)| spec.name == text) else {
                let diag = format!("`{}` has no attribute `{}`", op.name, shorten(text));
                let diag = self.cursor.error(Code::BadAttribute, token, diag);
                return Err(diag.suggest(text, op.attrs.iter().map(|a| a.name)));
            };
            if place.is_some() {
                let text = format!("the attribute `{text}` is given twice");
                return Err(self.cursor.error(Code::BadAttribute, token, text));
            }
            self.cursor.expect(b'=')?;
            *place = Some(self.attr(scope, spec.kind)?);
            if self.cursor.eat(b'}') {
                return Ok(attrs);
            }
            let token = self.cursor.peek();
            if !self.cursor.eat(b',') {
                return Err(self.cursor.expected("`,` or `}`", token));
            }
        }
    }

    fn attr(&mut self, scope: &Scope, kind: AttrKind) -> Result<Written, Diag> {
        let cursor = &mut self.cursor;
        Ok(Written::Ready(match kind {
            AttrKind::Int => Attr::Int(value::int(cursor)?),
            AttrKind::Ints => Attr::Ints(value::ints(cursor)?),
            AttrKind::Float => Attr::Float(value::element(cursor, cotangent_scalar::DType::F64)?),
            AttrKind::Number => Attr::Number(value::number(cursor)?),
            AttrKind::Bool => Attr::Bool(value::boolean(cursor)?),
            AttrKind::Str => Attr::Str(value::string(cursor)?.into()),
            AttrKind::DType => Attr::DType(value::dtype(cursor)?),
            AttrKind::Init => Attr::Init(value::init(cursor)?),
            AttrKind::Body => {
                let word = self.keyword("body")?;
                let number = value::index(&mut self.cursor)?;
                match scope.bodies.get(&number) {
                    // A body with errors leaves an id that no graph has; the node is not inferred then.
                    Some((id, _)) => Attr::Body(id.unwrap_or(BodyId(u32::MAX))),
                    None => {
                        let text = format!("body {number} is not defined above");
                        return Err(self.cursor.error(Code::UnknownName, word, text));
                    }
                }
            }
            AttrKind::Tensor => {
                let start = cursor.peek().start;
                value::skip_elements(cursor)?;
                return Ok(Written::Elements(start));
            }
        }))
    }

    /// Infers the type and appends the node; `None` if an error was reported of something that it depends on.
    fn add(
        &mut self,
        scope: &mut Scope,
        op: OpRef,
        (start, op_token): (Token, Token),
        inputs: Option<Inputs>,
        written: &mut Vec<(&'static AttrSpec, Option<Written>)>,
        declared: Option<&Type>,
    ) -> Result<Option<NodeId>, Diag> {
        let mut attrs = Attrs::none();
        let mut is_poisoned = false;
        for (spec, written) in written.drain(..) {
            let value = match (written, spec.kind) {
                (Some(Written::Ready(value)), _) => value,
                (Some(Written::Elements(at)), _) => {
                    let Some((dtype, shape)) = declared.and_then(Type::as_tensor) else {
                        let text = format!("`{}` requires a type, for example `f32[32,784]`", op.name);
                        return Err(self.cursor.error(Code::BadAttribute, op_token, text));
                    };
                    self.cursor.seek(at);
                    Attr::Tensor(Arc::new(value::elements(&mut self.cursor, dtype, shape)?))
                }
                (None, AttrKind::Bool) => Attr::Bool(false),
                (None, _) => {
                    let text = format!("`{}` requires the attribute `{}`: {}", op.name, spec.name, spec.doc);
                    return Err(self.cursor.error(Code::BadAttribute, op_token, text));
                }
            };
            is_poisoned |= value == Attr::Body(BodyId(u32::MAX));
            attrs = attrs.with(spec.name, value);
        }
        let Some(inputs) = inputs.filter(|_| !is_poisoned) else { return Ok(None) };
        let rejected = |parser: &Self, graph: &Graph, fault: Fault| {
            let mut diag = parser.cursor.error(fault.code, op_token, fault.message);
            diag.help = fault.help;
            diag = with_operands(diag, graph, &inputs);
            diag.notes.extend(fault.notes);
            diag
        };
        // The size of a nested tuple can double with every line, so it is counted before it is made.
        let too_many = || Fault::new(Code::TooLarge, "the tuples of this text have too many members");
        let members: usize = inputs.iter().map(|&i| scope.graph.ty(i).n_members()).sum();
        if matches!(op.lower, Lower::Tuple) && members > self.tuple_members_left {
            return Err(rejected(self, &scope.graph, too_many()));
        }
        let ty = infer_type(&scope.graph, op.0, &inputs, &attrs, declared)
            .map_err(|fault| rejected(self, &scope.graph, fault))?;
        if let Type::Tuple(_) = ty {
            let left = self.tuple_members_left.checked_sub(ty.n_members());
            self.tuple_members_left = left.ok_or_else(|| rejected(self, &scope.graph, too_many()))?;
        }
        let origin = Origin::at(self.cursor.loc(start.start));
        let added = scope.graph.add(op, inputs.clone(), attrs, ty, origin);
        added.map(Some).map_err(|fault| rejected(self, &scope.graph, fault))
    }

    // ---- outputs and bodies --------------------------------------------------------------------------------------

    fn output(&mut self, scope: &mut Scope) -> Result<(), Diag> {
        let token = self.cursor.peek();
        let name = value::string(&mut self.cursor)?;
        self.cursor.expect(b'=')?;
        let operand = self.operand(scope)?;
        if let Some(first) = scope.results.get(&name) {
            let text = format!("two outputs are named `{}`", shorten(&name));
            let diag = self.cursor.error(Code::DuplicateName, token, text);
            return Err(diag.note("first declared", self.cursor.loc(first.start)));
        }
        scope.results.insert(name.clone(), token);
        if let Some(value) = operand {
            match check_result(&scope.graph, &shorten(&name), value) {
                Ok(()) => self.declare(scope, Output { name: name.into(), value, role: Role::Result }, token),
                Err(diag) => {
                    let made = scope.graph.node(value).origin.loc();
                    self.report(diag.at(self.cursor.loc(token.start)).note("the tuple was made", made));
                }
            }
        }
        Ok(())
    }

    fn update(&mut self, scope: &mut Scope) -> Result<(), Diag> {
        let token = self.cursor.peek();
        let name = value::string(&mut self.cursor)?;
        self.cursor.expect(b'=')?;
        let operand = self.operand(scope)?;
        let Some((target, _)) = scope.names.get(&name) else {
            let text = format!("no parameter or state is named `{}`", shorten(&name));
            let diag = self.cursor.error(Code::UnknownName, token, text);
            self.report(diag.suggest(&name, scope.updatable()));
            return Ok(());
        };
        if let (Some(target), Some(value)) = (*target, operand) {
            match check_update(&scope.graph, target, value) {
                Ok(name) => {
                    scope.updates.insert(target, token);
                    self.declare(scope, Output { name, value, role: Role::Update(target) }, token);
                }
                Err(diag) => {
                    let made = |id: NodeId| scope.graph.node(id).origin.loc();
                    let diag = diag.at(self.cursor.loc(token.start));
                    let diag = diag.note("the target was made", made(target)).note("the value was made", made(value));
                    let first = scope.updates.get(&target).map(|first| self.cursor.loc(first.start));
                    self.report(first.into_iter().fold(diag, |diag, first| diag.note("first updated", first)));
                }
            }
        }
        Ok(())
    }

    fn declare(&mut self, scope: &mut Scope, output: Output, token: Token) {
        if let Err(fault) = scope.graph.add_output(output) {
            self.report(self.cursor.error(fault.code, token, fault.message));
        }
    }

    /// `body NUMBER @name {`.
    fn body(&mut self, scope: &mut Scope, keyword: Token, depth: usize) -> Result<(Scope, Waiting), Diag> {
        let token = self.cursor.peek();
        let number = value::index(&mut self.cursor)?;
        if let Some((_, first)) = scope.bodies.get(&number) {
            // The block is read all the same, so that its statements are not taken for those of this one.
            let diag = self.cursor.error(Code::DuplicateName, token, format!("body {number} is already defined"));
            self.report(diag.note("first defined", self.cursor.loc(first.start)));
        }
        if depth == MAX_BODY_DEPTH {
            // What is inside would be read as statements of this block, so reading ends here.
            self.cut();
            let text = format!("bodies nest at most {MAX_BODY_DEPTH} deep");
            return Err(self.cursor.error(Code::TooLarge, keyword, text));
        }
        let n_errors = self.diags.len();
        scope.bodies.insert(number, (None, token));
        Ok((self.head()?, Waiting { keyword, number, token, n_errors }))
    }

    /// Adds a body whose block has been read.
    fn add_body(&mut self, scope: &mut Scope, waiting: Waiting, body: Graph) {
        let Waiting { keyword, number, token, n_errors } = waiting;
        if self.diags.len() > n_errors {
            return;
        }
        match closed(&body) {
            Ok(()) => match scope.graph.add_body(Arc::new(body)) {
                Ok(id) => {
                    scope.bodies.insert(number, (Some(id), token));
                }
                Err(fault) => self.report(self.cursor.error(fault.code, keyword, fault.message)),
            },
            Err(diag) if matches!(diag.at, Loc::Text { .. }) => self.report(diag),
            Err(diag) => self.report(diag.at(self.cursor.loc(keyword.start))),
        }
    }
}

/// The error with the places of the operands. Of very many only the first: a text can give each of its errors all of its values.
fn with_operands(diag: Diag, graph: &Graph, operands: &[NodeId]) -> Diag {
    const MOST: usize = 16;
    operands.iter().take(MOST).enumerate().fold(diag, |diag, (k, id)| diag.operand(k, graph.node(*id)))
}
