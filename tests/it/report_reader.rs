//! The reader of reports over the command line.
