//! The raw content of a message. Content in the database is small and is read as a whole. Content in a file is streamed
//! as fast as the client receives it, so its size does not matter.

use std::fs::File;
use std::io;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use tokio::io::AsyncReadExt;

use crate::api::body::memory_exhausted;
use crate::api::content::PIECE_OCTETS;
use crate::api::{ApiError, ApiResponse, RequestContext, Result};
use crate::limits::memory_budget::MemoryReservation;
use crate::limits::tenant_semaphore::TenantPermit;
use crate::model::{MessageId, MessageKind, RefusalCode};
use crate::store::{ContentFile, Message, Spool, StoredContent};

/// Maximum memory of a stream: two pieces that wait to be sent, the piece being read, and the buffer of the file.
const STREAM_OCTETS: u64 = 4 * PIECE_OCTETS as u64;

pub async fn get(call: RequestContext) -> Result<ApiResponse> {
    let message = super::find(&call).await?;
    match find_content(&call, &message).await? {
        // The content exists twice: as the store returns it, and as one piece.
        StoredContent::Row { octets } => {
            let (octets, reservation) = load(&call, message.id, octets, 2).await?;
            ApiResponse::message(octets).reserve(reservation)
        }
        StoredContent::File { octets } if call.is_head => {
            Ok(ApiResponse::message_stream(Body::empty(), octets))
        }
        StoredContent::File { octets } => begin(&call, message.id, octets).await,
    }
}

/// Reads the whole content of a message of this size, with a reservation for this many times as much.
pub async fn load(
    call: &RequestContext,
    id: MessageId,
    octets: u64,
    times: u64,
) -> Result<(Vec<u8>, MemoryReservation)> {
    let mut reservation = call.reservation.beside();
    if !reservation.grow_to(times * octets) {
        return Err(memory_exhausted());
    }
    let content = call.store().content(id, call.now).await?.ok_or_else(content_removed)?;
    Ok((content.to_vec(), reservation))
}

/// Where the content of a message is that may be shown.
pub async fn find_content(call: &RequestContext, message: &Message) -> Result<StoredContent> {
    if message.kind == MessageKind::Confirmation {
        return Err(confirmation());
    }
    call.store().stored_content(message.id, call.now).await?.ok_or_else(content_removed)
}

/// The code in the message is for the owner of the address only.
fn confirmation() -> ApiError {
    ApiError::new(
        RefusalCode::NotFound,
        "a confirmation mail cannot be read",
        "ask the owner of the address for the code",
    )
}

/// Acquires the permit and the memory before it opens the file, because opening reads the whole file to verify it.
async fn begin(call: &RequestContext, id: MessageId, octets: u64) -> Result<ApiResponse> {
    let permit = call.api.message_streams.try_acquire(call.scope()).map_err(|_| too_many_downloads())?;
    let mut reservation = call.reservation.beside();
    if !reservation.grow_to(STREAM_OCTETS.min(octets)) {
        return Err(memory_exhausted());
    }
    let content = call.store().open_content(id, call.now).await?;
    let ContentFile { file, octets } = content.ok_or_else(content_removed)?;
    Ok(ApiResponse::message_stream(read(file, octets, reservation, permit), octets))
}

/// A file that is being sent.
struct FileStream {
    file: tokio::fs::File,
    left: u64,
    reservation: Arc<MemoryReservation>,
    _permit: TenantPermit,
}

/// Streams this many octets. It reads each piece once the connection has accepted the previous one.
fn read(file: File, octets: u64, reservation: MemoryReservation, permit: TenantPermit) -> Body {
    let mut file = tokio::fs::File::from_std(file);
    file.set_max_buf_size(PIECE_OCTETS);
    let reading = FileStream { file, left: octets, reservation: Arc::new(reservation), _permit: permit };
    let pieces = stream::try_unfold(reading, |mut reading| async move {
        let piece = reading.next_piece().await?;
        io::Result::Ok(piece.map(|piece| (piece, reading)))
    });
    Body::from_stream(pieces)
}

impl FileStream {
    async fn next_piece(&mut self) -> io::Result<Option<Bytes>> {
        let octets = self.left.min(PIECE_OCTETS as u64);
        if octets == 0 {
            return Ok(None);
        }
        let mut piece = vec![0; octets as usize];
        self.file.read_exact(&mut piece).await?;
        self.left -= octets;
        Ok(Some(self.reservation.hold_piece(piece)))
    }
}

fn content_removed() -> ApiError {
    ApiError::new(
        RefusalCode::NotFound,
        "the content of this message has been removed",
        "content is removed when its retention ends; the operator sets retention.body_days",
    )
}

fn too_many_downloads() -> ApiError {
    ApiError::new(
        RefusalCode::Overloaded,
        "limit reached: concurrent downloads of large messages",
        "finish the downloads in progress, or try again in a few seconds",
    )
}
