//! Reads the body of a POST: `application/x-www-form-urlencoded` or `multipart/form-data` (RFC 8058 §3.2). Pure.

use std::borrow::Cow;

use url::form_urlencoded;

/// The field and the value that unsubscribe (RFC 8058 §3.1).
const FIELD: &str = "List-Unsubscribe";
const VALUE: &str = "One-Click";
/// The field that the buttons of the page add.
const SCOPE: &str = "scope";
const SCOPE_ALL: &str = "all";

/// What a POST asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// Whether a button of the page was pressed.
    pub is_from_page: bool,
    /// Whether the recipient leaves every list.
    pub every_list: bool,
}

/// Reads a body. `None` if it does not ask to unsubscribe.
pub fn read(content_type: Option<&str>, body: &[u8]) -> Option<Form> {
    let mut parameters =
        content_type.unwrap_or("application/x-www-form-urlencoded").split(';').map(str::trim);
    let kind = parameters.next()?.to_ascii_lowercase();
    let fields: Vec<(Cow<'_, str>, Cow<'_, str>)> = match kind.as_str() {
        "application/x-www-form-urlencoded" => form_urlencoded::parse(body).collect(),
        "multipart/form-data" => parts(body, parameters.find_map(|text| parameter(text, "boundary"))?)?,
        _ => return None,
    };
    let value = |wanted: &str| fields.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.trim());
    let is_wish = value(FIELD)? == VALUE;
    let scope = value(SCOPE);
    is_wish.then_some(Form { is_from_page: scope.is_some(), every_list: scope == Some(SCOPE_ALL) })
}

/// The value of a parameter with this name, quoted or not.
fn parameter<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let (found, value) = text.split_once('=')?;
    found.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"'))
}

/// The fields of a multipart body (RFC 7578).
fn parts<'b>(body: &[u8], boundary: &str) -> Option<Vec<(Cow<'b, str>, Cow<'b, str>)>> {
    let text = std::str::from_utf8(body).ok().filter(|_| !boundary.is_empty())?.replace("\r\n", "\n");
    let mut fields = Vec::new();
    // Before the first delimiter stands the preamble.
    for part in text.split(&format!("--{boundary}")).skip(1) {
        if part.starts_with("--") {
            break;
        }
        let (header, value) = part.split_once("\n\n")?;
        let disposition =
            header.lines().find(|line| line.to_ascii_lowercase().starts_with("content-disposition:"))?;
        let name = disposition.split(';').skip(1).find_map(|text| parameter(text, "name"))?;
        fields.push((name.to_owned().into(), value.trim_end_matches('\n').to_owned().into()));
    }
    Some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: Form = Form { is_from_page: false, every_list: false };

    #[test]
    fn only_the_one_click_value_unsubscribes() {
        let form =
            |body: &str| read(Some("application/x-www-form-urlencoded; charset=utf-8"), body.as_bytes());
        assert_eq!(form("List-Unsubscribe=One-Click"), Some(LINK));
        assert_eq!(form("List-Unsubscribe=One-Click\r\n"), Some(LINK));
        let from_page = Form { is_from_page: true, every_list: false };
        assert_eq!(form("List-Unsubscribe=One-Click&scope=list"), Some(from_page));
        let all = Form { is_from_page: true, every_list: true };
        assert_eq!(form("List-Unsubscribe=One-Click&scope=all"), Some(all));
        for wrong in
            ["", "List-Unsubscribe", "List-Unsubscribe=one-click", "list-unsubscribe=One-Click", "scope=all"]
        {
            assert_eq!(form(wrong), None, "{wrong}");
        }
        assert_eq!(read(None, b"List-Unsubscribe=One-Click"), Some(LINK));
        assert_eq!(read(Some("text/plain"), b"List-Unsubscribe=One-Click"), None);
        assert_eq!(read(Some("application/json"), b"{\"List-Unsubscribe\":\"One-Click\"}"), None);
    }

    #[test]
    fn a_multipart_body_is_read_with_any_line_ends_and_any_form_of_its_parameters() {
        let body = "preamble\r\n--b1\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\n\
                    One-Click\r\n--b1--\r\nepilogue";
        for kind in ["multipart/form-data; boundary=b1", "Multipart/Form-Data; charset=x; Boundary=\"b1\""] {
            assert_eq!(read(Some(kind), body.as_bytes()), Some(LINK), "{kind}");
            assert_eq!(read(Some(kind), body.replace("\r\n", "\n").as_bytes()), Some(LINK), "{kind}");
        }
        let bare = body.replace("\"List-Unsubscribe\"", "List-Unsubscribe").replace("Content-D", "content-d");
        let kind = "multipart/form-data; boundary=b1";
        assert_eq!(read(Some(kind), bare.as_bytes()), Some(LINK));
        for wrong in [
            ("multipart/form-data", body),
            ("multipart/form-data; boundary=", body),
            ("multipart/form-data; boundary=other", body),
            (kind, "--b1\r\n\r\nOne-Click\r\n--b1--"),
            (
                kind,
                "--b1\r\nContent-Disposition: form-data; filename=List-Unsubscribe\r\n\r\nOne-Click\r\n--b1--",
            ),
            (
                kind,
                "--b1--\r\nContent-Disposition: form-data; name=List-Unsubscribe\r\n\r\nOne-Click\r\n--b1--",
            ),
        ] {
            assert_eq!(read(Some(wrong.0), wrong.1.as_bytes()), None, "{wrong:?}");
        }
    }
}
