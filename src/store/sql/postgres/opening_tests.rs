//! Which servers of PostgreSQL are refused, and what is said about it.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::server_check::require_own_sessions;
use crate::store::contract::pgbouncer::PgBouncer;
use crate::store::contract::postgres::{PostgresHarness, options};
use crate::store::contract::postgres_server::Server;
use crate::store::contract::{Harness, new_tenant, now};
use crate::store::database::{PostgresConnection, PostgresServer, SessionRole};
use crate::store::{Access, Directory, Journal, PostgresOptions, Store, database_status};

async fn harness() -> Option<PostgresHarness> {
    if PostgresHarness::is_available() { Some(PostgresHarness::new().await) } else { None }
}

async fn refuse(options: PostgresOptions) -> String {
    Store::open(options).await.err().expect("the server is refused").to_string()
}

#[tokio::test]
async fn a_server_that_a_crash_may_damage_is_refused_unless_it_is_for_tests() {
    let Some(harness) = harness().await else { return };
    let refused = refuse(PostgresOptions { is_unsafe_allowed: false, ..harness.options() }).await;
    assert!(refused.contains("fsync is off") && refused.contains("store.unsafe_database"), "{refused}");
    Store::open(harness.options()).await.unwrap().close().await;
}

#[tokio::test]
async fn a_database_without_tables_is_left_alone_by_commands_that_need_a_server() {
    let Some(harness) = harness().await else { return };
    let with = |access| PostgresOptions { access, ..harness.options() };
    let refused = refuse(with(Access::Manage)).await;
    assert!(refused.contains("no tables of Pillarbox") && refused.contains("--init"), "{refused}");
    assert!(!database_status(harness.options()).await.unwrap().has_tables);
    let store = Store::open(with(Access::Initialize)).await.unwrap();
    store.create_tenant(new_tenant("a"), now()).await.unwrap();
    store.close().await;
    let store = Store::open(with(Access::Manage)).await.unwrap();
    assert!(store.tenant_by_slug("a").await.unwrap().is_some());
    store.close().await;
    let status = database_status(harness.options()).await.unwrap();
    assert!(status.has_tables && status.settings.max_wal_octets == 1 << 30, "{status:?}");
    assert!(status.version.split('.').next().unwrap().parse::<u32>().unwrap() >= 13, "{status:?}");
}

#[tokio::test]
async fn a_missing_database_and_a_silent_place_are_named_with_what_to_do() {
    let Some(harness) = harness().await else { return };
    let mut options = harness.options();
    options.config.dbname("absent");
    let refused = refuse(options).await;
    assert!(refused.contains("CREATE DATABASE \"absent\" OWNER \"pillarbox\""), "{refused}");
    let mut options = harness.options();
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(1).user("u").password("secret-word").dbname("d");
    options.config = config;
    let refused = refuse(options).await;
    assert!(refused.contains("postgres://u@127.0.0.1:1/d: "), "{refused}");
    assert!(refused.contains("check that PostgreSQL runs there") && !refused.contains("secret"), "{refused}");
}

#[tokio::test]
async fn a_database_that_is_only_for_reading_is_refused() {
    let Some(harness) = harness().await else { return };
    let database = harness.options().config.get_dbname().unwrap().to_owned();
    harness.execute(&format!("ALTER DATABASE {database} SET default_transaction_read_only = on")).await;
    let refused = refuse(harness.options()).await;
    assert!(refused.contains("default_transaction_read_only"), "{refused}");
}

#[tokio::test]
async fn a_pooler_that_gives_a_session_to_another_connection_is_refused() {
    let Some(harness) = harness().await else { return };
    let server = Arc::new(PostgresServer::new(harness.options().config, None));
    let run = move || {
        let connect = || PostgresConnection::open(Arc::clone(&server), SessionRole::Reader).unwrap();
        let (one, other) = (connect(), connect());
        require_own_sessions(&one, &other).unwrap();
        // Behind such a pooler, the second connection gets the session of the first one.
        let refused = require_own_sessions(&one, &one).err().unwrap().to_string();
        assert!(refused.contains("pool_mode = session"), "{refused}");
    };
    tokio::task::spawn_blocking(run).await.unwrap();
}

#[tokio::test]
async fn a_pgbouncer_is_served_through_in_session_mode_and_refused_in_transaction_mode() {
    let Some(harness) = harness().await else { return };
    let mut options = harness.options();
    let Some(pooler) = PgBouncer::start(options.config.clone(), "transaction") else { return };
    options.config = pooler.config();
    let refused = database_status(options.clone()).await.unwrap_err().to_string();
    assert!(refused.contains("pool_mode = session"), "{refused}");
    assert_eq!(refuse(options.clone()).await, refused);
    drop(pooler);
    let pooler = PgBouncer::start(harness.options().config, "session").unwrap();
    options.config = pooler.config();
    assert!(!database_status(options.clone()).await.unwrap().has_tables);
    let store = Store::open(options).await.unwrap();
    store.create_tenant(new_tenant("a"), now()).await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn a_server_is_not_ready_without_its_database() {
    let Some(server) = Server::start_with(&["-c", "fsync=off", "-c", "listen_addresses="], |_| ()) else {
        return;
    };
    server.create("pillarbox").await;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(options(server.config("pillarbox"), dir.path())).await.unwrap();
    store.probe().await.unwrap();
    drop(server);
    let end = Instant::now() + Duration::from_secs(20);
    while store.probe().await.is_ok() {
        assert!(Instant::now() < end, "the database is gone");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!dir.path().join("bodies").exists(), "bodies are in the database");
}

/// A certificate authority, and a certificate of it for `localhost`.
struct TestAuthority {
    certificate: String,
    leaf: String,
    leaf_key: String,
}

impl TestAuthority {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, &authority).unwrap();
        Self { certificate: authority.pem(), leaf: leaf.pem(), leaf_key: key.serialize_pem() }
    }

    /// Lets a server use the certificate, and ask for passwords over the network.
    fn prepare(&self, data: &Path) {
        std::fs::write(data.join("server.crt"), &self.leaf).unwrap();
        let key = data.join("server.key");
        std::fs::write(&key, &self.leaf_key).unwrap();
        std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
        let access = "local all all trust\nhostssl all all all scram-sha-256\n";
        std::fs::write(data.join("pg_hba.conf"), access).unwrap();
    }

    fn connector(&self) -> tokio_rustls::TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        Arc::new(builder.with_root_certificates(roots).with_no_client_auth()).into()
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn a_session_over_the_network_needs_the_right_certificate_and_password() {
    if !PostgresHarness::is_available() {
        return;
    }
    let (authority, other) = (TestAuthority::new(), TestAuthority::new());
    let port = free_port();
    let listen = format!("port={port}");
    let arguments = ["-c", "listen_addresses=127.0.0.1", "-c", "ssl=on", "-c", "fsync=off", "-c", &listen];
    let server = Server::start_on_port(port, &arguments, |data| authority.prepare(data)).unwrap();
    server.create("pillarbox").await;
    // PostgreSQL 13 keeps passwords as MD5 otherwise.
    let password = "SET password_encryption = 'scram-sha-256'; ALTER ROLE pillarbox PASSWORD 'secret-word'";
    server.execute("pillarbox", password).await;
    let dir = tempfile::tempdir().unwrap();
    let over_network = |host: &str, password: &str, authority: &TestAuthority| {
        let mut config = tokio_postgres::Config::new();
        config.host(host).port(port).user("pillarbox").dbname("pillarbox").password(password);
        PostgresOptions { tls: Some(authority.connector()), ..options(config, dir.path()) }
    };
    let store = Store::open(over_network("localhost", "secret-word", &authority)).await.unwrap();
    store.create_tenant(new_tenant("a"), now()).await.unwrap();
    store.close().await;
    for (options, said) in [
        (over_network("localhost", "secret-word", &other), "store.tls_ca_file"),
        (
            over_network("127.0.0.1", "secret-word", &authority),
            "name the host in store.url as the certificate",
        ),
        (over_network("localhost", "wrong-word", &authority), "store.password_file"),
    ] {
        let refused = refuse(options).await;
        assert!(refused.contains(said) && refused.contains(&format!(":{port}/pillarbox")), "{refused}");
        assert!(!refused.contains("-word"), "{refused}");
    }
    let mut without_password = over_network("localhost", "", &authority);
    without_password.config = {
        let mut config = tokio_postgres::Config::new();
        config.host("localhost").port(port).user("pillarbox").dbname("pillarbox");
        config
    };
    let refused = refuse(without_password).await;
    assert!(refused.contains("name the file with the password"), "{refused}");
    // What connections without encryption would say, which the configuration refuses.
    let mut in_clear = over_network("127.0.0.1", "secret-word", &authority);
    in_clear.tls = None;
    let refused = refuse(in_clear).await;
    assert!(refused.contains("pg_hba.conf"), "{refused}");
}
