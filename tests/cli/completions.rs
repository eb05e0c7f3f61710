//! The scripts of `slime completions`, asked through the shells that they are for. A shell that is not
//! installed is not asked, but for bash.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::harness::*;

/// Prints what bash would offer for a line, whose words it splits at `=`, too.
const BASH: &str = r#"
. "$SCRIPT"
read -ra COMP_WORDS <<<"${LINE//=/ = }"
[[ $LINE == *[=\ ] && ${COMP_WORDS[-1]} != = ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_slime
printf '%s\n' "${COMPREPLY[@]}"
"#;
const FISH: &str = r#"source "$SCRIPT"; complete -C "$LINE""#;
/// A zsh with a terminal of its own, where Tab is pressed. What would be offered goes to a file.
const ZSH: &str = r#"
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell 'source "$SETUP"'
zpty -w -n shell "$LINE"$'\t'
until [[ -e $OFFERED.all ]]; do sleep 0.05; done
cat "$OFFERED"
"#;
const ZSH_SETUP: &str = r#"
PROMPT=
autoload -Uz compinit && compinit -u -D
source "$SCRIPT"
compadd() {
    if [[ " ${@[1,(i)(-|--)]} " != *' -'[A-Za-z]#(O|A|D)' '* ]]; then
        local -a hits
        builtin compadd -A hits "$@"
        print -rl -- $hits >>"$OFFERED"
    fi
    builtin compadd "$@"
}
all() { : >>"$OFFERED"; : >"$OFFERED.all"; }
comppostfuncs=(all)
bindkey '^I' complete-word
"#;

/// What a shell offers for a line, without what it says of each.
fn offered(shell: &str, folder: &Folder, line: &str) -> Option<BTreeSet<String>> {
    let (code, script, err) = run(&["completions", shell], &[]);
    assert_eq!((code, err.as_str()), (0, ""), "{shell}");
    let (result, setup) = (folder.path("offered"), folder.file("setup", ZSH_SETUP));
    let _ = fs::remove_file(&result);
    let _ = fs::remove_file(format!("{result}.all"));
    let flags: &[&str] = match shell {
        "bash" => &["--norc", "-c", BASH],
        "fish" => &["--no-config", "-c", FISH],
        _ => &["-f", "-c", ZSH],
    };
    let mut asked = Command::new("timeout");
    asked.args(["60", shell]).args(flags).current_dir(&folder.0);
    asked.env("HOME", &folder.0).env("TERM", "dumb").env("LINE", line);
    asked.env("SCRIPT", folder.file("script", &script)).env("SETUP", setup).env("OFFERED", result);
    let output = asked.output().unwrap();
    // timeout(1) did not find the shell.
    if output.status.code() == Some(127) && shell != "bash" {
        return None;
    }
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && err.is_empty(), "{shell}, '{line}': {err}");
    let word = |line: &str| line.split('\t').next().unwrap_or_default().trim_end_matches('=').to_owned();
    Some(out.lines().map(word).filter(|word| !word.is_empty()).collect())
}

#[test]
fn bash_completes() {
    completes("bash");
}

#[test]
fn fish_completes() {
    completes("fish");
}

#[test]
fn zsh_completes() {
    completes("zsh");
}

fn completes(shell: &str) {
    let folder = Folder::new(&format!("completions-{shell}"));
    folder.file("secret.txt", "");
    fs::create_dir(folder.0.join("section")).unwrap();
    for (line, expected) in [
        ("slime ", "hub agent demo ready version completions"),
        ("slime hub ", "run register inspect"),
        ("slime hub reg", "register"),
        ("slime hub run --tls-p", "--tls-port"),
        ("slime hub --tls-p", "--tls-port"),
        ("slime hub register --scop", "--scopes --scope-paths"),
        ("slime agent --host 1 --secret", ""),
        ("slime hub --log-level w", "warn"),
        ("slime hub --log-level=w", "warn"),
        ("slime hub --log-level ", "error warn info debug"),
        ("slime agent --on-cancel ", "close drain"),
        ("slime hub --port ", ""),
        ("slime hub --secret-file secr", "secret.txt"),
        ("slime hub --tls-self-signed se", "section"),
        ("slime completions ", "bash zsh fish"),
    ] {
        let Some(offered) = offered(shell, &folder, line) else { return };
        // Some show the flag before the value, or a slash after a folder.
        let offered =
            offered.iter().map(|word| word.rsplit('=').next().unwrap_or(word).trim_end_matches('/'));
        let expected: BTreeSet<&str> = expected.split_whitespace().collect();
        assert_eq!(offered.collect::<BTreeSet<_>>(), expected, "{shell}, '{line}'");
    }
    for command in ["hub", "hub run", "hub register", "hub inspect", "agent", "agent run", "demo"] {
        let (_, help, _) = run(&[words(command), vec!["--help"]].concat(), &[]);
        let flags = help.lines().filter_map(|line| line.strip_prefix("  --"));
        let flags = flags.map(|rest| format!("--{}", rest.split(' ').next().unwrap()));
        let offered = offered(shell, &folder, &format!("slime {command} --"));
        assert_eq!(offered, Some(flags.collect()), "{shell}, {command}");
    }
}
