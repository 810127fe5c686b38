//! The small pieces of AT lines: fields, numbers, ranges, hexadecimal digits.

/// What follows the first colon, trimmed; the whole line when there is none.
pub(in crate::radio::modem) fn after_colon(line: &str) -> &str {
    line.split_once(':').map_or(line, |(_, rest)| rest).trim()
}

/// The fields of a line after its `+NAME:`: split at commas outside quotes and brackets, without their quotes.
pub(in crate::radio::modem) fn fields(line: &str) -> Vec<&str> {
    let rest = after_colon(line);
    let (mut found, mut start, mut quoted, mut depth) = (Vec::new(), 0, false, 0u32);
    for (at, byte) in rest.bytes().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b'(' if !quoted => depth += 1,
            b')' if !quoted => depth = depth.saturating_sub(1),
            b',' if !quoted && depth == 0 => {
                found.push(unquote(&rest[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    found.push(unquote(&rest[start..]));
    found
}

fn unquote(field: &str) -> &str {
    let field = field.trim();
    field.strip_prefix('"').map_or(field, |inner| inner.strip_suffix('"').unwrap_or(inner))
}

/// Field `index` as a decimal number.
pub(in crate::radio::modem) fn number<T: std::str::FromStr>(fields: &[&str], index: usize) -> Option<T> {
    fields.get(index)?.trim().parse().ok()
}

/// The values that a test command (`AT+CNMI=?`) offers, one list per field: `(0-2),(0,1,3)`. Values above 255 and text
/// are left out.
pub(in crate::radio::modem) fn ranges(line: &str) -> Vec<Vec<u8>> {
    fields(line).into_iter().map(|field| values(field.trim_start_matches('(').trim_end_matches(')'))).collect()
}

fn values(list: &str) -> Vec<u8> {
    let mut found = Vec::new();
    for item in list.split(',') {
        match item.split_once('-') {
            Some((low, high)) => {
                if let (Ok(low), Ok(high)) = (low.trim().parse::<u8>(), high.trim().parse::<u8>()) {
                    found.extend(low..=high);
                }
            }
            None => found.extend(item.trim().parse::<u8>()),
        }
    }
    found.truncate(256);
    found
}

/// Bytes from an even number of hexadecimal digits.
pub(in crate::radio::modem) fn hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim().as_bytes();
    if digits.is_empty() || !digits.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    digits.chunks_exact(2).map(|pair| Some((digit(pair[0])? << 4 | digit(pair[1])?) as u8)).collect()
}

/// Upper-case digits, as every modem takes them.
pub(in crate::radio::modem) fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02X}");
        text
    })
}
