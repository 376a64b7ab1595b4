//! `pillarbox tail`: prints events as they happen and reconnects when the connection breaks.

use std::time::Duration;

use bytes::Bytes;

use super::api_client::{ApiClient, Query, Refusal, ServerArguments};
use super::event::event_text;
use super::output::{OutputFormat, print, printable_lines};
use super::pagination::OwnerArguments;
use crate::http_client::ResponseStream;
use crate::model::RefusalCode;

/// Delay before a reconnection, unless the server sends another one.
const RECONNECT_DELAY_DEFAULT: Duration = Duration::from_secs(2);
const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(60);
/// The server sends at least a comment every 15 seconds. After this time without data the connection is broken.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Longer lines and events are discarded; those of the server are far shorter.
const EVENT_OCTETS_MAX: usize = 4 * 1024 * 1024;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    #[command(flatten)]
    owner: OwnerArguments,
    /// Only events of this type, for example message.bounced
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Only events of this message: msg_…
    #[arg(long, value_name = "ID")]
    message: Option<String>,
    /// Starts after this event (evt_…) instead of now
    #[arg(long, value_name = "ID")]
    after: Option<String>,
    /// Stops after this number of events
    #[arg(long, value_name = "COUNT")]
    count: Option<u64>,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { server, owner, kind, message, after, count } = arguments;
    server.run(async |client| {
        let mut query = owner.query(&client).await?;
        query.extend(kind.map(|kind| ("type", kind)));
        query.extend(message.map(|message| ("message_id", message)));
        let reader = EventReader::new(after, RECONNECT_DELAY_DEFAULT);
        follow(&client, &query, reader, count.unwrap_or(u64::MAX)).await
    })
}

/// Prints `remaining` events. A first connection that fails is an error; later ones are retried until the server refuses.
async fn follow(
    client: &ApiClient,
    query: &Query,
    mut reader: EventReader,
    mut remaining: u64,
) -> anyhow::Result<()> {
    let mut stream = client.follow_events(query, reader.last_event_id.as_deref()).await?;
    while remaining > 0 {
        let Some(end) = print_events(client.output, &mut stream, &mut reader, &mut remaining).await? else {
            break;
        };
        eprintln!("{}; reconnecting", printable_lines(&end));
        stream = reconnect(client, query, &reader).await?;
        // The server sends an interrupted event again.
        reader = EventReader::new(reader.last_event_id, reader.reconnect_delay);
    }
    Ok(())
}

/// Retries until the server accepts or refuses. Prints each error once while it stays the same.
async fn reconnect(
    client: &ApiClient,
    query: &Query,
    reader: &EventReader,
) -> anyhow::Result<ResponseStream> {
    let mut printed = String::new();
    loop {
        tokio::time::sleep(reader.reconnect_delay.min(RECONNECT_DELAY_MAX)).await;
        match client.follow_events(query, reader.last_event_id.as_deref()).await {
            Ok(stream) => return Ok(stream),
            Err(error) if error.downcast_ref().is_some_and(|refusal| !is_temporary(refusal)) => {
                return Err(error);
            }
            Err(error) => {
                let error = format!("{error:#}");
                if error != printed {
                    eprintln!("{error}; trying again");
                    printed = error;
                }
            }
        }
    }
}

/// Whether the server may accept the same request later. The server may still count the connection that broke.
fn is_temporary(refusal: &Refusal) -> bool {
    let codes = [RefusalCode::RateLimited, RefusalCode::Overloaded, RefusalCode::StorageUnavailable];
    codes.iter().any(|code| code.as_str() == refusal.code)
}

/// Prints events until the connection ends, and returns the reason; `None` if no events remain to be printed.
async fn print_events(
    output: OutputFormat,
    stream: &mut ResponseStream,
    reader: &mut EventReader,
    remaining: &mut u64,
) -> anyhow::Result<Option<String>> {
    loop {
        let chunk = match next_chunk(stream, SILENCE_MAX).await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => {
                let comment = reader.last_comment.take();
                return Ok(Some(comment.unwrap_or("the server closed the connection".to_owned())));
            }
            Err(end) => return Ok(Some(end)),
        };
        for event in reader.read(&chunk) {
            print(&match output {
                OutputFormat::Json => event + "\n",
                OutputFormat::Text => event_text(&event),
            })?;
            *remaining -= 1;
            if *remaining == 0 {
                return Ok(None);
            }
        }
    }
}

/// The next data of the stream; `None` at its end. The error is the reason why the connection is given up.
async fn next_chunk(stream: &mut ResponseStream, silence_max: Duration) -> Result<Option<Bytes>, String> {
    match tokio::time::timeout(silence_max, stream.next()).await {
        Ok(chunk) => chunk.map_err(|error| error.to_string()),
        Err(_) => Err(format!("the server sent nothing for {} s", silence_max.as_secs_f32())),
    }
}

/// Reads server-sent events (HTML Living Standard §9.2.6), as far as this server uses them.
///
/// The crate eventsource-stream (0.2.3) cannot do this: it discards comments, in which the server says why it ends, and a
/// `retry` without an event; it buffers a line without limit; and a byte order mark makes it panic.
#[derive(Default)]
struct EventReader {
    /// The line that has not ended.
    partial_line: Vec<u8>,
    /// Data of the event that has not ended.
    data: String,
    /// Whether that event has too much data.
    is_too_long: bool,
    /// The id of the event that has not ended; later events without an id keep it.
    id: Option<String>,
    /// The id of the last complete event: a reconnection continues after it.
    last_event_id: Option<String>,
    reconnect_delay: Duration,
    last_comment: Option<String>,
}

impl EventReader {
    fn new(last_event_id: Option<String>, reconnect_delay: Duration) -> Self {
        Self { id: last_event_id.clone(), last_event_id, reconnect_delay, ..Self::default() }
    }

    /// The data of the events that end in this chunk.
    fn read(&mut self, chunk: &[u8]) -> Vec<String> {
        self.partial_line.extend_from_slice(chunk);
        let mut events = Vec::new();
        let mut start = 0;
        while let Some(end) = memchr::memchr(b'\n', &self.partial_line[start..]).map(|found| start + found) {
            let line = String::from_utf8_lossy(&self.partial_line[start..end]).into_owned();
            start = end + 1;
            events.extend(self.read_line(line.trim_end_matches('\r')));
        }
        self.partial_line.drain(..start);
        if self.partial_line.len() > EVENT_OCTETS_MAX {
            self.partial_line.clear();
        }
        events
    }

    /// The data of the event that ends with this line.
    fn read_line(&mut self, line: &str) -> Option<String> {
        if line.is_empty() {
            self.last_event_id.clone_from(&self.id);
            let is_whole = !std::mem::take(&mut self.is_too_long);
            return Some(std::mem::take(&mut self.data)).filter(|data| is_whole && !data.is_empty());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => self.last_comment = Some(value.to_owned()).filter(|comment| !comment.is_empty()),
            "data" if self.data.len() + value.len() > EVENT_OCTETS_MAX => self.is_too_long = true,
            "data" => self.data += value,
            "id" => self.id = Some(value.to_owned()),
            "retry" => {
                self.reconnect_delay = value.parse().map_or(self.reconnect_delay, Duration::from_millis);
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http_client::{Client, NameResolution, Request};
    use hyper::{HeaderMap, Method};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_connection_without_data_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n: hello\n\n").await.unwrap();
            stream
        });
        let client = Client::new(NameResolution::System, None, &["127.0.0.0/8".parse().unwrap()]).unwrap();
        let request = Request { method: Method::GET, url, headers: HeaderMap::new(), body: Bytes::new() };
        let mut stream = client.open(request, Duration::from_secs(20)).await.unwrap();
        let _open = server.await.unwrap();
        assert_eq!(next_chunk(&mut stream, Duration::from_secs(20)).await.unwrap().unwrap(), ": hello\n\n");
        let end = next_chunk(&mut stream, Duration::from_millis(50)).await;
        assert_eq!(end.unwrap_err(), "the server sent nothing for 0.05 s");
    }

    #[test]
    fn events_are_read_however_they_are_split() {
        let text = "retry: 500\n: hello\n\nid: evt_1\nevent: a\ndata: {\"x\":1}\n\nid: evt_2\r\ndata: {}\r\n\r\n: bye\n\ndata";
        for size in 1..text.len() {
            let mut reader = EventReader::new(None, RECONNECT_DELAY_DEFAULT);
            let events: Vec<_> = text.as_bytes().chunks(size).flat_map(|chunk| reader.read(chunk)).collect();
            assert_eq!(events, ["{\"x\":1}", "{}"], "in chunks of {size}");
            assert_eq!(reader.last_event_id.as_deref(), Some("evt_2"));
            assert_eq!(reader.reconnect_delay, Duration::from_millis(500));
            assert_eq!(reader.last_comment.as_deref(), Some("bye"));
        }
    }

    #[test]
    fn a_reconnection_continues_after_the_last_complete_event() {
        let mut reader = EventReader::new(Some("evt_0".into()), RECONNECT_DELAY_DEFAULT);
        assert!(reader.read(b"id: evt_1\ndata: {").is_empty());
        assert_eq!(reader.last_event_id.as_deref(), Some("evt_0"));
        let mut reader = EventReader::new(reader.last_event_id, reader.reconnect_delay);
        assert_eq!(reader.read(b"id: evt_1\ndata: {}\n\nid: evt_2\n"), ["{}"]);
        assert_eq!(reader.last_event_id.as_deref(), Some("evt_1"));
    }

    #[test]
    fn a_reconnection_before_the_first_event_continues_after_the_position_of_the_stream() {
        let mut reader = EventReader::new(None, RECONNECT_DELAY_DEFAULT);
        assert!(reader.read(b"retry: 2000\n: hello\nid: cur_1\n\nid: cur_2\n\n").is_empty());
        assert_eq!(reader.last_event_id.as_deref(), Some("cur_2"));
    }

    #[test]
    fn an_event_with_too_much_data_is_discarded() {
        let mut reader = EventReader::new(None, RECONNECT_DELAY_DEFAULT);
        let line = [b"data: ", &vec![b'x'; 1024 * 1024][..], b"\n"].concat();
        for _ in 0..=EVENT_OCTETS_MAX / (1024 * 1024) {
            assert!(reader.read(&line).is_empty());
            assert!(reader.data.len() <= EVENT_OCTETS_MAX);
        }
        assert_eq!(reader.read(b"data: x\n\nid: evt_2\ndata: {}\n\n"), ["{}"]);
    }

    #[test]
    fn an_endless_line_is_discarded() {
        let mut reader = EventReader::new(None, RECONNECT_DELAY_DEFAULT);
        for _ in 0..=EVENT_OCTETS_MAX / (1024 * 1024) {
            assert!(reader.read(&vec![b'x'; 1024 * 1024]).is_empty());
        }
        assert!(reader.partial_line.len() <= EVENT_OCTETS_MAX);
    }
}
