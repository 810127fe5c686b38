//! Receipts as vendors write them.

/// What a receipt tells, as it is to stand in its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub id: String,
    pub stat: String,
    pub err: String,
    /// 10 or 12 digits.
    pub done: String,
    /// The beginning of the user's text.
    pub text: String,
}

/// How a vendor writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Appendix B of the specification.
    Standard,
    /// All names in capitals.
    Capitals,
    /// `Id:`, `Stat:`, `Text:`.
    Capitalised,
    /// Nothing but what matters.
    Short,
    /// Without `sub` and `dlvrd`.
    WithoutCounts,
    /// The state before the id.
    StateFirst,
    /// A space behind each colon.
    Spaced,
    /// `submit_date`, `done_date`.
    Underscores,
    /// Fields parted by commas.
    Commas,
    /// A field in each line.
    Lines,
    /// `name=value`, parted by `&`.
    Equals,
    /// Values filled up with spaces.
    Padded,
    /// `text:` before everything.
    TextFirst,
    /// An empty `err:` and nothing behind.
    EmptyError,
}

impl Dialect {
    pub const ALL: [Self; 14] = [
        Self::Standard,
        Self::Capitals,
        Self::Capitalised,
        Self::Short,
        Self::WithoutCounts,
        Self::StateFirst,
        Self::Spaced,
        Self::Underscores,
        Self::Commas,
        Self::Lines,
        Self::Equals,
        Self::Padded,
        Self::TextFirst,
        Self::EmptyError,
    ];

    /// Whether the error of a receipt stands in its text.
    pub fn has_error(self) -> bool {
        !matches!(self, Self::Short | Self::EmptyError)
    }

    pub fn has_date(self) -> bool {
        self != Self::Short
    }

    pub fn write(self, facts: &Facts) -> String {
        let Facts { id, stat, err, done, text } = facts;
        match self {
            Self::Standard => format!(
                "id:{id} sub:001 dlvrd:001 submit date:2311142200 done date:{done} stat:{stat} err:{err} text:{text}"
            ),
            Self::Capitals => format!(
                "ID:{id} SUB:001 DLVRD:001 SUBMIT DATE:2311142200 DONE DATE:{done} STAT:{stat} ERR:{err} TEXT:{text}"
            ),
            Self::Capitalised => {
                format!(
                    "Id:{id} Sub:1 Dlvrd:1 Submit Date:2311142200 Done Date:{done} Stat:{stat} Err:{err} Text:{text}"
                )
            }
            Self::Short => format!("id:{id} stat:{stat}"),
            Self::WithoutCounts => {
                format!("id:{id} submit date:231114220000 done date:{done} stat:{stat} err:{err} text:{text}")
            }
            Self::StateFirst => format!("stat:{stat} err:{err} id:{id} done date:{done} text:{text}"),
            Self::Spaced => {
                format!(
                    "id: {id} sub: 001 dlvrd: 001 submit date: 2311142200 done date: {done} stat: {stat} err: {err}"
                )
            }
            Self::Underscores => {
                format!(
                    "id:{id} sub:1 dlvrd:1 submit_date:2311142200 done_date:{done} stat:{stat} err:{err} text:{text}"
                )
            }
            Self::Commas => format!("id:{id},sub:001,dlvrd:001,done date:{done},stat:{stat},err:{err},text:{text}"),
            Self::Lines => format!("id:{id}\r\ndone date:{done}\r\nstat:{stat}\r\nerr:{err}\r\ntext:{text}\r\n"),
            Self::Equals => format!("id={id}&done_date={done}&stat={stat}&err={err}"),
            Self::Padded => format!("id:{id:<20} done date:{done} stat:{stat:<12} err:{err:<5} text:{text}"),
            Self::TextFirst => format!("text:{text} id:{id} done date:{done} stat:{stat} err:{err}"),
            Self::EmptyError => format!("id:{id} sub:001 dlvrd:000 done date:{done} stat:{stat} err: text:{text}"),
        }
    }
}
