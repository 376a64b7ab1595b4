//! Runs work on a new thread with a stack of a known size. The template engine recurses as deep as `language/nesting.rs`
//! allows, and the threads that serve requests may have smaller stacks.

use std::io;
use std::thread;

/// More than twice the stack of the deepest accepted template, also in a build without optimization.
const STACK_OCTETS: usize = 8 * 1024 * 1024;

/// Runs `work` on a thread with [`STACK_OCTETS`] and waits for the result.
///
/// # Errors
/// The thread could not be started, or `work` panicked.
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
