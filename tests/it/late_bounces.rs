//! Failures that are told after the delivery.
