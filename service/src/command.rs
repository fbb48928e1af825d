//! The command line of a service, made from the keys of its configuration.

use std::{ffi::OsString, path::PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command, parser::ValueSource, value_parser};
use toml::Table;

use crate::{
    Alias, Daemon, LoadError, LogFormat,
    layers::{self, Key},
    secret,
};

/// What the command line asks for.
pub(crate) enum Invocation<C> {
    /// Everything is said by this text (help, version, a complaint).
    Done { text: String, status: u8 },
    Run {
        config: C,
        log_format: LogFormat,
        log_filter: Option<String>,
        /// To be logged once that is possible.
        warnings: Vec<String>,
    },
    /// There is no valid configuration.
    Invalid { error: LoadError, log_format: LogFormat },
}

/// Takes the command line apart; `args` begins with the program's name.
pub(crate) fn parse<D: Daemon>(
    bin_name: &str,
    base: Table,
    args: impl IntoIterator<Item = OsString>,
) -> Invocation<D::Config> {
    let keys = layers::keys::<D::Raw>(base.clone());
    let matches = match command::<D>(bin_name, &keys).try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) => {
            let status = u8::try_from(error.exit_code()).unwrap_or(2);
            return Invocation::Done { text: error.render().to_string(), status };
        }
    };
    if matches.get_flag("example-config") {
        return Invocation::Done { text: D::EXAMPLE.to_owned(), status: 0 };
    }
    let log_format = matches.get_one("log-format").copied().unwrap_or_default();
    match load::<D>(base, &keys, &matches) {
        Err(error) => Invocation::Invalid { error, log_format },
        Ok(_) if matches.get_flag("check-config") => {
            Invocation::Done { text: "configuration is valid\n".to_owned(), status: 0 }
        }
        Ok(config) => Invocation::Run {
            config,
            log_format,
            log_filter: matches.get_one("log-filter").cloned(),
            warnings: readable_secrets::<D>(&keys, &matches),
        },
    }
}

fn load<D: Daemon>(base: Table, keys: &[Key], matches: &ArgMatches) -> Result<D::Config, LoadError> {
    let mut table = base;
    let file = matches.get_one::<PathBuf>("config").map(|path| layers::File::read(path)).transpose()?;
    if let Some(file) = &file {
        layers::overlay_secrets(D::SECRETS, &mut table, file.parse()?);
    }
    // Variables first: a flag wins over them, also where the two say a secret in different ways.
    let mut said = Vec::new();
    for source in [ValueSource::EnvVariable, ValueSource::CommandLine] {
        for key in keys {
            let flag = key.flag();
            let text =
                matches.get_one::<String>(&flag).filter(|_| matches.value_source(&flag) == Some(source));
            let alias = || alias_in_env::<D>(key).filter(|_| source == ValueSource::EnvVariable);
            let (origin, text) = match (text, alias()) {
                (Some(text), _) if source == ValueSource::CommandLine => (format!("--{flag}"), text.clone()),
                (Some(text), _) => (key.env(D::NAME), text.clone()),
                (None, Some((env, text))) => (env.to_owned(), text),
                (None, None) => continue,
            };
            secret::forget_alternative(D::SECRETS, &mut table, &key.path);
            layers::set(&mut table, key, &text, &origin)?;
            said.push(key.path.as_str());
        }
    }
    layers::parse::<D>(table).map_err(|error| match &file {
        Some(file) if !said.contains(&error.key.as_str()) => file.locate(error),
        Some(_) | None => error.into(),
    })
}

/// What every user of the machine can read, and how to do better.
fn readable_secrets<D: Daemon>(keys: &[Key], matches: &ArgMatches) -> Vec<String> {
    let mut warnings = Vec::new();
    for secret in D::SECRETS {
        let Some(key) = keys.iter().find(|key| key.path == secret.key) else { continue };
        let flag = key.flag();
        let is_readable = matches.value_source(&flag) == Some(ValueSource::CommandLine)
            && matches.get_one::<String>(&flag).is_some_and(|text| (secret.is_secret)(text));
        if is_readable {
            warnings.push(format!(
                "every user of this machine can read the password in --{flag}: write it into a file that only you can read, and name that with --{}",
                secret.file_key.replace(['.', '_'], "-")
            ));
        }
    }
    warnings
}

fn alias<D: Daemon>(key: &Key) -> Option<&'static Alias> {
    D::ALIASES.iter().find(|alias| alias.key == key.path)
}

/// What `key`'s second environment variable says.
fn alias_in_env<D: Daemon>(key: &Key) -> Option<(&'static str, String)> {
    let env = alias::<D>(key)?.env;
    Some((env, std::env::var(env).ok()?))
}

fn command<D: Daemon>(bin_name: &str, keys: &[Key]) -> Command {
    Command::new(D::NAME)
        .bin_name(bin_name)
        .about(D::ABOUT)
        .version(env!("CARGO_PKG_VERSION"))
        .arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .env(env_name::<D>("config"))
                .value_parser(value_parser!(PathBuf))
                .help("Configuration file (TOML); flags and environment win over it"),
        )
        .arg(switch("check-config").help("Check the configuration and exit: 0 if it is valid, else 78"))
        .arg(switch("example-config").help("Print a commented configuration with every key at its default"))
        .arg(
            Arg::new("log-format")
                .long("log-format")
                .value_name("text|json")
                .env(env_name::<D>("log_format"))
                .value_parser(|text: &str| text.parse::<LogFormat>())
                .help("Form of the log lines on standard error"),
        )
        .arg(
            Arg::new("log-filter")
                .long("log-filter")
                .value_name("FILTER")
                .env(env_name::<D>("log_filter"))
                .help("What to log, like 'info' or 'lars_dns=debug,warn' [env: also LARS_LOG, RUST_LOG]"),
        )
        .args(keys.iter().map(key_arg::<D>))
}

fn switch(name: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue)
}

fn env_name<D: Daemon>(name: &str) -> String {
    format!("{}_{name}", D::NAME).replace('-', "_").to_uppercase()
}

fn key_arg<D: Daemon>(key: &Key) -> Arg {
    let flag = key.flag();
    let (section, name) = key.path.split_once('.').unwrap_or(("", &key.path));
    let place = if section.is_empty() { name.to_owned() } else { format!("[{section}] {name}") };
    let mut help = format!("{place} [default: {}]", key.default_text());
    let mut arg = Arg::new(flag.clone())
        .long(flag)
        .value_name("VALUE")
        .env(key.env(D::NAME))
        // Some hold passwords.
        .hide_env_values(true)
        .allow_hyphen_values(true)
        .help_heading("Configuration keys");
    if let Some(alias) = alias::<D>(key) {
        arg = arg.visible_alias(alias.flag);
        help.push_str(&format!(" [env: also {}]", alias.env));
    }
    arg.help(help)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::{ConfigError, EXIT_CONFIG, Secret, Shutdown};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Raw {
        caller_ip: String,
        balance: Balance,
        dns: Dns,
        store: Store,
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Store {
        url: String,
        url_file: String,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Balance {
        probe_num: u32,
        err_rate: f64,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Dns {
        servers: Vec<String>,
    }

    impl Default for Raw {
        fn default() -> Self {
            Self {
                caller_ip: String::new(),
                balance: Balance { probe_num: 10, err_rate: 0.1 },
                dns: Dns { servers: vec!["127.0.0.1:7778".into()] },
                store: Store::default(),
            }
        }
    }

    struct Example;

    impl Daemon for Example {
        const NAME: &'static str = "lars-example";
        const ABOUT: &'static str = "an example";
        const EXAMPLE: &'static str = "# an example\n";
        const ALIASES: &'static [Alias] = &[Alias { key: "dns.servers", flag: "dns", env: "LARS_TEST_DNS" }];
        const SECRETS: &'static [Secret] = &[Secret {
            key: "store.url",
            file_key: "store.url_file",
            credential: "no_such_credential",
            is_secret: |text| text.contains('@'),
        }];
        type Raw = Raw;
        type Config = Raw;

        fn validate(raw: Raw) -> Result<Raw, ConfigError> {
            if raw.balance.err_rate > 1.0 {
                return Err(ConfigError::new("balance.err_rate", "is over 1"));
            }
            Ok(raw)
        }

        fn run(_: Raw, _: &Shutdown) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
            Ok(())
        }
    }

    /// What a program that contains the example would have for its default.
    fn base() -> Table {
        "balance.probe_num = 7".parse().unwrap()
    }

    fn run(args: &[&str]) -> Result<Raw, (String, u8)> {
        let args = ["lars-example"].iter().chain(args).map(OsString::from);
        match parse::<Example>("lars-example", base(), args) {
            Invocation::Run { config, .. } => Ok(config),
            Invocation::Done { text, status } => Err((text, status)),
            Invocation::Invalid { error, .. } => Err((error.to_string(), EXIT_CONFIG)),
        }
    }

    fn file(text: &str) -> tempfile::TempPath {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn nothing_said_is_the_default() {
        let balance = Balance { probe_num: 7, err_rate: 0.1 };
        assert_eq!(run(&[]), Ok(Raw { balance, ..Raw::default() }));
    }

    #[test]
    fn a_key_may_have_a_second_name() {
        assert_eq!(run(&["--dns", "10.0.0.1:1"]).unwrap().dns.servers, ["10.0.0.1:1"]);
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let path = file("[balance]\nprobe_num = 3\nerr_rate = 0.5\n");
        let config = ["--config", path.to_str().unwrap(), "--balance-err-rate", "0.25"];
        let balance = Balance { probe_num: 3, err_rate: 0.25 };
        assert_eq!(run(&config), Ok(Raw { balance, ..Raw::default() }));
    }

    fn url(args: &[&str]) -> Result<String, String> {
        run(args).map(|raw| raw.store.url).map_err(|(text, _)| text)
    }

    #[test]
    fn a_secret_comes_from_a_file_and_who_speaks_later_wins() {
        let secret = file("mysql://u:secret@h/d\n");
        let secret = secret.to_str().unwrap();
        assert_eq!(url(&["--store-url-file", secret]).unwrap(), "mysql://u:secret@h/d");
        let config = file(&format!("[store]\nurl_file = '{secret}'\n"));
        let config = config.to_str().unwrap();
        assert_eq!(url(&["--config", config]).unwrap(), "mysql://u:secret@h/d");
        assert_eq!(url(&["--config", config, "--store-url", "sqlite:a"]).unwrap(), "sqlite:a");
        let config = file("[store]\nurl = 'sqlite:b'\n");
        let config = config.to_str().unwrap();
        assert_eq!(url(&["--config", config, "--store-url-file", secret]).unwrap(), "mysql://u:secret@h/d");
        let both = file(&format!("[store]\nurl = 'sqlite:b'\nurl_file = '{secret}'\n"));
        let text = url(&["--config", both.to_str().unwrap()]).unwrap_err();
        assert!(text.contains(":3:1: store.url_file: store.url says it already"), "{text}");
        let text = url(&["--store-url-file", "/nonexistent/url"]).unwrap_err();
        assert!(text.contains("store.url_file: cannot read /nonexistent/url"), "{text}");
    }

    #[test]
    fn a_password_that_everybody_can_read_is_warned_about() {
        let warnings = |args: &[&str]| {
            let args = ["lars-example"].iter().chain(args).map(OsString::from);
            match parse::<Example>("lars-example", base(), args) {
                Invocation::Run { warnings, .. } => warnings,
                Invocation::Done { text, .. } => panic!("{text}"),
                Invocation::Invalid { error, .. } => panic!("{error}"),
            }
        };
        assert_eq!(warnings(&["--store-url", "sqlite:a"]), [""; 0]);
        let [warning] = &warnings(&["--store-url", "mysql://u:secret@h/d"])[..] else {
            panic!("one warning")
        };
        assert!(warning.contains("--store-url-file") && !warning.contains("secret@"), "{warning}");
    }

    #[test]
    fn errors_say_where_and_never_show_a_value() {
        let check = |text: &str, expect: &str| {
            let path = file(text);
            let (message, status) = run(&["--config", path.to_str().unwrap()]).unwrap_err();
            assert_eq!(status, 78);
            assert!(!message.contains("secret"), "{message}");
            let expect = format!("{}:{expect}", path.display());
            assert!(message.starts_with(&expect), "{message}\nis not\n{expect}");
        };
        check("[store]\nurl = \"mysql://u:secret@h/d\n", "2:");
        check("store = \"mysql://u:secret@h/d\"\n", "1:1: store: invalid type: string, expected");
        check(
            "[balance]\nprobe_num = \"secret\"\n",
            "2:1: balance.probe_num: invalid type: string, expected",
        );
        check("\n[balance]\nprobes = 7\n", "3:1: balance: unknown field `probes`");
        check("[balance]\nerr_rate = 2.0\n", "2:1: balance.err_rate: is over 1");
        check("[nothing]\n", "1:2: configuration: unknown field `nothing`");
        let (message, _) = run(&["--balance-probe-num", "secret"]).unwrap_err();
        assert_eq!(message, "balance.probe_num: what --balance-probe-num says is not a whole number");
    }

    #[test]
    fn lists_are_comma_separated() {
        let raw = run(&["--dns-servers", "10.0.0.1:7778, 10.0.0.2:7778"]).unwrap();
        assert_eq!(raw.dns.servers, ["10.0.0.1:7778", "10.0.0.2:7778"]);
        assert_eq!(run(&["--caller-ip", "10.0.0.9"]).unwrap().caller_ip, "10.0.0.9");
    }

    #[test]
    fn every_key_has_a_flag_and_a_variable_in_the_help() {
        let (help, status) = run(&["--help"]).unwrap_err();
        assert_eq!(status, 0);
        for text in ["--balance-probe-num", "LARS_EXAMPLE_BALANCE_ERR_RATE", "--caller-ip", "[dns] servers"] {
            assert!(help.contains(text), "{text} is not in\n{help}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |args: &[&str], status: u8, words: &[&str]| {
            let (text, actual) = run(args).unwrap_err();
            assert_eq!(actual, status, "{text}");
            for word in words {
                assert!(text.contains(word), "'{word}' is not in: {text}");
            }
        };
        check(&["--balance-err-rate", "2"], 78, &["balance.err_rate: is over 1"]);
        check(&["--balance-probe-num", "ten"], 78, &["balance.probe_num", "is not a whole number"]);
        check(&["--balance-probe-num", "-1"], 78, &["balance.probe_num"]);
        check(&["--nonsense"], 2, &["--nonsense"]);
        check(&["--config", "/nonexistent/lars.toml"], 78, &["/nonexistent/lars.toml"]);

        let unknown = file("[balance]\nprobe_nun = 3\n");
        check(&["--config", unknown.to_str().unwrap()], 78, &["balance", "probe_nun"]);
        let mistyped = file("[balance]\nprobe_num = \"3\"\n");
        check(&["--config", mistyped.to_str().unwrap()], 78, &["balance.probe_num"]);
        let broken = file("[balance\n");
        check(&["--config", broken.to_str().unwrap()], 78, &[broken.to_str().unwrap()]);
    }

    #[test]
    fn checking_only_checks() {
        assert_eq!(run(&["--check-config"]), Err(("configuration is valid\n".into(), 0)));
        assert_eq!(run(&["--example-config"]), Err(("# an example\n".into(), 0)));
    }
}
