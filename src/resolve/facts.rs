//! The facts at the leaves of the solver's proof, each once, as a graph of requirements (pure).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use pep508_rs::PackageName;
use pubgrub::External;

use super::candidates::Reason;
use super::package::Package;
use super::ranges::Range;
use super::solver::{Asked, Proof};

type Fact = External<Package, Range, Reason>;

/// The question, a project, or a project's extra; the targets are told apart only where they differ.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Node {
    Question,
    Project(PackageName),
    Extra(PackageName, String),
}

impl Node {
    fn new(package: &Package) -> Self {
        match package {
            Package::Root => Self::Question,
            Package::Same(name) | Package::On(name, _) => Self::Project(name.clone()),
            Package::Extra(name, extra, _) => Self::Extra(name.clone(), extra.to_string()),
        }
    }

    pub(super) fn name(&self) -> Option<&PackageName> {
        match self {
            Self::Question => None,
            Self::Project(name) | Self::Extra(name, _) => Some(name),
        }
    }

    pub(super) fn text(&self) -> String {
        match self {
            Self::Question => "you".to_owned(),
            Self::Project(name) => name.to_string(),
            Self::Extra(name, extra) => format!("{name}[{extra}]"),
        }
    }
}

/// The names in the proof.
pub(super) fn projects(proof: &Proof) -> BTreeSet<PackageName> {
    // `DerivationTree::packages` recurses once per step, and proofs can be long.
    let mut names = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut stack = vec![proof];
    while let Some(tree) = stack.pop() {
        match tree {
            Proof::External(fact) => names.extend(packages(fact).filter_map(|p| p.name().cloned())),
            Proof::Derived(derived) => {
                for cause in [&derived.cause1, &derived.cause2] {
                    if seen.insert(Arc::as_ptr(cause)) {
                        stack.push(cause);
                    }
                }
            }
        }
    }
    names
}

fn packages(fact: &Fact) -> impl Iterator<Item = &Package> {
    let (first, second) = match fact {
        External::NotRoot(package, _)
        | External::NoVersions(package, _)
        | External::Custom(package, ..) => (package, None),
        External::FromDependencyOf(package, _, required, _) => (package, Some(required)),
    };
    std::iter::once(first).chain(second)
}

/// The proof's leaves, each once. Takes the proof apart on the way: dropping a long one would recurse
/// as deep as it is.
fn facts(proof: Proof) -> Vec<Fact> {
    let mut facts = Vec::new();
    let mut seen = BTreeSet::new();
    let mut stack = vec![Arc::new(proof)];
    while let Some(tree) = stack.pop() {
        let is_new = seen.insert(Arc::as_ptr(&tree));
        match Arc::try_unwrap(tree) {
            Ok(Proof::External(fact)) if is_new => facts.push(fact),
            Ok(Proof::External(_)) => {}
            Ok(Proof::Derived(derived)) => stack.extend([derived.cause1, derived.cause2]),
            Err(_) if !is_new => {}
            Err(shared) => match &*shared {
                Proof::External(fact) => facts.push(fact.clone()),
                Proof::Derived(derived) => {
                    stack.extend([Arc::clone(&derived.cause1), Arc::clone(&derived.cause2)]);
                }
            },
        }
    }
    facts
}

/// What is known of one edge of the graph: the dependent's versions, and the targets it counts on.
#[derive(Debug)]
pub(super) struct Edge {
    pub(super) to: Node,
    pub(super) range: Range,
    pub(super) from_versions: Range,
    pub(super) goals: BTreeSet<usize>,
}

#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) edges: BTreeMap<Node, Vec<Edge>>,
    /// Ranges in which nothing was found, by target.
    pub(super) nothing: BTreeMap<PackageName, BTreeMap<usize, Range>>,
    /// Ranges that are out for a reason.
    pub(super) out: BTreeMap<PackageName, BTreeMap<Reason, Range>>,
}

impl Facts {
    pub(super) fn new(proof: Proof, asked: &Asked) -> Self {
        let mut all = Self::default();
        for fact in facts(proof) {
            all.add(fact, asked);
        }
        all
    }

    fn add(&mut self, fact: Fact, asked: &Asked) {
        match fact {
            External::NotRoot(..) | External::NoVersions(Package::Same(_) | Package::Root, _) => {}
            External::NoVersions(package, wide) => {
                let (Package::On(name, goal) | Package::Extra(name, _, goal)) = &package else {
                    return;
                };
                let narrow = asked
                    .get(&package)
                    .into_iter()
                    .flatten()
                    .filter(|(widened, _)| *widened == wide)
                    .fold(Range::empty(), |all, (_, narrow)| all.union(narrow));
                let known = self.nothing.entry(name.clone()).or_default();
                let known = known.entry(*goal).or_insert_with(Range::empty);
                *known = known.union(if narrow.is_empty() { &wide } else { &narrow });
            }
            External::Custom(package, range, reason) => {
                if let Some(name) = package.name() {
                    let known = self.out.entry(name.clone()).or_default();
                    let known = known.entry(reason).or_insert_with(Range::empty);
                    *known = known.union(&range);
                }
            }
            External::FromDependencyOf(from, versions, to, range) => {
                if from.name() == to.name() {
                    // Extras and targets agree by construction.
                    return;
                }
                let goal = match to {
                    Package::On(_, goal) | Package::Extra(_, _, goal) => goal,
                    Package::Root | Package::Same(_) => return,
                };
                let to = Node::new(&to);
                let edges = self.edges.entry(Node::new(&from)).or_default();
                let same = edges.iter_mut().find(|edge| edge.to == to && edge.range == range);
                match same {
                    Some(edge) => {
                        edge.goals.insert(goal);
                        edge.from_versions = edge.from_versions.union(&versions);
                    }
                    None => edges.push(Edge {
                        to,
                        range,
                        from_versions: versions,
                        goals: BTreeSet::from([goal]),
                    }),
                }
            }
        }
    }

    /// The targets that the facts are about.
    pub(super) fn goals(&self) -> BTreeSet<usize> {
        let edges = self.edges.values().flatten().flat_map(|edge| &edge.goals);
        let nothing = self.nothing.values().flat_map(BTreeMap::keys);
        edges.chain(nothing).copied().collect()
    }

    /// Nodes in the order of the chain: the question first, then what it requires, and so on.
    pub(super) fn order(&self) -> Vec<Node> {
        let mut order = Vec::new();
        let mut queue = VecDeque::from([Node::Question]);
        let mut seen = BTreeSet::from([Node::Question]);
        let left_over = self
            .edges
            .keys()
            .cloned()
            .chain(self.nothing.keys().cloned().map(Node::Project))
            .chain(self.out.keys().cloned().map(Node::Project));
        let mut left_over: VecDeque<Node> = left_over.collect();
        loop {
            let Some(node) = queue.pop_front() else {
                match left_over.pop_front() {
                    None => return order,
                    Some(node) => {
                        if seen.insert(node.clone()) {
                            queue.push_back(node);
                        }
                        continue;
                    }
                }
            };
            let mut next: BTreeSet<Node> =
                self.edges.get(&node).into_iter().flatten().map(|edge| edge.to.clone()).collect();
            if let Node::Extra(name, _) = &node {
                next.insert(Node::Project(name.clone()));
            }
            order.push(node);
            queue.extend(next.into_iter().filter(|node| seen.insert(node.clone())));
        }
    }
}
