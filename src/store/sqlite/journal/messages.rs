//! The rows of messages.

use rusqlite::{Connection, OptionalExtension, Row};

use super::deliveries;
use crate::mail::{DeliveryState, MailParameters, MessageId, TenantId};
use crate::store::sqlite::page::List;
use crate::store::sqlite::rows::{count, json_if_any, time, time_if_any};
use crate::store::{Annotations, Message, MessageFilter, MessageSummary, Page, PageRequest, Result};

fn read_row(row: &Row<'_>) -> rusqlite::Result<Message> {
    Ok(Message {
        id: row.get("id")?,
        tenant_id: row.get("tenant_id")?,
        key_id: row.get("key_id")?,
        environment: row.get("environment")?,
        reverse_path: row.get("reverse_path")?,
        body: row.get("body")?,
        smtputf8: row.get("smtputf8")?,
        parameters: MailParameters {
            return_content: row.get("return_content")?,
            envelope_id: row.get("envelope_id")?,
            require_tls: row.get("require_tls")?,
            release_at: time_if_any(row, "release_us")?,
            deliver_by: None,
        },
        annotations: Annotations {
            tags: json_if_any(row, "tags")?.unwrap_or_default(),
            metadata: json_if_any(row, "metadata")?.unwrap_or_default(),
        },
        size: count(row, "size")?,
        subject: row.get("subject")?,
        header_from: row.get("header_from")?,
        header_message_id: row.get("header_message_id")?,
        dkim_domain: row.get("dkim_domain")?,
        created_at: time(row, "created_us")?,
        expires_at: time(row, "expires_us")?,
    })
}

pub(in crate::store::sqlite) fn find(connection: &Connection, id: MessageId) -> Result<Option<Message>> {
    let mut statement = connection.prepare_cached("SELECT * FROM message WHERE id = ?1")?;
    Ok(statement.query_row([id], read_row).optional()?)
}

pub(super) fn list(
    connection: &Connection,
    filter: &MessageFilter,
    page: &PageRequest,
) -> Result<Page<MessageSummary>> {
    let mut list = List::of("message", MessageId::PREFIX);
    list.only_if("tenant_id = ?", &filter.tenant_id)?;
    list.only_if("environment = ?", &filter.environment)?;
    list.only_if("reverse_path = ?", &filter.from)?;
    list.only_if("header_message_id = ?", &filter.header_message_id)?;
    list.only_if("id IN (SELECT message_id FROM delivery WHERE recipient = ?)", &filter.to)?;
    if let Some(tag) = &filter.tag {
        only_with_tag(&mut list, tag, filter.tenant_id)?;
    }
    if let Some(state) = filter.state {
        only_in_state(&mut list, state, filter.tenant_id)?;
    }
    let found = list.read(connection, page, read_row)?;
    let mut items = Vec::with_capacity(found.items.len());
    for message in found.items {
        let recipients =
            deliveries::first_recipients(connection, message.id, MessageSummary::RECIPIENTS_MAX)?;
        let states = deliveries::states(connection, message.id)?;
        items.push(MessageSummary {
            message,
            recipients,
            recipient_count: states.iter().map(|(_, count)| count).sum(),
            states: states.into_iter().map(|(state, _)| state).collect(),
        });
    }
    Ok(Page { items, has_more: found.has_more })
}

fn only_with_tag(list: &mut List, tag: &str, tenant: Option<TenantId>) -> Result<()> {
    match tenant {
        Some(tenant) => {
            let condition = "id IN (SELECT message_id FROM message_tag WHERE tag = ? AND tenant_id = ??)";
            list.only_both(condition, &tag, &tenant)
        }
        None => list
            .only("EXISTS (SELECT 1 FROM message_tag t WHERE t.message_id = message.id AND t.tag = ?)", &tag),
    }
}

/// A state that few deliveries are in is looked up by an index of its own; the others are soon found on the way.
fn only_in_state(list: &mut List, state: DeliveryState, tenant: Option<TenantId>) -> Result<()> {
    let Some(tenant) = tenant else {
        return list.only(
            "EXISTS (SELECT 1 FROM delivery d WHERE d.message_id = message.id AND d.state = ?)",
            &state,
        );
    };
    // The words of a partial index have to stand in the query.
    let partition = match state {
        DeliveryState::Delivered => {
            return list.only(
                "EXISTS (SELECT 1 FROM delivery d WHERE d.message_id = message.id AND d.state = ?)",
                &state,
            );
        }
        DeliveryState::Queued => "next_attempt_us IS NOT NULL",
        _ => "state <> 'queued' AND state <> 'delivered'",
    };
    let state_name = state.as_str();
    list.only(
        &format!(
            "id IN (SELECT message_id FROM delivery WHERE tenant_id = ? AND state = '{state_name}' AND {partition})"
        ),
        &tenant,
    )
}
