//! Room in memory for what is large and soon gone.
//!
//! An allocator keeps what was freed for whoever wants it next. Of blocks below 32 MiB glibc keeps, on each
//! thread, up to twice as much as the largest that it had mapped and got back: a page of two megabytes, read
//! once, made 4 MiB on each thread stay. Blocks above that it maps and gives back each time, and only what is
//! written to is ever there. So what is large has room of that size, however large it is.

/// Bytes of address space, more than any allocator keeps.
const SIZE: usize = 33 << 20;
/// Less is nothing to care about.
const LARGE: usize = 128 << 10;

/// An empty vector with room for `length` bytes, which are expected.
pub fn vec(length: usize) -> Vec<u8> {
    Vec::with_capacity(if length < LARGE { length } else { length.max(SIZE) })
}

/// So many zeros that everything which is read in one piece has room in them.
pub fn zeros() -> Vec<u8> {
    vec![0; SIZE]
}
