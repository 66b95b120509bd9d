//! filetest runner, random graphs, finite differences (for tests only).
