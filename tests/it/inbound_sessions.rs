//! Sessions of the listener for reports.
