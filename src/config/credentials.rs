//! Files that systemd makes for a service (`LoadCredential`).

use std::path::Path;

/// They are in a folder for each service that runs.
const FOLDER: &str = "/run/credentials";

/// Whether systemd puts the file there when it starts the service, which does not run now.
pub fn comes_with_the_service(file: &Path) -> bool {
    file.starts_with(FOLDER) && file.parent().is_some_and(|folder| !folder.exists())
}
