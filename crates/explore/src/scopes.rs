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
        let order = ordered(&items, &edges);
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
    let mut between = vec![BTreeSet::new(); scopes.len()];
    for &(from, to) in edges {
        let mut ends = [(Item::Node(from), scope_of[from]), (Item::Node(to), scope_of[to])];
        while ends[0].1 != ends[1].1 {
            // A scope has a larger number than the one around it.
            let inner = &mut ends[usize::from(ends[1].1 > ends[0].1)];
            *inner = (Item::Scope(inner.1), scopes[inner.1].parent.unwrap_or(0));
        }
        let [(from, at), (to, _)] = ends;
        if from != to {
            between[at].insert((from, to));
        }
    }
    between
}

/// The items, each behind those that lead to it; where they go round in circles, one edge of each leads back.
fn ordered(items: &[Item], edges: &BTreeSet<(Item, Item)>) -> Vec<Item> {
    let mut below: BTreeMap<Item, Vec<Item>> = BTreeMap::new();
    for &(from, to) in edges {
        below.entry(from).or_default().push(to);
    }
    let below = |item: &Item| below.get(item).map_or(&[][..], Vec::as_slice);
    let (mut seen, mut order) = (BTreeSet::new(), Vec::with_capacity(items.len()));
    // Circles begin at what comes first, behind all that has a beginning.
    let led_to: BTreeSet<Item> = edges.iter().map(|(_, to)| *to).collect();
    let begin = items.iter().rev().filter(|item| !led_to.contains(item));
    for &start in begin.chain(items) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf<'a>(scope: &'a str, n_params: usize) -> Leaf<'a> {
        Leaf { label: "%0 add\nf32[4]".into(), scope: Some(scope).filter(|scope| !scope.is_empty()), n_params }
    }

    fn paths(scopes: &[Scope]) -> Vec<(&str, &str, usize, usize)> {
        scopes.iter().map(|scope| (&*scope.path, &*scope.name, scope.n_nodes, scope.n_params)).collect()
    }

    #[test]
    fn scopes_nest_and_say_what_they_hold() {
        let of = ["a.x", "a.x", "a.y", "a.y", "b.c", "b.c", "d", "", "a.x.only"];
        let leaves: Vec<Leaf<'_>> = of.iter().enumerate().map(|(k, scope)| leaf(scope, k)).collect();
        let (scopes, sizes) =
            scopes(&leaves, of.len(), &[(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7), (7, 8)]);
        // `b` holds nothing but `b.c`; one node is no scope.
        let wanted = [("", "", 9, 36), ("a", "a", 5, 14), ("a.x", "x", 3, 9), ("a.y", "y", 2, 5), ("b.c", "b.c", 2, 9)];
        assert_eq!(paths(&scopes), wanted);
        assert_eq!(
            scopes.iter().map(|scope| scope.parent).collect::<Vec<_>>(),
            [None, Some(0), Some(1), Some(1), Some(0)]
        );
        assert!(sizes.iter().all(|(width, height)| *width > 0.0 && *height > 0.0));
        // The last node goes back into `a`, which does not move that below what it came before.
        let top: Vec<Item> = scopes[0].rows.iter().flatten().copied().collect();
        assert_eq!(top, [Item::Scope(1), Item::Scope(4), Item::Node(6), Item::Node(7)]);
    }

    #[test]
    fn what_all_nodes_share_has_no_box() {
        let leaves = [leaf("net.a", 0), leaf("net.a", 0), leaf("net", 0), leaf("", 0)];
        // The last is a result.
        let (all, _) = scopes(&leaves, 3, &[(0, 1), (1, 2), (2, 3)]);
        assert_eq!(paths(&all), [("", "", 3, 0), ("net.a", "a", 2, 0)]);
        let (flat, _) = scopes(&[leaf("net", 0), leaf("net", 0)], 2, &[(0, 1)]);
        assert_eq!(paths(&flat), [("", "", 2, 0)]);
        assert_eq!(scopes(&[], 0, &[]).0.len(), 1);
    }

    /// Every item stands once, in the scope that it is directly in, below what leads to it.
    #[test]
    fn rows_hold_every_item_below_its_operands() {
        let of: Vec<String> =
            (0..600).map(|k| format!("block.{}.{}", k / 60, ["up", "gate", "down"][k / 20 % 3])).collect();
        let leaves: Vec<Leaf<'_>> = of.iter().map(|scope| leaf(scope, 1)).collect();
        let edges: Vec<(usize, usize)> = (1..600)
            .flat_map(|to| [(to - 1, to), (to / 2, to), (to * 7 % to, to)])
            .filter(|(from, to)| from < to)
            .collect();
        let (made, sizes) = scopes(&leaves, 600, &edges);
        assert_eq!((made.clone(), sizes), scopes(&leaves, 600, &edges));
        assert_eq!(made.len(), 1 + 10 + 30);
        let mut place = BTreeMap::new();
        for (at, scope) in made.iter().enumerate() {
            for (row, items) in scope.rows.iter().enumerate() {
                items.iter().for_each(|item| assert_eq!(place.insert(*item, (at, row)), None, "{item:?} stands twice"));
            }
        }
        assert_eq!(place.len(), 600 + 40);
        for (at, scope) in made.iter().enumerate().skip(1) {
            assert_eq!(Some(place[&Item::Scope(at)].0), scope.parent);
        }
        let scope_of: Vec<usize> = (0..600).map(|n| place[&Item::Node(n)].0).collect();
        assert!(scope_of.iter().zip(&of).all(|(scope, path)| made[*scope].path == *path));
        for (from, to) in between(&made, &scope_of, &edges).into_iter().flatten() {
            assert!(place[&from].1 < place[&to].1, "{from:?} stands above {to:?}");
        }
    }
}
