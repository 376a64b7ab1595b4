//! `pillarbox check-config`.

use anyhow::Context;

use super::ConfigFile;
use crate::app::open_files;
use crate::config::Config;
use crate::mail::Timestamp;
use crate::store::check_master_key;
use crate::tls::{Certificate, trusted_roots};
use crate::{relay, returns, tls_report};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let path = &arguments.file.config;
    let config = Config::load(path)?;
    let name = path.display();
    let doubts = match (&config.tls.certificate, &config.tls.private_key) {
        (Some(certificate), Some(private_key)) => Certificate::load(certificate, private_key)
            .and_then(|certificate| certificate.find_doubts(&config.hostname, Timestamp::now()))
            .with_context(|| format!("{name}: tls"))?,
        _ => Vec::new(),
    };
    check_master_key(config.master_key_file.as_deref(), &config.data_dir)
        .with_context(|| format!("{name}: master_key_file"))?;
    trusted_roots(config.webhooks.ca_file.as_deref()).with_context(|| format!("{name}: webhooks.ca_file"))?;
    relay::check(&config.relay).with_context(|| format!("{name}: relay"))?;
    tls_report::check(&config.tls_report).with_context(|| format!("{name}: tls_report.mail"))?;
    config
        .inbound
        .forward
        .as_ref()
        .map(returns::check_forward)
        .transpose()
        .with_context(|| format!("{name}: inbound.forward"))?;
    println!("{name} is valid: hostname {}, data in {}", config.hostname, config.data_dir.display());
    if !config.hostname.is_fully_qualified() {
        println!(
            "note: the hostname {} is not fully qualified, and receivers distrust such a name; set hostname",
            config.hostname
        );
    }
    let (_, lowered) = open_files::fit(&config, open_files::raise()).with_context(|| format!("{name}"))?;
    if let Some(lowered) = lowered {
        println!("warning: in this shell, {lowered}");
    }
    for doubt in doubts {
        println!("warning: tls.certificate: {doubt}, so mail clients refuse it");
    }
    if config.tls.certificate.is_none() {
        println!(
            "note: tls.certificate is not set, so the server uses a self-signed certificate, which mail clients refuse"
        );
    }
    Ok(())
}
