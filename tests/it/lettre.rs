//! lettre as an independent client: text, a UTF-8 subject, an attachment; over STARTTLS and implicit TLS.

use lettre::message::header::ContentType;
use lettre::message::{Attachment, MultiPart, SinglePart};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};

use crate::server::{Account, HOSTNAME, TestServer, one_destination};

#[tokio::test]
async fn lettre_submits_text_a_utf8_subject_and_an_attachment() {
    let (_dns, mx, server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    let mut sent = Vec::new();
    for transport in transports(&server, &account) {
        for message in messages() {
            transport.send(message.clone()).await.unwrap();
            sent.push(message.formatted());
        }
    }
    let received = mx.wait_for(sent.len()).await;
    for submitted in &sent {
        // lettre adds a CRLF to a message that does not end with one.
        let whole: &[u8] = &[submitted.as_slice(), b"\r\n"].concat();
        let ends = |content: &[u8]| content.ends_with(submitted) || content.ends_with(whole);
        assert!(
            received.iter().any(|transaction| ends(&transaction.content)),
            "{}",
            submitted.escape_ascii()
        );
    }
    assert_eq!(received.len(), 6);
}

fn transports(server: &TestServer, account: &Account) -> [AsyncSmtpTransport<Tokio1Executor>; 2] {
    let certificate = Certificate::from_pem(server.certificate_pem().as_bytes()).unwrap();
    let parameters =
        TlsParameters::builder(HOSTNAME.into()).add_root_certificate(certificate).build().unwrap();
    let credentials = Credentials::new(account.user.clone(), account.secret.clone());
    let transport = |port, tls| {
        AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous("127.0.0.1")
            .port(port)
            .tls(tls)
            .credentials(credentials.clone())
            .build()
    };
    [
        transport(server.submission().port(), Tls::Required(parameters.clone())),
        transport(server.submissions().port(), Tls::Wrapper(parameters)),
    ]
}

fn messages() -> [Message; 3] {
    let builder = || {
        Message::builder()
            .from("Alice <alice@acme.test>".parse().unwrap())
            .to("bob@b.test".parse().unwrap())
            .message_id(None)
    };
    let file = Attachment::new("grüße.bin".into()).body(vec![0u8; 300_000], ContentType::TEXT_PLAIN);
    let text = SinglePart::plain("See the attachment.".to_owned());
    [
        builder().subject("text").body(String::from("Hello\r\n.\r\n..\r\n")).unwrap(),
        builder().subject("Grüße – 你好").body(String::from("Größe: 5 µm\r\n")).unwrap(),
        builder().subject("file").multipart(MultiPart::mixed().singlepart(text).singlepart(file)).unwrap(),
    ]
}
