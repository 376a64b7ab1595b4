//! The platform's hold on a server: requests of the control API that must succeed.

use std::net::SocketAddr;

use serde_json::Value;

use crate::http::request;

pub struct Control {
    pub address: SocketAddr,
    pub secret: String,
}

impl Control {
    /// One request that must succeed; the JSON of the answer. A null body is none.
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
