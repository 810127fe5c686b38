//! The OpenAPI document and the pages that come with it.

use std::collections::BTreeSet;

use serde_json::Value;

use super::World;
use crate::api::{examples, json, messages};

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_is_described_with_examples() {
    let world = World::new().await;
    let api = world.call(world.get("/openapi.json", &world.key)).await.body;
    let mut ids = BTreeSet::new();
    for (path, item) in api["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(name, _)| METHODS.contains(&name.as_str()))
        {
            let name = format!("{method} {path}");
            assert!(operation["summary"].as_str().is_some_and(|text| text.len() > 5), "{name}: no summary");
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{name}: operationId twice");
            assert!(operation["tags"].as_array().is_some_and(|tags| tags.len() == 1), "{name}: no tag");
            if let Some(body) = operation.get("requestBody") {
                contents_have_examples(&name, &body["content"]);
            }
            let responses = operation["responses"].as_object().unwrap();
            let good: Vec<_> = responses.iter().filter(|(status, _)| status.starts_with('2')).collect();
            assert!(!good.is_empty(), "{name}: no good answer");
            for (_, response) in good {
                contents_have_examples(&name, &response["content"]);
            }
            assert!(responses["default"]["content"]["application/problem+json"].is_object(), "{name}: no errors");
            // Every parameter of the path is described.
            let described = operation["parameters"].as_array().cloned().unwrap_or_default();
            for part in path.split('/').filter_map(|part| part.strip_prefix('{')) {
                let wanted = part.trim_end_matches('}');
                assert!(described.iter().any(|p| p["in"] == "path" && p["name"] == wanted), "{name}: {wanted}");
            }
        }
    }
    no_dangling_references(&api, &api);
    let tags: BTreeSet<_> = api["tags"].as_array().unwrap().iter().map(|tag| tag["name"].as_str().unwrap()).collect();
    let used: BTreeSet<_> = api["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|item| METHODS.iter().filter_map(|method| item[*method]["tags"][0].as_str()))
        .collect();
    assert_eq!(tags, used);
    world.node.shutdown().await;
}

fn contents_have_examples(name: &str, content: &Value) {
    let content = content.as_object().unwrap_or_else(|| panic!("{name}: no content"));
    for (media_type, media) in content.iter().filter(|(media_type, _)| *media_type != "image/png") {
        assert!(media.get("example").is_some(), "{name}: no example for {media_type}");
        assert!(media.get("schema").is_some(), "{name}: no schema for {media_type}");
    }
}

fn no_dangling_references(api: &Value, value: &Value) {
    match value {
        Value::Object(fields) => {
            if let Some(reference) = fields.get("$ref").and_then(Value::as_str) {
                let pointer = reference.trim_start_matches('#');
                assert!(api.pointer(pointer).is_some(), "{reference} leads nowhere");
            }
            fields.values().for_each(|value| no_dangling_references(api, value));
        }
        Value::Array(values) => values.iter().for_each(|value| no_dangling_references(api, value)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_has_what_the_design_promises() {
    let world = World::new().await;
    let api = world.call(world.get("/openapi.json", &world.key)).await.body;
    let promised = "post /v1/messages, get /v1/messages, get /v1/messages/{id}, delete /v1/messages/{id}, \
        post /v1/messages/preview, post /v1/messages/bulk, get /v1/inbound, post /v1/enrollments, get /v1/enrollments, \
        delete /v1/enrollments/{id}, get /v1/enrollments/{id}/{picture}, get /v1/devices, get /v1/devices/{id}, \
        patch /v1/devices/{id}, post /v1/devices/{id}/drain, post /v1/devices/{id}/resume, post /v1/devices/{id}/revoke, \
        post /v1/devices/{id}/ussd, get /v1/sims, patch /v1/sims/{id}, \
        post /v1/sims/{id}/confirm, post /v1/providers, get /v1/providers, get /v1/providers/makers, \
        get /v1/providers/{id}, patch /v1/providers/{id}, delete /v1/providers/{id}, post /v1/providers/{id}/test, \
        get /v1/routing, put /v1/routing, \
        post /v1/routes/explain, get /v1/fleet/health, get /v1/stats, \
        get /v1/events, post /v1/tenants, get /v1/tenants, patch /v1/tenants/{id}, post /v1/keys, get /v1/keys, \
        patch /v1/keys/{id}, post /v1/keys/{id}/rotate, get /v1/ca, post /v1/ca/rotate/prepare, \
        post /v1/ca/rotate/activate, post /v1/ca/rotate/finish, post /v1/ca/rotate/rollback, get /v1/certificates, \
        get /v1/audit, get /healthz, get /readyz";
    for operation in promised.split(", ") {
        let (method, path) = operation.split_once(' ').unwrap();
        assert!(api["paths"][path][method].is_object(), "{operation} is missing");
    }
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_need_nothing_from_elsewhere() {
    let world = World::new().await;
    let docs = world.call(world.get("/docs", &world.key)).await;
    let text = docs.body.as_str().unwrap();
    assert!(docs.header("content-type").starts_with("text/html"));
    assert!(text.contains("/openapi.json"));
    assert!(!text.contains("https://") && !text.contains("src="), "the page loads something");
    let metrics = world.call(world.get("/metrics", "")).await;
    let text = metrics.body.as_str().unwrap();
    for name in ["flotilla_http_requests_total", "flotilla_messages_accepted_total", "process_resident_memory_bytes"] {
        assert!(text.contains(name), "{name} is missing");
    }
    world.node.shutdown().await;
}

/// Examples that clients copy have to work.
#[test]
fn request_examples_are_accepted() {
    let body = examples::send().to_string();
    let request = json::parse::<messages::request::SendRequest<'_>>(body.as_bytes()).unwrap();
    let now_ms = 1_763_640_000_000;
    messages::validate::check(request, crate::domain::message::Priority::Normal, now_ms).unwrap();
}
