//! Which of several values of a flag counts: the command line's, a variable's, a file's or a credential's.

use std::fs;

use rustix::process::Signal;

use crate::harness::*;

#[test]
fn the_order_of_sources() {
    let folder = Folder::new("order");
    let file = folder.file("secret", "from file flag");
    let other = folder.file("other", "from file variable");
    let env_file = folder.file("env", "# a comment\nexport SLIME_SECRET=\"from env file\"\nSLIME_NAME=from-env-file\nSLIME_FROB=1\nPATH=/\n");
    let env_file_of_file = folder.file("env2", &format!("SLIME_SECRET_FILE='{other}'\n"));
    let variable = "SLIME_SECRET=from variable";
    let file_variable = format!("SLIME_SECRET_FILE={other}");
    let named = format!("SLIME_ENV_FILE={env_file}");
    for (args, environment, secret) in [
        (
            vec!["--secret", "from flag", "--secret-file", &file, "--env-file", &env_file],
            vec![variable],
            "from flag",
        ),
        (vec!["--secret-file", &file, "--env-file", &env_file], vec![variable], "from file flag"),
        (vec!["--env-file", &env_file], vec![variable, &file_variable], "from variable"),
        (vec!["--env-file", &env_file], vec![&file_variable], "from file variable"),
        (vec!["--env-file", &env_file], vec!["SLIME_SECRET="], "from env file"),
        (vec![], vec![&named], "from env file"),
        (vec!["--env-file", &env_file_of_file], vec![], "from file variable"),
    ] {
        let (code, token, err) = run(&[vec!["hub", "register"], args.clone()].concat(), &environment);
        assert_eq!(code, 0, "{err}");
        let (code, said, err) = run(&["hub", "inspect", token.trim()], &[&format!("SLIME_SECRET={secret}")]);
        assert_eq!(code, 0, "{args:?} {environment:?}: {secret}: {err}");
        assert_eq!(
            said.contains("name:        from-env-file"),
            args.contains(&env_file.as_str()) || environment.contains(&named.as_str())
        );
    }
    let (_, _, err) = run(&["hub", "register", "--env-file", &env_file, "--name", "typed"], &[]);
    assert!(
        err.contains("name:        typed") && err.contains(&format!("SLIME_FROB in {env_file} is ignored")),
        "{err}"
    );
    assert!(!err.contains("PATH"), "{err}");
}

#[test]
fn credentials_are_files_that_are_named_nowhere() {
    let folder = Folder::new("credentials");
    folder.file("slime_secret", SECRET);
    folder.file("slime_app-password", PASSWORD);
    folder.file("slime_revoked", "nobody\n");
    let directory = format!("CREDENTIALS_DIRECTORY={}", folder.0.display());
    let hub = Hub::start(&[], &[&directory]);
    assert!(get(&hub.address, "").starts_with("HTTP/1.1 401"));
    let fields = format!("Slime-App-Password: {PASSWORD}\r\nSlime-Block: 0\r\n");
    assert!(get(&hub.address, &fields).starts_with("HTTP/1.1 503"));
    hub.signal(Signal::HUP);
    hub.wait_line("/slime_revoked was read again, rules: 1");
    // The last source of all: a line of a file comes before it.
    let env_file = folder.file("env", "SLIME_SECRET=from env file\n");
    let (code, token, err) = run(&["hub", "register", "--env-file", &env_file], &[&directory]);
    assert_eq!(code, 0, "{err}");
    let inspected = |environment: &[&str]| run(&["hub", "inspect", token.trim()], environment);
    assert_eq!(inspected(&["SLIME_SECRET=from env file", &directory]).0, 0);
    assert_eq!(inspected(&[&directory]).0, 1);

    for (content, says) in [
        (" \n", "the file of the credential slime_token is empty"),
        ("two\nlines", "the file of the credential slime_token must be one line of text"),
    ] {
        folder.file("slime_token", content);
        fails("agent --hub h --upstream u", &[&directory], 1, says);
    }
    fs::remove_file(folder.path("slime_token")).unwrap();
    fails("agent --hub h --upstream u", &[&directory], 2, "the token is missing: use --token-file");
    fs::create_dir(folder.path("slime_token")).unwrap();
    fails(
        "agent --hub h --upstream u",
        &[&directory],
        1,
        "cannot read the file of the credential slime_token, ",
    );
    fails(
        "hub",
        &["CREDENTIALS_DIRECTORY=/nonexistent"],
        2,
        "the hub's secret is missing: use --secret-file",
    );
}

#[test]
fn what_container_platforms_make_up_is_ignored_with_one_warning() {
    let (code, _, err) = run(&["hub", "register"], &["SLIME_SECRET=s", "SLIME_NAME=/app/slime"]);
    assert!(code == 0 && err.matches("SLIME_NAME is ignored").count() == 1, "{err}");
    let environment = [
        "SLIME_PORT=tcp://10.0.0.1:8080",
        "SLIME_SERVICE_HOST=10.0.0.1",
        "SLIME_PORT_8080_TCP=tcp://10.0.0.1:8080",
    ];
    let mut demo = command(&["demo", "--upstream", "ftp://h"], &environment);
    let err = text(&demo.output().unwrap().stderr);
    assert!(err.contains("SLIME_PORT is ignored"), "{err}");
}

#[test]
fn a_variable_that_no_flag_has_is_warned_of() {
    // Of another command, of a container platform, of another program, and mistyped.
    let environment = [
        "SLIME_SECRET=s",
        "SLIME_NUM_WORKER=4",
        "SLIME_SERVICE_PORT_HTTP=80",
        "SLIME_HUB_SERVICE_HOST=10.0.0.1",
        "SLIME_HUB_PORT=tcp://10.0.0.1:80",
        "SLIME_HUB_PORT_80_TCP_ADDR=10.0.0.1",
        "SLIMEX=1",
        "SLIME_NUM_WROKER=hush",
    ];
    let (code, _, err) = run(&["hub", "register"], &environment);
    let warned: Vec<&str> = err.lines().filter(|line| line.contains("ignored")).collect();
    assert_eq!(
        (code, warned),
        (0, vec!["WARN  SLIME_NUM_WROKER is ignored: no flag has this variable"]),
        "{err}"
    );
}
