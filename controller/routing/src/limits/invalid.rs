//! Why a setting is refused.

/// Names the field as the API does (`limits.per_day`, `windows[2].from`), and says what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {remedy}")]
pub struct Invalid {
    pub field: String,
    /// A sentence whose subject is the field.
    pub remedy: String,
}

impl Invalid {
    pub fn new(field: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { field: field.into(), remedy: remedy.into() }
    }

    /// The same, inside of something: `limits.per_day` in `sims.default` is `sims.default.limits.per_day`.
    #[must_use]
    pub fn inside(self, of: &str) -> Self {
        Self { field: format!("{of}.{}", self.field), ..self }
    }
}
