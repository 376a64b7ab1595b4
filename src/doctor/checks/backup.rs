//! The last backup.

use super::super::facts::Facts;
use super::super::{Finding, Fix};
use super::{look, one};

pub fn age(facts: &Facts) -> Vec<Finding> {
    const ID: &str = "backup.age";
    let fix = || {
        Fix::command(
            "make one now, and enable the timer: systemctl enable --now pillarbox-backup.timer",
            "pillarbox backup create --keep 7 /var/backups/pillarbox",
        )
    };
    one(look(ID, &"", &facts.state.last_backup).map(|taken_at| {
        let Some(taken_at) = taken_at else {
            return Finding::warning(ID, "", "there is no backup of the data directory", fix());
        };
        let age = facts.at.duration_since(*taken_at);
        let text = match age.as_hours().max(0) {
            hours @ 0..48 => format!("the last backup is {hours} hours old"),
            hours => format!("the last backup is {} days old", hours / 24),
        };
        match age > facts.state.backup_age_max {
            true => Finding::warning(ID, "", text, fix()),
            false => Finding::ok(ID, "", text),
        }
    }))
}
