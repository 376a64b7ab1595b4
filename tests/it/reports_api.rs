//! Reports over the API.
