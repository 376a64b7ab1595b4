//! The first connection to a database, with what to do if there is none.

use std::error::Error;
use std::io;
use std::sync::Arc;

use rustls::{CertificateError, Error as TlsError};
use tokio_postgres::error::SqlState;

use super::server_check;
use crate::store::OpenError;
use crate::store::database::{Connection, DatabaseError, PostgresConnection, PostgresServer, SessionRole};

/// Connects to a database. Blocks.
///
/// # Errors
/// [`OpenError::Database`], with the place and the remedy.
pub(super) fn connect(server: &Arc<PostgresServer>, role: SessionRole) -> Result<Connection, OpenError> {
    connect_to_any(server, role).map(Connection::Postgres)
}

/// Connects to a database that may not be one that the store can use. Blocks.
///
/// # Errors
/// [`OpenError::Database`], as of [`connect`], and if the server or a pooler before it cannot be used.
pub(super) fn connect_first(
    server: &Arc<PostgresServer>,
    role: SessionRole,
    is_unsafe_allowed: bool,
) -> Result<Connection, OpenError> {
    let connection = connect_to_any(server, role)?;
    server_check::require_own_sessions(&connection, &connect_to_any(server, SessionRole::Reader)?)?;
    let connection = Connection::Postgres(connection);
    server_check::require_usable(&connection, is_unsafe_allowed)?;
    Ok(connection)
}

fn connect_to_any(server: &Arc<PostgresServer>, role: SessionRole) -> Result<PostgresConnection, OpenError> {
    let connected = PostgresConnection::open(Arc::clone(server), role);
    connected.map_err(|error| OpenError::Database(explain(&error, server)))
}

fn explain(error: &DatabaseError, server: &PostgresServer) -> String {
    let remedy = match error {
        DatabaseError::Postgres(error) => match error.code() {
            Some(state) => remedy_of_state(state, server),
            None => remedy_of_connection(error),
        },
        _ => Some(NOT_REACHED.to_owned()),
    };
    let remedy = remedy.map(|remedy| format!("; {remedy}")).unwrap_or_default();
    format!("{}: {error}{}{remedy}", server.name(), cause_of(error))
}

/// The cause of an error of the connection, which its own text leaves out.
fn cause_of(error: &DatabaseError) -> String {
    match error {
        DatabaseError::Postgres(error) if error.code().is_none() => {
            error.source().map(|cause| format!(": {cause}")).unwrap_or_default()
        }
        _ => String::new(),
    }
}

const NOT_REACHED: &str = "check that PostgreSQL runs there and accepts connections from this machine";

/// What to do after an answer of the server.
fn remedy_of_state(state: &SqlState, server: &PostgresServer) -> Option<String> {
    let remedy = match *state {
        SqlState::INVALID_PASSWORD => "check the user in store.url and the password in store.password_file",
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            "create the user, and permit its connections in pg_hba.conf"
        }
        SqlState::TOO_MANY_CONNECTIONS => {
            "raise max_connections of PostgreSQL, or lower store.read_connections or store.lanes"
        }
        SqlState::INVALID_CATALOG_NAME => return Some(server.creation()),
        _ => return None,
    };
    Some(remedy.to_owned())
}

/// What to do if no session began.
fn remedy_of_connection(error: &tokio_postgres::Error) -> Option<String> {
    let cause = error.source()?;
    if cause.to_string().contains("password missing") {
        return Some("name the file with the password with store.password_file".to_owned());
    }
    if cause.to_string().contains("does not support TLS") {
        return Some(
            "set ssl = on in postgresql.conf, with a certificate for the host in store.url".to_owned(),
        );
    }
    let cause: &io::Error = cause.downcast_ref()?;
    let Some(fault) = cause.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>()) else {
        let is_read_only = cause.kind() == io::ErrorKind::PermissionDenied && cause.raw_os_error().is_none();
        return Some(if is_read_only { NO_PRIMARY } else { NOT_REACHED }.to_owned());
    };
    Some(match fault {
        TlsError::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "name the host in store.url as the certificate of PostgreSQL does".to_owned(),
        TlsError::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "name the file with its certificate authority with store.tls_ca_file".to_owned()
        }
        _ => "replace the certificate of PostgreSQL".to_owned(),
    })
}

const NO_PRIMARY: &str = "none of the hosts is the primary server, which alone can be written to";
