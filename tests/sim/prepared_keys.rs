//! DKIM keys that are made once for all seeds, because each RSA key takes 80 ms of CPU.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use pillarbox::dkim::{self, KeyPair, SignError};
use pillarbox::model::DkimAlgorithm;

/// More than a run has domains at the same time, so no two of them have the same key.
const KEYS: usize = 16;
/// The environment variable with the directory of the keys, in a process that simulates.
pub const DIRECTORY: &str = "SIMULATION_KEYS";

/// Writes RSA keys into a new directory in this one. Returns its path.
pub fn make(directory: &Path) -> PathBuf {
    let keys = directory.join("keys");
    std::fs::create_dir(&keys).unwrap();
    for number in 0..KEYS {
        let key = dkim::generate(DkimAlgorithm::Rsa).unwrap();
        std::fs::write(file(&keys, number), &*key.private_key).unwrap();
    }
    keys
}

/// Takes the place of `dkim::generate`: the next of the RSA keys.
pub fn next(algorithm: DkimAlgorithm) -> Result<KeyPair, SignError> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    if algorithm != DkimAlgorithm::Rsa {
        return dkim::generate(algorithm);
    }
    let keys = std::env::var(DIRECTORY).expect("the keys are prepared");
    let number = NEXT.fetch_add(1, Ordering::Relaxed) % KEYS;
    let key = std::fs::read(file(Path::new(&keys), number)).expect("the key is prepared");
    dkim::import_pkcs8(&key)
}

fn file(keys: &Path, number: usize) -> PathBuf {
    keys.join(format!("{number}.der"))
}
