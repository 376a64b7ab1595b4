//! The limit of open files: raises it as far as the system allows, and lowers the limits of connections that do not fit.
//! Without free files, the server could neither deliver nor open its database.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// The fewest connections, of all kinds together, with which a server is useful.
const CONNECTIONS_MIN: usize = 64;
/// The default of `fs.nr_open`, which bounds a limit that is not set.
const SYSTEM_MAX: u64 = 1 << 20;

/// The limit of open files is too low for any configuration.
#[derive(Debug, thiserror::Error)]
#[error(
    "the limit of open files is {limit}, and at least {needed} are needed; raise it with LimitNOFILE in the unit, or \
     with ulimit -n"
)]
pub struct OpenFilesError {
    limit: u64,
    needed: usize,
}

/// Raises the soft limit of this process to the hard one. Returns the limit.
pub fn raise() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let is_raised = |current| setrlimit(Resource::Nofile, Rlimit { current, maximum: limit.maximum }).is_ok();
    if limit.current != limit.maximum && !is_raised(limit.maximum) && limit.maximum.is_none() {
        is_raised(limit.current.max(Some(SYSTEM_MAX)));
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The configuration with limits that fit, and what was lowered. SMTP connections are lowered first; the others when they
/// would need more than half.
pub fn fit(config: &Config, limit: u64) -> Result<(Config, Option<String>), OpenFilesError> {
    let reserved = config.reserved_files();
    let available = usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(reserved);
    if available < CONNECTIONS_MIN {
        return Err(OpenFilesError { limit, needed: reserved + CONNECTIONS_MIN });
    }
    let mut fitted = config.clone();
    let others = [
        &mut fitted.api.connections_max,
        &mut fitted.relay.connections_max,
        &mut fitted.webhooks.requests_max,
    ];
    let smtp = &mut fitted.smtp.connections_max;
    let wanted = others.iter().fold(0, |sum: usize, max| sum.saturating_add(**max));
    if wanted.saturating_add(*smtp) <= available {
        return Ok((fitted, None));
    }
    let share = available - (*smtp).min(available / 2);
    if wanted > share {
        for max in others {
            // At most `share`, so it fits.
            *max = ((*max as u128 * share as u128 / wanted as u128) as usize).max(1);
        }
    }
    *smtp = (*smtp).min(available - wanted.min(share));
    let lowered = describe(config, &fitted);
    Ok((
        fitted,
        Some(format!(
            "the limit of open files is {limit}, so {lowered}; raise it with LimitNOFILE in the unit, or with ulimit -n"
        )),
    ))
}

fn describe(config: &Config, fitted: &Config) -> String {
    let pairs = [
        ("smtp.connections_max", config.smtp.connections_max, fitted.smtp.connections_max),
        ("api.connections_max", config.api.connections_max, fitted.api.connections_max),
        ("relay.connections_max", config.relay.connections_max, fitted.relay.connections_max),
        ("webhooks.requests_max", config.webhooks.requests_max, fitted.webhooks.requests_max),
    ];
    let changed = pairs.iter().filter(|(_, before, after)| before != after);
    let changed: Vec<String> =
        changed.map(|(option, before, after)| format!("{option} is {after} instead of {before}")).collect();
    changed.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The limits of SMTP, API, delivery and webhooks with this limit of open files.
    fn limits(limit: u64) -> ([usize; 4], Option<String>) {
        let (fitted, lowered) = fit(&Config::default(), limit).unwrap();
        let found = [
            fitted.smtp.connections_max,
            fitted.api.connections_max,
            fitted.relay.connections_max,
            fitted.webhooks.requests_max,
        ];
        (found, lowered)
    }

    #[test]
    fn limits_that_fit_stay_and_others_are_lowered_with_smtp_first() {
        assert_eq!(limits(65_536), ([12_000, 1000, 500, 256], None));
        let (found, lowered) = limits(4096);
        assert_eq!(found, [4096 - 408 - 1756, 1000, 500, 256]);
        let lowered = lowered.unwrap();
        assert!(lowered.contains("is 4096, so smtp.connections_max is 1932 instead of 12000;"), "{lowered}");
        let (found, lowered) = limits(1024);
        assert_eq!(found, [308, 175, 87, 44]);
        assert!(lowered.unwrap().contains("relay.connections_max is 87 instead of 500"));
        assert!(found.iter().sum::<usize>() + 408 <= 1024);
        assert!(limits(u64::MAX).1.is_none());
    }

    #[test]
    fn a_small_configuration_is_not_lowered_for_smtp_connections_that_it_does_not_have() {
        let mut config = Config::default();
        (config.smtp.connections_max, config.api.connections_max) = (10, 100);
        config.relay.connections_max = 400;
        let (fitted, lowered) = fit(&config, 408 + 500).unwrap();
        assert_eq!(fitted.smtp.connections_max, 10);
        assert_eq!((fitted.api.connections_max, fitted.relay.connections_max), (64, 259));
        assert!(lowered.is_some());
    }

    #[test]
    fn connections_of_other_servers_and_of_the_pages_count_if_there_are_listeners() {
        let mut config = Config::default();
        let address = "127.0.0.1:25".parse().unwrap();
        (config.inbound.listen, config.public.listen) = (vec![address], vec![address]);
        (config.inbound.connections_max, config.public.connections_max) = (300, 300);
        let (fitted, _) = fit(&config, 8192).unwrap();
        assert_eq!(fitted.smtp.connections_max, 8192 - 408 - 1756 - 600);
        (config.inbound.listen, config.public.listen) = (vec![], vec![]);
        assert_eq!(fit(&config, 8192).unwrap().0.smtp.connections_max, 8192 - 408 - 1756);
    }

    #[test]
    fn with_the_open_files_that_a_configuration_needs_nothing_is_lowered() {
        let mut config = Config::default();
        config.store.read_connections = 60;
        let needed = config.open_files();
        assert!(fit(&config, needed as u64).unwrap().1.is_none());
        assert!(fit(&config, needed as u64 - 1).unwrap().1.is_some());
    }

    #[test]
    fn too_few_files_are_an_error_with_the_number_that_is_needed() {
        let error = fit(&Config::default(), 408 + 63).unwrap_err().to_string();
        assert!(error.contains("is 471, and at least 472 are needed"), "{error}");
    }
}
