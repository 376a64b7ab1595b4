//! The platform's access to a server: requests of the control API that must succeed.

use std::net::SocketAddr;

use serde_json::Value;

use crate::http::request;

pub struct Control {
    pub address: SocketAddr,
    pub secret: String,
}

impl Control {
    /// Sends a request that must succeed and returns the JSON of the response. A null body is not sent.
    pub async fn ok(&self, method: &str, path: &str, body: Value) -> Value {
        let body = (!body.is_null()).then_some(&body);
        let answer = request(self.address, method, path, Some(&self.secret), body).await;
        assert!((200..300).contains(&answer.status), "{method} {path}: {answer}");
        if answer.body.is_empty() { Value::Null } else { answer.json() }
    }

    pub async fn get(&self, path: &str) -> Value {
        self.ok("GET", path, Value::Null).await
    }
}
