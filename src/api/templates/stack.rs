//! A thread whose stack is known. The engine of templates nests as deep as `language/nesting.rs` lets it, which must not
//! depend on the thread that a request happens to be served by.

use std::io;
use std::thread;

/// Several times what the deepest template takes that may be, without optimization as well.
const STACK_OCTETS: usize = 8 * 1024 * 1024;

/// Does some work on such a thread and waits for it.
///
/// # Errors
/// There is no thread to be had, or the work panicked.
pub fn run<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    run_on(STACK_OCTETS, work)
}

fn run_on<T: Send>(stack_octets: usize, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("template".into()).stack_size(stack_octets);
        let worker = builder.spawn_scoped(scope, work)?;
        worker.join().map_err(|_| io::Error::other("the template engine panicked"))
    })
}

#[cfg(test)]
#[path = "stack_tests.rs"]
mod tests;
