//! `slime completions`: scripts by which shells complete commands, flags and values, from the same tables as
//! help.
//!
//! Each script finds the command as `normalise` does, by the words before the first flag, where `run`
//! may be left out.

use core::fmt::{self, Write as _};
use std::collections::{BTreeMap, BTreeSet};

use argh::{CommandInfoWithArgs, FlagInfo, FlagInfoKind, Optionality};

use super::Failure;
use super::args::Completions;
use super::help::groups;
use super::normalise::help_line;

/// The shells, as they are named.
const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];

/// The script of the shell that was named.
pub(super) fn script(args: &Completions, root: &CommandInfoWithArgs) -> Result<String, Failure> {
    let mut commands = Vec::new();
    collect(root, "", &mut commands);
    let mut script = String::new();
    let written = match args.shell.as_deref() {
        Some("bash") => bash(&commands, &mut script),
        Some("zsh") => zsh(&commands, &mut script),
        Some("fish") => fish(&commands, &mut script),
        Some(_) | None => {
            let line = format!("a shell is bash, zsh or fish; {}", help_line("completions"));
            return Err(Failure::Usage(line));
        }
    };
    written.map(|()| script).map_err(|error| Failure::Runtime(format!("cannot write the script: {error}")))
}

/// A command, and what may follow it.
struct Completed<'a> {
    /// As `hub run`; the program alone has none.
    name: String,
    /// The words that go on, with what they mean. A value that is no flag's is among them.
    words: Vec<(&'a str, &'a str)>,
    /// Its own flags, or those of `run` where that may be left out.
    flags: Vec<&'a FlagInfo<'static>>,
}

fn collect<'a>(info: &'a CommandInfoWithArgs, name: &str, all: &mut Vec<Completed<'a>>) {
    let mut words: Vec<_> =
        info.commands.iter().map(|command| (command.name, command.command.description)).collect();
    if info.positionals.iter().any(|positional| positional.name == "shell") {
        words.extend(SHELLS.iter().map(|shell| (*shell, "")));
    }
    let run = info.commands.iter().find(|command| command.name == "run");
    let of = run.map_or(info, |run| &run.command);
    let flags = groups(of).flat_map(|(_, flags)| flags).collect();
    all.push(Completed { name: name.to_owned(), words, flags });
    for command in &info.commands {
        collect(&command.command, format!("{name} {}", command.name).trim_start(), all);
    }
}

/// What the value of a flag is.
enum Value {
    File,
    Folder,
    OneOf(&'static str),
    Any,
}

fn value(flag: &FlagInfo<'_>) -> Option<Value> {
    let FlagInfoKind::Option { arg_name } = flag.kind else { return None };
    Some(match arg_name {
        "file" => Value::File,
        "dir" => Value::Folder,
        "level" => Value::OneOf("error warn info debug"),
        "how" => Value::OneOf("close drain"),
        _ => Value::Any,
    })
}

/// The words of all commands but the program alone, as they stand behind that of the command above them.
fn steps<'a>(commands: &'a [Completed<'_>]) -> impl Iterator<Item = (&'a str, &'a str)> {
    commands.iter().filter(|command| !command.name.is_empty()).map(|command| {
        let above = command.name.rsplit_once(' ').map_or("", |(above, _)| above);
        (above, command.name.as_str())
    })
}

fn bash(commands: &[Completed<'_>], out: &mut String) -> fmt::Result {
    out.push_str(
        "# Completion of slime for bash, made by `slime completions bash`.\n\
         _slime() {\n    local word command= words= flags= index\n    COMPREPLY=()\n    \
         for word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n        case \"$command/$word\" in\n",
    );
    for (above, name) in steps(commands) {
        let word = name.rsplit(' ').next().unwrap_or(name);
        writeln!(out, "            '{above}/{word}') command='{name}' ;;")?;
    }
    out.push_str("            *) break ;;\n        esac\n    done\n    case $command in\n");
    for command in commands {
        let words: Vec<_> = command.words.iter().map(|(word, _)| *word).collect();
        let flags: Vec<_> = command.flags.iter().map(|flag| flag.long).collect();
        let (words, flags) = (words.join(" "), flags.join(" "));
        writeln!(out, "        '{}') words='{words}' flags='{flags}' ;;", command.name)?;
    }
    // bash takes `--flag=value` for three words.
    out.push_str(
        "    esac\n    word=${COMP_WORDS[COMP_CWORD]} index=$((COMP_CWORD - 1))\n    \
         if [[ $word == = ]]; then\n        word=\n    \
         elif [[ ${COMP_WORDS[index]} == = ]]; then\n        index=$((index - 1))\n    fi\n    \
         case ${COMP_WORDS[index]} in\n",
    );
    let mut actions: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for flag in commands.iter().flat_map(|command| &command.flags) {
        let by = match value(flag) {
            Some(Value::File) => "-f",
            Some(Value::Folder) => "-d",
            Some(Value::OneOf(list)) => &format!("-W '{list}'"),
            Some(Value::Any) => "",
            None => continue,
        };
        actions.entry(by.to_owned()).or_default().insert(flag.long);
    }
    for (by, flags) in actions {
        let flags = Vec::from_iter(flags).join("|");
        writeln!(out, "        {flags})")?;
        if by.starts_with("-f") || by.starts_with("-d") {
            writeln!(out, "            compopt -o filenames 2>/dev/null")?;
        }
        if !by.is_empty() {
            writeln!(out, "            mapfile -t COMPREPLY < <(compgen {by} -- \"$word\")")?;
        }
        writeln!(out, "            return ;;")?;
    }
    out.push_str(
        "    esac\n    \
         if [[ $word == -* || -z $words ]]; then words=$flags; fi\n    \
         mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$word\")\n}\n\
         complete -F _slime slime\n",
    );
    Ok(())
}

fn zsh(commands: &[Completed<'_>], out: &mut String) -> fmt::Result {
    /// In single quotes, where a backslash goes before what `_arguments` would read.
    fn quoted(text: &str, special: &[char]) -> String {
        let text: String =
            text.chars().flat_map(|c| special.contains(&c).then_some('\\').into_iter().chain([c])).collect();
        text.replace('\'', "'\\''")
    }
    out.push_str(
        "#compdef slime\n\
         # Completion of slime for zsh, made by `slime completions zsh`.\n\
         _slime() {\n    local command= index\n    \
         for (( index = 2; index < CURRENT; index++ )); do\n        case \"$command/${words[index]}\" in\n",
    );
    for (above, name) in steps(commands) {
        let word = name.rsplit(' ').next().unwrap_or(name);
        writeln!(out, "            '{above}/{word}') command='{name}' ;;")?;
    }
    out.push_str(
        "            *) break ;;\n        esac\n    done\n    \
         shift $((index - 2)) words\n    (( CURRENT -= index - 2 ))\n    \
         case $command in\n",
    );
    for command in commands {
        write!(out, "        '{}') _arguments", command.name)?;
        for flag in &command.flags {
            let often = if flag.optionality == Optionality::Repeating { "*" } else { "" };
            let means = quoted(flag.description, &['[', ']', '\\']);
            write!(out, " \\\n            '{often}{}", flag.long)?;
            let FlagInfoKind::Option { arg_name } = flag.kind else {
                write!(out, "[{means}]'")?;
                continue;
            };
            let action = match value(flag) {
                Some(Value::File) => "_files",
                Some(Value::Folder) => "_files -/",
                Some(Value::OneOf(list)) => &format!("({list})"),
                Some(Value::Any) | None => " ",
            };
            write!(out, "=[{means}]:{arg_name}:{action}'")?;
        }
        if !command.words.is_empty() {
            out.push_str(" \\\n            '1: :((");
            for (word, means) in &command.words {
                let means = quoted(means, &[' ', ':', ';', '(', ')', '\\', '[', ']', '`', '"', '&']);
                write!(out, "{word}\\:{means} ")?;
            }
            out.push_str("))'");
        }
        out.push_str(" ;;\n");
    }
    out.push_str(
        "    esac\n}\n\
         if [[ ${funcstack[1]} == _slime ]]; then _slime \"$@\"; else compdef _slime slime; fi\n",
    );
    Ok(())
}

fn fish(commands: &[Completed<'_>], out: &mut String) -> fmt::Result {
    fn quoted(text: &str) -> String {
        text.replace('\\', "\\\\").replace('\'', "\\'")
    }
    out.push_str(
        "# Completion of slime for fish, made by `slime completions fish`.\n\
         function __slime_is\n    set -l command ''\n    \
         for word in (commandline -opc)[2..]\n        switch \"$command/$word\"\n",
    );
    for (above, name) in steps(commands) {
        let word = name.rsplit(' ').next().unwrap_or(name);
        writeln!(out, "            case '{above}/{word}'\n                set command '{name}'")?;
    }
    out.push_str(
        "            case '*'\n                break\n        end\n    end\n    \
         test \"$command\" = \"$argv\"\nend\ncomplete -c slime -f\n",
    );
    for Completed { name, words, flags } in commands {
        for (word, means) in words {
            writeln!(out, "complete -c slime -n '__slime_is {name}' -a {word} -d '{}'", quoted(means))?;
        }
        for flag in flags {
            let value = match value(flag) {
                Some(Value::File) => "-r -F ",
                Some(Value::Folder) => "-x -a '(__fish_complete_directories)' ",
                Some(Value::OneOf(list)) => &format!("-x -a '{list}' "),
                Some(Value::Any) => "-x ",
                None => "",
            };
            let flag_name = flag.long.trim_start_matches('-');
            let means = quoted(flag.description);
            writeln!(out, "complete -c slime -n '__slime_is {name}' -l {flag_name} {value}-d '{means}'")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use argh::ArgsInfo as _;

    use super::super::args::Slime;
    use super::super::values::{level, on_cancel};
    use super::*;

    #[test]
    fn a_flag_has_one_kind_of_value_and_each_word_offered_is_one() {
        let root = Slime::get_args_info();
        let mut commands = Vec::new();
        collect(&root, "", &mut commands);
        let flags: Vec<_> = commands.iter().flat_map(|command| &command.flags).collect();
        for flag in &flags {
            let same = flags.iter().filter(|other| other.long == flag.long);
            for other in same {
                assert_eq!(flag.kind, other.kind, "{}: bash knows flags without their commands", flag.long);
            }
            if let Some(Value::OneOf(list)) = value(flag) {
                for word in list.split(' ') {
                    assert!(level(word).is_ok() || on_cancel(word).is_ok(), "{}: {word}", flag.long);
                }
            }
        }
    }
}
