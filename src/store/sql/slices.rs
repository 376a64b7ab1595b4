//! Queries that examine many rows are read in slices, between which other requesters get connections.

use tokio::time::Instant;

use super::Store;
use super::bounds::Bounds;
use crate::store::Result;
use crate::store::database::Connection;

/// A page that is read in slices.
pub(super) trait Sliced: Send + Sized + 'static {
    type Page: Send + 'static;

    /// Reads on until the page is complete or the slice ends.
    fn read_slice(self, connection: &Connection) -> Result<ReadSlice<Self>>;
}

/// The state after a slice.
pub(super) enum ReadSlice<S: Sliced> {
    Complete(S::Page),
    /// The slice ended before the page was complete.
    Rest(S),
}

/// Decides when a slice ends.
pub(super) struct SliceEnd {
    at: Instant,
    rows_min: usize,
    rows: usize,
}

impl SliceEnd {
    pub(super) fn new(bounds: &Bounds) -> Self {
        Self { at: Instant::now() + bounds.slice_time, rows_min: bounds.slice_rows_min, rows: 0 }
    }

    /// Counts a row. Whether the slice ends before it.
    pub(super) fn is_reached(&mut self) -> bool {
        self.rows += 1;
        self.rows > self.rows_min && Instant::now() >= self.at
    }
}

impl Store {
    /// Reads a page in slices.
    pub(super) async fn read_slices<S: Sliced>(&self, sliced: S) -> Result<S::Page> {
        let mut slice = self.read_slow(move |connection| sliced.read_slice(connection)).await?;
        loop {
            match slice {
                ReadSlice::Complete(page) => return Ok(page),
                ReadSlice::Rest(rest) => {
                    let query = move |connection: &Connection| rest.read_slice(connection);
                    slice = self.readers.continue_slow(self.requester, query).await?;
                }
            }
        }
    }
}
