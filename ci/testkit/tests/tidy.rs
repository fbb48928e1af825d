//! The house rules that the compiler does not know (`docs/ARCHITECTURE.md`): which room may lean on which,
//! what a core may not touch, where `unsafe` may stand, that links in documents lead somewhere.

// Whatever cannot be read fails the test.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
};

use toml::Table;

/// Workspace crates that each room may depend on. Test-only dependencies are free.
const MAY_DEPEND_ON: &[(&str, &[&str])] = &[
    ("proto", &[]),
    ("runtime", &[]),
    ("service", &["lars-runtime"]),
    ("lars-store", &["lars-proto"]),
    ("lars-dns", &["lars-proto", "lars-runtime", "lars-service", "lars-store"]),
    ("lars-reporter", &["lars-proto", "lars-runtime", "lars-service", "lars-store"]),
    ("lars-agent", &["lars-proto", "lars-runtime", "lars-service"]),
    ("lars-client", &["lars-proto"]),
];

/// What a core may not name: it is given its input and the time, and returns what is to be done.
const NOT_IN_A_CORE: &[&str] = &[
    "glommio",
    "lars_runtime",
    "lars_service",
    "lars_store",
    ".await",
    "async ",
    "Instant::now",
    "SystemTime::now",
    "std::env",
    "env::",
    "std::fs",
    "std::thread",
    "thread::",
    "std::io",
    "TcpStream",
    "UdpSocket",
    "info!",
    "println!",
];

/// Lines of a file before its tests. A room that grows past this is two rooms.
const FILE_LINES_MAX: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Every file below `dir` with this extension, without build output and hidden folders.
fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let (path, name) = (entry.path(), entry.file_name().into_string().unwrap_or_default());
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found
}

/// The lines of a source file before its tests, if it is not one of tests altogether.
fn before_tests(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let begins_tests = |pair: &[String]| pair[0] == "#[cfg(test)]" && pair[1].ends_with('{');
    let end = lines.windows(2).position(begins_tests).unwrap_or(lines.len());
    if is_test_file(path) { Vec::new() } else { lines[..end].to_vec() }
}

/// Whether the file is a module that another file declares with `#[cfg(test)] mod name;`.
fn is_test_file(path: &Path) -> bool {
    let declaration = format!("#[cfg(test)]\nmod {};", path.file_stem().unwrap().to_string_lossy());
    let folder = path.parent().unwrap();
    [folder.join("mod.rs"), folder.join("lib.rs"), folder.with_extension("rs")]
        .iter()
        .any(|parent| fs::read_to_string(parent).is_ok_and(|text| text.contains(&declaration)))
}

/// The numbered lines of a source file that are neither comments nor its tests.
fn code(path: &Path) -> Vec<(usize, String)> {
    let numbered = before_tests(path).into_iter().enumerate().map(|(n, line)| (n + 1, line));
    let code = numbered.filter(|(_, line)| !line.trim_start().starts_with("//"));
    code.map(|(n, line)| (n, line.split(" // ").next().unwrap_or_default().to_owned())).collect()
}

fn manifest(room: &str) -> Table {
    fs::read_to_string(root().join(room).join("Cargo.toml")).unwrap().parse().unwrap()
}

fn dependencies(manifest: &Table) -> Vec<String> {
    let table = manifest.get("dependencies").and_then(|d| d.as_table());
    table.map(|t| t.keys().cloned().collect()).unwrap_or_default()
}

fn rooms() -> Vec<String> {
    let workspace: Table = fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    let members = workspace["workspace"]["members"].as_array().unwrap().clone();
    members.iter().map(|m| m.as_str().unwrap().to_owned()).collect()
}

#[track_caller]
fn assert_none(rule: &str, violations: &[String]) {
    assert!(violations.is_empty(), "{rule}:\n  {}", violations.join("\n  "));
}

#[test]
fn rooms_lean_one_way() {
    let mut violations = Vec::new();
    for (room, allowed) in MAY_DEPEND_ON {
        for dependency in dependencies(&manifest(room)) {
            if dependency.starts_with("lars") && !allowed.contains(&dependency.as_str()) {
                violations.push(format!("{room} depends on {dependency}"));
            }
        }
    }
    assert_none("rooms depend only on the rooms below them", &violations);
}

#[test]
fn only_the_runtime_names_glommio() {
    let violations: Vec<String> = rooms()
        .into_iter()
        .filter(|room| room != "runtime" && room != "benches")
        .filter(|room| dependencies(&manifest(room)).iter().any(|d| d == "glommio"))
        .collect();
    assert_none("glommio is the runtime's own business (benches may compare with it)", &violations);
}

#[test]
fn every_room_has_the_workspace_lints() {
    let lints = |room: &String| manifest(room).get("lints").and_then(|l| l.get("workspace")?.as_bool());
    let violations: Vec<String> = rooms().into_iter().filter(|room| lints(room) != Some(true)).collect();
    assert_none("`[lints] workspace = true` is missing", &violations);
}

/// Values of other rooms that a core may use all the same: they do nothing by themselves.
const VALUES_FOR_CORES: &[&str] = &[
    "lars_runtime::Backoff",
    "lars_runtime::counters",
    "lars_store::{RouteAcceptance, RouteChange, RoutePosition}",
    "lars_store::RouteAcceptance",
    "lars_store::RoutePosition",
    "lars_store::TS_AHEAD_MAX",
    "lars_store::RouteChange",
];

#[test]
fn cores_are_free_of_io_and_clocks() {
    let mut violations = Vec::new();
    let mut cores = 0;
    for path in files(&root(), "rs") {
        let text = path.to_string_lossy().into_owned();
        if !text.contains("/src/core/") {
            continue;
        }
        cores += 1;
        for (n, line) in code(&path) {
            let line = VALUES_FOR_CORES.iter().fold(line, |line, value| line.replace(value, ""));
            for word in NOT_IN_A_CORE.iter().filter(|word| line.contains(**word)) {
                violations.push(format!("{text}:{n}: {word}"));
            }
        }
    }
    assert!(cores >= 10, "found only {cores} core modules: has the layout changed?");
    assert_none("a core module takes its input and the time, and touches nothing", &violations);
}

/// Where `unsafe` may stand: the runtime talks to the kernel, and so does the load generator's io_uring, which must
/// cost less than any server and share nothing with the one that it measures.
/// Tests fork where a program that embeds the client would.
const MAY_BE_UNSAFE: [&str; 3] = ["runtime/", "benches/src/ring/", "ci/testkit/src/fork.rs"];

#[test]
fn unsafe_stands_where_it_may() {
    let mut violations = Vec::new();
    for path in files(&root(), "rs") {
        let place = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        if MAY_BE_UNSAFE.iter().any(|folder| place.starts_with(folder)) || place.ends_with("tidy.rs") {
            continue;
        }
        let unsafe_lines = code(&path).into_iter().filter(|(_, line)| {
            line.contains("unsafe {") || line.contains("unsafe fn") || line.contains("unsafe impl")
        });
        violations.extend(unsafe_lines.map(|(n, _)| format!("{place}:{n}")));
    }
    assert_none("unsafe code belongs into the runtime, or where this test says", &violations);
}

#[test]
fn files_stay_small_enough_to_read() {
    let mut violations = Vec::new();
    for path in files(&root(), "rs").into_iter().filter(|p| p.to_string_lossy().contains("/src/")) {
        let lines = before_tests(&path).len();
        if lines > FILE_LINES_MAX {
            violations.push(format!("{}: {lines} lines before its tests", path.display()));
        }
    }
    assert_none("is one thing really two?", &violations);
}

#[test]
fn links_in_documents_lead_somewhere() {
    let mut violations = Vec::new();
    for path in files(&root(), "md") {
        let text = fs::read_to_string(&path).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            let outside = link.is_empty() || link.contains("://");
            if !outside && !path.parent().unwrap().join(link).exists() {
                violations.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert_none("a link leads nowhere", &violations);
}
