//! `pillarbox tail`: events as they happen, over breaks of the connection.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use super::api_client::{ApiClient, Query, Refused, Server};
use super::screen::{Audience, print, text, time};
use crate::http_client::ResponseStream;

/// Before a connection that broke is made again, unless the server says otherwise.
const PAUSE_DEFAULT: Duration = Duration::from_secs(2);
/// Whatever the server says.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Without a word from the server, which says something every quarter of a minute: then it is gone, or the way to it.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Of one line; the server's are far shorter.
const LINE_OCTETS_MAX: usize = 4 * 1024 * 1024;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    server: Server,
    /// Only events of this tenant (slug or id)
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Only events of this type, like message.bounced
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Only events of this message: msg_…
    #[arg(long, value_name = "ID")]
    message: Option<String>,
    /// Begins behind this event (evt_…) instead of now
    #[arg(long, value_name = "ID")]
    after: Option<String>,
    /// Ends after so many events
    #[arg(long, value_name = "COUNT")]
    count: Option<u64>,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { server, tenant, kind, message, after, count } = arguments;
    server.ask(async |client| {
        let mut query = client.tenant_parameter(tenant.as_deref()).await?;
        query.extend(kind.map(|kind| ("type", kind)));
        query.extend(message.map(|message| ("message_id", message)));
        let reader = Reader { last_id: after, pause: PAUSE_DEFAULT, ..Reader::default() };
        follow(&client, &query, reader, count.unwrap_or(u64::MAX)).await
    })
}

/// Shows events until there were so many. Who was let in once is patient, but takes no for an answer.
async fn follow(client: &ApiClient, query: &Query, mut reader: Reader, mut left: u64) -> anyhow::Result<()> {
    let mut flow = client.follow_events(query, reader.last_id.as_deref()).await?;
    loop {
        let end = show(client, &mut flow, &mut reader, &mut left).await?;
        if left == 0 {
            return Ok(());
        }
        eprintln!("{end}; connecting again");
        let mut told = String::new();
        flow = loop {
            tokio::time::sleep(reader.pause.min(PAUSE_MAX)).await;
            match client.follow_events(query, reader.last_id.as_deref()).await {
                Ok(flow) => break flow,
                Err(error) if error.is::<Refused>() => return Err(error),
                Err(error) => {
                    let error = format!("{error:#}");
                    if error != told {
                        eprintln!("{error}; trying again");
                        told = error;
                    }
                }
            }
        };
        reader.forget_rest();
    }
}

/// Shows events as long as the connection lasts; why it ended.
async fn show(
    client: &ApiClient,
    flow: &mut ResponseStream,
    reader: &mut Reader,
    left: &mut u64,
) -> anyhow::Result<String> {
    loop {
        let piece = match hear(flow, SILENCE_MAX).await {
            Ok(Some(piece)) => piece,
            Ok(None) => return Ok(reader.farewell.take().unwrap_or("the connection was closed".to_owned())),
            Err(end) => return Ok(end),
        };
        for event in reader.feed(&piece) {
            if *left == 0 {
                return Ok(String::new());
            }
            *left -= 1;
            print(&match client.audience {
                Audience::Programs => event + "\n",
                Audience::People => tell(&event),
            })?;
        }
        if *left == 0 {
            return Ok(String::new());
        }
    }
}

/// What the server says next; the error says why it says nothing more.
async fn hear(flow: &mut ResponseStream, silence_max: Duration) -> Result<Option<Bytes>, String> {
    match tokio::time::timeout(silence_max, flow.next()).await {
        Ok(heard) => heard.map_err(|error| error.to_string()),
        Err(_) => Err(format!("nothing was heard for {} s", silence_max.as_secs_f32())),
    }
}

/// Reads server-sent events (HTML Living Standard §9.2.6), as far as this server uses them.
#[derive(Default)]
struct Reader {
    /// Octets of a line that has not ended.
    rest: Vec<u8>,
    data: String,
    last_id: Option<String>,
    pause: Duration,
    /// The last comment, in which the server says why it ends.
    farewell: Option<String>,
}

impl Reader {
    /// The data of the events that are complete with this piece.
    fn feed(&mut self, piece: &[u8]) -> Vec<String> {
        self.rest.extend_from_slice(piece);
        let mut events = Vec::new();
        let mut start = 0;
        while let Some(end) = memchr::memchr(b'\n', &self.rest[start..]).map(|found| start + found) {
            let line = String::from_utf8_lossy(&self.rest[start..end]).into_owned();
            start = end + 1;
            events.extend(self.take(line.trim_end_matches('\r')));
        }
        self.rest.drain(..start);
        if self.rest.len() > LINE_OCTETS_MAX {
            self.rest.clear();
        }
        events
    }

    fn take(&mut self, line: &str) -> Option<String> {
        if line.is_empty() {
            return Some(std::mem::take(&mut self.data)).filter(|data| !data.is_empty());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => self.farewell = Some(value.to_owned()).filter(|comment| !comment.is_empty()),
            "data" => self.data += value,
            "id" => self.last_id = Some(value.to_owned()),
            "retry" => self.pause = value.parse().map_or(self.pause, Duration::from_millis),
            _ => {}
        }
        None
    }

    /// What came of an event before a break comes again.
    fn forget_rest(&mut self) {
        self.rest.clear();
        self.data.clear();
    }
}

/// One event on a line: when, what, to whom or of which message, and why.
fn tell(event: &str) -> String {
    let event: Value = serde_json::from_str(event).unwrap_or_default();
    let at = time(&event["created_at"]).map_or("-".to_owned(), |at| at.strftime("%H:%M:%S").to_string());
    let subject = ["recipient", "message_id", "tenant_id"].iter().find_map(|field| event[*field].as_str());
    let message = event["message_id"].as_str().filter(|_| event["recipient"].is_string());
    let data = &event["data"];
    let details = ["domain", "address", "code", "reply", "reason"].iter();
    let details = details.filter_map(|field| data[*field].as_str()).collect::<Vec<_>>().join("; ");
    let kind = format!("{:<20}", text(&event, "type"));
    let parts = [Some(at.as_str()), Some(&kind), subject, message, Some(&details)];
    let parts: Vec<_> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
    parts.join("  ").trim_end().replace(char::is_control, " ") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http_client::{Client, NameResolution, Request};
    use hyper::{HeaderMap, Method};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_server_that_falls_silent_is_left() {
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
        let mut flow = client.open(request, Duration::from_secs(20)).await.unwrap();
        let _open = server.await.unwrap();
        assert_eq!(hear(&mut flow, Duration::from_secs(20)).await.unwrap().unwrap(), ": hello\n\n");
        let end = hear(&mut flow, Duration::from_millis(50)).await;
        assert_eq!(end.unwrap_err(), "nothing was heard for 0.05 s");
    }

    #[test]
    fn events_are_read_however_they_are_split() {
        let text = "retry: 500\n: hello\n\nid: evt_1\nevent: a\ndata: {\"x\":1}\n\nid: evt_2\r\ndata: {}\r\n\r\n: bye\n\ndata";
        for size in 1..text.len() {
            let mut reader = Reader::default();
            let events: Vec<_> = text.as_bytes().chunks(size).flat_map(|piece| reader.feed(piece)).collect();
            assert_eq!(events, ["{\"x\":1}", "{}"], "in pieces of {size}");
            assert_eq!(reader.last_id.as_deref(), Some("evt_2"));
            assert_eq!((reader.pause, reader.farewell.as_deref()), (Duration::from_millis(500), Some("bye")));
        }
    }
}
