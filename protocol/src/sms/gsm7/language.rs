//! Which national language tables are in force.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A national language of 3GPP TS 23.038 clause 6.2.1.2.4; the value is its identifier on the air.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Language {
    Turkish = 1,
    Spanish = 2,
    Portuguese = 3,
    Bengali = 4,
    Gujarati = 5,
    Hindi = 6,
    Kannada = 7,
    Malayalam = 8,
    Oriya = 9,
    Punjabi = 10,
    Tamil = 11,
    Telugu = 12,
    Urdu = 13,
}

impl Language {
    pub const ALL: [Self; 13] = [
        Self::Turkish,
        Self::Spanish,
        Self::Portuguese,
        Self::Bengali,
        Self::Gujarati,
        Self::Hindi,
        Self::Kannada,
        Self::Malayalam,
        Self::Oriya,
        Self::Punjabi,
        Self::Tamil,
        Self::Telugu,
        Self::Urdu,
    ];

    /// The language with this identifier. None for the default alphabet (0) and for identifiers that are not assigned,
    /// which a receiver treats as the default one.
    pub fn from_identifier(identifier: u8) -> Option<Self> {
        Self::ALL.get(usize::from(identifier.checked_sub(1)?)).copied()
    }

    pub fn identifier(self) -> u8 {
        self as u8
    }

    /// Spanish has a single shift table only.
    pub fn has_locking_table(self) -> bool {
        self != Self::Spanish
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Turkish => "turkish",
            Self::Spanish => "spanish",
            Self::Portuguese => "portuguese",
            Self::Bengali => "bengali",
            Self::Gujarati => "gujarati",
            Self::Hindi => "hindi",
            Self::Kannada => "kannada",
            Self::Malayalam => "malayalam",
            Self::Oriya => "oriya",
            Self::Punjabi => "punjabi",
            Self::Tamil => "tamil",
            Self::Telugu => "telugu",
            Self::Urdu => "urdu",
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The pair of tables in force: `locking` replaces the alphabet, `single` the extension behind the escape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shift {
    pub locking: Option<Language>,
    pub single: Option<Language>,
}

impl Shift {
    /// The default alphabet and its extension.
    pub const NONE: Self = Self { locking: None, single: None };

    /// The language to name to a user: that of the alphabet, or else that of the single shift.
    pub fn language(self) -> Option<Language> {
        self.locking.or(self.single)
    }

    /// Row numbers in the locking and single shift tables.
    pub(super) fn rows(self) -> (usize, usize) {
        let row = |language: Option<Language>| language.map_or(0, |language| usize::from(language.identifier()));
        (row(self.locking), row(self.single))
    }
}
