//! Suppressions while a site refuses known addresses.
