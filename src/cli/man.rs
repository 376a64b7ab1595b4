//! `pillarbox man`: the manual pages, for packages. One for each command, and one for the configuration file.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::CommandFactory;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::durable_file;

const SAMPLE_CONFIG: &str = include_str!("../../config/pillarbox.toml");
const SOURCE: &str = concat!("pillarbox ", env!("CARGO_PKG_VERSION"));
const MANUAL: &str = "Pillarbox";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The directory to write to; created if it does not exist
    directory: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let directory = &arguments.directory;
    write_all(directory).with_context(|| directory.display().to_string())
}

fn write_all(directory: &Path) -> std::io::Result<()> {
    durable_file::create_directory(directory, 0o755)?;
    let mut command = super::Arguments::command().disable_help_subcommand(true);
    command.build();
    write_pages(directory, command)?;
    std::fs::write(directory.join("pillarbox.toml.5"), config_page())
}

/// `pillarbox.1`, `pillarbox-queue.1`, `pillarbox-queue-pause.1`, …
fn write_pages(directory: &Path, command: clap::Command) -> std::io::Result<()> {
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        write_pages(directory, inner.clone())?;
    }
    Man::new(command).source(SOURCE).manual(MANUAL).generate_to(directory).map(drop)
}

#[derive(PartialEq, Clone, Copy)]
enum Line {
    Comment,
    Option,
    Table,
    Blank,
}

impl Line {
    /// An option or a table without a default stands behind `#`.
    fn of(line: &str) -> Self {
        let bare = line.trim_start_matches("# ");
        match bare.split_once(" = ") {
            _ if bare.is_empty() => Self::Blank,
            _ if bare.starts_with('[') && bare.ends_with(']') => Self::Table,
            Some((key, _)) if !key.contains(' ') => Self::Option,
            _ => Self::Comment,
        }
    }
}

/// `pillarbox.toml(5)`: the sample, with a section for each table.
fn config_page() -> String {
    let mut page = Roff::new();
    page.control("TH", ["pillarbox.toml", "5", "", SOURCE, MANUAL]);
    page.control("SH", ["NAME"]);
    page.text([roman("pillarbox.toml - the configuration of the pillarbox server")]);
    page.control("SH", ["DESCRIPTION"]);
    let lines: Vec<&str> = SAMPLE_CONFIG.lines().collect();
    for group in lines.chunk_by(|one, next| Line::of(one) == Line::of(next)) {
        let bare = group.iter().map(|line| line.trim_start_matches("# "));
        match Line::of(group[0]) {
            Line::Blank => {}
            Line::Table => {
                for table in bare {
                    page.control("SH", [table]);
                }
            }
            Line::Comment => {
                page.control("PP", []);
                for line in bare {
                    page.text([roman(line)]);
                }
            }
            Line::Option => {
                page.control("RS", ["4"]);
                page.control("nf", []);
                for line in group {
                    page.text([bold(*line)]);
                }
                page.control("fi", []);
                page.control("RE", []);
            }
        }
    }
    page.control("SH", ["SEE ALSO"]);
    page.text([bold("pillarbox-check-config"), roman("(1)")]);
    page.to_roff()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_and_the_configuration_too() {
        let directory = tempfile::tempdir().unwrap();
        write_all(directory.path()).unwrap();
        let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
        assert!(read("pillarbox.1").contains("pillarbox\\-queue(1)"));
        assert!(read("pillarbox-queue-pause.1").contains("\\-\\-destination"));
        assert!(!directory.path().join("pillarbox-man.1").exists(), "the hidden command has a page");
        let config = read("pillarbox.toml.5");
        for line in ["SH [inbound.forward]", "\\fBdata_dir = \"/var/lib/pillarbox\"\\fR", "\\fB# hostname = "]
        {
            assert!(config.contains(line), "{line}: {config}");
        }
    }
}
