//! `pillarbox key create --snippet NAME`: the settings of a mail client with the new secret.

use anyhow::{Context, bail};
use clap::builder::PossibleValuesParser;
use serde_json::Value;

use super::super::output::text;
use crate::ui::snippets::{self, Account};

const SUBMISSION_PORT: u16 = 587;

#[derive(Debug, Default, clap::Args)]
pub(super) struct SnippetArguments {
    /// Prints the settings of this mail client with the secret in them
    #[arg(long, value_name = "CLIENT", value_parser = PossibleValuesParser::new(snippets::NAMES))]
    snippet: Option<String>,
    /// The submission server in these settings. Default: the host of --url, port 587
    #[arg(long, value_name = "HOST[:PORT]", requires = "snippet")]
    smtp_server: Option<String>,
    /// The sender in these settings
    #[arg(long, value_name = "ADDRESS", requires = "snippet", default_value = "hello@your-domain.example")]
    from: String,
}

impl SnippetArguments {
    /// Fails before a key is made if there is no server to name.
    pub(super) fn check(&self, api_host: Option<&str>) -> anyhow::Result<()> {
        if self.snippet.is_some() {
            self.server(api_host)?;
        }
        Ok(())
    }

    /// The settings for a new key; `None` unless they were asked for.
    pub(super) fn fill(&self, key: &Value, api_host: Option<&str>) -> anyhow::Result<Option<String>> {
        let Some(name) = &self.snippet else { return Ok(None) };
        let (host, port) = self.server(api_host)?;
        let (user, secret) = (text(key, "id"), text(key, "secret"));
        let account = Account { host: &host, port, user: &user, secret: &secret, sender: &self.from };
        let snippet = snippets::all(&account).into_iter().find(|snippet| snippet.name == name);
        Ok(Some(snippet.context("there is no such snippet")?.text))
    }

    fn server(&self, api_host: Option<&str>) -> anyhow::Result<(String, u16)> {
        let Some(server) = self.smtp_server.as_deref().or(api_host) else {
            bail!("name the submission server with --smtp-server HOST[:PORT]");
        };
        // An IPv6 address has colons of its own; its port follows the bracket.
        match server.rsplit_once(':').filter(|(host, _)| !host.contains(':') || host.ends_with(']')) {
            Some((host, port)) => {
                let port = port.parse().with_context(|| format!("{port} is no port"))?;
                Ok((host.to_owned(), port))
            }
            None => Ok((server.to_owned(), SUBMISSION_PORT)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_of_the_settings_is_that_of_the_option_or_the_host_of_the_api() {
        let server = |given: Option<&str>, api: Option<&str>| {
            let arguments = SnippetArguments { smtp_server: given.map(str::to_owned), ..Default::default() };
            arguments.server(api)
        };
        assert_eq!(server(None, Some("mail.example.com")).unwrap(), ("mail.example.com".into(), 587));
        assert_eq!(
            server(Some("smtp.example.com:2587"), Some("x")).unwrap(),
            ("smtp.example.com".into(), 2587)
        );
        assert_eq!(server(Some("[2001:db8::1]:465"), None).unwrap(), ("[2001:db8::1]".into(), 465));
        assert!(server(Some("smtp.example.com:mail"), None).is_err());
        assert!(server(None, None).unwrap_err().to_string().contains("--smtp-server"));
    }
}
