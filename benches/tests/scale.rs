//! `lars-bench scale` as a person uses it: curves on the screen, files in a folder, drawn again later.

use std::{fs, process::Command};

use lars_benches::scale::report::Report;

fn lars_bench(args: &[&str]) -> String {
    let output =
        Command::new(env!("CARGO_BIN_EXE_lars-bench")).arg("scale").args(args).output().expect("it starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {errors}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn curves_are_printed_kept_and_drawn_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().to_str().expect("a path in UTF-8");
    let printed = lars_bench(&["measure", "hosts", "--quick", "--json", "--out", dir]);
    let report: Report = serde_json::from_str(&printed).expect("a report");
    assert_eq!(Report::read(folder.path()).expect("the same"), report);
    assert_eq!(report.curves[0].series.len(), 4);
    assert!(report.curves[0].series.iter().all(|series| series.points.len() >= 3));

    let svg = folder.path().join("by-hosts.svg");
    let drawn = fs::read_to_string(&svg).expect("a plot");
    fs::remove_file(&svg).expect("it was there");
    lars_bench(&["plot", dir]);
    assert_eq!(fs::read_to_string(&svg).expect("a plot"), drawn);
    assert!(folder.path().join("by-hosts.csv").is_file());
}

#[test]
fn a_fleet_is_computed_from_the_figures_of_the_repository() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/curves");
    let needs = lars_bench(&["plan", "--figures", folder, "--agents", "60000"]);
    // 60,000 agents send a digest once a minute.
    let digests = needs.lines().find_map(|line| line.strip_prefix("lars-dns: digests per second"));
    assert_eq!(digests.map(str::trim), Some("1 k"), "{needs}");
}
