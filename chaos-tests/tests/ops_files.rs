//! The files under `docs/ops` name metrics and configuration keys of the programs. This test keeps them from naming what is
//! no longer there: a dashboard with an empty graph, an alert that can never fire, a setting that is not read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// In directives for the log.
const CRATES: [&str; 4] = ["flotilla_cluster", "flotilla_controller", "flotilla_device_node", "flotilla_protocol"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All files below a folder, links followed as files.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("an entry of the folder").path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

/// Words of `[A-Za-z0-9_]` in a text.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
}

/// Metrics that the programs write, with the macro that makes each.
fn metrics_in_code() -> BTreeMap<String, &'static str> {
    let mut sources = Vec::new();
    for folder in ["cluster/src", "controller/src", "device-node/src"] {
        files(&root().join(folder), &mut sources);
    }
    let mut found = BTreeMap::new();
    for path in sources.iter().filter(|path| path.extension().is_some_and(|end| end == "rs")) {
        let text = fs::read_to_string(path).expect("a source file");
        for kind in ["counter", "gauge", "histogram"] {
            for (_, behind) in text.match_indices(&format!("{kind}!(")).map(|(at, m)| text.split_at(at + m.len())) {
                if let Some(name) = behind.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next()) {
                    found.insert(name.to_owned(), kind);
                }
            }
        }
    }
    found
}

/// Metrics that a text means, without what Prometheus puts behind a histogram's name.
fn metrics_named(text: &str, known: &BTreeMap<String, &'static str>) -> BTreeSet<String> {
    let ours = |word: &&str| (word.starts_with("flotilla_") || word.starts_with("process_")) && !CRATES.contains(word);
    let bare = |word: &str| {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end));
        base.filter(|base| known.get(*base) == Some(&"histogram")).unwrap_or(word).to_owned()
    };
    words(text).filter(ours).map(bare).collect()
}

fn missing(text: &str) -> Vec<String> {
    let known = metrics_in_code();
    metrics_named(text, &known).into_iter().filter(|name| !known.contains_key(name)).collect()
}

#[test]
fn alerts_name_metrics_that_exist() {
    let known = metrics_in_code();
    assert!(known.len() > 20, "the sources were not understood: {known:?}");
    for file in ["docs/ops/prometheus/alerts.yaml", "docs/ops/prometheus/alerts.test.yaml"] {
        let text = read(file);
        assert!(metrics_named(&text, &known).len() > 5, "{file} was not understood");
        assert_eq!(missing(&text), [""; 0], "{file}");
    }
}

#[test]
fn a_name_that_nobody_writes_is_found() {
    assert_eq!(
        missing("sum(rate(flotilla_http_request_seconds_bucket[5m])) > flotilla_no_such_thing"),
        ["flotilla_no_such_thing"]
    );
}

#[test]
fn the_dashboard_names_metrics_that_exist() {
    let board: serde_json::Value = serde_json::from_str(&read("docs/ops/grafana/flotilla.json")).unwrap();
    let panels = board["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    let mut queries = 0;
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "two panels have the id of {title:?}");
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().unwrap();
            assert!(query.contains("job=\"flotilla\""), "{title:?} counts other programs too: {query}");
            assert_eq!(missing(query), [""; 0], "{title:?}");
            queries += 1;
        }
        let is_row = panel["type"] == "row";
        assert!(is_row || !panel["targets"].as_array().unwrap().is_empty(), "{title:?} shows nothing");
    }
    assert!(queries > 20, "the dashboard was not understood");
}

#[test]
fn the_runbook_knows_every_alert_and_metric() {
    let (alerts, runbook) = (read("docs/ops/prometheus/alerts.yaml"), read("docs/operations.md"));
    let names = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    let untold: Vec<&str> = names.filter(|name| !runbook.contains(&format!("`{name}`"))).collect();
    assert!(untold.is_empty(), "docs/operations.md says nothing of {untold:?}");
    assert_eq!(missing(&runbook), [""; 0], "docs/operations.md");
}

/// `SECTION__KEY` for each key of the example configuration, those that are commented out among them.
fn keys() -> BTreeSet<String> {
    let mut section = String::new();
    let mut keys = BTreeSet::new();
    for line in read("controller/src/config/example.toml").lines() {
        let line = line.trim_start_matches('#').trim();
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = format!("{name}.");
        } else if let Some((key, _)) = line.split_once('=') {
            let key = key.trim();
            if words(key).count() == 1 && !key.is_empty() {
                keys.insert(format!("{section}{key}").replace('.', "__").to_uppercase());
            }
        }
    }
    keys
}

#[test]
fn every_variable_is_a_key_of_the_configuration() {
    let keys = keys();
    assert!(keys.contains("HTTP__METRICS_ADDR") && keys.contains("DATA_DIR"), "the example was not understood");
    let mut paths = vec![root().join("docs/operations.md")];
    files(&root().join("docs/ops"), &mut paths);
    let mut found = 0;
    for path in paths {
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for key in words(&text).filter_map(|word| word.strip_prefix("FLOTILLA__")) {
            // A placeholder in an explanation, or the beginning of a name that a template completes.
            if key.is_empty() || key == "SECTION__KEY" {
                continue;
            }
            found += 1;
            assert!(keys.contains(key), "{}: FLOTILLA__{key} is no key of the configuration", path.display());
        }
    }
    assert!(found > 20, "the files were not understood");
}

#[test]
fn the_chart_values_of_the_configuration_are_keys_of_it() {
    let keys = keys();
    // `config:` of the chart is section and key; its test values use every section that it may.
    let full = read("docs/ops/helm/flotilla/ci/full.yaml");
    let block = full.split_once("\nconfig:\n").unwrap().1.lines().take_while(|line| line.starts_with(' '));
    let mut found = 0;
    for line in block {
        let (section, rest) = line.trim().split_once(": {").unwrap();
        for pair in rest.trim_end_matches('}').split(", ") {
            let key = format!("{section}__{}", pair.split(':').next().unwrap()).to_uppercase();
            assert!(keys.contains(&key), "config.{section}: {key} is no key of the configuration");
            found += 1;
        }
    }
    assert!(found >= 4);
}
