//! Our layers on their base (pure): what every check looks at.

use std::panic::resume_unwind;
use std::thread;

use super::inventory::Inventory;
use super::owners::Owners;

/// What lies in our layers, in the base, and in the image that they make.
#[derive(Clone, Debug)]
pub struct Stack<'a> {
    /// In our layers.
    pub ours: &'a Inventory,
    /// In the base.
    pub below: &'a Inventory,
    /// In both, ours over the base's.
    pub all: Inventory,
    /// Whose our files are.
    pub owners: Owners,
}

impl<'a> Stack<'a> {
    /// Puts `ours` on top of `below`.
    pub fn of(ours: &'a Inventory, below: &'a Inventory) -> Self {
        let (all, owners) = thread::scope(|scope| {
            let owners = scope.spawn(|| Owners::of(ours));
            (ours.over(below), owners.join().unwrap_or_else(|panic| resume_unwind(panic)))
        });
        Self { ours, below, all, owners }
    }
}
