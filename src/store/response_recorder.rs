//! Stores the response to a request with an `Idempotency-Key` in the transaction of its change, so that a crash leaves
//! both or neither.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::IdempotentResponse;
use crate::mail::Timestamp;
use crate::model::KeyId;

/// A request with an `Idempotency-Key`.
#[derive(Debug)]
pub struct IdempotentRequest {
    key: KeyId,
    name: String,
    digest: [u8; 32],
    now: Timestamp,
    is_response_stored: AtomicBool,
}

impl IdempotentRequest {
    /// A request of an API key. `name` is its `Idempotency-Key`, `digest` the SHA-256 of the request.
    pub fn new(key: KeyId, name: String, digest: [u8; 32], now: Timestamp) -> Self {
        Self { key, name, digest, now, is_response_stored: AtomicBool::new(false) }
    }

    /// The API key.
    pub fn key(&self) -> KeyId {
        self.key
    }

    /// Its `Idempotency-Key`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// SHA-256 of the request.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// Time of the request.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Whether the transaction of the change stored the response.
    pub fn is_response_stored(&self) -> bool {
        self.is_response_stored.load(Ordering::Acquire)
    }
}

type Render = dyn Fn(&dyn Any) -> Option<(u16, Vec<u8>)> + Send + Sync;

/// Renders the response to a request from the result of its change, inside of the transaction.
pub struct ResponseRecorder {
    request: Arc<IdempotentRequest>,
    render: Box<Render>,
}

impl ResponseRecorder {
    /// `render` returns the status and the body of the response to a change with this result, or `None` for a result after
    /// which nothing is to be stored.
    pub fn new<T: 'static>(
        request: Arc<IdempotentRequest>,
        render: impl Fn(&T) -> Option<(u16, Vec<u8>)> + Send + Sync + 'static,
    ) -> Self {
        Self { request, render: Box::new(move |result| render(result.downcast_ref()?)) }
    }

    /// The request.
    pub(in crate::store) fn request(&self) -> &IdempotentRequest {
        &self.request
    }

    /// The response to a change with this result. `None` if the result has another type: a request may change several
    /// things, and its response belongs to one of them.
    pub(in crate::store) fn response<T: 'static>(&self, result: &T) -> Option<IdempotentResponse> {
        let (status, body) = (self.render)(result)?;
        Some(IdempotentResponse { digest: self.request.digest, status, body: body.into() })
    }

    /// The transaction with the response was committed.
    pub(in crate::store) fn note_stored(&self) {
        self.request.is_response_stored.store(true, Ordering::Release);
    }
}
