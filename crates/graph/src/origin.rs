//! Where nodes come from.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::diag::Loc;

/// Where a node comes from: the user's lines (several after merging), the scope, and the rule or pass that made it, if any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Lines of the user, at most [`Origin::MAX_LINES`].
    pub lines: SmallVec<[Loc; 1]>,
    /// The scope that it was made in, for example `block.0.attention`: of the builder's scopes and layers, the outermost first.
    pub scope: Option<Arc<str>>,
    /// The pass or rule that made the node.
    pub rule: Option<&'static str>,
}

impl Origin {
    /// Further lines are dropped.
    pub const MAX_LINES: usize = 4;

    /// A node that the user made here.
    pub fn at(loc: Loc) -> Self {
        Origin { lines: SmallVec::from_iter([loc]), ..Origin::default() }
    }

    /// Adds the lines of another origin. The scope becomes the one around both, if there is one: what two layers share is of neither.
    pub fn merge(&mut self, other: &Origin) {
        if let (Some(own), Some(others)) = (&self.scope, &other.scope)
            && own != others
        {
            let shared = own.split('.').zip(others.split('.')).take_while(|(a, b)| a == b);
            let shared: Vec<&str> = shared.map(|(part, _)| part).collect();
            if !shared.is_empty() {
                self.scope = Some(shared.join(".").into());
            }
        }
        for line in &other.lines {
            if self.lines.len() < Origin::MAX_LINES && !self.lines.contains(line) {
                self.lines.push(line.clone());
            }
        }
    }

    /// The first line, or [`Loc::Internal`].
    pub fn loc(&self) -> Loc {
        self.lines.first().cloned().unwrap_or(Loc::Internal)
    }

    /// The same in this scope.
    pub fn in_scope(self, scope: impl Into<Arc<str>>) -> Self {
        Origin { scope: Some(scope.into()), ..self }
    }
}
