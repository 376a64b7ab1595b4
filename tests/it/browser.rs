//! A browser as far as the pages need it: it keeps the cookie of its session, reads the token of its forms and sends them.

use std::net::SocketAddr;

use pillarbox::ui::{PAGES, Page};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::api_objects::Belongings;
use crate::http::{Answer, exchange};
use crate::wait::PATIENCE;

/// A browser at one address.
#[derive(Clone)]
pub struct Browser {
    pub address: SocketAddr,
    /// `name=value` of the cookie.
    pub cookie: Option<String>,
    /// What it sends as `Origin`.
    pub origin: String,
}

impl Browser {
    /// Nobody is signed in.
    pub fn at(address: SocketAddr) -> Self {
        Self { address, cookie: None, origin: "http://localhost".into() }
    }

    /// Signs in with a key.
    pub async fn signed_in(address: SocketAddr, key: &str) -> Self {
        let mut browser = Self::at(address);
        let answer = browser.sign_in(&[("key", key)]).await;
        assert_eq!(answer.status, 303, "{answer}");
        browser
    }

    /// Sends the form of the sign-in page and keeps the cookie.
    pub async fn sign_in(&mut self, fields: &[(&str, &str)]) -> Answer {
        let answer = self.post_as_is("/ui/sign-in", fields).await;
        if let Some(cookie) = answer.header("set-cookie") {
            self.cookie = cookie.split(';').next().map(str::to_owned);
        }
        answer
    }

    /// Opens a link of `POST /v1/sessions` as the script does.
    pub async fn open_link(&mut self, url: &str) -> Answer {
        let token = url.split_once('#').expect("a token").1;
        self.sign_in(&[("link", token)]).await
    }

    /// Opens a page.
    pub async fn get(&self, target: &str) -> Answer {
        self.send("GET", target, &[], None).await
    }

    /// A page that must be there.
    pub async fn page(&self, target: &str) -> String {
        let answer = self.get(target).await;
        assert_eq!(answer.status, 200, "{target}: {answer}");
        String::from_utf8(answer.body).unwrap()
    }

    /// The token of the forms of this session.
    pub async fn token(&self) -> String {
        let page = self.page("/ui/settings").await;
        let (_, rest) = page.split_once("name=\"token\" value=\"").expect("a form");
        rest.split('"').next().unwrap().to_owned()
    }

    /// Sends a form of a page with the token of this session.
    pub async fn post(&self, target: &str, fields: &[(&str, &str)]) -> Answer {
        let token = self.token().await;
        let fields: Vec<_> = [("token", token.as_str())].into_iter().chain(fields.iter().copied()).collect();
        self.post_as_is(target, &fields).await
    }

    /// Sends a form without adding a token.
    pub async fn post_as_is(&self, target: &str, fields: &[(&str, &str)]) -> Answer {
        self.send(
            "POST",
            target,
            &[("Origin", &self.origin), ("Sec-Fetch-Site", "same-origin")],
            Some(fields),
        )
        .await
    }

    /// Sends a request with these headers.
    pub async fn send(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        fields: Option<&[(&str, &str)]>,
    ) -> Answer {
        let mut text = format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAccept: text/html\r\n"
        );
        if let Some(cookie) = &self.cookie {
            text += &format!("Cookie: {cookie}\r\n");
        }
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        let body = fields.map(|fields| {
            url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields.iter().copied()).finish()
        });
        if let Some(body) = &body {
            text += &format!(
                "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n",
                body.len()
            );
        }
        exchange(self.address, (text + "\r\n" + &body.unwrap_or_default()).as_bytes()).await
    }
}

/// A stream of events that a page follows.
pub struct Stream {
    stream: TcpStream,
    text: String,
}

impl Browser {
    /// Opens a stream of events.
    pub async fn follow(&self, target: &str) -> Stream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let cookie = self.cookie.as_deref().unwrap_or_default();
        let head = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut stream = Stream { stream, text: String::new() };
        stream.until("events follow").await;
        stream
    }
}

impl Stream {
    /// Waits for the end of the stream: the last chunk (RFC 9112 §7.1).
    pub async fn until_end(&mut self) {
        // Heartbeats come until then.
        timeout(PATIENCE, self.until("\r\n0\r\n\r\n")).await.expect("the end of the stream in time");
    }

    /// Everything that came, once this text is in it.
    pub async fn until(&mut self, part: &str) -> &str {
        while !self.text.contains(part) {
            let mut chunk = [0; 4096];
            let count =
                timeout(PATIENCE, self.stream.read(&mut chunk)).await.expect("an event in time").unwrap();
            assert!(count > 0, "the stream ended: {}", self.text);
            self.text.push_str(&String::from_utf8_lossy(&chunk[..count]));
        }
        &self.text
    }
}

/// The code of an error that a page shows.
pub fn code_of(answer: &Answer) -> String {
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let after = |start: &str| Some(text.split_once(start)?.1.split('<').next()?.to_owned());
    let shown = after("<dt>Code</dt><dd><code>").or_else(|| after("<p class=\"small soft\"><code>"));
    shown.unwrap_or_default()
}

/// The path of a page with the ids of these objects.
pub fn target_of(page: &Page, own: &Belongings) -> String {
    let tenant = own.tenant.id.to_string();
    let id = match page.path.split('/').nth(2).unwrap_or_default() {
        "tenants" => &tenant,
        "domains" => &own.domain,
        "keys" => &own.key,
        "templates" => &own.template,
        "webhooks" if page.path.contains("deliveries") => &own.webhook_delivery,
        "webhooks" => &own.webhook,
        "suppressions" => &own.suppression,
        "reports" => &own.report,
        "rejections" => &own.rejection,
        "audit" => &own.audit_entry,
        _ => &own.email,
    };
    page.path.replace("{id}", id).replace("{part}", "0")
}

/// Each page but the stream of events, which never ends.
pub fn pages() -> impl Iterator<Item = &'static Page> {
    PAGES.iter().filter(|page| page.path != "/ui/messages/live")
}

/// The values of an attribute in a page.
pub fn attributes<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
    let start = format!(" {name}=\"");
    page.split(start.as_str()).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}
