//! The begin of an SMTP dialogue, for looks at servers.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

/// Longest reply that is read, in octets.
const REPLY_OCTETS_MAX: u64 = 16 * 1024;

/// Reads the lines of a reply.
///
/// # Errors
/// The connection failed, or the reply does not end.
pub async fn read_reply(stream: &mut BufReader<impl AsyncRead + Unpin>) -> io::Result<Vec<String>> {
    let mut limited = stream.take(REPLY_OCTETS_MAX);
    let mut lines = Vec::new();
    loop {
        let mut line = Vec::new();
        if limited.read_until(b'\n', &mut line).await? == 0 {
            return Err(io::Error::other("the connection was closed"));
        }
        lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
        if line.get(3) != Some(&b'-') {
            return Ok(lines);
        }
    }
}
