//! Every way to fail, once: the exit code a script sees, and the words a person reads.

mod machine;
mod recipes;
mod servers;
