//! The checks: each decides on facts, without I/O.

use super::{Finding, Fix};
use crate::mail::DomainName;

/// `config.hostname`: whether receivers can trust the name of the server.
pub fn hostname(name: &DomainName) -> Finding {
    const ID: &str = "config.hostname";
    let subject = name.to_string();
    if subject.contains('.') {
        let text = format!("the host name {subject} is fully qualified");
        return Finding::ok(ID, subject, text);
    }
    let fix = Fix::command(
        "set hostname to the name that the address of this server has in DNS",
        "hostname = \"mail.example.com\"",
    );
    let text = format!("the host name {subject} is not fully qualified; receivers distrust it");
    Finding::error(ID, subject, text, fix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::FindingStatus;

    #[test]
    fn a_host_name_of_one_label_is_an_error_with_a_fix() {
        let check = |name: &str| hostname(&DomainName::parse(name).unwrap());
        assert_eq!(check("mail.example.com").status, FindingStatus::Ok);
        let wrong = check("localhost");
        assert_eq!(wrong.status, FindingStatus::Error);
        assert!(wrong.fix.is_some_and(|fix| fix.command.is_some()));
    }
}
