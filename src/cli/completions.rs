//! `pillarbox completions`.

use clap::CommandFactory;
use clap_complete::Shell;

use super::output::print;

#[derive(Debug, clap::Args)]
#[command(after_help = "For bash:  pillarbox completions bash > /etc/bash_completion.d/pillarbox")]
pub(super) struct Arguments {
    /// The shell
    shell: Shell,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    print(&script(arguments.shell))
}

fn script(shell: Shell) -> String {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut super::Arguments::command(), "pillarbox", &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_knows_the_commands_and_their_options() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell);
            for word in ["quickstart", "resume", "restore-drill"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }
}
