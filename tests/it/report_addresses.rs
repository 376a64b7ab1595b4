//! The addresses that reports come to.
