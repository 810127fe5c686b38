//! Templates of requests: written by tenants, so bounded in everything.
//!
//! A template has values and conditions, and nothing that can grow: no loops, no assignments, no macros and no multiplication
//! (checked before it is compiled), so its result is at most its own size times its longest value. Fuel and the size of the result
//! are bounded besides. A name that does not exist is an error, and shows when the settings are saved.
//!
//! Escaping is by the place: in an address each value is percent-encoded, in XML its marks are; forms and JSON are built from values,
//! so there is nothing to escape.

use minijinja::value::{Serde, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, UndefinedBehavior, Value};
use serde_json::Value as Json;

use super::settings::Body;

/// Instructions of one template.
const FUEL: u64 = 2_500;
/// Longest result of one template and of one filter, bytes.
const RESULT_MAX: usize = 64 * 1024;

/// Where a template stands, by the name it is compiled under.
#[derive(Clone, Copy)]
pub(super) enum Place {
    Url,
    Xml,
    /// A header, a field of a form, a text of JSON, a plain body.
    Plain,
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Self::Url => "url",
            Self::Xml => "xml",
            Self::Plain => "text",
        }
    }
}

/// Renders an account's templates with the values of one message.
pub(super) struct Renderer {
    values: Value,
}

impl Renderer {
    pub(super) fn new(values: &Json) -> Self {
        Self { values: Value::from(Serde(values)) }
    }

    pub(super) fn text(&self, place: Place, template: &str) -> Result<String, String> {
        safe(template)?;
        let environment = environment();
        let result = environment
            .template_from_named_str(place.name(), template)
            .and_then(|template| template.render(self.values.clone()))
            .map_err(|error| told(&error))?;
        if result.len() > RESULT_MAX { Err(format!("gives more than {RESULT_MAX} bytes")) } else { Ok(result) }
    }

    /// A text that is one expression and nothing else keeps its type; all others are texts.
    fn typed(&self, template: &str) -> Result<Json, String> {
        let inner = template.trim().strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}"));
        match inner.filter(|inner| !inner.contains("{{") && !inner.contains("}}")) {
            Some(expression) => {
                safe(expression)?;
                let environment = environment();
                let value = environment
                    .compile_expression(expression)
                    .and_then(|expression| expression.eval(self.values.clone()))
                    .map_err(|error| told(&error))?;
                if value.is_undefined() {
                    return Err("uses a name that does not exist".into());
                }
                serde_json::to_value(&value).map_err(|_| "is nothing that JSON can hold".into())
            }
            None => self.text(Place::Plain, template).map(Json::String),
        }
    }

    fn json(&self, template: &Json) -> Result<Json, String> {
        let at = |key: &str, problem: String| {
            if problem.starts_with('/') { format!("/{key}{problem}") } else { format!("/{key}: {problem}") }
        };
        match template {
            Json::String(text) => self.typed(text),
            Json::Array(items) => items
                .iter()
                .enumerate()
                .map(|(index, item)| self.json(item).map_err(|problem| at(&index.to_string(), problem)))
                .collect(),
            Json::Object(fields) => fields
                .iter()
                .map(|(key, item)| Ok((key.clone(), self.json(item).map_err(|problem| at(key, problem))?)))
                .collect::<Result<serde_json::Map<_, _>, _>>()
                .map(Json::Object),
            other => Ok(other.clone()),
        }
    }

    /// A body with its content type.
    pub(super) fn body(&self, body: &Body) -> Result<(&'static str, String), String> {
        match body {
            Body::Form(fields) => {
                let mut form = url::form_urlencoded::Serializer::new(String::new());
                for (name, template) in fields {
                    let value = self.text(Place::Plain, template).map_err(|problem| format!("{name}: {problem}"))?;
                    form.append_pair(name, &value);
                }
                Ok(("application/x-www-form-urlencoded", form.finish()))
            }
            Body::Json(template) => Ok(("application/json", self.json(template)?.to_string())),
            Body::Xml(template) => Ok(("application/xml; charset=utf-8", self.text(Place::Xml, template)?)),
            Body::Plain(template) => Ok(("text/plain; charset=utf-8", self.text(Place::Plain, template)?)),
        }
    }
}

/// Refuses what could make a result grow beyond the template's own size.
fn safe(template: &str) -> Result<(), String> {
    if template.contains('*') {
        return Err("has a `*`; templates do not multiply (in an address write `%2A`)".into());
    }
    for block in template.split("{%").skip(1) {
        let word = block.trim_start_matches(['-', '+']).trim_start();
        if !["if ", "if(", "elif ", "elif(", "else", "endif"].iter().any(|allowed| word.starts_with(allowed)) {
            return Err("has a block that is not `if`, `elif`, `else` or `endif`".into());
        }
    }
    Ok(())
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    environment.set_fuel(Some(FUEL));
    environment.set_debug(false);
    environment.set_auto_escape_callback(|name| match name {
        "url" => AutoEscape::Custom("url".into()),
        "xml" => AutoEscape::Custom("xml".into()),
        _ => AutoEscape::None,
    });
    environment.set_formatter(format);
    environment.add_filter("json", |value: Value| {
        let text = serde_json::to_string(&value).map_err(|_| invalid("this is nothing that JSON can hold"))?;
        bounded(text)
    });
    environment.add_filter("urlencode", |value: String| bounded(percent_encoded(&value)));
    environment.add_filter("xml", |value: String| bounded(xml_escaped(&value)));
    environment.add_filter("base64", |value: String| bounded(data_encoding::BASE64.encode(value.as_bytes())));
    environment.add_filter("upper", |value: String| bounded(value.to_uppercase()));
    environment.add_filter("lower", |value: String| bounded(value.to_lowercase()));
    environment.add_filter("trim", |value: String| bounded(value.trim().to_owned()));
    environment
}

fn bounded(text: String) -> Result<String, Error> {
    if text.len() > RESULT_MAX { Err(invalid("a filter gives too much")) } else { Ok(text) }
}

fn invalid(text: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, text)
}

/// Writes a value as its place wants it. Lists and maps have no text of their own.
fn format(output: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    if matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable | ValueKind::Invalid) {
        return Err(invalid("a list or map is no text; name one of its values, or use the filter `json`"));
    }
    let text = if value.is_none() { String::new() } else { value.to_string() };
    let text = match state.auto_escape() {
        AutoEscape::Custom(place) if *place == "url" => percent_encoded(&text),
        AutoEscape::Custom(_) => xml_escaped(&text),
        _ => text,
    };
    output.write_str(&text).map_err(|_| invalid("the result can not be written"))
}

/// All but letters, digits, `-`, `.`, `_` and `~`, so that a value is right in a path and in a query.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => encoded.push(char::from(byte)),
            byte => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// For elements and attributes; characters that XML 1.0 can not hold are left out.
fn xml_escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\t' | '\n' | '\r' => escaped.push_str(&format!("&#{};", c as u32)),
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => {}
            c => escaped.push(c),
        }
    }
    escaped
}

/// What is wrong with a template, without anything of the values.
fn told(error: &Error) -> String {
    match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => "does too much".into(),
        (ErrorKind::UndefinedError, _) => "uses a name that does not exist".into(),
        (ErrorKind::SyntaxError | ErrorKind::UnknownFilter | ErrorKind::UnknownFunction, Some(detail)) => {
            format!("is not a template: {detail}")
        }
        (kind, _) => format!("can not be rendered: {kind}"),
    }
}
