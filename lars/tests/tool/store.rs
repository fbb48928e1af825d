//! Which database a command works on, and what it says if there is none.

use crate::lars::{Ended, Lars, check_failed, sqlite};

/// Adds a host with the variables `env` set, and returns which databases then exist.
fn databases(lars: &Lars, env: &[(&str, &str)], flags: &[&str]) -> Vec<&'static str> {
    let args = [&["route", "add", "1", "1", "10.0.0.1:80"], flags].concat();
    let Ended { status, stderr, .. } = lars.run_with(&args, |command| {
        command.envs(env.iter().copied());
    });
    assert_eq!(status, 0, "{stderr}");
    let places = [
        ("default", ".local/share/lars/lars.db"),
        ("xdg", "xdg/lars/lars.db"),
        ("data dir", "data/lars.db"),
        ("url", "url.db"),
        ("flag", "flag.db"),
    ];
    places.into_iter().filter(|(_, path)| lars.path(path).exists()).map(|(name, _)| name).collect()
}

#[test]
fn flags_win_over_variables_and_these_over_the_default() {
    let check = |env: &[(&str, &str)], flags: &dyn Fn(&Lars) -> Vec<String>, expect: &str| {
        let lars = Lars::new();
        let inside = |value: &str| value.replace("HOME", lars.path("").to_str().expect("UTF-8"));
        let env: Vec<(&str, String)> = env.iter().map(|(name, value)| (*name, inside(value))).collect();
        let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let flags = flags(&lars);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        assert_eq!(databases(&lars, &env, &flags), [expect], "{env:?} {flags:?}");
    };
    let none = |_: &Lars| Vec::new();
    let store = |lars: &Lars| vec!["--store".to_owned(), sqlite(&lars.path("flag.db"))];
    let data_dir = |lars: &Lars| vec!["--data-dir".to_owned(), lars.path("data").display().to_string()];

    check(&[], &none, "default");
    check(&[("XDG_DATA_HOME", "HOME/xdg")], &none, "xdg");
    check(&[("XDG_DATA_HOME", "HOME/xdg"), ("LARS_DATA_DIR", "HOME/data")], &none, "data dir");
    check(&[("LARS_DATA_DIR", "HOME/data"), ("LARS_STORE_URL", "sqlite:HOME/url.db")], &none, "url");
    check(&[("LARS_STORE_URL", "sqlite:HOME/url.db")], &store, "flag");
    check(&[("XDG_DATA_HOME", "HOME/xdg")], &data_dir, "data dir");
}

#[test]
fn looking_at_a_database_that_is_not_there_does_not_make_one() {
    let lars = Lars::new();
    let commands = [
        &["route", "list"][..],
        &["route", "list", "1", "1"],
        &["route", "export"],
        &["route", "rm", "1", "1", "--all"],
        &["status"],
    ];
    for args in commands {
        lars.fails(args, 1, &["there is no database at sqlite:", "`lars up`"]);
    }
    assert!(!lars.default_database().exists());
}

#[test]
fn a_wrong_url_is_explained_without_its_password() {
    let lars = Lars::new();
    let ended = lars.run(&["status", "--store", "mysql://root:s3cret@:1/x"]);
    check_failed(&ended, 1, &["--store", "no host", "mysql://user:password@host:port/database"]);
    assert!(!ended.stderr.contains("s3cret"), "{}", ended.stderr);
    lars.fails(&["status", "--store", "postgres://x"], 1, &["neither 'sqlite:' nor 'mysql://'"]);
    // Nobody listens on the port of "discard", least of all a database.
    let away =
        lars.run(&["route", "add", "1", "1", "10.0.0.1:80", "--store", "mysql://u:s3cret@127.0.0.1:9/x"]);
    check_failed(&away, 1, &["127.0.0.1:9", "is away", "nothing was changed"]);
    assert!(!away.stderr.contains("s3cret"), "{}", away.stderr);
}

#[test]
fn status_of_a_database_without_calls() {
    let lars = Lars::new();
    lars.ok(&["route", "add", "1", "1", "10.0.0.1:80"]);
    assert_eq!(lars.ok(&["status", "--json"]), "[]\n");
    for module in [&[][..], &["1", "1"]] {
        let ended = lars.run(&[&["status"], module].concat());
        assert_eq!((ended.status, ended.stdout.as_str()), (0, ""), "{}", ended.stderr);
        assert!(ended.stderr.contains("no calls"), "{}", ended.stderr);
        assert!(!ended.stderr.contains("simulate"), "{}", ended.stderr);
    }
}

#[test]
fn the_status_of_an_unknown_module_is_that_it_is_unknown() {
    let lars = Lars::new();
    lars.ok(&["route", "add", "1", "1", "10.0.0.1:80"]);
    for more in [&[][..], &["--json"]] {
        let ended = lars.run(&[&["status", "9", "9"], more].concat());
        assert_eq!((ended.status, ended.stdout.as_str()), (4, ""), "{}", ended.stderr);
        assert!(
            ended.stderr.contains("module 9/9 has neither hosts nor calls in sqlite:"),
            "{}",
            ended.stderr
        );
        assert!(!ended.stderr.contains("simulate"), "{}", ended.stderr);
    }
}
