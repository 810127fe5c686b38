//! Example bodies for the documentation. The tests parse them, so they stay right.

use serde_json::{Value, json};

const MESSAGE: &str = "msg_01kaqmpxm0e8xs6bhkrg5jrqzt";
const DEVICE: &str = "dev_01kaqmpxm0e8xs6bhkrg5jrqzt";
const SIM: &str = "sim_01kaqmpxm0e8xs6bhkrg5jrqzt";
const TENANT: &str = "ten_01kaqmpxm0e8xs6bhkrg5jrqzt";
const KEY: &str = "key_01kaqmpxm0e8xs6bhkrg5jrqzt";
const ENROLLMENT: &str = "enr_01kaqmpxm0e8xs6bhkrg5jrqzt";
const PROVIDER: &str = "prv_01kaqmpxm0e8xs6bhkrg5jrqzt";
const SENDER: &str = "snd_01kaqmpxm0e8xs6bhkrg5jrqzt";
const INBOUND: &str = "inb_01kaqmpxm0e8xs6bhkrg5jrqzt";

const WEBHOOK: &str = "whk_01kaqmpxm0e8xs6bhkrg5jrqzt";

pub fn webhook_new() -> Value {
    json!({"url": "https://example.org/hooks/flotilla", "name": "order system", "events": ["message.*", "inbound.received"]})
}

pub fn webhook() -> Value {
    json!({"id": WEBHOOK, "url": "https://example.org/hooks/flotilla", "name": "order system",
        "events": ["message.*", "inbound.received"], "include_text": false, "enabled": true, "rate_per_s": 20,
        "created_at": "2026-11-20T14:00:00.000Z", "last_success_at": "2026-11-20T14:03:12.070Z", "last_failure_at": null,
        "waiting": 0, "given_up": 0})
}

pub fn webhook_created() -> Value {
    let mut webhook = webhook();
    webhook["secret"] = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into();
    webhook
}

pub fn webhook_patch() -> Value {
    json!({"enabled": true, "rate_per_s": 100})
}

pub fn webhook_test() -> Value {
    json!({"delivered": false, "error": "HTTP 500", "took_ms": 212})
}

pub fn webhook_deleted() -> Value {
    json!({"id": WEBHOOK, "deleted": true})
}

pub fn delivery() -> Value {
    json!({"id": "whk_01kaqmpxm0e8xs6bhkrg5jrqzt-8123-4", "event": "message.delivered", "at": "2026-11-20T14:02:59.410Z",
        "attempts": 3, "next_at": "2026-11-20T14:05:41.000Z", "last_error": "HTTP 503"})
}

pub fn send() -> Value {
    json!({"to": "+255712345678", "text": "Your code is 4711", "priority": "urgent", "valid_for_s": 300,
        "client_ref": "login-83121"})
}

pub fn accepted() -> Value {
    json!({"messages": [{"id": MESSAGE, "to": "+255712345678", "segments": 1}], "segments": 1})
}

pub fn preview() -> Value {
    json!({"encoding": "gsm7", "segments": 1, "units": 20, "units_left": 135, "language": "turkish", "smart": false})
}

pub fn ndjson() -> Value {
    let lines =
        [r#"{"to": "+255712345678", "text": "Hello Asha"}"#, r#"{"to": "+255712345679", "text": "Hello Juma"}"#];
    Value::String(lines.join("\n"))
}

pub fn csv() -> Value {
    Value::String("to,text,client_ref\n+255712345678,Hello Asha,1\n+255712345679,\"Hello, Juma\",2\n".to_owned())
}

pub fn bulk_report() -> Value {
    json!({"lines": 1000, "accepted": 999, "replayed": 0, "segments": 1012, "rejected": 1, "errors_left_out": 0,
        "errors": [{"line": 17, "code": "invalid_number", "field": "to",
            "detail": "the number has no leading +; give it in international form, such as +255712345678"}]})
}

pub fn bulk_report_bad() -> Value {
    json!({"lines": 1, "accepted": 0, "replayed": 0, "segments": 0, "rejected": 1, "errors_left_out": 0,
        "errors": [{"line": 1, "code": "missing_field", "field": "text", "detail": "give a text, or data in base64"}]})
}

pub fn page(item: Value) -> Value {
    json!({"items": [item], "next": null})
}

pub fn message(trace: bool) -> Value {
    let mut message = json!({"id": MESSAGE, "state": "delivered", "to": "+255712345678", "text": "Your code is 4711",
        "segments": 1, "segments_delivered": 1, "priority": "urgent", "duplicates": "never", "flash": false,
        "device": DEVICE, "sim": SIM, "attempts": 1, "client_ref": "login-83121",
        "accepted_at": "2026-11-20T14:00:00.000Z", "expires_at": "2026-11-20T14:05:00.000Z",
        "sent_at": "2026-11-20T14:00:01.204Z", "delivered_at": "2026-11-20T14:00:04.870Z",
        "updated_at": "2026-11-20T14:00:04.913Z"});
    if trace {
        message["trace"] = json!([
            {"at": "2026-11-20T14:00:00.000Z", "state": "queued", "attempt": 0},
            {"at": "2026-11-20T14:00:00.003Z", "state": "dispatching", "attempt": 1, "device": DEVICE, "sim": SIM},
            {"at": "2026-11-20T14:00:01.240Z", "state": "sent", "attempt": 1, "device": DEVICE, "sim": SIM},
            {"at": "2026-11-20T14:00:04.913Z", "state": "delivered", "attempt": 1, "device": DEVICE, "sim": SIM}
        ]);
    }
    message
}

pub fn cancelled(what: &str) -> Value {
    json!({"id": MESSAGE, "cancel": what})
}

pub fn inbound() -> Value {
    json!({"id": INBOUND, "device": DEVICE, "sim": SIM, "from": "+255712345678", "to": "+255700000001", "text": "STOP",
        "segments": 1, "sent_at": "2026-11-20T14:00:00.000Z", "received_at": "2026-11-20T14:00:02.118Z"})
}

pub fn device() -> Value {
    json!({"id": DEVICE, "name": "Front desk", "model": "Pixel 6a", "os": "Android 15", "software": "flotilla-node/0.1.0",
        "labels": {"site": "arusha"}, "limits": {"per_hour": 500}, "state": "active", "online": true, "connected_at": "2026-11-20T08:00:00.000Z",
        "remote": "192.0.2.17:41022", "transport": "quic", "rtt_ms": 48, "enrolled_at": "2026-11-01T08:00:00.000Z",
        "last_seen_at": "2026-11-20T14:00:00.000Z", "battery_percent": 87, "charging": true, "outbox_open": 0,
        "reports_open": 0})
}

pub fn device_patch() -> Value {
    json!({"name": "Front desk", "labels": {"site": "arusha"}, "limits": {"per_hour": 500},
        "settings": {"telemetry_interval_s": 30}})
}

pub fn sim() -> Value {
    json!({"id": SIM, "name": "Vodacom 1", "iccid": "8925504000000000018", "imsi": "640040000000001",
        "msisdn": "+255700000001", "operator": "Vodacom", "plmn": "64004", "device": DEVICE, "slot": 0, "online": true,
        "first_seen_at": "2026-11-01T08:00:00.000Z", "last_seen_at": "2026-11-20T14:00:00.000Z", "state": "ready",
        "signal_dbm": -83, "registration": "home", "serving": "64004", "held": false,
        "settings": sim_settings(), "balance": {"amount": "12.5", "told_at": "2026-11-20T09:00:00.000Z"},
        "routing": route_health()})
}

fn sim_settings() -> Value {
    json!({"limits": {"per_minute": 10, "per_hour": null, "per_day": 300, "per_month": null,
            "recipients_per_month": null, "gap_ms": 4000, "gap_jitter_ms": 2000},
        "windows": [{"days": ["mon", "tue", "wed", "thu", "fri"], "from": "08:00", "to": "20:00"}],
        "timezone": "Africa/Dar_es_Salaam",
        "price": {"per_segment": "0.02", "by_country": {"TZ": "0.008"}, "bundle_per_month": 3000},
        "pools": ["otp"], "own_prefixes": ["25574", "25575"], "low_balance": "5"})
}

pub fn sim_patch() -> Value {
    let mut patch = sim_settings();
    patch["name"] = json!("Vodacom 1");
    patch["balance"] = json!("12.50");
    patch["weight"] = json!(null);
    patch
}

fn score() -> Value {
    json!({"value": 88, "reasons": [{"name": "failing", "points": 12, "value": 91.0}]})
}

fn route_health() -> Value {
    json!({"online": true, "score": score(), "outcomes": null, "circuit": "closed", "circuit_because": null,
        "obstacles": ["limit"], "until_unix_ms": 1_795_183_260_000u64, "in_flight": 0,
        "limits": [{"name": "per_day", "limit": 300, "used": 300, "left": 0}], "warm_up_stage": null,
        "month_cost": "1.42", "history": [[1_795_182_300_000u64, 90], [1_795_183_200_000u64, 88]]})
}

pub fn explanation() -> Value {
    json!({"rules": [{"name": "codes", "unmet": null}], "plan": "fast", "held": null,
        "steps": [{"step": 1, "with_room": 1, "busy": 0, "patience_ms": 500, "cheapest": false}],
        "routes": [{"device": DEVICE, "sim": SIM, "step": 1, "eligible": true, "reasons": [], "score": 83,
            "parts": {"health": 52.8, "cost": 12.0, "carrier": 10.0, "headroom": 3.2, "free": 5.0},
            "health_reasons": [{"name": "failing", "points": 12, "value": 91.0}], "cost": "0.008", "probe": false,
            "weight": 100, "sticky": false}],
        "routes_left_out": 0,
        "choice": {"outcome": "take", "device": DEVICE, "sim": SIM, "step": 1, "score": 83, "because": "score"}})
}

pub fn routing_new() -> Value {
    json!({"currency": "TZS", "timezone": "Africa/Dar_es_Salaam",
        "limits": {"per_day": 20000}, "sim_limits": {"per_day": 300, "per_minute": 10},
        "recipient_limit": {"messages": 3, "window_s": 86400},
        "budget": {"per_month": "500000", "stop": true, "warn_percent": 80},
        "rules": [
            {"name": "codes", "when": {"priorities": ["urgent"]}, "plan": "fast"},
            {"name": "abroad", "when": {"countries": ["KE", "UG"]}, "plan": "providers-only"}],
        "plans": {"fast": {"steps": [
            {"routes": [{"pool": "otp"}], "patience_s": 5}, {"routes": ["sims"]}, {"routes": ["providers"]}]}},
        "default_plan": "sims-first", "sticky_points": 20, "learn": false})
}

pub fn routing() -> Value {
    json!({"version": 4, "changed_at": "2026-11-20T14:00:00.000Z", "settings": routing_new()})
}

pub fn provider_new() -> Value {
    json!({"maker": "twilio", "name": "Twilio", "fields": {"account_sid": "AC00000000000000000000000000000000"},
        "secrets": {"auth_token": "0123456789abcdef0123456789abcdef"},
        "senders": [{"from": "+15005550006", "countries": ["US", "CA"], "limits": {"per_minute": 60}}],
        "price": {"per_segment": "0.0079"}, "requests_per_second": 10, "low_balance": "20"})
}

pub fn provider() -> Value {
    let limits = json!({"per_minute": null, "per_hour": null, "per_day": null, "per_month": null,
        "recipients_per_month": null, "gap_ms": null, "gap_jitter_ms": null});
    let mut sender_limits = limits.clone();
    sender_limits["per_minute"] = json!(60);
    json!({"id": PROVIDER, "maker": "twilio", "name": "Twilio", "enabled": true,
        "fields": {"account_sid": "AC00000000000000000000000000000000"}, "secrets": {"auth_token": true},
        "senders": [{"id": SENDER, "from": "+15005550006", "countries": ["US", "CA"], "limits": sender_limits,
            "weight": 100}],
        "limits": limits, "price": {"per_segment": "0.0079", "by_country": {}, "bundle_per_month": null},
        "countries": [], "timezone": "", "window": 16, "requests_per_second": 10, "batch_size": 1, "timeout_ms": 10000,
        "unsigned_callbacks": false, "low_balance": "20",
        "callback_url": format!("https://sms.example.org/v1/callbacks/twilio/{PROVIDER}/aaaaaaaaaaaaaaaaaaaaaaaaaa"),
        "created_at": "2026-11-20T08:00:00.000Z", "changed_at": "2026-11-20T08:00:00.000Z",
        "balance": {"amount": "41.27", "currency": "USD", "at": "2026-11-20T13:55:00.000Z"},
        "prices": {"US": {"amount": "0.0083", "currency": "USD", "at": "2026-11-20T13:59:58.000Z"}},
        "live": {"state": "up", "since": "2026-11-20T08:00:00.000Z", "waiting": 0, "in_flight": 3,
            "counters": {"accepted": 1204, "refused": 2, "unclear": 0, "delivered": 1187, "undelivered": 9, "inbound": 31,
                "unknown_reports": 0}}})
}

pub fn provider_patch() -> Value {
    json!({"enabled": true, "window": 32, "secrets": {"auth_token": "fedcba9876543210fedcba9876543210"}})
}

pub fn provider_removed() -> Value {
    json!({"id": PROVIDER, "removed": true})
}

pub fn provider_test() -> Value {
    json!({"verdict": "works", "detail": "the account is active"})
}

pub fn maker() -> Value {
    json!({"name": "twilio", "title": "Twilio",
        "fields": [{"name": "account_sid", "required": true, "meaning": "AC..., from the console"}],
        "secrets": [{"name": "auth_token", "required": true, "meaning": "from the console; signs callbacks too"}],
        "batch_max": 1, "batch": "one message per request", "callbacks": true, "signature": "HMAC-SHA1 over the URL and form",
        "polls": true, "balance": true, "inbound": true})
}

pub fn ussd() -> Value {
    json!({"slot": 0, "code": "*102#"})
}

pub fn ussd_reply() -> Value {
    json!({"reply": "Your balance is 4,200 TZS"})
}

pub fn enrollment_new() -> Value {
    json!({"device_name": "Front desk", "ttl_s": 3600})
}

pub fn enrollment() -> Value {
    json!({"id": ENROLLMENT, "device_name": "Front desk", "state": "open", "created_at": "2026-11-20T14:00:00.000Z",
        "expires_at": "2026-11-20T15:00:00.000Z"})
}

pub fn enrollment_created() -> Value {
    let mut created = enrollment();
    created["uri"] = json!("FLOTILLA:1:AEQHG3LTFZSXQYLNOBWGKLTPOJTTUNZUGQZQ");
    created["qr_svg"] = json!("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 57 57\">...</svg>");
    created["qr_text"] = json!("█▀▀▀▀▀█ ▀▄ █▀▀▀▀▀█\n...");
    created
}

pub fn tenant() -> Value {
    json!({"id": TENANT, "name": "Arusha Clinic", "disabled": false, "created_at": "2026-11-01T08:00:00.000Z"})
}

pub fn tenant_new() -> Value {
    json!({"name": "Arusha Clinic"})
}

pub fn tenant_patch() -> Value {
    json!({"disabled": true})
}

pub fn key() -> Value {
    json!({"id": KEY, "name": "web shop", "scopes": ["send", "read"], "rate_per_min": 100, "disabled": false,
        "created_at": "2026-11-01T08:00:00.000Z", "last_used_at": "2026-11-20T14:00:00.000Z"})
}

pub fn key_new() -> Value {
    json!({"name": "web shop", "scopes": ["send", "read"], "rate_per_min": 6000})
}

pub fn key_created() -> Value {
    let mut created = key();
    created["secret"] = json!("flk_hk5ufx3qj4yb2c7sdnotarealkeyatalljustanexampleabcdef");
    created
}

pub fn key_patch() -> Value {
    json!({"rate_per_min": 0})
}

pub fn ca() -> Value {
    json!({"trust_domain": "flotilla.local", "phase": "stable", "issuing": "5c1f0e2a", "pins":
        ["2b5c0a4f9d1e7c3b6a8f0e2d4c6b8a0f1e3d5c7b9a2f4e6d8c0b1a3f5e7d9c2b"],
        "roots_pem": ["-----BEGIN CERTIFICATE-----\n...\n-----END CERTIFICATE-----\n"]})
}

pub fn rotate() -> Value {
    json!({"force": false})
}

pub fn certificate() -> Value {
    json!({"serial": "2f7a1c", "device": DEVICE, "not_before": "2026-11-20T13:00:00.000Z",
        "not_after": "2026-11-27T14:00:00.000Z"})
}

pub fn audit() -> Value {
    json!({"number": 512, "at": "2026-11-20T14:00:00.000Z", "actor": KEY, "action": "device.drain", "subject": DEVICE,
        "detail": {}})
}

pub fn stats() -> Value {
    json!({"rows": [{"at": "2026-11-20T14:00:00.000Z", "value": "", "accepted": 1200, "sent": 1190, "delivered": 1180,
        "cost": "14.28"}],
        "next": null, "complete": true, "fresh": true})
}

pub fn health() -> Value {
    json!({"devices": {"enrolled": 12, "online": 11, "draining": 1}, "sims": {"online": 13, "ready": 12},
        "messages": {"scheduled": 40, "queued": 3, "queued_urgent": 0, "dispatching": 9, "unknown": 0, "sent": 22},
        "problems": [{"device": DEVICE, "name": "Front desk", "reason": "offline",
            "detail": "last seen: 2026-11-20T13:41:07.000Z"}],
        "problems_left_out": 0,
        "routes": [{"device": DEVICE, "sim": SIM, "online": true, "score": score(), "circuit": "closed", "obstacles": [],
            "in_flight": 1, "month_cost": "1.42"}],
        "routes_left_out": 0})
}

pub fn cluster() -> Value {
    json!({"node": "c1", "fresh": true, "members": [
        {"name": "c1", "version": "0.1.0", "since": "2026-11-20T08:00:00.000Z", "peer": "10.0.0.1:7444",
            "devices": ["c1.sms.example.org:7443"], "draining": false, "shards_led": 1, "answers": true,
            "devices_connected": 120, "rows_behind": 0},
        {"name": "c2", "version": "0.1.0", "since": "2026-11-20T08:00:05.000Z", "peer": "10.0.0.2:7444",
            "devices": ["c2.sms.example.org:7443"], "draining": true, "shards_led": 1, "answers": true,
            "devices_connected": 98, "rows_behind": 3, "rtt_ms": 0.413}],
        "shards": [{"shard": 0, "leader": "c1", "epoch": 41}, {"shard": 1, "leader": "c2", "epoch": 42, "pinned_to": "c1"}]})
}

pub fn node_wish(draining: bool) -> Value {
    json!({"node": "c1", "draining": draining})
}

pub fn move_shard() -> Value {
    json!({"to": "c2"})
}

pub fn shard_wish() -> Value {
    json!({"shard": 7, "to": "c2"})
}

pub fn events() -> Value {
    Value::String(
        "id: 2a-91f\nevent: message.delivered\ndata: {\"id\":\"msg_01kaqmpxm0e8xs6bhkrg5jrqzt\"}\n\n".to_owned(),
    )
}
