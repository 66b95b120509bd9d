//! The kinds of fusion by name, and which of them the clusterer may, must not or shall use.
//!
//! `explain` prints the name of each fusion; the same names forbid and force them. Forbidding is for measuring what a fusion
//! brings and for narrowing down a bug. No choice changes a bit of any result.

use std::fmt;

/// Why two nodes share a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Fusion {
    /// Both run over the same elements.
    SameElements,
    /// The producer is cheap and is recomputed by its reader; so are indices and random numbers.
    Recompute,
    /// The producer's elements are reduced as they are made.
    IntoReduction,
    /// The reader continues with the reduction's result.
    OutOfReduction,
    /// The reader needs the reduction's result at every element: it goes over the same elements again, while they are in
    /// cache.
    NextSweep,
    /// The product's tiles are finished while they are in cache: bias, activation, scaling.
    Epilogue,
    /// The same with another value of the product's size: the derivative of an activation, a residual.
    Derivative,
    /// The columns of a product are summed, block by block, as its tiles are made: gradients of biases.
    ColumnSums,
    /// A product's result updates a parameter or state as its tiles are made.
    Update,
    /// Columns are reduced by the kernel that reduces the rows of the same elements.
    ColumnsWithRows,
    /// The elements of a window are computed where they are combined, one window after the other.
    Windows,
    /// The producer writes its elements where they are joined, instead of being copied there.
    IntoJoin,
    /// Nothing connects the two, but they run over the same elements and read the same values, or are tiny.
    Siblings,
}

impl Fusion {
    /// All kinds.
    pub const ALL: [Fusion; 13] = [
        Fusion::SameElements,
        Fusion::Recompute,
        Fusion::IntoReduction,
        Fusion::OutOfReduction,
        Fusion::NextSweep,
        Fusion::Epilogue,
        Fusion::Derivative,
        Fusion::ColumnSums,
        Fusion::Update,
        Fusion::ColumnsWithRows,
        Fusion::Windows,
        Fusion::IntoJoin,
        Fusion::Siblings,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Fusion::SameElements => "same-elements",
            Fusion::Recompute => "recompute",
            Fusion::IntoReduction => "into-reduction",
            Fusion::OutOfReduction => "out-of-reduction",
            Fusion::NextSweep => "next-sweep",
            Fusion::Epilogue => "epilogue",
            Fusion::Derivative => "derivative",
            Fusion::ColumnSums => "column-sums",
            Fusion::Update => "update",
            Fusion::ColumnsWithRows => "columns-with-rows",
            Fusion::Windows => "windows",
            Fusion::IntoJoin => "into-join",
            Fusion::Siblings => "siblings",
        }
    }

    /// What it is, in a line.
    pub fn doc(self) -> &'static str {
        match self {
            Fusion::SameElements => "both run over the same elements",
            Fusion::Recompute => "cheap, recomputed by its reader",
            Fusion::IntoReduction => "reduced as it is made",
            Fusion::OutOfReduction => "continues with the reduction's result",
            Fusion::NextSweep => "the next sweep over the elements that were reduced",
            Fusion::Epilogue => "finishes the product's tiles while they are in cache",
            Fusion::Derivative => "finishes the product's tiles, with another value of their size",
            Fusion::ColumnSums => "sums the product's columns while its tiles are in cache",
            Fusion::Update => "updates a parameter or state while the product's tiles are in cache",
            Fusion::ColumnsWithRows => "columns are reduced as the rows of the same elements are",
            Fusion::Windows => "combined window by window as it is made",
            Fusion::IntoJoin => "made where it is joined, and not copied there",
            Fusion::Siblings => "runs over the same elements and reads the same values, or is tiny",
        }
    }

    /// The kind of this name.
    pub fn named(name: &str) -> Option<Fusion> {
        Fusion::ALL.into_iter().find(|fusion| fusion.name() == name)
    }
}

impl fmt::Display for Fusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the clusterer makes of a kind of fusion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Choice {
    /// Fuse where it is legal and the cost model expects it to pay.
    #[default]
    Auto,
    /// Do not fuse.
    Never,
    /// Fuse where it is legal: limits of the cost model do not count.
    Always,
}

/// A choice for every kind of fusion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Fusions([Choice; Fusion::ALL.len()]);

impl Fusions {
    /// Every kind where it pays.
    pub fn auto() -> Self {
        Fusions::default()
    }

    /// No fusion at all: each op has a kernel of its own.
    pub fn none() -> Self {
        Fusions([Choice::Never; Fusion::ALL.len()])
    }

    /// These choices, but for one kind.
    pub fn with(mut self, fusion: Fusion, choice: Choice) -> Self {
        self.0[fusion as usize] = choice;
        self
    }

    /// These choices, with one kind forbidden.
    pub fn without(self, fusion: Fusion) -> Self {
        self.with(fusion, Choice::Never)
    }

    /// The choice for a kind.
    pub fn of(&self, fusion: Fusion) -> Choice {
        self.0[fusion as usize]
    }

    /// Whether a kind may be used.
    pub fn allows(&self, fusion: Fusion) -> bool {
        self.of(fusion) != Choice::Never
    }

    /// Whether a kind is used wherever it is legal.
    pub fn forces(&self, fusion: Fusion) -> bool {
        self.of(fusion) == Choice::Always
    }

    /// The kinds of a choice.
    pub fn which(&self, choice: Choice) -> impl Iterator<Item = Fusion> {
        Fusion::ALL.into_iter().filter(move |&fusion| self.of(fusion) == choice)
    }
}

impl From<bool> for Fusions {
    /// Every kind where it pays, or none.
    fn from(fuse: bool) -> Self {
        if fuse { Fusions::auto() } else { Fusions::none() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found_again() {
        for fusion in Fusion::ALL {
            assert_eq!(Fusion::named(fusion.name()), Some(fusion));
            let fusions = Fusions::auto().without(fusion);
            assert_eq!(fusions.which(Choice::Never).collect::<Vec<_>>(), [fusion]);
        }
        assert_eq!(Fusion::named("loops"), None);
        assert_eq!(Fusions::from(false).which(Choice::Never).count(), Fusion::ALL.len());
    }
}
