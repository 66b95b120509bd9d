//! The scopes of a sheet: boxes in boxes, and the rows in which stands what is directly in each of them.
//!
//! A scope is laid out with those in it folded, each as one box, so a large sheet is many small layouts. Which of them are unfolded
//! is for the page to say: it keeps rows and their order, and makes room for what is larger than its folded box.

use std::collections::{BTreeMap, BTreeSet};

use cotangent_graph::picture::{Placed, layout};

/// What is directly in a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Item {
    /// A node by its number on the sheet, or one of the results behind them.
    Node(usize),
    /// A scope by its number.
    Scope(usize),
}

/// A scope of a sheet; the first is the sheet itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Scope {
    /// Its name in the scope around it.
    pub(crate) name: String,
    /// Its name from the outermost scope on, which stays the same from pass to pass.
    pub(crate) path: String,
    pub(crate) parent: Option<usize>,
    /// How many nodes are in it, and how many elements their parameters have.
    pub(crate) n_nodes: usize,
    pub(crate) n_params: usize,
    /// From top to bottom, each from left to right.
    pub(crate) rows: Vec<Vec<Item>>,
    /// Width and height of its folded box.
    pub(crate) size: (f64, f64),
}

/// A box of a sheet: what stands in it, the scope that it is of, and how many elements it has if it is a parameter.
#[derive(Clone, Debug)]
pub(crate) struct Leaf<'a> {
    pub(crate) label: String,
    pub(crate) scope: Option<&'a str>,
    pub(crate) n_params: usize,
}

/// The scopes of a sheet, those around others first, and width and height of each leaf. The first `n_nodes` leaves are nodes.
pub(crate) fn scopes(leaves: &[Leaf<'_>], n_nodes: usize, edges: &[(usize, usize)]) -> (Vec<Scope>, Vec<(f64, f64)>) {
    let (mut scopes, scope_of) = tree(leaves, n_nodes);
    let mut items: Vec<Vec<Item>> = vec![Vec::new(); scopes.len()];
    for at in 1..scopes.len() {
        items[scopes[at].parent.unwrap_or(0)].push(Item::Scope(at));
    }
    for (n, &scope) in scope_of.iter().enumerate() {
        items[scope].push(Item::Node(n));
    }
    let between = between(&scopes, &scope_of, edges);
    let mut sizes = vec![(0.0, 0.0); leaves.len()];
    let size = |placed: Placed| (placed.width.round(), placed.height.round());
    for (at, (items, edges)) in items.into_iter().zip(between).enumerate() {
        let order = ordered(items, &edges);
        let place: BTreeMap<Item, usize> = order.iter().enumerate().map(|(k, &item)| (item, k)).collect();
        // What leads back to above has no say.
        let ends = edges.iter().map(|(from, to)| (place[from], place[to]));
        let down: Vec<(usize, usize)> = ends.filter(|(from, to)| from < to).collect();
        let label = |item: &Item| match *item {
            Item::Node(n) => leaves[n].label.clone(),
            Item::Scope(k) => label(&scopes[k]),
        };
        let boxes = layout(&order.iter().map(label).collect::<Vec<_>>(), &down).boxes;
        for (item, &placed) in order.iter().zip(&boxes) {
            match *item {
                Item::Node(n) => sizes[n] = size(placed),
                Item::Scope(k) => scopes[k].size = size(placed),
            }
        }
        let mut placed: Vec<(Placed, Item)> = boxes.into_iter().zip(order).collect();
        placed.sort_by(|(a, _), (b, _)| a.y.total_cmp(&b.y).then(a.x.total_cmp(&b.x)));
        let rows = placed.chunk_by(|(a, _), (b, _)| a.y == b.y);
        scopes[at].rows = rows.map(|row| row.iter().map(|(_, item)| *item).collect()).collect();
    }
    (scopes, sizes)
}

/// What a folded scope's box says.
fn label(scope: &Scope) -> String {
    let nodes = format!("{} nodes", scope.n_nodes);
    let params = if scope.n_params == 0 { String::new() } else { format!(", {} parameters", scope.n_params) };
    format!("+ {}\n{nodes}{params}", scope.name)
}

/// The scopes, and the one that each leaf is directly in.
///
/// What all nodes share says nothing, neither does a scope of one node: they have no box. Scopes that hold nothing but one other
/// scope are one with it.
fn tree(leaves: &[Leaf<'_>], n_nodes: usize) -> (Vec<Scope>, Vec<usize>) {
    let paths: Vec<Vec<&str>> =
        leaves.iter().map(|leaf| leaf.scope.map_or_else(Vec::new, |path| path.split('.').collect())).collect();
    let shared = paths[..n_nodes].first().map_or(0, |first| {
        let same = |path: &Vec<&str>| first.iter().zip(path).take_while(|(a, b)| a == b).count();
        paths[..n_nodes].iter().map(same).min().unwrap_or(0)
    });
    // How many nodes are behind each prefix of a path; a prefix stands in front of those that begin with it.
    let mut inside: BTreeMap<&[&str], usize> = BTreeMap::new();
    for path in &paths[..n_nodes] {
        (shared + 1..=path.len()).for_each(|end| *inside.entry(&path[..end]).or_default() += 1);
    }
    let mut scopes = vec![Scope::default()];
    let mut number: BTreeMap<&[&str], usize> = BTreeMap::new();
    // The number of the innermost scope of a path that has a box, and how long its path is.
    let around = |number: &BTreeMap<&[&str], usize>, path: &[&str]| {
        (shared + 1..=path.len()).rev().find_map(|end| Some((*number.get(&path[..end])?, end))).unwrap_or((0, shared))
    };
    let inside: Vec<(&[&str], usize)> = inside.into_iter().collect();
    for (k, &(path, n)) in inside.iter().enumerate() {
        let holds_one = inside.get(k + 1).is_some_and(|(inner, m)| inner.starts_with(path) && *m == n);
        if n < 2 || holds_one {
            continue;
        }
        let (parent, end) = around(&number, path);
        number.insert(path, scopes.len());
        let (name, path) = (path[end..].join("."), path.join("."));
        scopes.push(Scope { name, path, parent: Some(parent), ..Scope::default() });
    }
    let scope_of: Vec<usize> = paths.iter().map(|path| around(&number, path).0).collect();
    for (leaf, &scope) in leaves.iter().zip(&scope_of).take(n_nodes) {
        let mut at = Some(scope);
        while let Some(k) = at {
            scopes[k].n_nodes += 1;
            scopes[k].n_params += leaf.n_params;
            at = scopes[k].parent;
        }
    }
    (scopes, scope_of)
}

/// For each scope the edges between what is directly in it.
fn between(scopes: &[Scope], scope_of: &[usize], edges: &[(usize, usize)]) -> Vec<BTreeSet<(Item, Item)>> {
    let mut depth = vec![0; scopes.len()];
    for at in 1..scopes.len() {
        depth[at] = depth[scopes[at].parent.unwrap_or(0)] + 1;
    }
    let mut between = vec![BTreeSet::new(); scopes.len()];
    for &(from, to) in edges {
        let mut ends = [(Item::Node(from), scope_of[from]), (Item::Node(to), scope_of[to])];
        while ends[0].1 != ends[1].1 {
            let deeper = usize::from(depth[ends[1].1] > depth[ends[0].1]);
            let scope = ends[deeper].1;
            ends[deeper] = (Item::Scope(scope), scopes[scope].parent.unwrap_or(0));
        }
        let [(from, at), (to, _)] = ends;
        if from != to {
            between[at].insert((from, to));
        }
    }
    between
}

/// The items, each behind those that lead to it; where they go round in circles, one edge of each leads back.
fn ordered(items: Vec<Item>, edges: &BTreeSet<(Item, Item)>) -> Vec<Item> {
    let mut below: BTreeMap<Item, Vec<Item>> = BTreeMap::new();
    for &(from, to) in edges {
        below.entry(from).or_default().push(to);
    }
    let below = |item: &Item| below.get(item).map_or(&[][..], Vec::as_slice);
    let (mut seen, mut order) = (BTreeSet::new(), Vec::with_capacity(items.len()));
    // Circles begin at what comes first; scopes that nothing leads to stand in front of nodes.
    let mut starts = items;
    let led_to: BTreeSet<Item> = edges.iter().map(|(_, to)| *to).collect();
    starts.sort_by_key(|item| (led_to.contains(item), *item));
    for &start in starts.iter().rev().filter(|item| !led_to.contains(item)).chain(starts.iter()) {
        if !seen.insert(start) {
            continue;
        }
        let mut open = vec![(start, below(&start).len())];
        while let Some((item, left)) = open.last_mut() {
            if *left > 0 {
                *left -= 1;
                let next = below(item)[*left];
                if seen.insert(next) {
                    open.push((next, below(&next).len()));
                }
            } else {
                order.push(*item);
                open.pop();
            }
        }
    }
    order.reverse();
    order
}
