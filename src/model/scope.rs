//! What scopes include, and their other names.

use super::Scope;

impl Scope {
    /// Names that stand for other scopes.
    pub const ALIASES: &'static [(&'static str, &'static [Self])] =
        &[("send", &[Self::SmtpSend, Self::EmailsSend]), ("messages:read", &[Self::EmailsRead])];

    /// The scope that only reads what this one manages; another scope stays as it is.
    pub fn read_only(self) -> Self {
        match self {
            Self::DomainsManage => Self::DomainsRead,
            Self::KeysManage => Self::KeysRead,
            Self::WebhooksManage => Self::WebhooksRead,
            Self::SuppressionsManage => Self::SuppressionsRead,
            Self::TemplatesManage => Self::TemplatesRead,
            Self::TenantManage => Self::TenantRead,
            other => other,
        }
    }

    /// Whether a key with this scope may do what the other one allows.
    pub fn includes(self, other: Self) -> bool {
        self == other || self.read_only() == other
    }

    /// The scopes that a name stands for; none if it is unknown.
    pub fn named(name: &str) -> Vec<Self> {
        match Self::ALIASES.iter().find(|(alias, _)| *alias == name) {
            Some((_, scopes)) => scopes.to_vec(),
            None => name.parse().into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_that_manages_includes_the_one_that_reads_and_not_the_reverse() {
        for &scope in Scope::ALL {
            assert!(scope.includes(scope));
            let Some(subject) = scope.as_str().strip_suffix(":manage") else {
                assert_eq!(scope.read_only(), scope);
                continue;
            };
            let read: Scope = format!("{subject}:read").parse().unwrap();
            assert!(scope.includes(read) && !read.includes(scope), "{scope}");
        }
        assert!(!Scope::EmailsSend.includes(Scope::EmailsRead));
    }

    #[test]
    fn a_name_stands_for_its_scope_or_several_or_none() {
        assert_eq!(Scope::named("send"), [Scope::SmtpSend, Scope::EmailsSend]);
        assert_eq!(Scope::named("messages:read"), [Scope::EmailsRead]);
        assert_eq!(Scope::named("domains:read"), [Scope::DomainsRead]);
        for unknown in ["", "Send", "domains", "domains:write", "*"] {
            assert_eq!(Scope::named(unknown), [], "{unknown}");
        }
    }
}
