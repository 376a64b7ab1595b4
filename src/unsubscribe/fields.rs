//! The link and the header fields of a message that names a list. Pure.

use crate::mail::DomainName;
use crate::model::{LinkKeys, ListName, SealLinkError, UnsubscribeLink};

/// The path of links, below the address of the public pages.
pub const LINK_PATH: &str = "/u/";
/// RFC 2919 §2.
const LIST_ID_OCTETS_MAX: usize = 255;

/// The link as it stands in the message. `base` is the address of the public pages.
///
/// # Errors
/// [`SealLinkError`].
pub fn link_url(base: &str, keys: &LinkKeys, link: &UnsubscribeLink) -> Result<String, SealLinkError> {
    Ok(format!("{base}{LINK_PATH}{}", keys.seal(link)?))
}

/// List-Unsubscribe (RFC 2369 §3.2) and List-Unsubscribe-Post (RFC 8058 §3.1). `mailbox` is the address to which a mail
/// unsubscribes, if the server receives mail.
pub fn unsubscribe_fields(url: &str, mailbox: Option<&str>) -> String {
    let by_mail = mailbox.map(|mailbox| format!(",\r\n <mailto:{mailbox}?subject=unsubscribe>"));
    format!(
        "List-Unsubscribe: <{url}>{}\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n",
        by_mail.unwrap_or_default()
    )
}

/// The List-Id of a list under a domain (RFC 2919). Empty if the name cannot be a dot-atom of limited length.
pub fn list_id_field(list: &ListName, domain: &DomainName) -> String {
    let labels: Vec<&str> = list.as_str().split('.').filter(|label| !label.is_empty()).collect();
    let id = format!("{}.{domain}", labels.join("."));
    if labels.is_empty() || id.len() > LIST_ID_OCTETS_MAX {
        return String::new();
    }
    format!("List-Id: <{id}>\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_id_is_a_dot_atom_and_is_left_out_if_it_cannot_be_one() {
        let field = |list: &str, domain: &str| {
            list_id_field(&list.parse().unwrap(), &DomainName::parse(domain).unwrap())
        };
        assert_eq!(field("news", "acme.com"), "List-Id: <news.acme.com>\r\n");
        assert_eq!(field(".a..b.", "acme.com"), "List-Id: <a.b.acme.com>\r\n");
        assert_eq!(field("..", "acme.com"), "");
        assert_eq!(field(&"x".repeat(64), &["d".repeat(60).as_str(); 4].join(".")), "");
    }

    #[test]
    fn without_a_mailbox_the_field_has_the_link_alone() {
        let fields = unsubscribe_fields("https://m.example/u/x", None);
        let expected = "List-Unsubscribe: <https://m.example/u/x>\r\n\
                        List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n";
        assert_eq!(fields, expected);
    }
}
