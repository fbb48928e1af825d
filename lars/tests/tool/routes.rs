//! `lars route …`: what goes in comes out, all or nothing.

use std::{fs::File, path::Path};

use lars_proto::ModuleId;
use lars_store::{OpenMode, RouteEdit, Store, StoreUrl};
use serde_json::{Value, json};

use crate::lars::{Lars, check_failed, many_routes, read_one_line, sqlite};

fn open(path: &Path) -> Box<dyn Store> {
    lars_store::open(&StoreUrl::Sqlite(path.to_owned()), OpenMode::Create).expect("the database")
}

#[test]
fn hosts_are_added_listed_and_removed() {
    let lars = Lars::new();
    lars.ok(&["route", "add", "1", "2", "10.0.0.2:80", "10.0.0.1:80"]);
    lars.ok(&["route", "add", "1", "3", "10.0.0.3:80"]);
    let all = "MODID  CMDID  HOST\n    1      2  10.0.0.1:80\n    \
        1      2  10.0.0.2:80\n    1      3  10.0.0.3:80\n";
    assert_eq!(lars.ok(&["route", "list"]), all);
    assert_eq!(lars.ok(&["route", "list", "1", "3"]), "MODID  CMDID  HOST\n    1      3  10.0.0.3:80\n");

    lars.ok(&["route", "rm", "1", "2", "10.0.0.2:80"]);
    lars.ok(&["route", "rm", "1", "3", "--all"]);
    assert_eq!(lars.ok(&["route", "list"]), "MODID  CMDID  HOST\n    1      2  10.0.0.1:80\n");
}

#[test]
fn negative_numbers_are_names_like_others() {
    let lars = Lars::new();
    lars.ok(&["route", "add", "-1", "-2147483648", "200.0.0.1:65535"]);
    let listed = lars.ok(&["route", "list", "-1", "-2147483648", "--json"]);
    let expect = json!([{ "modid": -1, "cmdid": i32::MIN, "hosts": ["200.0.0.1:65535"] }]);
    assert_eq!(serde_json::from_str::<Value>(&listed).expect("JSON"), expect);
    lars.ok(&["route", "rm", "-1", "-2147483648", "--all"]);
    assert_eq!(lars.ok(&["route", "list", "--json"]), "[]\n");
}

#[test]
fn an_edit_is_one_transaction_with_one_version() {
    let lars = Lars::new();
    let file = lars.file("routes.csv", "modid,cmdid,host\n1,1,10.0.0.1:80\n2,1,10.0.0.2:80\n");
    lars.ok(&["route", "import", file.to_str().expect("UTF-8")]);
    let mut store = open(&lars.default_database());
    let version = store.version().expect("a version");
    let changes = store.changes(0, 10).expect("the changes");
    let seen: Vec<_> = changes.iter().map(|change| (change.module, change.version)).collect();
    assert_eq!(seen, [(ModuleId::new(1, 1), version), (ModuleId::new(2, 1), version)]);

    // What changes nothing is no edit, and says so.
    let again = lars.run(&["route", "add", "1", "1", "10.0.0.1:80"]);
    assert_eq!((again.status, store.version().expect("a version")), (0, version));
    assert!(again.stderr.contains("nothing changed"), "{}", again.stderr);
    assert_eq!(store.newest_change_id().expect("an id"), changes[1].id);
}

#[test]
fn what_is_exported_can_be_imported() {
    let (from, to) = (Lars::new(), Lars::new());
    from.ok(&["route", "add", "1", "1", "10.0.0.1:80", "10.0.0.2:80"]);
    from.ok(&["route", "add", "-7", "0", "200.0.0.1:1"]);
    for format in ["csv", "json"] {
        let exported = from.ok(&["route", "export", "--format", format]);
        let import = to.run_on(&exported, &["route", "import", "-", "--format", format, "--replace"]);
        assert_eq!(import.status, 0, "{}", import.stderr);
        assert_eq!(to.ok(&["route", "export", "--format", format]), exported);
    }
}

#[test]
fn an_import_adds_or_replaces() {
    let lars = Lars::new();
    lars.ok(&["route", "add", "1", "1", "10.0.0.1:80"]);
    lars.ok(&["route", "add", "2", "1", "10.0.0.2:80"]);
    let file = lars.file("routes.json", r#"[{"modid": 1, "cmdid": 1, "hosts": ["10.0.0.9:80"]}]"#);
    let file = file.to_str().expect("UTF-8");

    lars.ok(&["route", "import", file]);
    let merged = "modid,cmdid,host\n1,1,10.0.0.1:80\n1,1,10.0.0.9:80\n2,1,10.0.0.2:80\n";
    assert_eq!(lars.ok(&["route", "export"]), merged);
    lars.ok(&["route", "import", file, "--replace"]);
    assert_eq!(lars.ok(&["route", "export"]), "modid,cmdid,host\n1,1,10.0.0.9:80\n2,1,10.0.0.2:80\n");
}

#[test]
fn a_wrong_file_is_named_with_its_line_and_changes_nothing() {
    let lars = Lars::new();
    lars.ok(&["route", "add", "1", "1", "10.0.0.1:80"]);
    let before = lars.ok(&["route", "export"]);
    lars.file("a.csv", "modid,cmdid,host\n1,1,10.0.0.2:80\n1,1,10.0.0.3\n");
    lars.file("b.json", "[\n{\"modid\":1,\"cmdid\":1,\"hosts\":[\"10.0.0.2:80\"]},\n{\"modid\":\"x\"}]");
    lars.file("c.csv", "modid,cmdid,host\n1,1,10.0.0.2:80\n1,99999999999,10.0.0.3:80\n");
    lars.fails(&["route", "import", "a.csv"], 1, &["a.csv:3:", "'10.0.0.3' is not an IPv4 address and port"]);
    lars.fails(&["route", "import", "b.json"], 1, &["b.json:3:", "invalid type"]);
    lars.fails(&["route", "import", "c.csv"], 1, &["c.csv:3:", "cmdid '99999999999'"]);
    lars.fails(&["route", "import", "d.csv"], 1, &["cannot read d.csv"]);
    lars.fails(&["route", "import", "a.txt"], 1, &["a.txt", "--format"]);
    lars.fails(&["route", "import", "-"], 1, &["standard input", "--format"]);
    assert_eq!(lars.ok(&["route", "export"]), before);
}

#[test]
fn a_module_has_room_for_so_many_hosts() {
    let lars = Lars::new();
    let file = lars.path("routes.csv");
    many_routes(&file, 1_000);
    let hosts = (0..4_097).map(|n| format!("1,1,10.1.{}.{}:80\n", n / 250, n % 250));
    let text = format!("modid,cmdid,host\n{}", hosts.collect::<String>());
    lars.file("too-many.csv", &text);
    lars.fails(&["route", "import", "too-many.csv"], 1, &["module 1/1 would have 4097 hosts"]);
    lars.ok(&["route", "import", file.to_str().expect("UTF-8")]);
}

#[test]
fn a_whole_module_is_not_removed_by_leaving_something_out() {
    let lars = Lars::new();
    lars.ok(&["route", "add", "1", "1", "10.0.0.1:80"]);
    lars.fails(&["route", "rm", "1", "1"], 2, &["--all"]);
    lars.fails(&["route", "rm", "1", "1", "10.0.0.1:80", "--all"], 2, &["--all"]);
    lars.file("routes.json", r#"[{"modid": 1, "cmdid": 1, "hosts": []}]"#);
    lars.fails(&["route", "import", "routes.json", "--replace"], 1, &["routes.json:1:", "--all"]);
    assert_eq!(lars.ok(&["route", "list", "1", "1"]).lines().count(), 2);
}

#[test]
fn the_last_host_of_a_module_is_removed_only_if_that_is_said() {
    let lars = Lars::new();
    let [a, b] = ["10.0.0.1:80", "10.0.0.2:80"];
    lars.ok(&["route", "add", "1", "1", a, b]);
    let before = lars.ok(&["route", "export"]);
    lars.fails(&["route", "rm", "1", "1", a, b], 1, &["module 1/1", "no hosts", "--last"]);
    assert_eq!(lars.ok(&["route", "export"]), before);

    lars.ok(&["route", "rm", "1", "1", a]);
    lars.fails(&["route", "rm", "1", "1", b], 1, &["module 1/1", "--last"]);
    // What is not there is not removed, so nothing is the last.
    lars.ok(&["route", "rm", "1", "1", a]);
    lars.ok(&["route", "rm", "2", "1", a]);
    lars.ok(&["route", "rm", "1", "1", b, "--last"]);
    assert_eq!(lars.ok(&["route", "list"]), "");
}

#[test]
fn what_is_there_can_be_accepted_and_is_recorded_with_its_count() {
    let lars = Lars::new();
    lars.fails(&["route", "accept"], 1, &["there is no database at sqlite:"]);
    assert!(!lars.default_database().exists());
    lars.ok(&["route", "add", "1", "1", "10.0.0.1:80", "10.0.0.2:80"]);
    let mut store = open(&lars.default_database());
    let before = store.version().expect("a version");
    let said = lars.run(&["route", "accept"]);
    assert_eq!(said.status, 0, "{}", said.stderr);
    let accepted = store.load_all(&mut |_, _| ()).expect("a load").accepted.expect("it is recorded");
    assert_eq!(accepted.hosts, 2);
    assert!(accepted.version > before);
    assert!(
        said.stderr.contains(&format!("2 hosts accepted; version {}", accepted.version)),
        "{}",
        said.stderr
    );
}

#[test]
fn a_module_that_is_not_there_is_not_found() {
    let lars = Lars::new();
    lars.ok(&["route", "add", "1", "1", "10.0.0.1:80"]);
    lars.fails(&["route", "list", "9", "9"], 4, &["module 9/9 has no hosts in sqlite:"]);
    let json = lars.run(&["route", "list", "9", "9", "--json"]);
    assert_eq!((json.status, json.stdout.as_str()), (4, ""));
    let error: Value = serde_json::from_str(&json.stderr).expect("JSON");
    assert_eq!(error["status"], 4, "{error}");
}

#[test]
fn an_address_that_nobody_can_call_is_no_host() {
    let lars = Lars::new();
    for host in ["0.0.0.0:80", "255.255.255.255:80", "224.0.0.1:80", "239.255.255.255:80"] {
        lars.fails(&["route", "add", "1", "1", host], 2, &[host, "cannot be called"]);
        lars.file("a.csv", &format!("modid,cmdid,host\n1,1,{host}\n"));
        lars.fails(&["route", "import", "a.csv"], 1, &["a.csv:2:", host, "cannot be called"]);
        lars.file("a.json", &format!(r#"[{{"modid":1,"cmdid":1,"hosts":["{host}"]}}]"#));
        lars.fails(&["route", "import", "a.json"], 1, &["a.json:1:", host, "cannot be called"]);
    }
    assert!(!lars.default_database().exists());

    // What another program stored can be removed.
    std::fs::create_dir_all(lars.path(".local/share/lars")).expect("the folder");
    let host = "0.0.0.0:80".parse().expect("a host");
    open(&lars.default_database()).edit(&[RouteEdit::Add(ModuleId::new(1, 1), host)]).expect("the edit");
    lars.ok(&["route", "rm", "1", "1", "0.0.0.0:80", "--last"]);
}

#[test]
fn a_file_without_routes_is_no_import() {
    let lars = Lars::new();
    for (name, text) in [("empty.csv", ""), ("titles.csv", "modid,cmdid,host\n"), ("empty.json", "[]")] {
        lars.file(name, text);
        for mode in [&[][..], &["--replace"]] {
            lars.fails(&[&["route", "import", name], mode].concat(), 1, &[name, "no routes"]);
        }
    }
    assert!(!lars.default_database().exists());
}

#[test]
fn the_help_of_import_shows_both_forms() {
    let help = Lars::new().ok(&["route", "import", "--help"]);
    assert!(help.contains("modid,cmdid,host\n"), "{help}");
    assert!(help.contains(r#"[{"modid": 1, "cmdid": 1, "hosts": ["10.0.0.7:8080"#), "{help}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let lars = Lars::new();
    let file = lars.path("routes.csv");
    // Far more than a pipe holds.
    many_routes(&file, 20_000);
    lars.ok(&["route", "import", file.to_str().expect("UTF-8")]);
    for args in [&["route", "list"][..], &["route", "list", "--json"], &["route", "export"]] {
        let (line, ended) = read_one_line(&mut lars.command(args));
        assert!(!line.is_empty());
        assert_eq!((ended.status, ended.stderr.as_str()), (0, ""), "lars {args:?}");
    }
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let lars = Lars::new();
    lars.ok(&["route", "add", "1", "1", "10.0.0.1:80"]);
    let full = lars.run_with(&["route", "list"], |command| {
        command.stdout(File::create("/dev/full").expect("the device that is always full"));
    });
    check_failed(&full, 1, &["cannot write the output"]);
}

#[test]
fn another_database_may_be_named() {
    let lars = Lars::new();
    let url = sqlite(&lars.path("other.db"));
    lars.ok(&["route", "add", "1", "1", "10.0.0.1:80", "--store", &url]);
    assert_eq!(lars.ok(&["route", "export", "--store", &url]).lines().count(), 2);
    assert!(!lars.default_database().exists());
}
