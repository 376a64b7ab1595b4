//! The bytes of a message. A small one is read as a whole, into the room that it takes; one in a file of its own is read
//! as the client takes it, so it may be of any size.

use std::fs::File;
use std::io;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use tokio::io::AsyncReadExt;

use crate::api::body::no_room;
use crate::api::content::PIECE_OCTETS;
use crate::api::{ApiError, ApiResponse, RequestContext, Result};
use crate::limits::memory_budget::MemoryReservation;
use crate::limits::tenant_semaphore::TenantPermit;
use crate::model::{MessageId, RefusalCode};
use crate::store::{ContentFile, Spool, StoredContent};

/// What a stream holds at most: two pieces that the connection has yet to send, the one being read, and the buffer of
/// the file.
const STREAM_OCTETS: u64 = 4 * PIECE_OCTETS as u64;

pub async fn get(call: RequestContext) -> Result<ApiResponse> {
    let id = super::find(&call).await?.id;
    match call.store().stored_content(id).await? {
        Some(StoredContent::Row { octets }) => whole(&call, id, octets).await,
        Some(StoredContent::File { octets }) if call.is_head => {
            Ok(ApiResponse::message_stream(Body::empty(), octets))
        }
        Some(StoredContent::File { octets }) => begin(&call, id, octets).await,
        None => Err(no_longer_kept()),
    }
}

async fn whole(call: &RequestContext, id: MessageId, octets: u64) -> Result<ApiResponse> {
    // As it is read, and in one piece.
    let mut room = call.room.beside();
    if !room.grow_to(2 * octets) {
        return Err(no_room());
    }
    let content = call.store().content(id).await?.ok_or_else(no_longer_kept)?;
    ApiResponse::message(content.to_vec()).reserve(room)
}

/// The permit and the memory come before the file, which is read once to verify it.
async fn begin(call: &RequestContext, id: MessageId, octets: u64) -> Result<ApiResponse> {
    let permit = call.api.message_streams.try_acquire(call.scope()).map_err(|_| too_many())?;
    let mut room = call.room.beside();
    if !room.grow_to(STREAM_OCTETS.min(octets)) {
        return Err(no_room());
    }
    let content = call.store().open_content(id).await?;
    let ContentFile { file, octets } = content.ok_or_else(no_longer_kept)?;
    Ok(ApiResponse::message_stream(read(file, octets, room, permit), octets))
}

/// A file on its way.
struct Reading {
    file: tokio::fs::File,
    left: u64,
    room: Arc<MemoryReservation>,
    _permit: TenantPermit,
}

/// Reads exactly so many octets, each piece when the client has taken the one before.
fn read(file: File, octets: u64, room: MemoryReservation, permit: TenantPermit) -> Body {
    let mut file = tokio::fs::File::from_std(file);
    file.set_max_buf_size(PIECE_OCTETS);
    let reading = Reading { file, left: octets, room: Arc::new(room), _permit: permit };
    let pieces = stream::try_unfold(reading, |mut reading| async move {
        let piece = reading.next_piece().await?;
        io::Result::Ok(piece.map(|piece| (piece, reading)))
    });
    Body::from_stream(pieces)
}

impl Reading {
    async fn next_piece(&mut self) -> io::Result<Option<Bytes>> {
        let octets = self.left.min(PIECE_OCTETS as u64);
        if octets == 0 {
            return Ok(None);
        }
        let mut piece = vec![0; octets as usize];
        self.file.read_exact(&mut piece).await?;
        self.left -= octets;
        Ok(Some(self.room.hold_piece(piece)))
    }
}

fn no_longer_kept() -> ApiError {
    ApiError::new(
        RefusalCode::NotFound,
        "the content of this message has been removed",
        "content is removed when its retention ends; the operator sets retention.body_days",
    )
}

fn too_many() -> ApiError {
    ApiError::new(
        RefusalCode::Overloaded,
        "limit reached: large messages that are downloaded at the same time",
        "finish the downloads in progress, or try again in a few seconds",
    )
}
