//! How a configuration says that the store is opened.

use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use crate::config::{Config, DatabaseUrl};
use crate::durable_file::find_exposure;
use crate::store::{Access, Bounds, OpenError, PostgresOptions, SqliteOptions, StoreOptions};
use crate::tls;

impl StoreOptions {
    /// The options of a configuration. Reads the password and the certificate authorities for PostgreSQL.
    ///
    /// # Errors
    /// [`OpenError::Option`].
    pub fn new(config: &Config, access: Access) -> Result<Self, OpenError> {
        match &config.store.url {
            None => Ok(Self::Sqlite(sqlite_options(config, access))),
            Some(url) => Ok(postgres_options(url, config, access)?.into()),
        }
    }
}

fn sqlite_options(config: &Config, access: Access) -> SqliteOptions {
    SqliteOptions {
        data_dir: config.data_dir.clone(),
        master_key_file: config.master_key_file.clone(),
        read_connections: config.store.read_connections,
        inline_body_bytes_max: config.store.inline_body_max.0,
        free_disk_bytes_min: config.store.free_disk_min.0,
        hot_queue_bytes_max: config.relay.hot_queue_bytes_max.0,
        access,
        bounds: Bounds::default(),
    }
}

fn postgres_options(
    url: &DatabaseUrl,
    config: &Config,
    access: Access,
) -> Result<PostgresOptions, OpenError> {
    let mut target = url.parse().map_err(|error| fault("store.url", error))?;
    if let Some(file) = &config.store.password_file {
        target.config.password(read_password(file)?.as_bytes());
    }
    let authorities = config.store.tls_ca_file.as_deref();
    Ok(PostgresOptions {
        config: target.config,
        tls: if target.is_encrypted { Some(verifying_connector(authorities)?) } else { None },
        is_unsafe_allowed: config.store.unsafe_database,
        data_dir: config.data_dir.clone(),
        master_key_file: config.master_key_file.clone(),
        read_connections: config.store.read_connections,
        lanes: config.store.lanes,
        hot_queue_bytes_max: config.relay.hot_queue_bytes_max.0,
        access,
        bounds: Bounds::default(),
    })
}

/// A password is the first line of its file.
fn read_password(file: &Path) -> Result<Zeroizing<String>, OpenError> {
    let of_file = |error: &dyn ToString| {
        fault("store.password_file", format!("{}: {}", file.display(), error.to_string()))
    };
    if let Some(exposure) = find_exposure(file).map_err(|error| of_file(&error))? {
        return Err(of_file(&exposure));
    }
    let text = Zeroizing::new(std::fs::read_to_string(file).map_err(|error| of_file(&error))?);
    let password = Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned());
    if password.is_empty() {
        return Err(of_file(&"the file is empty"));
    }
    Ok(password)
}

/// Verifies the certificate of the server with the authorities in a file, or with the system's.
fn verifying_connector(ca_file: Option<&Path>) -> Result<TlsConnector, OpenError> {
    let roots = match ca_file {
        Some(file) => tls::roots_in(file),
        None => tls::trusted_roots(None),
    };
    let roots = roots.map_err(|error| fault("store.tls_ca_file", error))?;
    if roots.is_empty() {
        let message = "there are no certificate authorities on this system; name a file with those of the server of PostgreSQL";
        return Err(fault("store.tls_ca_file", message));
    }
    let builder = ClientConfig::builder_with_provider(tls::provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| fault("store.url", error))?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()).into())
}

fn fault(option: &'static str, message: impl ToString) -> OpenError {
    OpenError::Option { option, message: message.to_string() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn refuse(text: &str) -> String {
        let config = Config::parse(text, Path::new("test.toml")).unwrap();
        StoreOptions::new(&config, Access::Manage).expect_err("it is refused").to_string()
    }

    #[test]
    fn a_password_is_read_from_a_file_that_others_cannot_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        let text = format!(
            "[store]\nurl = \"postgres:///d?host=/run&user=u\"\npassword_file = \"{}\"\n",
            file.display()
        );
        assert!(refuse(&text).contains("store.password_file"), "it is absent");
        std::fs::write(&file, "word\n").unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
        let refused = refuse(&text);
        assert!(refused.contains("chmod 6") && !refused.contains("word\n"), "{refused}");
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
        let config = Config::parse(&text, Path::new("test.toml")).unwrap();
        let Ok(StoreOptions::Postgres(options)) = StoreOptions::new(&config, Access::Manage) else {
            panic!("PostgreSQL is configured")
        };
        assert_eq!(options.config.get_password(), Some(&b"word"[..]));
        std::fs::write(&file, "\n").unwrap();
        assert!(refuse(&text).contains("empty"));
    }

    #[test]
    fn certificate_authorities_come_from_the_file_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.crt");
        std::fs::write(&file, "no certificate").unwrap();
        let text = format!("[store]\nurl = \"postgres://u@h/d\"\ntls_ca_file = \"{}\"\n", file.display());
        let refused = refuse(&text);
        assert!(refused.contains("store.tls_ca_file") && refused.contains("no certificate"), "{refused}");
    }
}
