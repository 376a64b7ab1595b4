//! Plays scripted dialogues over a stream.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::dialogue::{Dialogue, Step, Variables, contains, fill, fill_bytes, is_continued, matches};
use crate::wait::PATIENCE;

/// The steps between the TLS handshakes. The caller performs the handshake between two parts; a dialogue that starts
/// with TLS has an empty first part.
pub fn parts(dialogue: &Dialogue) -> Vec<&[(usize, Step)]> {
    dialogue.steps.split(|(_, step)| *step == Step::Tls).collect()
}

/// Plays one part over a stream. Panics with file and line if the server replies something else.
pub async fn play<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    name: &str,
    part: &[(usize, Step)],
    variables: &Variables<'_>,
) {
    let mut received = Vec::new();
    let mut to_send = Vec::new();
    for (number, step) in part {
        let place = format!("{name}:{number}");
        if let Step::Send(bytes) = step {
            to_send.extend(fill_bytes(bytes, variables));
            continue;
        }
        send(stream, &mut to_send, &place).await;
        match step {
            Step::Line(pattern) => {
                let line = read_line(stream, &mut received, &place).await;
                let pattern = fill(pattern, variables);
                assert!(matches(&pattern, &line), "{place}: expected {pattern:?}, got {line:?}");
            }
            Step::ReplyWith(pattern) | Step::ReplyWithout(pattern) => {
                let pattern = fill(pattern, variables);
                let mut lines = vec![read_line(stream, &mut received, &place).await];
                while is_continued(&lines[lines.len() - 1]) {
                    lines.push(read_line(stream, &mut received, &place).await);
                }
                let wanted = matches!(step, Step::ReplyWith(_));
                assert!(contains(&pattern, &lines) == wanted, "{place}: {step:?}, got {lines:#?}");
            }
            Step::Closed => {
                let mut rest = Vec::new();
                // A reset ends the connection too.
                let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the server closes");
                received.extend(rest);
                assert!(
                    received.is_empty(),
                    "{place}: expected the end, got {:?}",
                    received.escape_ascii().to_string()
                );
            }
            Step::Send(_) | Step::Tls => {}
        }
    }
    send(stream, &mut to_send, name).await;
    assert!(received.is_empty(), "{name}: more was said: {:?}", received.escape_ascii().to_string());
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, to_send: &mut Vec<u8>, place: &str) {
    let sending = async {
        stream.write_all(to_send).await?;
        stream.flush().await
    };
    match timeout(PATIENCE, sending).await {
        Ok(sent) => sent.unwrap_or_else(|error| panic!("{place}: cannot send: {error}")),
        Err(_) => panic!("{place}: the server does not take what is sent"),
    }
    to_send.clear();
}

async fn read_line<S: AsyncRead + Unpin>(stream: &mut S, received: &mut Vec<u8>, place: &str) -> String {
    loop {
        if let Some(end) = received.windows(2).position(|pair| pair == b"\r\n") {
            let line = received.drain(..end + 2).take(end).collect();
            return String::from_utf8(line).unwrap_or_else(|_| panic!("{place}: a reply is not UTF-8"));
        }
        match timeout(PATIENCE, stream.read_buf(received)).await {
            Ok(Ok(0)) => panic!("{place}: the server closed"),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => panic!("{place}: the connection broke: {error}"),
            Err(_) => panic!("{place}: the server says nothing"),
        }
    }
}
