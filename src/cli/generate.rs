//! `tortie completions` and `tortie man`: made from the command line's own description.

use super::{Cli, Outcome, print};
use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Completions {
    /// The shell that is to complete
    shell: Shell,
}

#[derive(Debug, clap::Args)]
pub struct Manual {
    /// Folder for the pages, one for each verb; made if it is not there
    #[arg(long, value_name = "FOLDER")]
    dir: PathBuf,
}

/// Prints the script; as in `tortie completions bash > /etc/bash_completion.d/tortie`.
pub fn completions(args: &Completions) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "tortie", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}

/// Writes `tortie.1`, `tortie-fib.1` and so on.
pub fn manual(args: &Manual) -> Outcome {
    let pages = pages(&args.dir).map_err(|e| format!("cannot write manual pages into {}: {e}", args.dir.display()))?;
    print(&format!("{pages} pages in {}\n", args.dir.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn pages(dir: &Path) -> io::Result<usize> {
    fs::create_dir_all(dir)?;
    let mut command = Cli::command();
    command.build();
    page(&command, "tortie", dir)
}

fn page(command: &clap::Command, name: &str, dir: &Path) -> io::Result<usize> {
    let mut text = Vec::new();
    Man::new(command.clone().display_name(name.to_owned())).title(name).render(&mut text)?;
    fs::write(dir.join(format!("{name}.1")), text)?;
    let below = command.get_subcommands().filter(|c| !c.is_hide_set());
    below.map(|c| page(c, &format!("{name}-{}", c.get_name()), dir)).try_fold(1, |n, more| Ok(n + more?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_page_and_is_completed() {
        let dir = tempfile::tempdir().unwrap();
        let n = pages(dir.path()).unwrap();
        assert!(n > 15, "{n}");
        let main = fs::read_to_string(dir.path().join("tortie.1")).unwrap();
        assert!(main.contains(".TH") && main.contains("doctor"), "{main}");
        let page = fs::read_to_string(dir.path().join("tortie-lab-up.1")).unwrap();
        assert!(page.contains("tortie\\-lab\\-up") && page.contains("kernel"), "{page}");
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "tortie", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("tortie") && script.contains("doctor") && script.contains("socket"), "{shell}");
        }
    }
}
