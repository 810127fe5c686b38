//! The catalog's tables, as numbered steps that are applied once each, in order, and never edited after they were released.
//!
//! One text for every engine: `{bytes}`, `{int}`, `{serial}` and `{strict}` stand for what they call a blob, a 64-bit number,
//! a key that the engine counts, and the promise to check the types. A new step is a new file and a line here.

/// One step.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// 1, 2, 3...
    pub number: u32,
    pub name: &'static str,
    /// Statements, separated by `;`.
    pub sql: &'static str,
}

macro_rules! migrations {
    ($($number:literal $name:literal),* $(,)?) => {
        &[$(Migration { number: $number, name: $name, sql: include_str!(concat!("migrations/", $name, ".sql")) }),*]
    };
}

/// All steps; the last one's number is the version of the schema.
pub const CATALOG: &[Migration] = migrations![
    1 "0001_fleet",
    2 "0002_certificates",
    3 "0003_shared_ca",
    4 "0004_aggregate_snapshots",
];

/// How an engine calls the types.
#[derive(Debug, Clone, Copy)]
pub struct Dialect {
    pub bytes: &'static str,
    pub int: &'static str,
    pub serial: &'static str,
    pub strict: &'static str,
}

pub const SQLITE: Dialect = Dialect { bytes: "BLOB", int: "INTEGER", serial: "INTEGER PRIMARY KEY", strict: "STRICT" };

impl Migration {
    pub fn text(&self, dialect: Dialect) -> String {
        self.sql
            .replace("{bytes}", dialect.bytes)
            .replace("{int}", dialect.int)
            .replace("{serial}", dialect.serial)
            .replace("{strict}", dialect.strict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_1_2_3_and_names_say_them() {
        for (place, step) in CATALOG.iter().enumerate() {
            assert_eq!(step.number as usize, place + 1);
            assert!(step.name.starts_with(&format!("{:04}_", step.number)), "{}", step.name);
        }
    }

    #[test]
    fn every_placeholder_is_known() {
        for step in CATALOG {
            assert!(!step.text(SQLITE).replace("'{}'", "").contains(['{', '}']), "{}", step.name);
        }
    }
}
