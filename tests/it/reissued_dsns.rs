//! DSNs to the sender about reports.
