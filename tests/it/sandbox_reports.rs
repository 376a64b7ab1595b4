//! Reports of the sandbox.
