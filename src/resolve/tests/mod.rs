//! Scenarios: a package index in a few lines of text, a question, and the answer in words.

mod index;
mod scenarios;
mod unsatisfiable;

/// A cell may be resolved on whatever thread is free. That this compiles is the test.
#[expect(dead_code, reason = "only the compiler looks at it")]
fn resolving_may_move_between_threads(question: &super::Question, world: &crate::world::World) {
    fn check(_: impl Send) {}
    check(super::resolve(question, world));
}
