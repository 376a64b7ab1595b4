//! Conversion between columns and Rust types: ids and names as text, times as microseconds, structures as JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::mail::{
    Address, BodyType, Date, DomainName, EnhancedStatus, EnvelopeId, Host, Notify, OriginalRecipient,
    ReturnContent, ReversePath, Timestamp,
};
use crate::model::{
    AttemptId, AuditActor, AuditId, BounceClass, DeliveryId, DeliveryState, DisabledReason, DkimAlgorithm,
    DkimKeyId, DkimKeyState, DomainId, DomainStatus, Environment, ErasureId, EventId, EventKind,
    FeedbackType, InboxId, KeyId, LimitPeriod, ListName, MessageId, MessageKind, RefusalCode, ReportAction,
    ReportEffect, ReportId, ReportKind, RequestId, ReturnPathMode, ReturnPathStatus, SecretDigest, Stage,
    SuppressedMail, SuppressionId, SuppressionReason, TemplateId, TenantId, TenantStatus, TlsFailure,
    TlsPolicyType, UsageInterval, Verification, WebhookDeliveryId, WebhookDeliveryState, WebhookId,
    WebhookStatus, Weight,
};
use crate::store::database::{
    self, ColumnIndex, DatabaseError, FromSql, FromSqlError, FromSqlResult, Row, ToSql, ToSqlOutput,
    ToSqlResult, ValueRef, unreadable,
};
use crate::store::{Conflict, JournalCursor, Result, StoreError};

/// The error of a write that refers to nothing but a tenant, which may have been deleted.
pub(super) fn tenant_may_be_missing(error: DatabaseError) -> StoreError {
    if error.is_missing_reference() { StoreError::Conflict(Conflict::NoTenant) } else { error.into() }
}

/// A number of rows as an SQL parameter.
pub(super) fn sql_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

macro_rules! stored_as_text {
    ($($name:ty),* $(,)?) => {$(
        impl ToSql for $name {
            fn to_sql(&self) -> ToSqlResult<'_> {
                Ok(self.to_string().into())
            }
        }
        impl FromSql for $name {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                value.as_str()?.parse().map_err(unreadable)
            }
        }
    )*};
}

macro_rules! stored_as_name {
    ($($name:ty),* $(,)?) => {$(
        impl ToSql for $name {
            fn to_sql(&self) -> ToSqlResult<'_> {
                Ok(self.as_str().into())
            }
        }
        impl FromSql for $name {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                value.as_str()?.parse().map_err(unreadable)
            }
        }
    )*};
}

stored_as_text!(
    JournalCursor,
    AuditId,
    TenantId,
    DomainId,
    KeyId,
    DkimKeyId,
    MessageId,
    DeliveryId,
    AttemptId,
    EventId,
    SuppressionId,
    InboxId,
    ReportId,
    ErasureId,
    RequestId,
    TemplateId,
    WebhookId,
    WebhookDeliveryId,
    Address,
    EnhancedStatus,
    EnvelopeId,
    OriginalRecipient,
    Notify,
);
stored_as_name!(
    AuditActor,
    TlsFailure,
    TlsPolicyType,
    DomainName,
    Environment,
    MessageKind,
    TenantStatus,
    DomainStatus,
    Verification,
    DkimAlgorithm,
    DkimKeyState,
    SuppressionReason,
    SuppressedMail,
    ListName,
    ReportKind,
    ReportEffect,
    ReportAction,
    FeedbackType,
    ReturnPathMode,
    ReturnPathStatus,
    DeliveryState,
    BounceClass,
    Stage,
    EventKind,
    ReturnContent,
    UsageInterval,
    LimitPeriod,
    WebhookStatus,
    DisabledReason,
    WebhookDeliveryState,
);

impl ToSql for Host {
    fn to_sql(&self) -> ToSqlResult<'_> {
        match self {
            Self::Domain(name) => name.to_sql(),
            Self::Literal(_) => Ok(self.to_string().into()),
        }
    }
}

impl FromSql for Host {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Self::parse(value.as_str()?).map_err(unreadable)
    }
}

impl ToSql for Weight {
    fn to_sql(&self) -> ToSqlResult<'_> {
        Ok(ToSqlOutput::from(u32::from(*self)))
    }
}

impl FromSql for Weight {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        u32::column_result(value)?.try_into().map_err(unreadable)
    }
}

impl ToSql for ReversePath {
    fn to_sql(&self) -> ToSqlResult<'_> {
        Ok(self.to_string().into())
    }
}

impl FromSql for ReversePath {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Self::parse(value.as_str()?).map_err(unreadable)
    }
}

impl ToSql for BodyType {
    fn to_sql(&self) -> ToSqlResult<'_> {
        Ok(match self {
            Self::SevenBit => "7bit",
            Self::EightBitMime => "8bitmime",
        }
        .into())
    }
}

impl FromSql for BodyType {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Ok(if value.as_str()? == "8bitmime" { Self::EightBitMime } else { Self::SevenBit })
    }
}

impl ToSql for RefusalCode {
    fn to_sql(&self) -> ToSqlResult<'_> {
        Ok(self.as_str().into())
    }
}

impl FromSql for RefusalCode {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let text = value.as_str()?;
        // An earlier version may have written a code that no longer exists.
        Ok(Self::ALL.iter().copied().find(|code| code.as_str() == text).unwrap_or(Self::Internal))
    }
}

impl ToSql for SecretDigest {
    fn to_sql(&self) -> ToSqlResult<'_> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Blob(self.as_bytes())))
    }
}

impl FromSql for SecretDigest {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Ok(<[u8; 32]>::column_result(value)?.into())
    }
}

/// Reads a column with a count.
pub(super) fn count(row: &Row<'_>, column: impl ColumnIndex) -> database::Result<u64> {
    let count: i64 = row.get(column)?;
    u64::try_from(count).map_err(|_| FromSqlError::OutOfRange(count).into())
}

/// The column value of a time.
pub(super) fn us(time: Timestamp) -> i64 {
    time.as_microsecond()
}

/// Reads a column with a time.
pub(super) fn time(row: &Row<'_>, column: impl ColumnIndex) -> database::Result<Timestamp> {
    time_of(row.get(column)?)
}

/// A day, as `2026-11-22`.
pub(super) fn day(row: &Row<'_>, column: impl ColumnIndex) -> database::Result<Date> {
    let text: String = row.get(column)?;
    text.parse().map_err(|error| unreadable(error).into())
}

/// Reads a column with a time or NULL.
pub(super) fn time_if_any(row: &Row<'_>, column: impl ColumnIndex) -> database::Result<Option<Timestamp>> {
    row.get::<_, Option<i64>>(column)?.map(time_of).transpose()
}

/// A time in a column.
pub(super) fn time_of(microseconds: i64) -> database::Result<Timestamp> {
    Timestamp::from_microsecond(microseconds).map_err(|error| unreadable(error).into())
}

/// The column value of a structure.
pub(super) fn to_json<T: Serialize + ?Sized>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| StoreError::Failed(error.to_string()))
}

/// Reads a column with a structure.
pub(super) fn json<T: DeserializeOwned>(row: &Row<'_>, column: impl ColumnIndex) -> database::Result<T> {
    serde_json::from_str(row.get_ref(column)?.as_str()?).map_err(|error| unreadable(error).into())
}

/// Reads a column with a structure or NULL.
pub(super) fn json_if_any<T: DeserializeOwned>(
    row: &Row<'_>,
    column: impl ColumnIndex,
) -> database::Result<Option<T>> {
    let Some(text) = row.get_ref(column)?.as_str_or_null()? else { return Ok(None) };
    serde_json::from_str(text).map(Some).map_err(|error| unreadable(error).into())
}

/// Reads a column with the text form of a type or NULL.
pub(super) fn parsed_if_any<T>(row: &Row<'_>, column: impl ColumnIndex) -> database::Result<Option<T>>
where
    T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    let Some(text) = row.get_ref(column)?.as_str_or_null()? else { return Ok(None) };
    text.parse().map(Some).map_err(|error| unreadable(error).into())
}

/// Truncates a text to a number of octets at a character boundary.
pub(super) fn shorten(text: &str, octets_max: usize) -> &str {
    &text[..text.floor_char_boundary(octets_max)]
}
