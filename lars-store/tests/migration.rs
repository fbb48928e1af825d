//! Opening creates what is missing and leaves alone what is there.

use std::{fs::Permissions, os::unix::fs::PermissionsExt, sync::Barrier, thread};

use lars_proto::ModuleId;
use lars_store::{
    CallStatus, ExpiryCursor, ExpiryStep, LoadReport, OpenMode,
    RouteEdit::{Add, RemoveModule},
    StoreError, StoreUrl,
};
use lars_testkit::MariaDb;

/// What a C++ deployment has.
const CPP_SCHEMA: &str = include_str!("data/cpp_schema.sql");

const TABLES: [&str; 6] =
    ["RouteData", "RouteVersion", "RouteChange", "ServerCallStatus", "ModIDConfig", "CmdIDConfig"];

fn database(name: &str) -> (&'static MariaDb, StoreUrl) {
    let server = MariaDb::shared();
    (server, server.url(name).parse().expect("a URL"))
}

/// Columns and rows of every table.
fn contents(server: &MariaDb, database: &str) -> Vec<String> {
    let dump =
        |table| server.query(database, &format!("DESCRIBE {table}; SELECT * FROM {table} ORDER BY 1, 2"));
    TABLES.map(dump).to_vec()
}

/// The URL for an account that has only these rights.
fn with_rights(server: &MariaDb, url: &StoreUrl, account: &str, rights: &str) -> StoreUrl {
    let StoreUrl::Mysql(mut url) = url.clone() else { panic!("{url} is not on a server") };
    server.execute(
        "",
        &format!("CREATE USER {account}@'%'; GRANT {rights} ON {}.* TO {account}@'%'", url.database),
    );
    account.clone_into(&mut url.user);
    url.password = None;
    StoreUrl::Mysql(url)
}

fn opens_over_cpp_tables(name: &str, schema: &str) {
    let (server, url) = database(name);
    server.execute(name, schema);
    let before = contents(server, name);
    let mut store = lars_store::open(&url, OpenMode::Create).expect("the store opens");

    let mut after = contents(server, name);
    assert!(after[1].ends_with("1\t0\n"), "the one row of RouteVersion: {}", after[1]);
    after[1] = after[1].trim_end_matches("1\t0\n").to_owned();
    // The key column of DESCRIBE tells the new index, which is ours to add; nothing else differs.
    after[0] = after[0].replacen("unsigned\tNO\tMUL", "unsigned\tNO\t", 1);
    assert_eq!(after, before);

    let mut rows = Vec::new();
    let report = store.load(&mut |module, host| rows.push((module, host.to_string()))).expect("a load");
    assert_eq!(report, LoadReport { rows: 2, skipped: 2 });
    let expected = [(ModuleId::new(1, 1), "127.0.0.1:7777"), (ModuleId::new(1, 2), "192.168.1.177:9999")];
    assert_eq!(rows, expected.map(|(module, host)| (module, host.to_owned())));
    let changes = store.changes(0, 10).expect("changes");
    assert_eq!(changes.iter().map(|change| change.version).collect::<Vec<_>>(), [1_573_034_611; 2]);
    let statuses = store.call_status(None).expect("rows");
    assert_eq!(
        statuses.iter().map(|row| (row.succ, row.err, row.overload)).collect::<Vec<_>>(),
        [(90, 10, false), (5, 95, true)]
    );

    edits_and_upserts_work(&mut *store, statuses[0]);
}

fn edits_and_upserts_work(store: &mut dyn lars_store::Store, status: CallStatus) {
    let module = ModuleId::new(-5, 2);
    let outcome =
        store.edit(&[Add(module, status.key.host), RemoveModule(ModuleId::new(1, 2))]).expect("an edit");
    assert_eq!((outcome.added, outcome.removed, outcome.modules_changed), (1, 1, 2));
    assert_eq!(store.version().ok(), outcome.version);
    assert_eq!(store.hosts(module), Ok(vec![status.key.host]));
    let newer = CallStatus { ts: status.ts + 1, succ: 7, ..status };
    store.upsert(&[newer]).expect("an upsert");
    assert_eq!(store.call_status(Some(status.key.module)), Ok(vec![newer]));
}

#[test]
fn over_cpp_tables() {
    opens_over_cpp_tables("cpp_innodb", CPP_SCHEMA);
}

#[test]
fn over_cpp_tables_without_transactions() {
    let schema = CPP_SCHEMA.replace("ENGINE=InnoDB", "ENGINE=MyISAM");
    assert_ne!(schema, CPP_SCHEMA);
    opens_over_cpp_tables("cpp_myisam", &schema);
}

/// Without transactions edits may mix, but no two have one version.
#[test]
fn editors_of_tables_without_transactions() {
    let (server, url) = database("myisam_editors");
    server.execute("myisam_editors", &CPP_SCHEMA.replace("ENGINE=InnoDB", "ENGINE=MyISAM"));
    let host = "10.0.0.1:80".parse().expect("a host");
    let edit = |editor| {
        let mut store = lars_store::open(&url, OpenMode::Create).expect("the store opens");
        let edits = (0..10).map(|n| store.edit(&[Add(ModuleId::new(editor, n), host)]).expect("an edit"));
        edits.map(|outcome| outcome.version.expect("a version")).collect::<Vec<_>>()
    };
    let mut versions: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|editor| scope.spawn(move || edit(editor))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("an editor ends well")).collect()
    });
    versions.sort_unstable();
    assert!(versions.windows(2).all(|pair| pair[0] < pair[1]), "{versions:?}");
}

#[test]
fn twice() {
    let (server, url) = database("twice");
    drop(lars_store::open(&url, OpenMode::Create).expect("the store opens"));
    server.execute("twice", "INSERT INTO ModIDConfig (modid, content) VALUES (1, 'payments')");
    let before = contents(server, "twice");
    drop(lars_store::open(&url, OpenMode::Create).expect("the store opens"));
    assert_eq!(contents(server, "twice"), before);
}

/// Opens the database from many threads at once, and from then on one of them edits it.
fn many_open_at_once(url: &StoreUrl) {
    let barrier = Barrier::new(8);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                barrier.wait();
                lars_store::open(url, OpenMode::Create).map(drop).expect("the store opens");
            });
        }
    });
    let mut store = lars_store::open(url, OpenMode::Create).expect("the store opens");
    assert_eq!(store.version(), Ok(0));
    let edits = [Add(ModuleId::new(1, 1), "10.0.0.1:80".parse().expect("a host"))];
    assert_eq!(store.edit(&edits).map(|outcome| outcome.added), Ok(1));
}

#[test]
fn many_at_once_on_a_server() {
    for round in 0..4 {
        let name = format!("at_once_{round}");
        let (server, url) = database(&name);
        many_open_at_once(&url);
        assert_eq!(server.query(&name, "SELECT COUNT(*) FROM RouteVersion"), "1\n");
    }
}

#[test]
fn many_at_once_over_cpp_tables() {
    let (server, url) = database("at_once_cpp");
    server.execute("at_once_cpp", CPP_SCHEMA);
    many_open_at_once(&url);
    let indexes = "SELECT COUNT(DISTINCT INDEX_NAME) FROM information_schema.STATISTICS
                   WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'RouteData'";
    assert_eq!(server.query("at_once_cpp", indexes), "2\n");
}

#[test]
fn many_at_once_on_a_file() {
    for _ in 0..10 {
        let folder = tempfile::tempdir().expect("a folder");
        many_open_at_once(&StoreUrl::Sqlite(folder.path().join("lars.db")));
    }
}

#[test]
fn an_account_that_may_not_change_the_schema() {
    let (server, url) = database("no_ddl");
    server.execute("no_ddl", CPP_SCHEMA);
    let url = with_rights(server, &url, "no_ddl", "SELECT, INSERT, UPDATE, DELETE");
    let mut store = lars_store::open(&url, OpenMode::Create).expect("the store opens");
    let status = store.call_status(None).expect("rows")[0];
    edits_and_upserts_work(&mut *store, status);
}

#[test]
fn an_account_that_may_only_read() {
    let (server, url) = database("reader");
    server.execute("reader", CPP_SCHEMA);
    let url = with_rights(server, &url, "reader", "SELECT");
    let mut store = lars_store::open(&url, OpenMode::Create).expect("the store opens");
    assert_eq!(store.version(), Ok(0));
    assert_eq!(store.load(&mut |_, _| ()), Ok(LoadReport { rows: 2, skipped: 2 }));
    let refused = store.edit(&[RemoveModule(ModuleId::new(1, 1))]).expect_err("a refusal");
    assert!(!refused.is_retryable(), "{refused}");
    assert_eq!(store.hosts(ModuleId::new(1, 1)).map(|hosts| hosts.len()), Ok(1));
}

#[test]
fn a_server_that_is_read_only() {
    let server = MariaDb::start();
    let url = server.url("lars");
    server.execute("lars", CPP_SCHEMA);
    server.execute("", "SET GLOBAL read_only = 1");
    let mut store =
        lars_store::open(&url.parse().expect("a URL"), OpenMode::Create).expect("the store opens");
    assert_eq!(store.hosts(ModuleId::new(1, 1)).map(|hosts| hosts.len()), Ok(1));
    let error = store.edit(&[RemoveModule(ModuleId::new(1, 1))]).expect_err("a refusal");
    assert!(error.is_retryable(), "another may have taken over: {error}");
}

#[test]
fn an_account_that_may_not_create_what_is_missing() {
    let (server, url) = database("no_tables");
    let url = with_rights(server, &url, "no_tables", "SELECT, INSERT, UPDATE, DELETE");
    let refused = lars_store::open(&url, OpenMode::Create).map(drop).expect_err("a refusal");
    assert!(
        matches!(&refused, StoreError::Unusable { problem, .. } if problem.contains("CREATE")),
        "{refused}"
    );
}

#[test]
fn a_file_in_a_folder_that_is_missing() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("nowhere/lars.db");
    let refused =
        lars_store::open(&StoreUrl::Sqlite(path.clone()), OpenMode::Create).map(drop).expect_err("a refusal");
    assert!(!refused.is_retryable());
    let expected = format!(
        "sqlite:{} is not there: there is no folder {}/nowhere",
        path.display(),
        folder.path().display()
    );
    assert_eq!(refused.to_string(), expected);
}

#[test]
fn a_file_that_is_no_database() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("notes.txt");
    std::fs::write(&path, "not a database at all, but long enough to look at ".repeat(20)).expect("a file");
    let refused =
        lars_store::open(&StoreUrl::Sqlite(path.clone()), OpenMode::Create).map(drop).expect_err("a refusal");
    assert!(matches!(refused, StoreError::Unusable { .. }));
    assert!(refused.to_string().contains("notes.txt"), "{refused}");
    assert!(std::fs::read_to_string(&path).expect("the file").starts_with("not a database"));
}

/// Opens what is not there; nothing is made.
fn finds_nothing(mode: OpenMode) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("lars.db");
    let missing = lars_store::open(&StoreUrl::Sqlite(path.clone()), mode).map(drop).expect_err("no file");
    assert!(matches!(missing, StoreError::Missing { .. }) && !missing.is_fatal(), "{missing}");
    assert_eq!(missing.to_string(), format!("sqlite:{} is not there: there is no such file", path.display()));
    assert!(!path.exists());

    // An empty file is a database without tables.
    std::fs::write(&path, "").expect("a file");
    let mut store = lars_store::open(&StoreUrl::Sqlite(path.clone()), mode).expect("an empty file");
    let missing = store.version().expect_err("no table");
    assert!(matches!(missing, StoreError::Missing { .. }), "{missing}");
    assert!(std::fs::read(&path).expect("the file").is_empty());
}

#[test]
fn a_file_that_is_missing_is_made_by_nobody_who_reads() {
    finds_nothing(OpenMode::Existing);
    finds_nothing(OpenMode::ReadOnly);
}

#[test]
fn reading_leaves_a_server_as_it_is() {
    let (server, url) = database("reading");
    let mut store = lars_store::open(&url, OpenMode::Existing).expect("the server is there");
    let missing = store.version().expect_err("no tables");
    assert!(matches!(missing, StoreError::Missing { .. }) && !missing.is_fatal(), "{missing}");
    assert_eq!(server.query("reading", "SHOW TABLES"), "");

    server.execute("reading", CPP_SCHEMA);
    let before = contents(server, "reading");
    for mode in [OpenMode::Existing, OpenMode::ReadOnly] {
        let mut store = lars_store::open(&url, mode).expect("the server is there");
        assert_eq!(store.load(&mut |_, _| ()), Ok(LoadReport { rows: 2, skipped: 2 }));
        assert_eq!(store.call_status(None).map(|rows| rows.len()), Ok(2));
        assert_eq!(store.version(), Ok(0));
    }
    assert_eq!(contents(server, "reading"), before, "no index, no row");
}

#[test]
fn an_account_that_may_only_read_reads() {
    let (server, url) = database("only_reads");
    server.execute("only_reads", CPP_SCHEMA);
    let url = with_rights(server, &url, "only_reads", "SELECT");
    let mut store = lars_store::open(&url, OpenMode::ReadOnly).expect("the store opens");
    assert_eq!(store.load(&mut |_, _| ()), Ok(LoadReport { rows: 2, skipped: 2 }));
    let refused = store.edit(&[RemoveModule(ModuleId::new(1, 1))]).expect_err("a refusal");
    assert!(refused.is_fatal(), "{refused}");
}

/// Without write permission nobody can make the index of a write-ahead log.
#[test]
fn a_file_in_a_folder_that_may_only_be_read() {
    const NOBODY: u32 = 65_534;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("lars #1?.db");
    let url = StoreUrl::Sqlite(path.clone());
    let module = ModuleId::new(1, 1);
    let host = "10.0.0.1:80".parse().expect("a host");
    let mut editor = lars_store::open(&url, OpenMode::Create).expect("a new file");
    editor.edit(&[Add(module, host)]).expect("an edit");
    drop(editor);
    std::fs::set_permissions(&path, Permissions::from_mode(0o444)).expect("permissions");
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o555)).expect("permissions");
    thread::scope(|scope| {
        scope.spawn(|| {
            // This thread only, and only where it is root.
            nix::unistd::setfsuid(NOBODY.into());
            let mut reader = lars_store::open(&url, OpenMode::ReadOnly).expect("it may be read");
            assert_eq!(reader.hosts(module), Ok(vec![host]));
            let refused = reader.edit(&[RemoveModule(module)]).expect_err("a refusal");
            assert!(matches!(refused, StoreError::ReadOnly { .. }), "{refused}");
            assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 1);
        });
    });
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("permissions");
}

#[test]
fn what_is_configured_wrong_is_fatal() {
    let (_, url) = database("fatal");
    let StoreUrl::Mysql(good) = &url else { panic!("{url} is not on a server") };
    let fatal = |change: fn(&mut lars_store::MysqlUrl)| {
        let mut url = good.clone();
        change(&mut url);
        let error = lars_store::open(&StoreUrl::Mysql(url), OpenMode::Existing).map(drop).expect_err("wrong");
        assert!(error.is_fatal() && !error.is_retryable(), "{error}");
    };
    fatal(|url| url.password = Some("wrong".into()));
    fatal(|url| url.user = "stranger".into());
    fatal(|url| url.database = "nowhere".into());
}

#[test]
fn one_writer_at_a_time_deletes_old_rows() {
    let (server, url) = database("turns");
    let mut first = lars_store::open(&url, OpenMode::Create).expect("the store opens");
    let mut second = lars_store::open(&url, OpenMode::Create).expect("the store opens");
    server.execute(
        "turns",
        "INSERT INTO ServerCallStatus SELECT seq, 1, 1, 1, 1, 0, 0, 0, '1' FROM seq_1_to_1500",
    );
    let start = ExpiryCursor::default();
    let step = first.expire_step(start, 1).expect("a step");
    assert_eq!(step.deleted, 1_000);
    assert_eq!(second.expire_step(start, 1), Ok(ExpiryStep { deleted: 0, next: None }), "not its turn");
    let next = step.next.expect("another step");
    assert_eq!(first.expire_step(next, 1), Ok(ExpiryStep { deleted: 500, next: None }));
    server.execute("turns", "INSERT INTO ServerCallStatus VALUES (1, 1, 1, 1, 1, 0, 0, 0, '1')");
    assert_eq!(second.expire_step(start, 1), Ok(ExpiryStep { deleted: 1, next: None }), "the turn is over");
}

#[test]
fn what_an_upsert_needs_is_checked_ahead() {
    let (server, url) = database("checked");
    server.execute("checked", CPP_SCHEMA);
    let reader = with_rights(server, &url, "check_reader", "SELECT");
    let mut store = lars_store::open(&reader, OpenMode::Create).expect("the tables are there");
    assert!(store.check_upsert().expect_err("no right").is_fatal());
    let writer = with_rights(server, &url, "check_writer", "SELECT, INSERT, UPDATE");
    let mut store = lars_store::open(&writer, OpenMode::Create).expect("the tables are there");
    assert_eq!(store.check_upsert(), Ok(()));
}
