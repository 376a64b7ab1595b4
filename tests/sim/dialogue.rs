//! The client's side of an SMTP session with the server.

use std::time::Duration;

use tokio::time::timeout;

use crate::wire::Wire;

/// How long a client waits for a reply.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// A session. `None` is the answer of a connection that is lost.
pub struct Dialogue(Wire);

impl Dialogue {
    /// Waits for the greeting.
    pub async fn begin(wire: Wire) -> Option<Self> {
        let mut dialogue = Self(wire);
        dialogue.reply().await.filter(|greeting| greeting.starts_with('2'))?;
        Some(dialogue)
    }

    /// Says the commands one after the other. Returns the reply to the first that is refused, if one is.
    pub async fn say_all(&mut self, commands: &[String]) -> Option<Result<(), String>> {
        for command in commands {
            let reply = self.say(command).await?;
            if reply.starts_with(['4', '5']) {
                return Some(Err(reply));
            }
        }
        Some(Ok(()))
    }

    /// Sends a message after DATA, and returns the last line of the reply.
    pub async fn send(&mut self, message: &str) -> Option<String> {
        let message = message.replace("\r\n.", "\r\n..");
        self.say(&format!("{message}\r\n.")).await
    }

    /// Says a command, and returns the last line of the reply.
    pub async fn say(&mut self, line: &str) -> Option<String> {
        timeout(PATIENCE, self.0.write(format!("{line}\r\n").as_bytes())).await.ok()?.ok()?;
        self.reply().await
    }

    async fn reply(&mut self) -> Option<String> {
        loop {
            let line = timeout(PATIENCE, self.0.read_line()).await.ok()?.ok()??;
            let line = String::from_utf8_lossy(&line).into_owned();
            if line.as_bytes().get(3) != Some(&b'-') {
                return Some(line);
            }
        }
    }
}
